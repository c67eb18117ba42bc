"""Bare skin in photos, found by the colour of the person's own face.

Parsers that learnt from automatic labels call bare arms and shoulders clothes. A face and the rest
of a person's skin have one hue, in any light that falls on both (Fleck, Forsyth and Bregler,
"Finding Naked People", 1996): so the face tells where clothes end.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from hsd_jax.imaging.colour import to_lab
from hsd_jax.labels import LabelSet

_SKIN = "skin"
_LIMBS = ("skin", "left_arm", "right_arm", "left_leg", "right_leg")
_MIN_FACE = 50  # pixels: fewer have no reliable median
_SMOOTH = 1.5  # sigma over which a pixel's colour is taken

# In units of CIE a*b*: by trusted training layouts half of the skin lies nearer to the face's
# median than 7.1 and a tenth beyond 15.3, of clothes a tenth nearer than 10.3, half beyond 20.4.
_EQUAL, _SLOPE, _CAP = 11.0, 0.26, 2.0  # log odds of skin: 0 at _EQUAL, steep by _SLOPE, at most
_LEAST = 0.02  # probability of skin that evidence can work on
_SAME = (6.0, 25.0)  # chroma, lightness: as far from the face's as its own skin is


def skin_classes(labels: LabelSet) -> tuple[int, ...]:
    """Neck and bare limbs."""
    return (*labels.neck, *(i for i in labels.body if labels.classes[i] in _LIMBS))


def by_complexion(
    image: UInt8[np.ndarray, "h w 3"],
    probabilities: Float[np.ndarray, "h w k"],
    labels: LabelSet,
    trust: float,
) -> Float[np.ndarray, "h w k"]:
    """A parser's probabilities with the evidence of colour for and against bare skin.

    Between classes of body and neck alone; clothes of the face's very colour that touch its neck or
    skin are skin.

    Args:
      image: that was parsed.
      probabilities: of the parser.
      labels: of the classes; without one called "skin" in the group body nothing changes.
      trust: weight of the colour's log odds beside the network's own, which has seen the colour
        too; 0.3 for the embedded parser.

    Returns:
      Rows that sum to 1.
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
    """Clothes of the face's colour, connected with skin or neck: bool `[H, W]`."""
    known = np.isin(best, (skin, *labels.neck))
    bare = np.asarray(ndimage.binary_opening(same & ~known, iterations=2), bool)
    labelled: Any = ndimage.label(bare | known)
    regions: np.ndarray = labelled[0]
    touching = np.unique(regions[known])
    return bare & np.isin(regions, touching)
