"""Square crops of photos: cut out, resize, paste back."""

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

_ROWS = 512  # of a strip
_GAP = 3.0  # two steps then differ from one by a fifth of a level on average
_SUPPORT = 4  # pixels of an image around one that Lanczos reads, and one more


@dataclass(frozen=True)
class Crop:
    """A square in a photo's pixels; it may extend beyond the photo."""

    left: int
    top: int
    side: int
    turn: float = 0.0
    """Degrees by which it is turned about its middle, clockwise as the viewer sees it."""

    @property
    def _middle(self) -> np.ndarray:
        return np.array([self.left, self.top]) + self.side / 2

    @property
    def _axes(self) -> np.ndarray:
        """Unit vectors (column, row) along its own rows and columns, `[2, 2]`."""
        cos, sin = math.cos(math.radians(self.turn)), math.sin(math.radians(self.turn))
        return np.array([[cos, sin], [-sin, cos]])

    def places(self, points: np.ndarray) -> np.ndarray:
        """Points of the photo, column and row `[..., 2]`, in shares of the square's sides."""
        return (points - self._middle) @ self._axes.T / self.side + 0.5

    def points(self, places: np.ndarray) -> np.ndarray:
        """The inverse of `places`."""
        return self._middle + (places - 0.5) * self.side @ self._axes

    def shifted(self, columns: float) -> "Crop":
        """The same square moved by `columns` pixels along its own rows, to whole pixels."""
        right, down = (round(float(x)) for x in columns * self._axes[0])
        return replace(self, left=self.left + right, top=self.top + down)


def room(photo: np.ndarray, crop: Crop) -> tuple[float, float, float, float]:
    """How much photo lies beyond the crop (top, bottom, left, right), in sides of the crop.

    Of a turned crop: beyond the same square upright.
    """
    height, width = photo.shape[:2]
    bottom, right = height - crop.top - crop.side, width - crop.left - crop.side
    top, bottom, left, right = (x / crop.side for x in (crop.top, bottom, crop.left, right))
    return top, bottom, left, right


def take(photo: np.ndarray, crop: Crop, size: int | None = None) -> np.ndarray:
    """Cuts the crop out as a square of `size` pixels (None for the crop's own side).

    Beyond the photo, its edge pixels are repeated. A turned crop is interpolated (bicubic).
    """
    if crop.turn:
        return _take_turned(photo, crop, size)
    height, width = photo.shape[:2]
    right, bottom = crop.left + crop.side, crop.top + crop.side
    if min(crop.left, crop.top) >= 0 and right <= width and bottom <= height:
        square = photo[crop.top : bottom, crop.left : right]
    else:
        rows = np.clip(np.arange(crop.top, bottom), 0, height - 1)
        columns = np.clip(np.arange(crop.left, right), 0, width - 1)
        square = photo[rows][:, columns]
    return square if size in (None, crop.side) else resize(square, size)


def _take_turned(photo: np.ndarray, crop: Crop, size: int | None) -> np.ndarray:
    margin = math.ceil(crop.side * (math.sqrt(2) - 1) / 2) + 2  # whatever the turn, and the filter
    around = Crop(crop.left - margin, crop.top - margin, crop.side + 2 * margin)
    image = Image.fromarray(take(photo, around))
    turned = np.asarray(image.rotate(crop.turn, Image.Resampling.BICUBIC))
    return take(turned, Crop(margin, margin, crop.side), size)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes a uint8 image to `size` x `size` by antialiased Lanczos.

    To much smaller sizes by means of whole blocks first (Pillow's `reducing_gap`).
    """
    how, shape = Image.Resampling.LANCZOS, (size, size)
    return np.asarray(Image.fromarray(image).resize(shape, how, reducing_gap=_GAP))


def enlarge(layout: np.ndarray, size: int) -> np.ndarray:
    """Resizes a layout `[h, w]` of values up to 255 to `size` x `size`, nearest neighbour."""
    image = Image.fromarray(layout.astype(np.uint8))
    return np.asarray(image.resize((size, size), Image.Resampling.NEAREST))


def strips(side: int) -> list[slice]:
    """The rows of a square in parts, so that what is made for one part at a time fits in memory."""
    return [slice(at, min(at + _ROWS, side)) for at in range(0, side, _ROWS)]


def resize_rows(values: np.ndarray, side: int, rows: slice, smooth: bool = False) -> np.ndarray:
    """Some rows of a float32 image or map `[h, w, ...]` at `[side, side, ...]`.

    Lanczos, or bilinear if `smooth`; the rows are those of the whole, resized.
    """
    if values.ndim == 3:
        bands = [resize_rows(band, side, rows, smooth) for band in np.moveaxis(values, -1, 0)]
        return np.stack(bands, -1)
    height, width = values.shape
    margin = math.ceil(_SUPPORT * max(side / height, 1))
    first, last = max(0, rows.start - margin), min(side, rows.stop + margin)
    box = (0, first * height / side, width, last * height / side)
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.LANCZOS
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    part = np.asarray(image.resize((side, last - first), how, box))
    return part[rows.start - first : rows.stop - first]


def resize_map(values: np.ndarray, size: int) -> np.ndarray:
    """Resizes a float map `[h, w]` to `[size, size]`, bilinear."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def inside(photo: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """Which pixels of the crop, taken at `size`, lie in the photo: bool `[size, size]`."""
    at = (np.arange(size) + 0.5) / size
    points = crop.points(np.stack(np.meshgrid(at, at), -1))
    return np.all((points >= 0) & (points < photo.shape[1::-1]), -1)


def paste(photo: np.ndarray, square: np.ndarray, crop: Crop) -> np.ndarray:
    """Returns a copy of the photo whose crop is replaced by `square` `[side, side, ...]`."""
    height, width = photo.shape[:2]
    top, left = max(0, crop.top), max(0, crop.left)
    bottom, right = min(height, crop.top + crop.side), min(width, crop.left + crop.side)
    result = photo.copy()
    result[top:bottom, left:right] = square[
        top - crop.top : bottom - crop.top, left - crop.left : right - crop.left
    ]
    return result
