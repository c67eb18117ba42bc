"""The embedded parser on photos and on what is none."""

import argparse

import numpy as np
import pytest
from PIL import Image

from hsd_jax import weights
from hsd_jax.evaluation import faces
from hsd_jax.imaging import files, framing
from hsd_jax.imaging.demo import find_photos
from hsd_jax.labels import HALFBODY9
from hsd_jax.parsing.faces import SURE
from hsd_jax.parsing.photo_parser import PhotoParser
from hsd_jax.parsing.segmenter import Segmenter
from hsd_jax.runtime.recent import Recent


@pytest.fixture(scope="module")
def parser():
    return PhotoParser(weights.load_part(weights.find(), "parser"))


@pytest.fixture(scope="module")
def astronaut():
    return files.open_photo(find_photos()[1])


def test_a_person_is_framed_by_the_face(parser, astronaut):
    person = parser.person(astronaut)
    assert person.faces == 1 and person.image.shape == (256, 256, 3)
    rows, columns = np.nonzero(person.layout == HALFBODY9.face)
    assert abs(columns.mean() - 128) < 8
    assert abs(np.sqrt(len(rows)) / 256 - person.share) < 0.04
    shares = np.bincount(person.layout.ravel(), minlength=9) / person.layout.size
    assert shares[HALFBODY9.index("clothes")] > 0.2 and shares[HALFBODY9.index("hair")] > 0.02


def test_a_photo_seen_before_is_not_parsed_again(seeing, astronaut, monkeypatch):
    first = seeing.person(astronaut)
    body = seeing.find(astronaut)
    for name in ("glance", "probabilities"):
        monkeypatch.delattr(Segmenter, name)
    again = seeing.person(astronaut.copy())
    np.testing.assert_array_equal(again.layout, first.layout)
    np.testing.assert_array_equal(again.photo, astronaut)
    assert again.crop == first.crop and seeing.find(astronaut.copy()) == body
    changed = astronaut.copy()
    changed[-1, -1] ^= 1
    with pytest.raises(AttributeError, match="glance"):
        seeing.find(changed)


def test_only_recent_photos_are_remembered():
    made, recent = [], Recent(2)
    for key in "abacab":
        assert recent.get(key, lambda key=key: made.append(key) or key) == key
    assert made == ["a", "b", "c", "b"]


def test_a_smaller_photo_shows_the_same_person(parser, astronaut):
    half = framing.resize(astronaut, 256)
    large, small = parser.person(astronaut).crop, parser.person(half).crop
    assert abs(2 * small.side - large.side) < 0.1 * large.side
    assert abs(2 * small.left - large.left) < 0.06 * large.side


def test_the_layout_has_the_photos_size(parser, astronaut):
    layout, found = parser.parse(astronaut[:, :400])
    assert layout.shape == (512, 400) and layout.dtype == np.uint8
    assert len(found) == 1 and abs(found[0].x - 225) < 20 and abs(found[0].y - 120) < 20


@pytest.fixture(scope="module")
def seeing():
    return PhotoParser.load(weights.find())


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_photo_is_turned_upright(seeing, astronaut, turns):
    person = seeing.person(np.rot90(astronaut, -turns))
    assert person.turns == turns
    np.testing.assert_array_equal(person.photo, astronaut)
    assert person.face.confidence > SURE
    eyes = person.face.landmarks.eyes
    assert abs(eyes[0] - 225) < 12 and abs(eyes[1] - 112) < 12


@pytest.mark.parametrize("box", [None, (60, 20, 300, 220), (110, 60, 210, 150)])
def test_a_cat_is_no_person(seeing, box):
    cat = Image.open(find_photos()[1].with_name("chelsea.png")).convert("RGB")
    cat = cat if box is None else cat.crop(box).resize((400, 340))
    with pytest.raises(ValueError, match=r"^the cat: (no face|what looks most)"):
        seeing.person(np.asarray(cat), name="the cat")


def test_a_pair_is_framed_by_the_eyes(seeing, astronaut):
    body = seeing.person(astronaut)
    head = seeing.person(framing.resize(astronaut[:256, 100:356], 384), like=body)
    scale = head.crop.side / body.crop.side
    assert abs(scale - 1.5) < 0.05 and abs(head.crop.top - 1.5 * body.crop.top) < 8
    assert abs(head.crop.left - 1.5 * (body.crop.left - 100)) < 8


def test_a_bent_head_is_turned_as_the_other_is(seeing, astronaut):
    body = seeing.person(astronaut)
    bent = np.asarray(Image.fromarray(astronaut).rotate(20, Image.Resampling.BICUBIC))
    straight, turned = (seeing.person(bent, like=body, turned=turned) for turned in (False, True))
    assert straight.crop.turn == 0 and abs(turned.crop.turn + 20) < 2
    before, after = (
        (person.layout == body.layout)[32:-32, 32:-32].mean() for person in (straight, turned)
    )
    assert after > 0.95 > 0.92 > before
    assert not turned.inside.all() and seeing.reframed(turned, 0.3, body).crop.turn < -18


def test_eval_faces_counts_by_folder(tmp_path, seeing, astronaut, capsys):
    for name, image in (("faces/a.png", astronaut), ("faces/turned/b.png", np.rot90(astronaut)),
                        ("others/c.png", np.full((90, 90, 3), 99, np.uint8))):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    faces.run(argparse.Namespace(weights="embedded", faces=tmp_path / "faces",
                                 others=tmp_path / "others"))  # fmt: skip
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [["faces", "all", "2", "0", "0", "2", "1"],
                    ["faces", "turned", "1", "0", "0", "1", "1"],
                    ["others", "all", "1", "1", "0", "0", "0"]]  # fmt: skip
    with pytest.raises(ValueError, match="holds no photos"):
        faces.photos_in(tmp_path / "empty")


@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_images_show_nobody(parser, level):
    with pytest.raises(ValueError, match="no face found"):
        parser.person(np.full((300, 200, 3), level, np.uint8))
