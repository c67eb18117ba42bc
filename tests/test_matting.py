"""Mattes of hair, and skin that follows a face."""

from dataclasses import replace

import numpy as np
import pytest

from hsd_jax import weights
from hsd_jax.imaging import framing, matting
from hsd_jax.imaging.colour import from_linear, to_lab, to_linear
from hsd_jax.imaging.framing import Crop
from hsd_jax.labels import HALFBODY9
from hsd_jax.parsing.photo_parser import Person
from hsd_jax.swapping.mattes import head_matte, old_beard, old_strands
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.skin import follow_face, in_tone

SIDE = 96
FACE, HAIR, NECK, CLOTHES = (HALFBODY9.index(x) for x in ("face", "hair", "neck", "clothes"))


def strands() -> tuple[np.ndarray, np.ndarray]:
    """A matte of a dark disc with soft strands around it, and its image on bright grey."""
    rows, columns = np.indices((SIDE, SIDE)) - SIDE / 2 + 0.5
    radius, angle = np.hypot(rows, columns), np.arctan2(rows, columns)
    alpha = np.clip(22 - radius, 0, 1)
    alpha = np.maximum(alpha, (np.sin(24 * angle) > 0.6) * np.clip((32 - radius) / 8, 0, 1))
    image = alpha[..., None] * [60, 30, 20] + (1 - alpha[..., None]) * [200, 205, 210]
    return alpha.astype(np.float32), np.round(image).astype(np.uint8)


def test_the_matte_of_strands_is_found():
    alpha, image = strands()
    rows, columns = np.indices(alpha.shape) - SIDE / 2
    radius = np.hypot(rows, columns)
    found = matting.closed_form(image, radius < 18, radius > 36)
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    assert np.abs(found - alpha).mean() < 0.01
    assert np.abs(found - alpha).max() < 0.25
    np.testing.assert_array_equal(found[radius < 18], 1)
    np.testing.assert_array_equal(found[radius > 36], 0)


def test_nothing_unknown_is_the_mask_itself():
    mask = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 3 == 0
    found = matting.closed_form(np.zeros((SIDE, SIDE, 3), np.uint8), mask, ~mask)
    np.testing.assert_array_equal(found, mask)


def test_strands_lose_the_colour_of_their_background():
    alpha, image = strands()
    mixed = (alpha > 0.3) & (alpha < 0.9)
    colours, _ = matting.colours_apart(image, alpha)
    before = np.abs(image[mixed] - np.array([60.0, 30, 20])).mean()
    after = np.abs(colours[mixed] - np.array([60.0, 30, 20])).mean()
    assert after < 0.25 * before


@pytest.fixture(scope="module")
def spec():
    return SwapNetworks.load(weights.find()).spec


def person(image: np.ndarray, layout: np.ndarray) -> Person:
    size = len(image)
    inside = np.ones(layout.shape, bool)
    return Person(image, Crop(0, 0, size), 0.3, image, layout.astype(np.int32), 1, inside)


def standing(skin: tuple[int, int, int], hair: bool = False) -> Person:
    """Somebody before grey: a face on a neck on clothes; with strands beside the face."""
    layout = np.zeros((256, 256), int)
    layout[60:140, 90:166], layout[140:170, 105:150] = FACE, NECK
    layout[170:, 40:216] = CLOTHES
    image = np.full((256, 256, 3), 190, np.uint8)
    image[(layout == FACE) | (layout == NECK)], image[layout == CLOTHES] = skin, (30, 60, 120)
    if hair:
        layout[60:140, 150:166], image[60:140, 150:166] = HAIR, (20, 15, 10)
        image[70:130:6, 166:180] = (20, 15, 10)
    return person(image, layout)


def test_strands_of_the_old_head_are_found_and_nothing_else(spec):
    loose = old_strands(standing((200, 150, 130), hair=True), spec)
    assert loose[70, 168:178].all() and not loose[:, 196:].any() and not loose[:50].any()
    assert not old_strands(standing((200, 150, 130)), spec)[:, 172:].any()


