"""Square crops of photos: cut out, resize, paste back."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from hsd_jax.runtime.threads import spread

_TILE = 512  # pixels a side
_SUPPORT = 4  # pixels of an image around one that Lanczos reads, and one more
_STRIP = 4  # a square of which the photo fills less than one in so many sides is a panorama's
_GAP = 3.0  # two steps then differ from one by a fifth of a level on average

Tile = tuple[slice, slice]
"""Rows and columns of a square."""


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

    @property
    def around(self) -> "Crop":
        """An upright square that covers it and what is read around it, however it is turned."""
        margin = math.ceil(self.side * (math.sqrt(2) - 1) / 2) + 2 if self.turn else 0
        return Crop(self.left - margin, self.top - margin, self.side + 2 * margin)

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
    rows, above, below = _overlap(crop.top, crop.side, photo.shape[0])
    columns, before, after = _overlap(crop.left, crop.side, photo.shape[1])
    square = photo[rows, columns]
    blocks = int(crop.side / (_GAP * size)) if size and photo.dtype == np.uint8 else 1
    if blocks > 1 and crop.side > _STRIP * min(square.shape[:2]):
        # Nearly all of the square would be repeated pixels, and gigabytes.
        square = np.asarray(_image(square).reduce(blocks))
        above, below, before, after = (round(x / blocks) for x in (above, below, before, after))
    if above or below or before or after:
        beyond = [(above, below), (before, after), (0, 0)]
        square = np.pad(square, beyond[: photo.ndim], "edge")
    return square if size in (None, crop.side) else resize(square, size)


def _take_turned(photo: np.ndarray, crop: Crop, size: int | None) -> np.ndarray:
    around = crop.around
    image = Image.fromarray(take(photo, around))
    turned = np.asarray(image.rotate(crop.turn, Image.Resampling.BICUBIC))
    margin = crop.left - around.left
    return take(turned, Crop(margin, margin, crop.side), size)


def _overlap(start: int, length: int, size: int) -> tuple[slice, int, int]:
    """Which of an axis' `size` pixels a stretch shows, at least one, and how many lie beyond."""
    first = min(max(start, 0), size - 1)
    last = min(max(start + length, first + 1), size)
    before = min(max(first - start, 0), length - (last - first))
    return slice(first, last), before, length - before - (last - first)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes a uint8 image to `size` x `size` by antialiased Lanczos.

    To much smaller sizes by means of whole blocks first (Pillow's `reducing_gap`).
    """
    how, shape = Image.Resampling.LANCZOS, (size, size)
    return np.asarray(_image(image).resize(shape, how, reducing_gap=_GAP))


def enlarge(layout: np.ndarray, size: int) -> np.ndarray:
    """Resizes a layout `[h, w]` of values up to 255 to `size` x `size`, nearest neighbour."""
    image = Image.fromarray(layout.astype(np.uint8))
    return np.asarray(image.resize((size, size), Image.Resampling.NEAREST))


def tiles(side: int) -> list[Tile]:
    """A square in parts, so that what is made for one part at a time fits into a core's cache."""
    parts = [slice(at, min(at + _TILE, side)) for at in range(0, side, _TILE)]
    return [(rows, columns) for rows in parts for columns in parts]


def cells(tile: Tile, side: int, size: int) -> Tile:
    """The pixels of a square of `size` that a tile of it at `side` is made of, by bilinear."""
    rows, columns = (
        slice(max(0, x.start * size // side - 2), x.stop * size // side + 3) for x in tile
    )
    return rows, columns


class Scaled:
    """A square image or map at another size, of which any tile can be had."""

    def __init__(self, values: np.ndarray, side: int, smooth: bool = False):
        """Takes `values`, uint8 `[s, s, 3]`, or float32 `[s, s]` or `[s, s, c]`.

        The result is resized by Lanczos, a uint8 image as `resize` does, or bilinear if `smooth`.
        """
        self._how = Image.Resampling.BILINEAR if smooth else Image.Resampling.LANCZOS
        self._values, self._step, blocks = values, len(values) / side, 1
        if values.dtype == np.uint8:
            blocks = max(1, int(self._step / _GAP))
        if blocks > 1:
            self._values = np.asarray(_image(values).reduce(blocks))
            self._step /= blocks

    def at(self, tile: Tile) -> np.ndarray:
        """A tile of the result."""
        (top, bottom), (left, right) = ((x.start * self._step, x.stop * self._step) for x in tile)
        reach = math.ceil(_SUPPORT * max(1, self._step))
        above, before = (max(0, math.floor(start) - reach) for start in (top, left))
        seen = self._values[above : math.ceil(bottom) + reach, before : math.ceil(right) + reach]
        box = left - before, top - above, right - before, bottom - above
        rows, columns = tile
        size = columns.stop - columns.start, rows.stop - rows.start

        def resized(values: np.ndarray) -> np.ndarray:
            return np.asarray(_image(values).resize(size, self._how, box))

        if seen.dtype == np.uint8 or seen.ndim == 2:
            return resized(seen)
        return np.stack([resized(band) for band in np.moveaxis(seen, -1, 0)], -1)


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(values))


def resize_map(values: np.ndarray, size: int) -> np.ndarray:
    """Resizes a float map `[h, w]` to `[size, size]`, bilinear."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def seen_of(photo: np.ndarray, crop: Crop) -> Tile:
    """The rows and columns of an upright crop that lie in the photo."""
    height, width = photo.shape[:2]
    rows = slice(max(0, -crop.top), max(0, min(crop.side, height - crop.top)))
    return rows, slice(max(0, -crop.left), max(0, min(crop.side, width - crop.left)))


def inside(photo: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """Which pixels of the crop, taken at `size`, lie in the photo: bool `[size, size]`."""
    at = (np.arange(size) + 0.5) / size
    points = crop.points(np.stack(np.meshgrid(at, at), -1))
    return np.all((points >= 0) & (points < photo.shape[1::-1]), axis=-1)


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


def put(photo: np.ndarray, values: np.ndarray, crop: Crop, tile: Tile) -> None:
    """Replaces a tile of the photo's crop in place, as far as it lies in the photo."""
    top, left = crop.top + tile[0].start, crop.left + tile[1].start
    seen = values[max(0, -top) :, max(0, -left) :]
    place = photo[max(0, top) :, max(0, left) :][: seen.shape[0], : seen.shape[1]]
    place[...] = seen[: place.shape[0], : place.shape[1]]


def reworked(
    photo: np.ndarray,
    crop: Crop,
    change: Callable[[np.ndarray, Tile], np.ndarray],
    tiles: Iterable[Tile],
) -> np.ndarray:
    """A copy of the photo with some tiles of the crop as `change(pixels, tile)` returns them."""
    square, result = take(photo, crop), photo.copy()
    spread(lambda tile: put(result, change(square[tile], tile), crop, tile), tiles)
    return result
