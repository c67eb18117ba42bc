"""Alpha mattes of the hair of the new head and of the old one.

Hard masks would cut off strands of the new head, keep a rim of its old background around them, and
leave strands of the old head in the air.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from hsd_jax.imaging import framing
from hsd_jax.imaging.colour import to_lab
from hsd_jax.imaging.matting import closed_form, colours_apart
from hsd_jax.labels import LabelSet
from hsd_jax.parsing.complexion import skin_classes
from hsd_jax.parsing.photo_parser import Person
from hsd_jax.swapping.spec import SwapSpec

_SIDE = 512  # side of matted crops; twice as large takes four times as long
# Pixels at 256 inside the parser's outline of a head where hair may mix with what is behind it.
_INSIDE = 10
_STRAND, _SOLID = 0.05, 0.3  # alpha of hair before an even background, and more before a busy one
_NEAR_HAIR = 12.0  # pixels at 256 over which alphas before busy backgrounds lose all trust
_EVEN_TO_BUSY, _PATTERN = (3.0, 12.0), 3.0  # standard deviations of grey, over this many pixels
_BRIM = 1.5  # pixels at 256 by which the parser's outline of a hat may be wrong
_FRINGE = 4.0  # pixels at 256 over which hair may lie on a face beyond the parser's outline
_HAZE = 0.08  # false alpha on patterned backgrounds
_NEAR = 2  # pixels at 256 around strands that JPEG and sharpening affect
# A beard below a jaw: how far it may reach and how near the face it begins, in pixels at 256, and
# how many it has at least; its share of the skin's chroma, its L* below the skin's: docs/finish.md.
_BEARD, _JAW, _LEAST, _PALE, _DARK = 20, 4, 100, 0.72, 8.0
_MIN_FACE = 100  # pixels at 256


class Matte(NamedTuple):
    """The soft edge of a head."""

    alpha: Float[np.ndarray, "m m"]
    """1 on the head, 0 on the background."""
    zone: Float[np.ndarray, "m m"]
    """Where to use alpha: 1 along the background, 0 along necks, clothes and hands."""
    front: Float[np.ndarray, "m m 3"]
    """The colours of the head, 0 to 255."""
    back: Float[np.ndarray, "m m 3"]
    """Those of what is behind it."""


def head_matte(head: Person, spec: SwapSpec, given: tuple[int, ...] | None = None) -> Matte:
    """The matte of the new head, from its own photo.

    Args:
      head: the aligned head of a pair.
      spec: of the weights; `finish.hair` is how far out strands are searched for.
      given: the classes of the head that are taken; None for all. The others count as background.
    """
    size = max(_SIDE, spec.size)
    image = framing.take(head.photo, head.crop, size)
    layout = framing.enlarge(head.layout, size)
    alpha, zone, far = _matte(image, layout, spec.labels, size, spec.finish.hair, given)
    zone &= framing.inside(head.photo, head.crop, size)  # beyond its photo a head is generated
    alpha = np.clip((alpha - _HAZE) / (1 - 2 * _HAZE), 0, 1)
    # A hat has no strands; those before a busy background cannot be told from it.
    stray = (layout == spec.labels.background) & (alpha < _least_alpha(image, far) - _STRAND)
    stray |= (far > _BRIM) & _along_hat(layout, spec.labels)
    alpha = np.where(stray, 0, alpha).astype(np.float32)
    soft = ndimage.gaussian_filter(zone.astype(np.float32), size / 256)
    return Matte(alpha, soft, *colours_apart(image, np.where(soft > 0.5, alpha, np.float32(1))))


def old_hair(body: Person, spec: SwapSpec) -> Bool[np.ndarray, "s s"]:
    """Where hair of the old head covers what would be kept: `old_strands` and `old_beard`."""
    return old_strands(body, spec) | old_beard(body, spec)


def old_strands(body: Person, spec: SwapSpec) -> Bool[np.ndarray, "s s"]:
    """Where hair of the old head covers the background, beyond what the parser found.

    Args:
      body: the person whose head is replaced.
      spec: of the weights; `finish.old_hair` is how far out strands are searched for.
    """
    size = len(body.image)
    alpha, zone, far = _matte(body.image, body.layout, spec.labels, size, spec.finish.old_hair)
    found = (alpha > _least_alpha(body.image, far)) & zone & (far > 0)
    return np.asarray(ndimage.binary_dilation(found, iterations=max(1, round(_NEAR * size / 256))))


def old_beard(body: Person, spec: SwapSpec) -> Bool[np.ndarray, "s s"]:
    """Where a beard of the old head lies on what the parser takes for its neck.

    Shade multiplies linear colours, and so a*, b* and L* + 16 alike: a shadow on skin keeps their
    ratio, dark hair does not have it.

    Args:
      body: the person whose head is replaced.
      spec: of the weights.
    """
    unit, labels = len(body.image) / 256, spec.labels
    face, neck = body.layout == labels.face, np.isin(body.layout, labels.neck)
    inner = np.asarray(ndimage.binary_erosion(face, iterations=max(1, round(_JAW * unit))), bool)
    if inner.sum() < _MIN_FACE * unit**2 or not neck.any():
        return np.zeros(neck.shape, bool)
    weight = (face | neck)[..., None].astype(np.float32)
    both = np.concatenate([body.image * weight, weight], -1)
    near = ndimage.gaussian_filter(both, (unit, unit, 0))
    lab = to_lab(near[..., :3] / np.maximum(near[..., 3:], 1e-6))
    chroma = lab[..., 1:] / (lab[..., :1] + 16)
    skin = np.median(chroma[inner], axis=0)
    pale = chroma @ skin < _PALE * (skin @ skin)
    lightness = min(np.median(lab[region, 0]) for region in (inner, neck))
    reach = np.asarray(ndimage.distance_transform_edt(~face))
    hair = neck & pale & (lab[..., 0] < lightness - _DARK) & (reach < _BEARD * unit)
    beard = np.asarray(ndimage.binary_propagation(hair & (reach < _JAW * unit), mask=hair))
    if beard.sum() < _LEAST * unit**2:
        return np.zeros(neck.shape, bool)
    wide = ndimage.binary_dilation(beard, iterations=max(1, round(_NEAR * unit)))
    return np.asarray(wide, bool) & neck


def _fading_on_skin(
    hair: np.ndarray, skin: np.ndarray, background: np.ndarray, unit: float
) -> np.ndarray:
    """The most that alpha may be: shaded skin is as dark as hair, and specks of it are none."""
    near, on_skin, before = (
        ndimage.gaussian_filter(mask.astype(np.float32), _FRINGE / 2 * unit)
        for mask in (hair, skin, background)
    )
    return np.where(on_skin > before, np.clip(2 * near, 0, 1), np.float32(1))


def _along_hat(layout: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Where the nearest part of the head is a hat."""
    head = np.isin(layout, labels.head)
    if "hat" not in labels.classes or not head.any():
        return np.zeros(layout.shape, bool)
    nearest: Any = ndimage.distance_transform_edt(~head, return_indices=True)
    return layout[tuple(nearest[1])] == labels.index("hat")