def test_a_beard_on_the_neck_is_found_and_a_shadow_is_not(spec):
    skin = np.array([200, 150, 130])
    shaven = standing((200, 150, 130))
    image = shaven.image.copy()
    image[140:150, 105:150] = from_linear(0.3 * to_linear(skin))  # the jaw's shadow
    shaded = replace(shaven, image=image)
    assert not old_beard(shaven, spec).any() and not old_beard(shaded, spec).any()
    image = image.copy()
    image[140:152, 115:140] = (40, 34, 32)
    found = old_beard(replace(shaven, image=image), spec)
    assert found[142:150, 117:138].all() and not found[158:].any() and not found[:140].any()


def test_the_matte_of_a_head_decides_beside_backgrounds_alone(spec):
    matte = head_matte(standing((200, 150, 130)), spec)
    assert matte.alpha.shape == matte.zone.shape == (512, 512)
    assert matte.zone[200, 332] > 0.5  # the cheek beside the background
    assert matte.zone[276, 256] < 0.05  # the chin above the neck
    assert not matte.zone[340:].any()


def test_the_matte_of_hair_alone_decides_beside_skin_too(spec):
    someone = standing((200, 150, 130), hair=True)
    whole, hair = head_matte(someone, spec), head_matte(someone, spec, (HAIR,))
    inside, outline = (200, 310), (200, 298)  # of the hair, whose edge to the face is at 300
    assert hair.zone[outline] > 0.5 > 0.05 > whole.zone[outline]
    assert hair.alpha[inside] > 0.9 and hair.alpha[200, 288] < 0.1
    assert hair.zone[200, 192] < 0.05  # the other cheek beside the background


def test_beyond_its_photo_a_head_has_no_matte(spec):
    cut_off = standing((200, 150, 130), hair=True)
    crop = Crop(0, -80, 256)
    seen = framing.take(cut_off.photo, crop)
    layout = np.concatenate([cut_off.layout[:1].repeat(80, 0), cut_off.layout[:-80]])
    layout[60:140, 90:166] = HAIR  # its upper 20 rows lie beyond the photo
    inside = framing.inside(cut_off.photo, crop, 256)
    cut_off = replace(cut_off, crop=crop, image=seen, layout=layout, inside=inside)
    zone = head_matte(cut_off, spec).zone
    assert zone[200, 176] > 0.5 and not zone[:150].any()


def test_skin_that_stays_follows_the_face(spec):
    head, body = standing((120, 80, 60)), standing((220, 175, 155))
    toned = follow_face(head, body, HALFBODY9, "auto")
    wanted, before, after = (
        to_lab(np.array(x, np.float32))
        for x in ((120, 80, 60), (220, 175, 155), toned.body.image[155, 127])
    )
    difference = np.linalg.norm(wanted - before)
    assert toned.changed and toned.difference == pytest.approx(difference, 0.01)
    assert np.linalg.norm(after - wanted) < 3
    np.testing.assert_array_equal(toned.body.image[200:], body.image[200:])  # clothes
    np.testing.assert_array_equal(toned.body.image[:50], body.image[:50])  # background


def test_another_tone_keeps_black_white_and_the_order_of_shades():
    own, wanted = np.array([220.0, 175.0, 155.0]), np.array([90.0, 60.0, 50.0])
    np.testing.assert_allclose(in_tone(own, own, wanted), wanted, atol=0.1)
    shades = np.linspace(0, 255, 100)[:, None].repeat(3, 1)
    for tones in ((own, wanted), (wanted, own)):
        moved = in_tone(shades, *tones)
        np.testing.assert_allclose(moved[[0, -1]], shades[[0, -1]], atol=0.01)
        assert np.all(np.diff(moved, axis=0) > 0)
    np.testing.assert_allclose(in_tone(in_tone(shades, own, wanted), wanted, own), shades, atol=0.1)


def test_skin_is_kept_where_it_is_asked_for_or_alike(spec):
    head, body = standing((120, 80, 60)), standing((220, 175, 155))
    assert follow_face(head, body, HALFBODY9, "keep").body is body
    same = follow_face(body, body, HALFBODY9, "auto")
    assert same.body is body and same.difference == 0 and not same.changed
    nobody = replace(head, layout=np.zeros((256, 256), np.int32))
    assert not follow_face(nobody, body, HALFBODY9, "match").changed
