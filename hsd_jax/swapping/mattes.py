"""Hair as alpha, of the new head and of the old one.

A mask cuts the strands of the new head off, in a rim of their old background, and leaves strands of
the old one in the air.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from hsd_jax.imaging import framing
from hsd_jax.imaging.matting import closed_form
from hsd_jax.labels import LabelSet
from hsd_jax.parsing.photo_parser import Person
from hsd_jax.swapping.spec import SwapSpec

_SIDE = 512  # of the crops that are matted: twice as fine costs four times as much
# Pixels of a crop of 256 inside the parser's outline of a head, where its hair may be mixed with
# what is behind it.
_INSIDE = 5
_STRAND = 0.05  # alpha from which on a pixel of the old photo shows hair
_HAZE = 0.08  # alpha that patterned backgrounds are given by mistake
_NEAR = 2  # pixels around strands that JPEG and the photo's own sharpening have touched


class Matte(NamedTuple):
    """The edge of a head against a background."""

    alpha: Float[np.ndarray, "m m"]
    """1 on the head."""
    zone: Float[np.ndarray, "m m"]
    """Where it decides: 1 along hair and background, 0 along necks, clothes and hands."""


def head_matte(head: Person, spec: SwapSpec) -> Matte:
    """The matte of the head that is kept, from its own photo.

    Args:
      head: aligned.
      spec: of the weights; its `finish.hair` is how far strands are looked for.
    """
    size = max(_SIDE, spec.size)
    image = framing.take(head.photo, head.crop, size)
    layout = framing.enlarge(head.layout, size)
    alpha, zone = _matte(image, layout, spec.labels, size, spec.finish.hair)
    alpha = np.clip((alpha - _HAZE) / (1 - 2 * _HAZE), 0, 1).astype(np.float32)
    soft = ndimage.gaussian_filter(zone.astype(np.float32), size / 256)
    return Matte(alpha, soft)


def old_strands(body: Person, spec: SwapSpec) -> Bool[np.ndarray, "s s"]:
    """Where hair of the old head shows before the background, beyond what the parser found.

    Args:
      body: the person whose head goes.
      spec: of the weights; its `finish.old_hair` is how far strands are looked for.
    """
    size = len(body.image)
    alpha, zone = _matte(body.image, body.layout, spec.labels, size, spec.finish.old_hair)
    head = np.isin(body.layout, spec.labels.head)
    found = (alpha > _STRAND) & zone & ~head
    return np.asarray(ndimage.binary_dilation(found, iterations=max(1, round(_NEAR * size / 256))))


def _matte(
    image: np.ndarray, layout: np.ndarray, labels: LabelSet, size: int, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """The alpha of a head, and the zone along its border with the background."""
    head, background = np.isin(layout, labels.head), layout == labels.background
    other = ~head & ~background
    inner = np.asarray(ndimage.distance_transform_edt(head))
    outer = np.asarray(ndimage.distance_transform_edt(~head))
    unit = size / 256
    band = (inner < _INSIDE * unit) & (outer < reach * unit) & ~other
    # Jaws lie on necks, and long hair on clothes: there a parser's outline is the better one.
    to_background = np.asarray(ndimage.distance_transform_edt(~background))
    to_other = np.asarray(ndimage.distance_transform_edt(~other))
    band &= (to_background < to_other) | ~other.any()
    alpha = closed_form(image, head & ~band, ~head & ~band)
    return alpha, band