def _least_alpha(image: np.ndarray, far: np.ndarray) -> np.ndarray:
    """The alpha above which a pixel shows hair, `far` from the head in pixels at 256.

    A busy background hides thin strands, and gets false alphas, the more the further away.
    """
    grey, sigma = image.astype(np.float32).mean(-1), _PATTERN * len(image) / 256
    variance = ndimage.gaussian_filter(grey**2, sigma) - ndimage.gaussian_filter(grey, sigma) ** 2
    # The least of the neighbourhood: at the head's own edge the variance is not the background's.
    spread = ndimage.minimum_filter(np.sqrt(np.maximum(variance, 0)), int(4 * sigma) | 1)
    busy = np.interp(spread, _EVEN_TO_BUSY, (0.0, 1.0))
    return _STRAND + busy * (_SOLID + far / _NEAR_HAIR)


def _matte(
    image: np.ndarray, layout: np.ndarray, labels: LabelSet, size: int, reach: float,
    given: tuple[int, ...] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The alpha of a head or of the classes given of it, the zone along its border with the
    background, and how far from it each pixel is, in pixels at 256."""
    head, background = np.isin(layout, given or labels.head), layout == labels.background
    skin = np.zeros(head.shape, bool)
    if given:  # the rest of the head, a neck: hair lies on them as strands, too
        skin = np.isin(layout, (*labels.head, *skin_classes(labels))) & ~head
    other = ~head & ~background & ~skin
    inner = np.asarray(ndimage.distance_transform_edt(head | skin))
    outer = np.asarray(ndimage.distance_transform_edt(~head))
    unit = size / 256
    band = (inner < _INSIDE * unit) & (outer < reach * unit) & ~other & ~skin
    if given:
        to_skin = np.asarray(ndimage.distance_transform_edt(~skin))
        band |= (to_skin + outer < _FRINGE * unit) & (head | skin)
    background |= skin
    # Along necks and clothes the parser's outline is better.
    to_background = np.asarray(ndimage.distance_transform_edt(~background))
    to_other = np.asarray(ndimage.distance_transform_edt(~other))
    band &= (to_background < to_other) | ~other.any()
    alpha = closed_form(image, head & ~band, ~head & ~band)
    if given:
        alpha = np.minimum(alpha, _fading_on_skin(head, skin, background & ~skin, unit))
    return alpha, band, outer / unit
