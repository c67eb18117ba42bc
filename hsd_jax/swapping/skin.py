"""One skin: what stays of the body's follows the tone of the new face, its shading kept.

The paper calls swaps between skin tones a limit of its method and shows them with necks and arms of
the head's tone as an extension. Here the body's skin moves by the difference between the two faces
in CIE L*a*b* (the means of Reinhard et al., "Color Transfer between Images", 2001): a face and the
rest of a person's skin differ alike in both photos, so that a body under its own face would stay.
"""

from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from hsd_jax.imaging import framing
from hsd_jax.imaging.colour import to_lab, to_rgb
from hsd_jax.labels import LabelSet
from hsd_jax.parsing.complexion import skin_classes
from hsd_jax.parsing.guided_filter import guided_filter
from hsd_jax.parsing.photo_parser import Person
from hsd_jax.runtime.programs import Program

SkinTone = Literal["auto", "keep", "match"]

_SAME = 2.0  # CIE76: less is seen by nobody
# Chroma from the own face: half of the skin of training images lies nearer than 7, a tenth beyond
# 15; of clothes a tenth lies nearer than 10, half beyond 20 (see `parsing.complexion`).
_ALIKE, _FAR = 10.0, 17.0
_MIN_FACE = 200  # pixels: fewer have no reliable median
_RIM = 0.04  # of the crop's side, over which the change fades in at its edges


class Toned(NamedTuple):
    """A body whose skin follows the new face."""

    body: Person
    difference: float
    """CIE76 between the faces; 0 where one cannot be measured."""
    changed: bool


def follow_face(head: Person, body: Person, labels: LabelSet, tone: SkinTone) -> Toned:
    """The body with its skin in the tone of the head's face.

    Args:
      head, body: of a pair.
      labels: of their layouts.
      tone: "keep" changes nothing; "match" always; "auto" where the faces differ visibly.
    """
    own = _face_tone(body, labels)
    shift = _face_tone(head, labels) - own
    if not np.isfinite(shift).all():
        return Toned(body, 0.0, False)
    difference = float(np.linalg.norm(shift))
    if tone == "keep" or (tone == "auto" and difference < _SAME):
        return Toned(body, difference, False)
    crop = framing.take(body.photo, body.crop)
    share = framing.resize_map(_skin(body, labels, own), body.crop.side)[..., None]
    square = crop + share * (to_rgb(to_lab(crop) + shift) - crop)
    square = np.clip(np.round(square), 0, 255).astype(np.uint8)
    photo = framing.paste(body.photo, square, body.crop)
    image = framing.take(photo, body.crop, len(body.image))
    return Toned(replace(body, photo=photo, image=image), difference, True)


def _face_tone(person: Person, labels: LabelSet) -> Float[np.ndarray, "3"]:
    """Median L*a*b* of a face; not a number where too little shows."""
    face = np.asarray(ndimage.binary_erosion(person.layout == labels.face, iterations=3), bool)
    if face.sum() < _MIN_FACE:
        return np.full(3, np.nan, np.float32)
    return np.median(to_lab(person.image[face]), axis=0)


def _skin(
    person: Person, labels: LabelSet, tone: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "s s"]:
    """The share of skin below the head, its edges those of the image; gloves and cuffs are none."""
    bare = np.isin(person.layout, skin_classes(labels))
    # Specks are a parser's mistakes; necks between a chin and a collar may be thin.
    specks = bare & ~np.asarray(ndimage.binary_opening(bare, iterations=2), bool)
    skin = (bare & (~specks | np.isin(person.layout, labels.neck))).astype(np.float32)
    guide = (person.image / 255).astype(np.float32)
    fine = np.asarray(_guided(guide[None], skin[None, ..., None]))[0, ..., 0]
    # Away from the parser's outline nothing is skin, whatever its colour.
    near = ndimage.binary_dilation(skin > 0, iterations=max(1, len(skin) // 85))
    smooth = ndimage.gaussian_filter(person.image.astype(np.float32), (1.5, 1.5, 0))
    away = to_lab(smooth) - tone
    alike = np.clip((_FAR - np.hypot(away[..., 1], away[..., 2])) / (_FAR - _ALIKE), 0, 1)
    size = len(skin)
    edge = np.minimum(np.arange(size), np.arange(size)[::-1]) / (_RIM * size)
    fade = np.clip(np.minimum(edge[:, None], edge[None]), 0, 1)
    return (np.clip(fine, 0, 1) * near * alike * fade).astype(np.float32)


_guided = Program(
    "skin-edges", lambda guide, skin: guided_filter(guide, skin, radius=6, eps=1e-3)
)
