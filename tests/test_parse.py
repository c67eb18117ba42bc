"""The embedded parser on photos and on what is none."""

import numpy as np
import pytest

from hsd_jax import weights
from hsd_jax.imaging import files, framing
from hsd_jax.imaging.demo import find_photos
from hsd_jax.labels import HALFBODY9
from hsd_jax.parsing.photo_parser import PhotoParser


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


def test_a_smaller_photo_shows_the_same_person(parser, astronaut):
    half = framing.resize(astronaut, 256)
    large, small = parser.person(astronaut).crop, parser.person(half).crop
    assert abs(2 * small.side - large.side) < 0.1 * large.side
    assert abs(2 * small.left - large.left) < 0.06 * large.side


def test_the_layout_has_the_photos_size(parser, astronaut):
    layout, faces = parser.parse(astronaut[:, :400])
    assert layout.shape == (512, 400) and layout.dtype == np.uint8
    assert len(faces) == 1 and abs(faces[0].x - 225) < 20 and abs(faces[0].y - 120) < 20


@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_images_show_nobody(parser, level):
    with pytest.raises(ValueError, match="no face found"):
        parser.person(np.full((300, 200, 3), level, np.uint8))
