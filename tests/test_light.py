"""The colour of the light in two photos."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hsd_jax import cli, labels, weights
from hsd_jax.evaluation import light as measuring
from hsd_jax.imaging.colour import from_linear, to_lab, to_linear
from hsd_jax.imaging.framing import Crop
from hsd_jax.parsing.photo_parser import Person
from hsd_jax.swapping import light
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.pair import Pair
from hsd_jax.swapping.skin import in_tone

L = labels.get_label_set("halfbody9")
SKIN = np.array([0.50, 0.28, 0.18])  # linear


@pytest.fixture(scope="module")
def spec():
    return SwapNetworks.load(weights.find()).spec


def person(colour: np.ndarray, gains: tuple[float, ...] = (1, 1, 1), seed: int = 0) -> Person:
    """A face of this colour before hair, under a light."""
    rng = np.random.default_rng(seed)
    linear = np.full((64, 64, 3), 0.2) * rng.uniform(0.9, 1.1, (64, 64, 1))
    layout = np.full((64, 64), L.index("hair"), np.int32)
    linear[16:48, 16:48], layout[16:48, 16:48] = colour, L.face
    image = np.round(from_linear(np.clip(linear * gains, 0, 1))).astype(np.uint8)
    return Person(image, Crop(0, 0, 64), 0.4, image, layout, 1, np.ones((64, 64), bool))


def face_of(person: Person) -> np.ndarray:
    colour = light.face_light(person, L)
    assert colour is not None
    return colour


def test_most_of_a_cast_goes_and_brightness_stays(spec):
    warm, plain = person(SKIN, (1.2, 1.0, 0.6)), person(SKIN)
    lit = light.one_light(Pair(plain, warm, 0), spec)
    before, after, wanted = (face_of(x) for x in (plain, lit.head, warm))
    for channel in (0, 2):
        step, whole = (np.log(x[channel] / x[1]) - np.log(before[channel] / before[1])
                       for x in (after, wanted))  # fmt: skip
        assert 0.75 < step / whole < 1
    assert after @ light._LUMINANCE == pytest.approx(before @ light._LUMINANCE, rel=0.02)
    assert lit.notes == ("the head takes the colour of the body's light",)
    assert np.array_equal(lit.head.photo, lit.head.image)
    assert light.one_light(Pair(plain, warm, 0), spec, "keep").head is plain


def test_a_face_of_another_tone_in_the_same_light_is_hardly_changed():
    """Dark skin is redder: the slope of the portraits in one light tells by how much."""
    dark = np.exp(np.log(SKIN) - 2)
    dark[[0, 2]] *= np.exp(-2 * light._SLOPE)
    assert light.light_gains(person(dark), person(SKIN), L) == pytest.approx([1, 1, 1], abs=0.05)


def test_what_is_no_light_is_limited():
    """A painted face keeps most of its paint."""
    blue = light.light_gains(person(SKIN), person(np.array([0.02, 0.1, 0.9])), L)
    steps = np.log(blue / blue[1])[[0, 2]]
    reach = light._FURTHEST * np.sqrt(2 * (light._ANY_LIGHT**2 - light._ONE_LIGHT**2))
    assert np.abs(steps) == pytest.approx(reach)


def test_a_grey_photo_makes_the_head_grey(spec):
    body = person(np.full(3, 0.3))
    lit = light.one_light(Pair(person(SKIN), body, 0), spec)
    assert np.ptp(lit.head.image.astype(int), axis=-1).max() == 0
    assert to_linear(lit.head.image)[32, 32, 0] == pytest.approx(SKIN @ light._LUMINANCE, abs=0.01)
    assert light.one_light(Pair(body, body, 0), spec).head is body


def test_a_grey_head_takes_the_colours_of_the_body_photos_head(spec):
    grey, body = person(np.full(3, 0.1)), person(SKIN)
    lit = light.one_light(Pair(grey, body, 0), spec)
    assert "takes the colours" in lit.notes[0]
    got, own, before = (to_lab(x.image[32, 32]) for x in (lit.head, body, grey))
    np.testing.assert_allclose(got, [before[0], *own[1:]], atol=1)
    turned = replace(grey, crop=replace(grey.crop, turn=10.0))
    assert light.one_light(Pair(turned, body, 0), spec).head is turned


def test_without_a_face_nothing_is_changed(spec):
    none = replace(person(SKIN), layout=np.zeros((64, 64), np.int32))
    pair = Pair(person(SKIN), none, 0)
    assert light.one_light(pair, spec) is pair


def test_slope_and_spread_of_a_known_line():
    green = np.linspace(0.05, 0.6, 40)
    wave = 0.1 * np.where(np.arange(40) % 2, 1, -1)
    colours = np.stack([green * np.exp(-0.2 * np.log(green) + wave), green, green], -1)
    slope, spread = measuring.slope_and_spread(colours, 0)
    assert (slope, spread) == pytest.approx((-0.2, 0.1), abs=0.01)
    assert measuring.slope_and_spread(colours, 0, slope=0.3)[1] > 0.2


def test_the_command_refuses_photos_without_faces(tmp_path, capsys):
    Image.new("RGB", (80, 80), "grey").save(tmp_path / "a.png")
    command = ["eval", "light", "--one", str(tmp_path), "--any", str(tmp_path)]
    assert cli.main(command) == 2
    assert "a.png: no face" in capsys.readouterr().err


def people() -> list[measuring.Skin]:
    """Two people whose necks differ as their faces do, one of whom is in shade."""
    faces = [np.array([225.0, 180.0, 160.0]), np.array([90.0, 60.0, 50.0])]
    shades = np.linspace(0.3, 1, 150)[:, None] * faces[0]
    necks = [shades, in_tone(shades, faces[0], faces[1])]
    return [
        measuring.Skin(to_lab(face), np.round(neck).astype(np.uint8))
        for face, neck in zip(faces, necks, strict=True)
    ]


def test_a_neck_in_another_tone_is_near_that_persons_own():
    errors = measuring.neck_errors(people())
    assert errors.shape == (2, 3) and np.all(errors[:, 0] > 40)
    assert np.all(errors[:, 1] > 30) and np.all(errors[:, 2] < 2)


def test_the_command_prints_a_row_for_each_ratio_and_distance(capsys, monkeypatch):
    colours = SKIN * np.exp(np.linspace(-1, 0.5, 9))[:, None] ** [1.1, 1, 0.9]
    monkeypatch.setattr(measuring, "people_in", lambda parser, folder: [])
    monkeypatch.setattr(measuring, "lights", lambda people, labels, folder: colours)
    monkeypatch.setattr(measuring, "skins", lambda seen, labels: people())
    assert cli.main(["eval", "light", "--one", "a", "--any", "b"]) == 0
    out = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in out if "log(R/G)" in line]
    assert [row[-2:] for row in rows] == [["0.100", "0.000"]] * 2
    assert any("25 to 100" in line for line in out)
