"""Masks and layouts of two people: mixing, head-cover, neck alignment. Pure functions on arrays.

HS-Diffusion, arXiv 2212.06458: sections 3.2 (head-cover), 3.4 (neck alignment) and appendix B.2
(Algorithm 1, the mixed layout). Layouts are integers [..., H, W], masks float32 0/1 [..., H, W];
everything works on any leading dimensions and under `jax.jit` with the `LabelSet` static.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Integer, Num, Shaped

from hsd_jax.labels import LabelSet

Layout = Integer[Array | np.ndarray, "*batch h w"]
LayoutOut = Integer[Array, "*batch h w"]
Mask = Float[Array, "*batch h w"]


class Regions(NamedTuple):
    """Where each pixel of the result comes from: disjoint masks, 0 or 1, whose sum is 1.

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


def regions(layout_head: Layout, layout_body: Layout, labels: LabelSet) -> Regions:
    """The three masks of Algorithm 1, from the two (neck-aligned) layouts.

    Deviation: where the head of the one lies on the body of the other, such as long hair on
    clothes, the paper's two masks overlap and its m_r would be negative; here the head is in front.

    Args:
      layout_head: the layout whose head is kept, already shifted by `neck_shift`.
      layout_body: the layout whose body is kept, same shape.
      labels: the label set of both.

    Raises:
      ValueError: if the shapes differ.
    """
    _check_pair(layout_head, layout_body)
    head = group_mask(layout_head, labels.head)
    body = group_mask(layout_body, labels.body) & ~head
    rest = ~(head | body)
    return Regions(*(mask.astype(jnp.float32) for mask in (head, body, rest)))


def mix_layouts(
    layout_head: Layout, layout_body: Layout, labels: LabelSet
) -> tuple[LayoutOut, Regions]:
    """The head of one layout on the body of the other, with holes; and its `Regions`.

    Line 1 of Algorithm 1: l_1 m_H + l_2 m_B, and the background class elsewhere. Both necks are
    dropped; the layout generator fills the holes, which look like background to it.

    Args, errors: as `regions`.
    """
    masks = regions(layout_head, layout_body, labels)
    body_or_hole = jnp.where(masks.body > 0, layout_body, labels.background)
    return jnp.where(masks.head > 0, layout_head, body_or_hole), masks


def head_cover(layout: Layout, other: Layout, labels: LabelSet) -> LayoutOut:
    """Head-cover augmentation: cut another person's head out of this one's body and neck.

    The paper, section 3.2 (semantic calibration). Pixels of `layout` in the body or neck group
    under a head of `other` become background; its own head is never touched. The two are not
    registered, so the change is anything from nothing to most of the neck and shoulders. This is
    the diffusion model's condition in training; the layout generator's input is
    `remove_neck(head_cover(...))`.

    Args:
      layout: the layout to cover.
      other: the layout of another training picture, same shape.
      labels: the label set of both.

    Raises:
      ValueError: if the shapes differ.
    """
    _check_pair(layout, other)
    covered = group_mask(other, labels.head) & group_mask(layout, (*labels.neck, *labels.body))
    return jnp.where(covered, labels.background, layout)


def remove_neck(layout: Layout, labels: LabelSet) -> LayoutOut:
    """The layout with its neck group made background (the paper, section 3.3)."""
    return jnp.where(group_mask(layout, labels.neck), labels.background, layout)


def _lower_face_column(
    layout: Layout, labels: LabelSet
) -> tuple[Float[Array, "*batch"], Bool[Array, "*batch"]]:
    """The centroid column of the face below the nose row, and whether there is such a face."""
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
    """By how many columns to move the head photo so that its neck meets the body's; int32 [...].

    The paper, section 3.4: the horizontal distance between the centres of the two lower faces,
    positive to the right; crops are face-aligned, so there is no vertical part. Apply it with
    `shift_columns` to the head photo and its layout before anything is encoded, since latents
    could only move by whole cells. Swapping the arguments negates the result exactly.

    Deviation: the paper's lower face lies below the nose landmark. A layout has no landmarks, so
    the mean row of the face's pixels stands for it: the tip of the nose lies near the centre of
    the visible face, and in face-aligned crops both faces are at one height and scale, so an error
    of some rows is much the same in both and cancels in the difference. The centre, which the
    paper does not define further, is the centroid.

    Args:
      layout_head: the layout of the photo that gives the head.
      layout_body: the layout of the photo that gives the body, same shape.
      labels: the label set of both.

    Returns:
      round(column of the body's lower face - column of the head's); 0 where either layout has no
      face pixel below its nose row.

    Raises:
      ValueError: if the shapes differ.
    """
    _check_pair(layout_head, layout_body)
    column_head, found_head = _lower_face_column(layout_head, labels)
    column_body, found_body = _lower_face_column(layout_body, labels)
    # Half to even, so that rounding is antisymmetric as well.
    shift = jnp.round(column_body - column_head).astype(jnp.int32)
    return jnp.where(found_head & found_body, shift, 0)


