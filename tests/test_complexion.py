"""Skin is known by the colour of the face."""

import numpy as np
import pytest

from hsd_jax.imaging.colour import to_lab, to_rgb
from hsd_jax.labels import CIHP20, HALFBODY9
from hsd_jax.parsing.complexion import by_complexion, skin_classes

FACE = (205, 160, 140)


def scene(shoulder: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A face, a neck below it, and what the parser is sure to be clothes below that."""
    image = np.full((96, 96, 3), 90, np.uint8)
    image[10:40, 30:60] = image[40:50, 38:52] = FACE
    image[50:90, 20:70] = shoulder
    layout = np.zeros((96, 96), int)
    layout[10:40, 30:60] = HALFBODY9.face
    layout[40:50, 38:52] = HALFBODY9.index("neck")
    layout[50:90, 20:70] = HALFBODY9.index("clothes")
    probabilities = np.full((96, 96, 9), 0.05 / 8, np.float32)
    np.put_along_axis(probabilities, layout[..., None], 0.95, -1)
    return image, probabilities


@pytest.mark.parametrize(
    ("shoulder", "found"), [(FACE, "skin"), ((195, 150, 130), "skin"), ((40, 60, 160), "clothes")]
)
def test_bare_shoulders_are_skin_and_blue_ones_clothes(
    shoulder: tuple[int, int, int], found: str
):
    image, probabilities = scene(shoulder)
    result = by_complexion(image, probabilities, HALFBODY9, 0.3)
    np.testing.assert_allclose(result.sum(-1), 1, atol=1e-5)
    best = result.argmax(-1)
    assert best[70, 45] == HALFBODY9.index(found)
    for kept in ("face", "neck", "background"):
        before = probabilities.argmax(-1) == HALFBODY9.index(kept)
        assert np.mean(best[before] == HALFBODY9.index(kept)) > 0.98


def test_clothes_of_skin_colour_that_touch_no_skin_stay_clothes():
    image, probabilities = scene(FACE)
    image[48:56], probabilities[48:56] = 90, np.eye(9, dtype=np.float32)[0]
    best = by_complexion(image, probabilities, HALFBODY9, 0.3).argmax(-1)
    assert best[75, 45] == HALFBODY9.index("clothes")


def test_without_a_face_or_a_skin_class_nothing_changes():
    image, probabilities = scene(FACE)
    probabilities[10:40, 30:60] = np.eye(9, dtype=np.float32)[0]
    same = by_complexion(image, probabilities, HALFBODY9, 0.3)
    np.testing.assert_array_equal(same, probabilities)
    twenty = np.full((96, 96, 20), 0.05, np.float32)
    np.testing.assert_array_equal(by_complexion(image, twenty, CIHP20, 0.3), twenty)


def test_skin_is_neck_and_limbs():
    names = [CIHP20.classes[i] for i in skin_classes(CIHP20)]
    assert names == ["skin", "left_arm", "right_arm", "left_leg", "right_leg"]
    assert [HALFBODY9.classes[i] for i in skin_classes(HALFBODY9)] == ["neck", "skin"]


def test_lab_of_known_colours_and_back():
    known = {(255, 255, 255): (100, 0, 0), (255, 0, 0): (53.24, 80.09, 67.2), (0, 0, 0): (0, 0, 0)}
    for rgb, lab in known.items():
        np.testing.assert_allclose(to_lab(np.array(rgb)), lab, atol=0.1)
    colours = np.random.default_rng(0).uniform(0, 255, (50, 3)).astype(np.float32)
    np.testing.assert_allclose(to_rgb(to_lab(colours)), colours, atol=0.05)
