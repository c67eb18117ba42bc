"""Shows the head in the light of the body's photo: its colour cast, or none if that is grey.

A grey head on a body in colours takes the colours of the body's own head.

Faces tell the light (Bianco and Schettini, "Adaptive Color Constancy Using Faces", 2014): skin has
nearly one hue, so most of what two faces in two photos differ by in hue is light and processing.
How much follows from two spreads (`hsd eval light`): of people in one light, and of people in any.
The rest of the difference is the persons'. Brightness is left alone: by it, a face in another
light cannot be told from a face of another tone.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from hsd_jax.imaging import framing
from hsd_jax.imaging.colour import from_linear, to_lab, to_linear, to_rgb
from hsd_jax.imaging.framing import Scaled, Tile
from hsd_jax.labels import LabelSet
from hsd_jax.parsing.complexion import face_pixels, skin_classes
from hsd_jax.parsing.photo_parser import Person
from hsd_jax.swapping.pair import Pair
from hsd_jax.swapping.spec import SwapSpec

Light = Literal["match", "keep"]

# Of log(R/G) and log(B/G) of faces, by `hsd eval light` (docs/finish.md): the slope against log(G),
# for dark skin is redder, with its uncertainty (what it differs by between sets of photos), and the
# standard deviation from it in one light and in any.
_SLOPE, _SLOPE_STD = np.array([-0.081, 0.070]), 0.1
_ONE_LIGHT = np.array([0.065, 0.097])
_ANY_LIGHT = np.array([0.244, 0.236])
_FURTHEST = 2.0  # standard deviations that a correction may reach: beyond is paint, not light
_SEEN = 0.05  # of a channel; smaller corrections are not visible
_GREY = 6.0  # CIE a*b* that 99 of 100 pixels of a grey photo stay below
_SWATCH = 100  # pixels of a class of which it takes its colour
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


def one_light(pair: Pair, spec: SwapSpec, light: Light = "match") -> Pair:
    """The pair with a head in the colour of the body's light, if the weights ask for it.

    Args:
      pair: aligned.
      spec: of the weights.
      light: "keep" leaves the head's colours as they are.
    """
    if not spec.finish.light or light == "keep":
        return pair
    grey_head, grey_body = is_grey(pair.head.image), is_grey(pair.body.image)
    if grey_head:
        return pair if grey_body else _with_colours(pair, spec.labels)
    if grey_body:
        note, convert = "the body's photo is grey: so is the head", lambda pixels, _: greyed(pixels)
    else:
        gains = light_gains(pair.head, pair.body, spec.labels)
        if np.abs(gains - 1).max() < _SEEN:
            return pair
        note, convert = "the head takes the colour of the body's light", partial(_lit, gains)
    return replace(pair, head=_converted(pair.head, convert), notes=(*pair.notes, note))


def light_gains(head: Person, body: Person, labels: LabelSet) -> Float[np.ndarray, "3"]:
    """Factors of the head's linear R, G and B that bring it into the body's light.

    The brightness of its face stays. All are 1 where a face cannot be measured.
    """
    own, wanted = (face_light(person, labels) for person in (head, body))
    if own is None or wanted is None:
        return np.ones(3)
    red, green, blue = np.log(wanted) - np.log(own)
    apart = np.array([red, blue]) - green - _SLOPE * green
    of_light = 2 * (_ANY_LIGHT**2 - _ONE_LIGHT**2)
    of_persons = 2 * _ONE_LIGHT**2 + (_SLOPE_STD * green) ** 2
    reach = _FURTHEST * np.sqrt(of_light)
    red, blue = np.exp(np.clip(of_light / (of_light + of_persons) * apart, -reach, reach))
    gains = np.array([red, 1.0, blue])
    return gains * (own @ _LUMINANCE) / ((own * gains) @ _LUMINANCE)


def face_light(person: Person, labels: LabelSet) -> Float[np.ndarray, "3"] | None:
    """The median linear colour of a face, 0 to 1; None if too little of it is visible."""
    pixels = face_pixels(person.image, person.layout, labels)
    if pixels is None:
        return None
    return np.maximum(np.median(to_linear(pixels), axis=0), 1e-3)


def is_grey(image: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether an image has no colours."""
    chroma = np.hypot(*np.moveaxis(to_lab(image)[..., 1:], -1, 0))
    return bool(np.percentile(chroma, 99) < _GREY)


def _with_colours(pair: Pair, labels: LabelSet) -> Pair:
    """The pair with a grey head in the colours of the body photo's head, class by class.

    As Welsh, Ashikhmin and Mueller ("Transferring Color to Greyscale Images", 2002) with a swatch
    for each class, but with one a* and b* each, which follow L* + 16 around its median as in shade.
    """
    head, side = pair.head, pair.head.crop.side
    if head.crop.turn:
        return replace(pair, notes=(*pair.notes, "the head's photo is grey: so stays the head"))
    tones = _tones(head, labels)[:, :1] + 16
    swatches = np.nan_to_num(_tones(pair.body, labels)[:, 1:] / tones)
    soft = (len(head.layout) / 256,) * 2
    chroma = Scaled(ndimage.gaussian_filter(swatches[head.layout], (*soft, 0)), side, smooth=True)

    def coloured(pixels: np.ndarray, tile: Tile) -> np.ndarray:
        lab = to_lab(pixels)
        lab[..., 1:] = chroma.at(tile) * (lab[..., :1] + 16)
        return np.round(to_rgb(lab)).astype(np.uint8)

    note = "the head's photo is grey: it takes the colours of the body photo's head"
    return replace(pair, head=_converted(head, coloured), notes=(*pair.notes, note))


def _tones(person: Person, labels: LabelSet) -> Float[np.ndarray, "k 3"]:
    """The median L*a*b* of each class of a head; of skin not seen the face's, else NaN."""
    lab, found = to_lab(person.image), np.full((len(labels.classes), 3), np.nan, np.float32)
    for index in (*labels.head, *skin_classes(labels)):
        there = np.asarray(ndimage.binary_erosion(person.layout == index, iterations=2), bool)
        there &= person.inside
        if there.sum() >= _SWATCH:
            found[index] = np.median(lab[there], axis=0)
        elif index in skin_classes(labels):
            found[index] = found[labels.face]
    return found


def _lit(gains: np.ndarray, square: np.ndarray, _: Tile) -> np.ndarray:
    linear = np.clip(to_linear(np.arange(256)) * gains[:, None], 0, 1)
    tables = np.round(from_linear(linear)).astype(np.uint8)
    return np.stack([table[square[..., i]] for i, table in enumerate(tables)], -1)


def greyed(square: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """An image without its colours, as bright as before."""
    grey = from_linear(to_linear(square) @ _LUMINANCE)
    return np.repeat(np.round(grey)[..., None], 3, -1).astype(np.uint8)


def _converted(head: Person, convert: Callable[[np.ndarray, Tile], np.ndarray]) -> Person:
    """The person with the colours of its crop converted."""
    around = head.crop.around
    photo = framing.reworked(head.photo, around, convert, framing.tiles(around.side))
    return replace(head, photo=photo, image=framing.take(photo, head.crop, len(head.image)))
