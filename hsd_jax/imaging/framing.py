"""Squares of photos: where a face belongs in one, taking it out, pasting it back."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from hsd_jax.imaging.files import MIN_SIDE


@dataclass(frozen=True)
class Crop:
    """A square of a photo, in the photo's pixels; it may reach over the edges."""

    left: int
    top: int
    side: int

    def shifted(self, columns: float) -> "Crop":
        """The same square, `columns` pixels further right."""
        return Crop(self.left + round(columns), self.top, self.side)


# Of our training pictures: the square root of the face's area as a share of the crop's side, and
# the row of its centroid. 1,985 half-body street photos (medians 0.209, 0.342), 615 portraits.
_HALF_BODY = (0.209, 0.342)
_PORTRAIT = (0.475, 0.51)


def framing(photo: np.ndarray, face_size: float) -> float:
    """The face's share of the crop for this photo: half-body where it shows that much.

    The paper's crops are all half-body (eyes at 0.29 of the height, 2.25 times FFHQ's square). A
    close-up holds less; a half-body square around it would be mostly empty and the face few pixels
    wide, so the crop closes in until the photo fills it, down to our portraits' framing.
    """
    fills = face_size / (1.1 * max(photo.shape[:2]))
    return float(np.clip(fills, _HALF_BODY[0], _PORTRAIT[0]))


def crop_around(face_x: float, face_y: float, face_size: float, share: float) -> Crop:
    """The square around a face whose size is `share` of its side.

    Without a landmark model the face mask places it: its centroid (`face_x`, `face_y`) and the
    square root of its area `face_size`, in pixels. The centroid comes to the middle column, and to
    the row that it has in our training pictures of that share.
    """
    side = max(MIN_SIDE, round(face_size / share))
    return Crop(round(face_x - 0.5 * side), round(face_y - _face_row(share) * side), side)


def face_in(crop: Crop, share: float) -> tuple[float, float, float]:
    """The inverse of `crop_around`: x, y and size of the face."""
    x, y = crop.left + 0.5 * crop.side, crop.top + _face_row(share) * crop.side
    return x, y, share * crop.side


def _face_row(share: float) -> float:
    (share0, row0), (share1, row1) = _HALF_BODY, _PORTRAIT
    return row0 + (share - share0) / (share1 - share0) * (row1 - row0)


def room(photo: np.ndarray, crop: Crop) -> tuple[float, float, float, float]:
    """How far the photo goes on beyond the crop: top, bottom, left, right, in sides of the crop."""
    height, width = photo.shape[:2]
    bottom, right = height - crop.top - crop.side, width - crop.left - crop.side
    top, bottom, left, right = (x / crop.side for x in (crop.top, bottom, crop.left, right))
    return top, bottom, left, right


def take(photo: np.ndarray, crop: Crop, size: int | None = None) -> np.ndarray:
    """The crop as a square picture of `size` pixels (its own side when None).

    Beyond the photo its edge pixels are repeated.
    """
    height, width = photo.shape[:2]
    rows = np.clip(np.arange(crop.top, crop.top + crop.side), 0, height - 1)
    columns = np.clip(np.arange(crop.left, crop.left + crop.side), 0, width - 1)
    square = photo[rows][:, columns]
    return square if size in (None, crop.side) else resize(square, size)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 picture to `size` x `size`; Lanczos, with the right support when it shrinks."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def resize_map(values: np.ndarray, size: int) -> np.ndarray:
    """float32 map `[h, w]` to `[size, size]`, bilinear."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def inside(photo: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """bool `[size, size]`: which pixels of the crop, taken at `size`, lie in the photo."""
    height, width = photo.shape[:2]
    at = (np.arange(size) + 0.5) * crop.side / size
    rows, columns = crop.top + at, crop.left + at
    in_rows, in_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    return in_rows[:, None] & in_columns[None, :]


def paste(photo: np.ndarray, square: np.ndarray, crop: Crop) -> np.ndarray:
    """A copy of the photo with the crop's pixels replaced by `square` `[side, side, ...]`."""
    height, width = photo.shape[:2]
    top, left = max(0, crop.top), max(0, crop.left)
    bottom, right = min(height, crop.top + crop.side), min(width, crop.left + crop.side)
    result = photo.copy()
    result[top:bottom, left:right] = square[
        top - crop.top : bottom - crop.top, left - crop.left : right - crop.left
    ]
    return result


