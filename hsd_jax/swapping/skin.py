"""Shifts the body's skin to the tone of the new face and keeps its shading.

The paper calls swaps between skin tones a limitation of its method and shows, as an extension,
necks and arms in the head's tone. Here the body's skin moves in CIE L*a*b* by the difference
between the two faces (the means of Reinhard et al., "Color Transfer between Images", 2001), so that
it would not change under its own face.
"""

from dataclasses import replace
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy import ndimage

from hsd_jax.imaging import framing
from hsd_jax.imaging.colour import to_lab, to_rgb
from hsd_jax.imaging.framing import Scaled, Tile
from hsd_jax.labels import LabelSet
from hsd_jax.parsing.complexion import face_pixels, skin_classes
from hsd_jax.parsing.guided_filter import guided_filter
from hsd_jax.parsing.photo_parser import Person
from hsd_jax.runtime.programs import Program
from hsd_jax.swapping.pair import Pair
from hsd_jax.swapping.spec import SwapSpec

SkinTone = Literal["auto", "keep", "match"]

_SAME = 2.0  # CIE76; smaller differences are not visible
# Distances in a*b* from the person's face that are certainly skin and certainly not; for their
# distribution in training images see `parsing.complexion`.
_ALIKE, _FAR = 16.0, 26.0
_RIM = 0.04  # of the crop's side; the change fades out over it towards the edges


def one_skin(pair: Pair, spec: SwapSpec, tone: SkinTone = "auto") -> Pair:
    """The pair with a body whose skin follows the new face, if the weights ask for it.

    Args:
      pair: aligned.
      spec: of the weights.
      tone: see `follow_face`.
    """
    if not spec.finish.skin_tone:
        return pair
    toned = follow_face(pair.head, pair.body, spec.labels, tone)
    if not toned.changed:
        return pair
    note = f"the body's skin follows the new face, {toned.difference:.0f} apart (CIE76)"
    return replace(pair, body=toned.body, notes=(*pair.notes, note))


class Toned(NamedTuple):
    """A body whose skin may have been shifted."""

    body: Person
    difference: float
    """CIE76 between the faces; 0 if one cannot be measured."""
    changed: bool


def follow_face(head: Person, body: Person, labels: LabelSet, tone: SkinTone) -> Toned:
    """Shifts the body's skin to the tone of the head's face.

    Args:
      head, body: the people of a pair.
      labels: the label set of their layouts.
      tone: "keep" never changes the skin, "match" always does, "auto" does if the faces differ
        visibly.
    """
    own = _face_tone(body, labels)
    shift = _face_tone(head, labels) - own
    if not np.isfinite(shift).all():
        return Toned(body, 0.0, False)
    difference = float(np.linalg.norm(shift))
    if tone == "keep" or (tone == "auto" and difference < _SAME):
        return Toned(body, difference, False)
    skin, side = _skin(body, labels, own), body.crop.side
    share = Scaled(skin, side, smooth=True)

    def toned(pixels: np.ndarray, tile: Tile) -> np.ndarray:
        weight = share.at(tile)
        there = weight > 0
        result, colours = pixels.copy(), pixels[there]
        moved = to_rgb(to_lab(colours) + shift) - colours
        result[there] = np.clip(np.round(colours + weight[there][:, None] * moved), 0, 255)
        return result

    cells = ((tile, framing.cells(tile, side, len(skin))) for tile in framing.tiles(side))
    tiles = (tile for tile, cell in cells if skin[cell].any())
    photo = framing.reworked(body.photo, body.crop, toned, tiles)
    image = framing.take(photo, body.crop, len(body.image))
    return Toned(replace(body, photo=photo, image=image), difference, True)


def _face_tone(person: Person, labels: LabelSet) -> Float[np.ndarray, "3"]:
    """The median L*a*b* of a face; NaN if too little of it is visible."""
    pixels = face_pixels(person.image, person.layout, labels)
    if pixels is None:
        return np.full(3, np.nan, np.float32)
    return np.median(to_lab(pixels), axis=0)


def _skin(
    person: Person, labels: LabelSet, tone: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "s s"]:
    """A soft mask of the bare skin below the head, whose edges follow the image."""
    bare = np.isin(person.layout, skin_classes(labels))
    # Specks are parsing errors, except on necks, which may be thin above a collar.
    specks = bare & ~np.asarray(ndimage.binary_opening(bare, iterations=2), bool)
    skin = (bare & (~specks | np.isin(person.layout, labels.neck))).astype(np.float32)
    guide = (person.image / 255).astype(np.float32)
    fine = np.asarray(_guided(guide[None], skin[None, ..., None]))[0, ..., 0]
    # Far from the parser's outline nothing counts as skin, whatever its colour.
    near = ndimage.binary_dilation(skin > 0, iterations=max(1, len(skin) // 85))
    smooth = ndimage.gaussian_filter(person.image.astype(np.float32), (1.5, 1.5, 0))
    away = to_lab(smooth) - tone
    alike = np.clip((_FAR - np.hypot(away[..., 1], away[..., 2])) / (_FAR - _ALIKE), 0, 1)
    return (np.clip(fine, 0, 1) * near * alike * _fade(person)).astype(np.float32)


def _fade(person: Person) -> Float[np.ndarray, "s s"]:
    """0 along the crop's edges beyond which the photo goes on, 1 inside."""
    size = len(person.layout)
    along = np.arange(size) / (_RIM * size)
    top, bottom, left, right = (
        np.where(room > 0, distance, 1.0)
        for room, distance in zip(
            person.room, (along, along[::-1], along, along[::-1]), strict=True
        )
    )
    fade = np.minimum(np.minimum(top, bottom)[:, None], np.minimum(left, right)[None])
    return np.clip(fade, 0, 1)


def prepare(size: int) -> None:
    """Loads this module's program for crops of this size in the background."""
    guide, skin = (jax.ShapeDtypeStruct((1, size, size, c), np.float32) for c in (3, 1))
    _guided.prepare(guide, skin)


_guided = Program(
    "skin-edges", lambda guide, skin: guided_filter(guide, skin, radius=6, eps=1e-3)
)
