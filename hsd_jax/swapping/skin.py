"""Brings the body's skin to the tone of the new face and keeps its shading.

The paper calls swaps between skin tones a limitation of its method and shows, as an extension,
necks and arms in the head's tone. Here the body's skin changes as the body's face would have to
change to become the new one. Under one light a darker skin reflects a share of what a lighter one
does, in shade and in light: in linear colours that is a factor. It multiplies the odds x / (1 - x)
instead, so that black stays black, highlights stay white and nothing is clipped.
docs/finish.md holds it against a shift in CIE L*a*b* (Reinhard et al., "Color Transfer between
Images", 2001).
"""

from dataclasses import replace
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Shaped
from scipy import ndimage

from hsd_jax.imaging import framing
from hsd_jax.imaging.colour import from_linear, to_lab, to_linear, to_rgb
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
_DARKEST, _LIGHTEST = 1e-3, 0.95  # of a face's linear colour; beyond, a photo tells no tone


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
    """Brings the body's skin to the tone of the head's face.

    Args:
      head, body: the people of a pair.
      labels: the label set of their layouts.
      tone: "keep" never changes the skin, "match" always does, "auto" does if the faces differ
        visibly.
    """
    own, wanted = face_tone(body, labels), face_tone(head, labels)
    difference = float(np.linalg.norm(wanted - own))
    if not np.isfinite(difference):
        return Toned(body, 0.0, False)
    if tone == "keep" or (tone == "auto" and difference < _SAME):
        return Toned(body, difference, False)
    skin, side = _skin(body, labels, own), body.crop.side
    share = Scaled(skin, side, smooth=True)
    tables = in_tone(np.arange(256)[:, None].repeat(3, 1), to_rgb(own), to_rgb(wanted))

    def toned(pixels: np.ndarray, tile: Tile) -> np.ndarray:
        weight = share.at(tile)
        there = weight > 0
        result, colours = pixels.copy(), pixels[there]
        moved = tables[colours, np.arange(3)] - colours
        result[there] = np.round(colours + weight[there][:, None] * moved)
        return result

    cells = ((tile, framing.cells(tile, side, len(skin))) for tile in framing.tiles(side))
    tiles = (tile for tile, cell in cells if skin[cell].any())
    photo = framing.reworked(body.photo, body.crop, toned, tiles)
    image = framing.take(photo, body.crop, len(body.image))
    return Toned(replace(body, photo=photo, image=image), difference, True)


def in_tone(
    skin: Shaped[np.ndarray, "*n 3"], own: Float[np.ndarray, "3"], wanted: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "*n 3"]:
    """The colours of a skin as one of another tone, whose face is `wanted` where its own is `own`.

    All are sRGB, 0 to 255.
    """
    own, wanted = (np.clip(to_linear(x), _DARKEST, _LIGHTEST) for x in (own, wanted))
    factor, linear = wanted / (1 - wanted) * (1 - own) / own, to_linear(skin)
    return from_linear(factor * linear / (1 + (factor - 1) * linear))


def face_tone(person: Person, labels: LabelSet) -> Float[np.ndarray, "3"]:
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
