"""The whole way with the embedded weights, by the Python interface, on the demo's photos."""

import numpy as np
import pytest
from PIL import Image

from hsd_jax import HeadSwapper, photo
from hsd_jax.demo import find_photos
from hsd_jax.labels import HALFBODY9


@pytest.fixture(scope="module")
def pair():
    return tuple(photo.open_photo(path) for path in find_photos())


@pytest.fixture(scope="module")
def swapper():
    return HeadSwapper.from_pretrained("embedded")


@pytest.fixture(scope="module")
def result(swapper, pair):
    return swapper(*pair, seed=3)


def test_the_result_is_the_body_photo_outside_the_head(result, pair):
    _, body = pair
    assert result.image.shape == body.shape and result.image.dtype == np.uint8
    changed = (result.image != body).any(-1)
    assert 0.02 < changed.mean() < 0.4
    rows, columns = np.nonzero(changed)
    assert rows.max() < 260 and columns.min() > 120 and columns.max() < 340  # head and collar
    assert result.mask.shape == body.shape[:2]
    assert result.mask.min() >= 0 and result.mask.max() <= 1


def test_the_head_is_the_other_persons(swapper, pair, result):
    # Parsed again, the new head is where the inpainted layout has it.
    person = swapper._parser.person(result.image)
    again = np.isin(person.layout, HALFBODY9.head)
    wanted = np.isin(result.layout, HALFBODY9.head)
    assert np.sum(again & wanted) / np.sum(again | wanted) > 0.6


def test_the_layout_keeps_what_is_not_a_hole(result):
    blended = result.stages["blended"]
    keep = blended != HALFBODY9.background
    np.testing.assert_array_equal(result.layout[keep], blended[keep])
    assert np.isin(result.layout, HALFBODY9.neck).sum() > 50  # it had been taken out


def test_pictures_arrays_and_paths_give_the_same_by_one_seed(swapper, pair, result):
    paths = find_photos()
    again = swapper(Image.fromarray(pair[0]), str(paths[1]), seed=3)
    np.testing.assert_array_equal(again.image, result.image)


def test_a_photo_without_a_face_is_refused(swapper, pair):
    with pytest.raises(ValueError, match="the head photo: no face found"):
        swapper(np.full((300, 300, 3), 128, np.uint8), pair[1])
    with pytest.raises(ValueError, match="there is no person 7"):
        swapper(*pair, person=7)
    with pytest.raises(ValueError, match="samples is 0"):
        swapper(*pair, samples=0)
