"""A pair brought to one frame: the head's picture where it will be in the result."""

from typing import NamedTuple

import jax
import numpy as np

from hsd_jax.evaluation.pairs import Picture
from hsd_jax.imaging import framing
from hsd_jax.imaging.framing import Crop
from hsd_jax.labels import LabelSet
from hsd_jax.swapping.mixing import turned_neck_shift


class Staged(NamedTuple):
    """A pair in the body's frame.

    Attributes:
      head, body: pictures uint8 `[S, S, 3]` with their layouts int32 `[S, S]`.
      photo: uint8, the head's whole picture.
      crop: the square of it that `head` shows.
      shift: by how many columns neck alignment has moved it, 0 without.
    """

    head: Picture
    body: Picture
    photo: np.ndarray
    crop: Crop
    shift: int


_neck_shift = jax.jit(turned_neck_shift, static_argnames="labels")


def stage(head: Picture, body: Picture, labels: LabelSet, frame: str, aligned: bool) -> Staged:
    """Frames the head as `hsd_jax.swap` does, from given layouts.

    Args:
      head, body: square pictures with layouts of `labels`, both of which show a face.
      labels: of the layouts.
      frame: "face" or "data"; see `hsd_jax.evaluation.regions.Choices`.
      aligned: move the head sideways until the lower faces meet (the paper, section 3.4).

    Raises:
      ValueError: pictures that are not square, of two sizes with frame "data", or without a face.
    """
    size = body.image.shape[0]
    for picture in (head, body):
        if picture.image.shape[:2] != picture.layout.shape or len({*picture.layout.shape}) > 1:
            raise ValueError(
                f"a picture of {picture.image.shape} with a layout of {picture.layout.shape}: "
                "give square ones of one size"
            )
    if frame == "data":
        if head.image.shape != body.image.shape:
            raise ValueError(f"pictures of {head.image.shape[0]} and {size} pixels: use frame face")
        crop = Crop(0, 0, size)
    else:
        crop = face_crop(head.layout, body.layout, labels.face)
    layout = take_layout(head.layout, crop, size, labels.background)
    shift = int(_neck_shift(layout, body.layout, labels=labels)) if aligned else 0
    crop = crop.shifted(-shift * crop.side / size)
    framed = Picture(framing.take(head.image, crop, size), moved(layout, shift, labels.background))
    return Staged(framed, body, head.image, crop, shift)


def face_crop(head: np.ndarray, body: np.ndarray, face: int) -> Crop:
    """The square of the head's picture in which its face is as large and where the body's is.

    Raises:
      ValueError: a layout without a face.
    """
    (x, y, length), (to_x, to_y, to_length) = (_place(layout, face) for layout in (head, body))
    zoom = length / to_length
    side = max(1, round(body.shape[0] * zoom))
    return Crop(round(x - to_x * zoom), round(y - to_y * zoom), side)


def _place(layout: np.ndarray, face: int) -> tuple[float, float, float]:
    """(column, row, square root of the area) of the face."""
    rows, columns = np.nonzero(layout == face)
    if not len(rows):
        raise ValueError("a layout without a face: leave the picture out of the pairs")
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5, float(np.sqrt(len(rows)))


def take_layout(layout: np.ndarray, crop: Crop, size: int, background: int) -> np.ndarray:
    """The crop of a layout at `size` pixels, nearest; background beyond its edges."""
    at = (np.arange(size) + 0.5) * crop.side / size
    rows, columns = (np.floor(start + at).astype(int) for start in (crop.top, crop.left))
    height, width = layout.shape
    result = layout[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)]
    return np.where(framing.inside(layout, crop, size), result, background).astype(np.int32)


def moved(layout: np.ndarray, shift: int, background: int) -> np.ndarray:
    """The layout `shift` columns to the right; what is vacated is background."""
    columns = np.arange(layout.shape[1]) - shift
    outside = (columns < 0) | (columns >= layout.shape[1])
    result = layout[:, np.clip(columns, 0, layout.shape[1] - 1)]
    return np.where(outside[None], background, result).astype(np.int32)
