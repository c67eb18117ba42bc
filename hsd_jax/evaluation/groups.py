"""Pictures by the skin tone and the hair of their person, so that figures can be told for each.

Skin tone is the individual typology angle of the face (Chardon, Cretois and Hourseau, "Skin colour
typology and suntanning pathways", 1991), arctan((L* - 50) / b*), of the median of its pixels. It is
measured in whatever light the photo was taken, so a group holds dark photos beside dark skin.
"""

import math
from collections.abc import Iterator

import numpy as np

from hsd_jax.imaging.colour import to_lab
from hsd_jax.labels import LabelSet

LIGHT, DARK = 41.0, 10.0
"""Degrees: lighter than the first are "very light" and "light" there, darker than the second
"brown" and "dark"."""

_LONG = 0.25  # of the face's height, below its lowest pixel


def skin_tone(image: np.ndarray, layout: np.ndarray, labels: LabelSet) -> str:
    """"light", "medium" or "dark" skin; "no face" without one.

    Args:
      image: uint8 `[H, W, 3]`.
      layout: int `[H, W]`.
      labels: of the layout.
    """
    face = layout == labels.face
    if not face.any():
        return "no face"
    lightness, _, b = np.median(to_lab(image[face]), axis=0)
    angle = math.degrees(math.atan2(lightness - 50, max(b, 1e-3)))
    return "light skin" if angle > LIGHT else "medium skin" if angle > DARK else "dark skin"


def hair_length(layout: np.ndarray, labels: LabelSet) -> str:
    """"long hair" reaches well below the chin; "short hair" does not; "no hair" shows none."""
    rows, face_rows = (
        np.flatnonzero((layout == index).any(1)) for index in (labels.index("hair"), labels.face)
    )
    if not len(rows) or not len(face_rows):
        return "no hair"
    height = face_rows[-1] - face_rows[0] + 1
    return "long hair" if rows[-1] > face_rows[-1] + _LONG * height else "short hair"


def groups_of(image: np.ndarray, layout: np.ndarray, labels: LabelSet) -> Iterator[str]:
    """The groups of a picture."""
    yield skin_tone(image, layout, labels)
    yield hair_length(layout, labels)


ORDER = ("light skin", "medium skin", "dark skin", "no face", "short hair", "long hair", "no hair")
