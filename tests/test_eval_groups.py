"""Metrics by skin tone and hair length."""

import numpy as np
import pytest

from hsd_jax.evaluation.pairs import GROUPS, groups_of, hair_length, skin_tone
from hsd_jax.evaluation.selfswap import METHODS, METRICS, Measurements, hue_between
from hsd_jax.labels import HALFBODY9 as L


def person(hair_to: int) -> np.ndarray:
    layout = np.zeros((64, 64), int)
    layout[8:hair_to, 18:46] = L.index("hair")
    layout[12:32, 22:42] = L.face
    return layout


@pytest.mark.parametrize(
    ("colour", "group"),
    # L*a*b* of 81/11/14, 62/17/23 and 36/15/18: typology angles of 65, 28 and -38 degrees.
    [
        ((230, 195, 175), "light skin"),
        ((190, 140, 110), "medium skin"),
        ((115, 75, 58), "dark skin"),
    ],
)
def test_skin_tone_is_the_typology_angle(colour: tuple[int, int, int], group: str):
    layout = person(20)
    image = np.full((64, 64, 3), 255, np.uint8)
    image[layout == L.face] = colour
    assert skin_tone(image, layout, L) == group
    assert skin_tone(image, np.zeros_like(layout), L) == "no face"


def test_hair_is_long_when_it_reaches_below_the_chin():
    assert hair_length(person(33), L) == "short hair"
    assert hair_length(person(40), L) == "long hair"
    assert hair_length(np.where(person(40) == L.face, L.face, 0), L) == "no hair"


def test_hue_between_regions_does_not_see_light():
    layout = person(20)
    face, neck = layout == L.face, np.zeros((64, 64), bool)
    neck[40:50] = True
    image = np.full((64, 64, 3), 90, np.uint8)
    image[face] = 200
    assert hue_between(image, neck, face) < 0.5  # greys
    image[neck] = (200, 90, 90)
    assert hue_between(image, neck, face) > 30


def test_metrics_of_a_group_are_those_of_its_images():
    values = {method: {name: [1.0, 2.0, 4.0] for name in METRICS} for method in METHODS}
    groups = [("light skin", "long hair"), ("dark skin", "long hair"), ("light skin", "no hair")]
    measured = Measurements([5, 6, 7], [0.1, 0.2, 0.3], values, groups=groups)
    light = measured.of("light skin")
    assert light.indices == [5, 7] and light.intervals(0)["hsd"]["psnr"].mean == 2.5
    assert measured.of("long hair").shares == [0.1, 0.2]
    assert not measured.of("medium skin").indices
    image = np.full((64, 64, 3), 128, np.uint8)
    assert set(groups_of(image, person(40), L)) <= set(GROUPS)
