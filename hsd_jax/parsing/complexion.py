"""Finds bare skin in photos by the colour of the person's own face.

Parsers trained on automatic labels mistake bare arms and shoulders for clothes. A face and the rest
of a person's skin share one hue under the same light (Fleck, Forsyth and Bregler, "Finding Naked
People", 1996), so the face's hue tells skin from clothes.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8
from scipy import ndimage

from hsd_jax.imaging.colour import to_lab
from hsd_jax.labels import LabelSet

_SKIN = "skin"
_LIMBS = ("skin", "left_arm", "right_arm", "left_leg", "right_leg")
_MIN_FACE = 50  # pixels; the median of fewer is unreliable
_MIN_INNER_FACE = 200
_SMOOTH = 1.5  # sigma of the blur before colours are compared

# Distances in CIE a*b* from the face's median, by reliable training layouts: for skin the median is
# 7.1 and the 90th percentile 15.3; for clothes the 10th percentile is 10.3 and the median 20.4.
_EQUAL, _SLOPE, _CAP = 11.0, 0.26, 2.0  # log odds of skin: 0 at _EQUAL, slope, bound
_LEAST = 0.02  # lower bound of the probability that the odds multiply
_SAME = (6.0, 25.0)  # distance in chroma and in lightness that counts as the face's own colour


def skin_classes(labels: LabelSet) -> tuple[int, ...]:
    """The classes of neck and bare limbs."""
    return (*labels.neck, *(i for i in labels.body if labels.classes[i] in _LIMBS))


def face_pixels(
    image: UInt8[np.ndarray, "h w 3"], layout: Integer[np.ndarray, "h w"], labels: LabelSet
) -> UInt8[np.ndarray, "n 3"] | None:
    """The colours of a face without its edge; None if there are too few for a reliable median."""
    face = np.asarray(ndimage.binary_erosion(layout == labels.face, iterations=3), bool)
    return image[face] if face.sum() >= _MIN_INNER_FACE else None


def by_complexion(
    image: UInt8[np.ndarray, "h w 3"],
    probabilities: Float[np.ndarray, "h w k"],
    labels: LabelSet,
    trust: float,
) -> Float[np.ndarray, "h w k"]:
    """Corrects a parser's probabilities of bare skin by colour.

    Only pixels of the body and neck change. Clothes of the face's own colour that touch neck or
    skin become skin.

    Args:
      image: the parsed image.
      probabilities: the parser's output.
      labels: its label set; without a body class "skin", nothing changes.
      trust: the weight of the colour's log odds; below 1, since the network has seen the colour
        too (0.3 for the embedded parser).

    Returns:
      Probabilities that sum to 1 at each pixel.
    """
    skin = next((i for i in labels.body if labels.classes[i] == _SKIN), None)
    best = probabilities.argmax(-1)
    face = np.asarray(ndimage.binary_erosion(best == labels.face, iterations=2), bool)
    if skin is None or face.sum() < _MIN_FACE:
        return probabilities
    lab = to_lab(ndimage.gaussian_filter(image.astype(np.float32), (_SMOOTH, _SMOOTH, 0)))
    away = lab - np.median(lab[face], axis=0)
    chroma = np.hypot(away[..., 1], away[..., 2])
    trunk = np.isin(best, (*labels.body, *labels.neck))
    odds = np.clip(_SLOPE * (_EQUAL - chroma), -_CAP, _CAP)
    result = probabilities.copy()
    evidence = np.maximum(result[..., skin], _LEAST) * np.exp(trust * odds)
    result[..., skin] = np.where(trunk, evidence, result[..., skin])
    same = (chroma < _SAME[0]) & (np.abs(away[..., 0]) < _SAME[1]) & trunk
    result[_bare(result.argmax(-1), same, skin, labels), skin] = 1e3
    return result / result.sum(-1, keepdims=True)


def _bare(best: np.ndarray, same: np.ndarray, skin: int, labels: LabelSet) -> np.ndarray:
    """Clothes of the face's colour that are connected to skin or neck: bool `[H, W]`."""
    known = np.isin(best, (skin, *labels.neck))
    bare = np.asarray(ndimage.binary_opening(same & ~known, iterations=2), bool)
    labelled: Any = ndimage.label(bare | known)
    regions: np.ndarray = labelled[0]
    touching = np.unique(regions[known])
    return bare & np.isin(regions, touching)