_STRAIGHT = 0.15  # of a face's size: necks this far from below their faces are as good as straight
_MIN_NECK = 100  # pixels at 256 x 256; what shows of fewer is no guide


def turned_neck_shift(
    layout_head: Layout, layout_body: Layout, labels: LabelSet
) -> Int[Array, "*batch"]:
    """`neck_shift`, and on, where a turned or bent head has its neck beside the lower face.

    Deviation: by the lower faces alone, which the paper aligns, a head seen from the front on a
    body in profile stands beside its neck. Where both necks show, the difference of how far each
    lies from its own lower face is added, less a tolerance; on straight heads nothing is.

    Arguments, result and errors are those of `neck_shift`; swapping negates it exactly too.
    """
    shift = neck_shift(layout_head, layout_body, labels)
    off_head, known_head = _neck_offset(layout_head, labels)
    off_body, known_body = _neck_offset(layout_body, labels)
    apart = jnp.where(known_head & known_body, off_body - off_head, 0.0)
    size = jnp.sqrt(group_mask(layout_body, labels.face).sum((-2, -1)).astype(jnp.float32))
    size += jnp.sqrt(group_mask(layout_head, labels.face).sum((-2, -1)).astype(jnp.float32))
    more = jnp.sign(apart) * jnp.maximum(jnp.abs(apart) - _STRAIGHT * size / 2, 0)
    return shift + jnp.round(more).astype(jnp.int32)


def _neck_offset(
    layout: Layout, labels: LabelSet
) -> tuple[Float[Array, "*batch"], Bool[Array, "*batch"]]:
    """Columns from the lower face's centre to the neck's, and whether enough of both shows."""
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
    """`x` moved by `shift` places along `axis`; what leaves is lost, what is vacated is `fill`.

    Args:
      x: any array: a layout (axis -1), an NHWC or HWC image (axis -2).
      shift: integer scalar, may be traced and of any size; positive moves to higher indices, to
        the right. One shift a batch element: `jax.vmap(shift_columns, (0, 0, None))`.
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
            "use jax.vmap for one shift a batch element"
        )
    axis %= x.ndim
    width = x.shape[axis]
    padding = [(width, width, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    start = width - jnp.clip(shift, -width, width)
    return lax.dynamic_slice_in_dim(lax.pad(x, fill, padding), start, width, axis)


def to_latent(mask: Shaped[Array | np.ndarray, "*batch h w"], factor: int) -> Float[Array, "..."]:
    """A pixel mask on the grid of the latents, by nearest neighbour: [..., h, w, 1] float32.

    Cell i takes pixel floor(i * factor) of each axis, the first of its block, as
    `torch.nn.functional.interpolate` does for the masks of CompVis latent-diffusion
    (scripts/inpaint.py). The paper does not say; blended-latent-diffusion resizes with Pillow's
    NEAREST, which takes the block's centre instead, factor // 2 further. Masks that are disjoint
    and sum to one stay so.

    Args:
      mask: [..., H, W], 0/1 or bool.
      factor: pixels a cell, such as 4.

    Raises:
      ValueError: if H or W is no multiple of `factor`.
    """
    mask = jnp.asarray(mask, jnp.float32)
    height, width = mask.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(
            f"a mask of {height} x {width} pixels has no whole cells of {factor}; "
            f"crop or resize it to multiples of {factor}"
        )
    return mask[..., ::factor, ::factor, None]


def dilate(mask: Shaped[Array | np.ndarray, "*batch h w"], radius: int) -> Mask:
    """The mask grown by `radius` pixels in a square window (2 radius + 1 wide), float32.

    Args:
      mask: [..., H, W], 0/1 or bool; nothing comes in from outside the picture.
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
    """The mask shrunk by `radius` pixels in a square window (2 radius + 1 wide), float32.

    The picture's own border does not erode: a body that the frame cuts stays cut by the frame.
    Meant for the bleeding of latents at region borders: a latent cell at the jaw also saw the neck
    below it, so keeping a cell less of head and body leaves that cell to be generated (our
    addition, not in the paper).

    Args, errors: as `dilate`.
    """
    return 1 - dilate(1 - jnp.asarray(mask, jnp.float32), radius)
