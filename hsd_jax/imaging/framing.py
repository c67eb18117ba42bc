"""Square crops of photos: cut out, resize, paste back."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Crop:
    """A square in a photo's pixels; it may extend beyond the photo."""

    left: int
    top: int
    side: int

    def shifted(self, columns: float) -> "Crop":
        """The same square moved `columns` pixels to the right."""
        return Crop(self.left + round(columns), self.top, self.side)


def room(photo: np.ndarray, crop: Crop) -> tuple[float, float, float, float]:
    """How much photo lies beyond the crop (top, bottom, left, right), in sides of the crop."""
    height, width = photo.shape[:2]
    bottom, right = height - crop.top - crop.side, width - crop.left - crop.side
    top, bottom, left, right = (x / crop.side for x in (crop.top, bottom, crop.left, right))
    return top, bottom, left, right


def take(photo: np.ndarray, crop: Crop, size: int | None = None) -> np.ndarray:
    """Cuts the crop out as a square of `size` pixels (None for the crop's own side).

    Beyond the photo, its edge pixels are repeated.
    """
    height, width = photo.shape[:2]
    rows = np.clip(np.arange(crop.top, crop.top + crop.side), 0, height - 1)
    columns = np.clip(np.arange(crop.left, crop.left + crop.side), 0, width - 1)
    square = photo[rows][:, columns]
    return square if size in (None, crop.side) else resize(square, size)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes a uint8 image to `size` x `size` by antialiased Lanczos."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def enlarge(layout: np.ndarray, size: int) -> np.ndarray:
    """Resizes a layout `[h, w]` of values up to 255 to `size` x `size`, nearest neighbour."""
    image = Image.fromarray(layout.astype(np.uint8))
    return np.asarray(image.resize((size, size), Image.Resampling.NEAREST))


def resize_image(values: np.ndarray, size: int) -> np.ndarray:
    """float32 image `[h, w, 3]` to `[size, size, 3]`; Lanczos, as `resize`."""
    bands = [Image.fromarray(np.ascontiguousarray(x)) for x in np.moveaxis(values, -1, 0)]
    shape = (size, size)
    return np.stack([np.asarray(x.resize(shape, Image.Resampling.LANCZOS)) for x in bands], -1)


def resize_map(values: np.ndarray, size: int) -> np.ndarray:
    """Resizes a float map `[h, w]` to `[size, size]`, bilinear."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def inside(photo: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """Which pixels of the crop, taken at `size`, lie in the photo: bool `[size, size]`."""
    height, width = photo.shape[:2]
    at = (np.arange(size) + 0.5) * crop.side / size
    rows, columns = crop.top + at, crop.left + at
    in_rows, in_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    return in_rows[:, None] & in_columns[None, :]


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


