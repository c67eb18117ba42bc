"""The whole way with the embedded weights, by the Python interface, on the demo's photos."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hsd_jax.imaging import framing
from hsd_jax.imaging.demo import find_photos
from hsd_jax.imaging.files import Photo
from hsd_jax.labels import HALFBODY9
from hsd_jax.parsing.photo_parser import Person
from hsd_jax.swapping.pair import end_beyond_photo, widen


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


def test_what_is_to_know_of_a_file_reaches_the_result(swapper, pair):
    head, body = Photo(pair[0], "a.jpg", notes=("a.jpg is cut",)), Photo(pair[1], "b.jpg", True)
    made = swapper.pair(head, body)
    assert made.notes[0] == "a.jpg is cut" and made.srgb
    assert not swapper.pair(*pair, skin_tone="keep").srgb


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


def test_images_arrays_and_paths_give_the_same_by_one_seed(swapper, pair, result):
    paths = find_photos()
    again = swapper(Image.fromarray(pair[0]), str(paths[1]), seed=3)
    np.testing.assert_array_equal(again.image, result.image)


def test_a_body_that_lies_on_its_side_stays_so(swapper, pair, result):
    sideways = swapper(pair[0], np.rot90(pair[1]), seed=3)
    np.testing.assert_array_equal(sideways.image, np.rot90(result.image))
    np.testing.assert_array_equal(sideways.mask, np.rot90(result.mask))
    assert any("sideways" in warning for warning in sideways.warnings)


def test_a_photo_without_a_face_is_refused(swapper, pair):
    with pytest.raises(ValueError, match="the head photo: no face found"):
        swapper(np.full((300, 300, 3), 128, np.uint8), pair[1])
    with pytest.raises(ValueError, match="there is no person 7"):
        swapper(*pair, person=7)
    with pytest.raises(ValueError, match="samples is 0"):
        swapper(*pair, samples=0)


def edge_person(top: int, layout: np.ndarray) -> Person:
    """A person whose crop begins `top` rows above the photo's upper edge."""
    picture = np.zeros((400, 400, 3), np.uint8)
    crop = framing.Crop(72, -top, 256)
    inside = framing.inside(picture, crop, 256)
    return Person(picture, crop, 0.4, framing.take(picture, crop), layout, 1, inside)


def head_layout(columns: slice, rows: slice) -> np.ndarray:
    layout = np.zeros((256, 256), np.int32)
    layout[rows, columns] = HALFBODY9.index("hair")
    return layout


def test_a_head_cut_off_by_its_photo_is_rounded_above_the_edge():
    layout = head_layout(slice(100, 160), slice(0, 90))
    whole = end_beyond_photo(edge_person(0, layout), HALFBODY9).layout
    np.testing.assert_array_equal(whole, layout)
    got = end_beyond_photo(edge_person(40, layout), HALFBODY9).layout
    np.testing.assert_array_equal(got[40:], layout[40:])
    heights = (got[:40] == HALFBODY9.index("hair")).sum(0)
    assert heights[128:132].min() >= 11 and heights[99] == heights[160] == 0
    assert np.all(np.diff(heights[100:130]) >= 0) and np.all(heights[:100] == 0)


def test_a_face_between_cut_off_hair_is_completed_by_hair():
    layout = head_layout(slice(100, 160), slice(0, 90))
    layout[:90, 120:140] = HALFBODY9.face
    got = end_beyond_photo(edge_person(40, layout), HALFBODY9).layout
    assert not np.any(got[:40] == HALFBODY9.face)
    assert np.all(got[36:40, 120:140] == HALFBODY9.index("hair"))


def test_strands_of_hair_cut_off_below_end_each_in_its_own_curve():
    layout = np.maximum(*(head_layout(slice(x, x + 30), slice(0, 256)) for x in (80, 150)))
    layout[240:, 110:150] = HALFBODY9.index("clothes")
    crop = framing.Crop(72, 184, 256)  # 216 rows of photo
    inside = framing.inside(np.zeros((400, 400, 3)), crop, 256)
    person = replace(edge_person(0, layout), crop=crop, inside=inside)
    got = end_beyond_photo(person, HALFBODY9).layout
    np.testing.assert_array_equal(got[:216], layout[:216])
    np.testing.assert_array_equal(got[:, 110:150], layout[:, 110:150])
    lengths = (got[216:] == HALFBODY9.index("hair")).sum(0)
    assert lengths[[95, 165]].tolist() == [6, 6] and lengths.max() <= 7


def test_a_crop_that_cuts_the_head_off_is_widened(swapper, pair):
    parser = swapper._parser
    head, body = (parser.person(picture) for picture in pair)
    body = parser.reframed(body, head.share)
    assert widen(parser, head, body)[0] is head  # it fits as it is
    tight = 0.8  # of the crop is face: its hair reaches the crop's edge
    heads, bodies = parser.reframed(head, tight), parser.reframed(body, tight)
    wider, fitting = widen(parser, heads, bodies)
    assert wider.share == fitting.share < tight
    assert wider.crop.side > heads.crop.side
    assert widen(parser, head, bodies)[1].share < tight  # the old hair would stay beyond the crop
