"""Mixing of two layouts, head-cover and neck alignment, as pure functions on arrays.

HS-Diffusion, arXiv 2212.06458: sections 3.2 (head-cover), 3.4 (neck alignment) and appendix B.2
(Algorithm 1, the mixed layout). Layouts are integers [..., H, W], masks float32 0/1 [..., H, W];
everything works on any leading dimensions and under `jax.jit` with the `LabelSet` static.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Integer, Num, Shaped

from hsd_jax.labels import LabelSet
from hsd_jax.parsing.complexion import skin_classes

Layout = Integer[Array | np.ndarray, "*batch h w"]
LayoutOut = Integer[Array, "*batch h w"]
Mask = Float[Array, "*batch h w"]


class Regions(NamedTuple):
    """Where each pixel of the result comes from: disjoint 0/1 masks that sum to 1.

    Attributes:
      head: kept from the head photo (m_H of the paper).
      body: kept from the body photo (m_B).
      rest: generated (m_r): both necks, what the body photo's own head covered, and background.
    """

    head: Mask
    body: Mask
    rest: Mask


def group_mask(layout: Layout, classes: int | Sequence[int]) -> Bool[Array, "*batch h w"]:
    """True where `layout` holds one of `classes` (a class index, or a group of a `LabelSet`)."""
    layout = jnp.asarray(layout)
    mask = jnp.zeros(layout.shape, bool)
    # A few comparisons fuse into one pass; a gather or `isin` would not.
    for index in (classes,) if isinstance(classes, int) else classes:
        mask |= layout == index
    return mask


def _check_pair(first: Layout, second: Layout) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"the two layouts have shapes {first.shape} and {second.shape}; "
            "bring both to one size (nearest neighbour) and one batch"
        )


Region = Literal["head", "hair", "hat", "face", "clothes"]
REGIONS: tuple[Region, ...] = get_args(Region)
_NAMES = {"hair": ("hair",), "hat": ("hat", "headwear")}


def region_classes(region: Region, labels: LabelSet) -> tuple[int, ...]:
    """Returns the classes that a swap of this region takes from the head photo.

    "head" is the whole head (Algorithm 1). The others are for local replacement (section 5.1):
    "hair", "hat", "face" (the head without both) and "clothes" (the body without bare skin).

    Raises:
      ValueError: if the region is unknown, or `labels` has no class for it.
    """
    named = {
        name: tuple(i for i, label in enumerate(labels.classes) if label in found)
        for name, found in _NAMES.items()
    }
    named["head"] = labels.head
    named["face"] = tuple(i for i in labels.head if i not in named["hair"] + named["hat"])
    named["clothes"] = tuple(i for i in labels.body if i not in skin_classes(labels))
    if region not in named:
        raise ValueError(f"unknown region {region!r}: use one of {', '.join(REGIONS)}")
    if not named[region]:
        raise ValueError(f"label set {labels.name!r} has no class for the region {region!r}")
    return named[region]


def regions(
    layout_head: Layout, layout_body: Layout, labels: LabelSet, region: Region = "head"
) -> Regions:
    """The three masks of Algorithm 1, from the two (neck-aligned) layouts.

    For a region other than the head they are those of local replacement (section 5.1): m_H is the
    region in the head photo, m_B everything else of the body photo but its background. A face is
    cut to the body photo's face, and clothes stay behind the body photo's head.

    Deviation: where one person's head overlaps the other's body, such as long hair on clothes, the
    paper's m_H and m_B overlap and its m_r would be negative. Here the head is in front.

    Args:
      layout_head: the layout whose head is kept, already shifted by `neck_shift`.
      layout_body: the layout whose body is kept, of the same shape.
      labels: the label set of both.
      region: the part that the head photo gives, see `region_classes`.

    Raises:
      ValueError: if the shapes differ.
    """
    _check_pair(layout_head, layout_body)
    given = region_classes(region, labels)
    head, kept = group_mask(layout_head, given), labels.body
    if region != "head":
        dropped = {*given, labels.background}
        kept = tuple(i for i in range(labels.num_classes) if i not in dropped)
    if region == "face":
        head &= group_mask(layout_body, given)
    if region == "clothes":
        head &= ~group_mask(layout_body, labels.head)
    body = group_mask(layout_body, kept) & ~head
    rest = ~(head | body)
    return Regions(*(mask.astype(jnp.float32) for mask in (head, body, rest)))


def mix_layouts(
    layout_head: Layout, layout_body: Layout, labels: LabelSet, region: Region = "head"
) -> tuple[LayoutOut, Regions]:
    """Puts the head of one layout on the body of the other; also returns the `Regions`.

    Line 1 of Algorithm 1: l_1 m_H + l_2 m_B, and the background class elsewhere. A swap of heads
    drops both necks. The layout generator fills the holes, which it sees as background.

    Takes and raises what `regions` does.
    """
    masks = regions(layout_head, layout_body, labels, region)
    body_or_hole = jnp.where(masks.body > 0, layout_body, labels.background)
    return jnp.where(masks.head > 0, layout_head, body_or_hole), masks


def head_cover(layout: Layout, other: Layout, labels: LabelSet) -> LayoutOut:
    """Head-cover augmentation: cuts another person's head out of this one's body and neck.

    The paper, section 3.2 (semantic calibration). Pixels of `layout` in the body or neck group
    that lie under the head of `other` become background; its own head stays. The two images are
    not registered, so anything from nothing to most of the neck and shoulders changes. In training,
    this is the diffusion model's condition, and `remove_neck(head_cover(...))` the layout
    generator's input.

    Args:
      layout: the layout to cover.
      other: the layout of another training image, of the same shape.
      labels: the label set of both.

    Raises:
      ValueError: if the shapes differ.
    """
    _check_pair(layout, other)
    covered = group_mask(other, labels.head) & group_mask(layout, (*labels.neck, *labels.body))
    return jnp.where(covered, labels.background, layout)


def remove_neck(layout: Layout, labels: LabelSet) -> LayoutOut:
    """Turns the neck group into background (the paper, section 3.3)."""
    return jnp.where(group_mask(layout, labels.neck), labels.background, layout)


def _lower_face_column(
    layout: Layout, labels: LabelSet
) -> tuple[Float[Array, "*batch"], Bool[Array, "*batch"]]:
    """The centroid column of the face below the nose, and whether any face is there."""
    face = group_mask(layout, labels.face)
    rows = lax.broadcasted_iota(jnp.float32, face.shape, face.ndim - 2)
    columns = lax.broadcasted_iota(jnp.float32, face.shape, face.ndim - 1)
    pixels = face.sum((-2, -1), keepdims=True)
    row_sum = jnp.where(face, rows, 0).sum((-2, -1), keepdims=True)
    # row > mean row, without the division: float32 holds these integers exactly.
    lower = face & (rows * pixels > row_sum)
    count = lower.sum((-2, -1))
    column_sum = jnp.where(lower, columns, 0).sum((-2, -1))
    return column_sum / jnp.maximum(count, 1), count > 0


def neck_shift(layout_head: Layout, layout_body: Layout, labels: LabelSet) -> Int[Array, "*batch"]:
    """The number of columns to move the head photo by, so that its neck meets the body's.

    The paper, section 3.4: the horizontal distance between the centres of the two lower faces,
    positive to the right. Crops are face-aligned, so there is no vertical part. Apply the shift
    with `shift_columns` to the head photo and its layout before encoding, since latents could only
    move by whole cells. Swapping the arguments negates the result exactly.

    Deviation: in the paper, the lower face lies below the nose landmark. A layout has no landmarks,
    so the mean row of the face's pixels replaces the nose. In face-aligned crops both faces have
    the same height and scale, so an error of a few rows is similar in both and cancels. The paper
    does not define the centre; here it is the centroid.

    Args:
      layout_head: the layout of the head photo.
      layout_body: the layout of the body photo, of the same shape.
      labels: the label set of both.

    Returns:
      int32 [...]: round(column of the body's lower face - column of the head's); 0 if either
      layout has no face pixel below its mean row.

    Raises:
      ValueError: if the shapes differ.
    """
    _check_pair(layout_head, layout_body)
    column_head, found_head = _lower_face_column(layout_head, labels)
    column_body, found_body = _lower_face_column(layout_body, labels)
    # Half to even, so that rounding is antisymmetric as well.
    shift = jnp.round(column_body - column_head).astype(jnp.int32)
    return jnp.where(found_head & found_body, shift, 0)


_NECK = 2.2  # distance of the neck from the eyes, divided by that of the lower face
_ALIKE = 0.065  # of a face's size (0.15 eye distances): two photos of one pose differ by this much


def extended_neck_shift(
    layout_head: Layout, layout_body: Layout, labels: LabelSet
) -> Int[Array, "*batch"]:
    """Aligns the necks of crops whose eyes coincide.

    Deviation: the paper aligns the lower faces (`neck_shift`). When a head turns or bends, its
    lower face moves away from the eyes towards the neck, and the neck is `_NECK` times as far
    away. On the 67 portraits with a visible neck to which that was fitted, it predicts the neck to
    0.18 eye distances (standard deviation); the lower face is 0.43 off. Differences within
    `_ALIKE` are ignored.

    Arguments, result and errors are those of `neck_shift`; swapping the layouts negates the result.
    """
    column_head, found_head = _lower_face_column(layout_head, labels)
    column_body, found_body = _lower_face_column(layout_body, labels)
    apart = jnp.where(found_head & found_body, _NECK * (column_body - column_head), 0.0)
    return _beyond(apart, _ALIKE, layout_head, layout_body, labels)


def _beyond(
    apart: Array, tolerance: float, layout_head: Layout, layout_body: Layout, labels: LabelSet
) -> Int[Array, "*batch"]:
    """Columns minus a tolerance, which is a share of the mean size of the two faces."""
    size = sum(
        jnp.sqrt(group_mask(layout, labels.face).sum((-2, -1)).astype(jnp.float32))
        for layout in (layout_body, layout_head)
    )
    beyond = jnp.sign(apart) * jnp.maximum(jnp.abs(apart) - tolerance * size / 2, 0)
    return jnp.round(beyond).astype(jnp.int32)


_STRAIGHT = 0.15  # of a face's size: a neck this far to the side still counts as straight
_MIN_NECK = 100  # pixels at 256 x 256; fewer are no guide


def turned_neck_shift(
    layout_head: Layout, layout_body: Layout, labels: LabelSet
) -> Int[Array, "*batch"]:
    """`neck_shift`, corrected for turned or bent heads, whose necks lie beside their lower faces.

    Deviation: if only the lower faces are aligned, as in the paper, a frontal head on a body in
    profile stands beside its neck. Where both necks are visible, this adds the difference of their
    offsets from their own lower faces, less a tolerance; for straight heads it adds nothing.

    Takes, returns and raises what `neck_shift` does; swapping the arguments negates it exactly too.
    """
    shift = neck_shift(layout_head, layout_body, labels)
    off_head, known_head = _neck_offset(layout_head, labels)
    off_body, known_body = _neck_offset(layout_body, labels)
    apart = jnp.where(known_head & known_body, off_body - off_head, 0.0)
    return shift + _beyond(apart, _STRAIGHT, layout_head, layout_body, labels)


def _neck_offset(
    layout: Layout, labels: LabelSet
) -> tuple[Float[Array, "*batch"], Bool[Array, "*batch"]]:
    """Columns from the lower face's centre to the neck's, and whether enough of both is visible."""
    face, found = _lower_face_column(layout, labels)
    neck = group_mask(layout, labels.neck)
    columns = lax.broadcasted_iota(jnp.float32, neck.shape, neck.ndim - 1)
    count = neck.sum((-2, -1))
    column = jnp.where(neck, columns, 0).sum((-2, -1)) / jnp.maximum(count, 1)
    enough = count >= _MIN_NECK * neck.shape[-2] * neck.shape[-1] / 256**2
    return column - face, found & enough


def shift_columns(
    x: Num[Array | np.ndarray, "..."],
    shift: Int[Array, ""] | int,
    fill: ArrayLike,
    axis: int = -1,
) -> Num[Array, "..."]:
    """Moves `x` by `shift` places along `axis`; vacated places become `fill`.

    Args:
      x: any array: a layout (axis -1), an NHWC or HWC image (axis -2).
      shift: integer scalar, may be traced and of any size; positive moves to higher indices, to
        the right. For one shift per batch element, `jax.vmap(shift_columns, (0, 0, None))`.
      fill: scalar for the vacated places: the background class, or white (1.0 in [-1, 1]).
      axis: the axis of the columns.

    Returns:
      An array of the shape and dtype of `x`.

    Raises:
      ValueError: if `shift` or `fill` is not a scalar.
    """
    x, shift, fill = jnp.asarray(x), jnp.asarray(shift), jnp.asarray(fill, jnp.asarray(x).dtype)
    if shift.ndim or fill.ndim:
        raise ValueError(
            f"shift and fill must be scalars, not of shapes {shift.shape} and {fill.shape}; "
            "use jax.vmap for one shift per batch element"
        )
    axis %= x.ndim
    width = x.shape[axis]
    padding = [(width, width, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    start = width - jnp.clip(shift, -width, width)
    return lax.dynamic_slice_in_dim(lax.pad(x, fill, padding), start, width, axis)


def dilate(mask: Shaped[Array | np.ndarray, "*batch h w"], radius: int) -> Mask:
    """Dilates a mask by `radius` pixels in a square window (2 radius + 1 wide), float32.

    Args:
      mask: [..., H, W], 0/1 or bool; pixels outside the image count as 0.
      radius: static integer >= 0; 0 changes nothing.

    Raises:
      ValueError: if `radius` is negative.
    """
    if radius < 0:
        raise ValueError(f"radius {radius} is negative; use `erode` to shrink a mask")
    grown = jnp.asarray(mask, jnp.float32)
    # A square maximum is one over rows, then one over columns: 2n instead of n * n comparisons.
    for axis in (-2, -1):
        window = [1] * grown.ndim
        window[axis] = 2 * radius + 1
        grown = lax.reduce_window(grown, -jnp.inf, lax.max, window, (1,) * grown.ndim, "SAME")
    return grown


def erode(mask: Shaped[Array | np.ndarray, "*batch h w"], radius: int) -> Mask:
    """Erodes a mask by `radius` pixels in a square window (2 radius + 1 wide), float32.

    The image's border does not erode: a body cut off by the frame stays so. Used because latents
    bleed across region borders: a latent cell at the jaw also encodes the neck below it, so the
    cells along the border are generated instead of kept (not in the paper).

    Takes and raises what `dilate` does.
    """
    return 1 - dilate(1 - jnp.asarray(mask, jnp.float32), radius)
