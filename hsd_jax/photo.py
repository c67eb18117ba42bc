"""Photo files: open, orient, crop, paste back, save with provenance.

The only file that knows of image files. A photo is uint8 `[H, W, 3]` sRGB from here on.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

import hsd_jax

MAX_PIXELS = 80_000_000
MIN_SIDE = 64
PROVENANCE = (
    "Synthetic image: head swapped by hsd_jax {version} (HS-Diffusion, arXiv 2212.06458). "
    "Do not present it as a photograph."
)
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def open_photo(source: Any) -> np.ndarray:
    """Any picture as uint8 `[H, W, 3]`.

    Args:
      source: a path, a PIL image, or an array uint8 `[H, W]`, `[H, W, 3]` or `[H, W, 4]`.
        EXIF orientation is applied; transparency is laid on white; 16-bit grey is scaled; an
        embedded colour profile is converted to sRGB.

    Raises:
      ValueError: no such file, no picture, or one too large or too small.
    """
    if isinstance(source, np.ndarray):
        channels = source.shape[2:]
        if source.dtype != np.uint8 or source.ndim < 2 or channels not in ((), (3,), (4,)):
            raise ValueError(
                f"the array is {source.dtype} {source.shape}: give uint8 [H, W, 3], 0 to 255"
            )
        return _to_rgb(Image.fromarray(source), "the array")
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the picture")
    name = os.fspath(source)
    try:
        with Image.open(name) as image:
            return _to_rgb(image, name)
    except FileNotFoundError:
        raise ValueError(f"{name}: no such file") from None
    except Image.DecompressionBombError:
        millions = MAX_PIXELS // 10**6
        raise ValueError(f"{name} has over {millions} million pixels: shrink it") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} is no picture that can be read: give a JPEG, PNG or WebP") from (
            None
        )
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{name} cannot be read ({error}): is the file complete?") from error


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} has {width} x {height} pixels, over {MAX_PIXELS // 10**6} million: shrink it"
        )
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{name} is only {width} x {height} pixels: give at least {MIN_SIDE}")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        scale = 257.0 if values.max() > 255 else 1.0
        image = Image.fromarray(np.clip(values / scale, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(_to_srgb(image))


def _to_srgb(image: Image.Image) -> Image.Image:
    """RGB in sRGB's colours: a phone's Display P3 photo would come out pale otherwise."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            return image.convert("RGB") if converted is None else converted
        except (ImageCms.PyCMSError, OSError):
            pass  # damaged, or of another mode than the picture: as without a profile
    return image.convert("RGB")


def save_picture(image: np.ndarray, path: str | Path, synthetic: bool = True) -> None:
    """Writes a picture, complete or not at all; PNG, JPEG or WebP by the ending.

    Args:
      image: uint8 `[H, W, 3]`.
      path: where to; the folder must exist.
      synthetic: add the provenance text (PNG text chunk, EXIF image description).

    Raises:
      ValueError: the ending is unknown or the file cannot be written.
    """
    path = Path(path)
    check_output(path)
    format_ = _FORMATS[path.suffix.lower()]
    options: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}}.get(format_, {})
    if format_ == "WEBP":
        options = {"lossless": True}
    if synthetic:
        text = PROVENANCE.format(version=hsd_jax.__version__)
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = text
        exif[ExifTags.Base.Software] = f"hsd_jax {hsd_jax.__version__}"
        options["exif"] = exif
        if format_ == "PNG":
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_text("Description", text)
            options["pnginfo"].add_text("Software", f"hsd_jax {hsd_jax.__version__}")
    _write(Image.fromarray(image), path, format_, options)


def save_layout(
    layout: np.ndarray, path: str | Path, palette: Sequence[tuple[int, int, int]]
) -> None:
    """Writes class indices as an 8-bit PNG whose palette shows them in colour.

    Pillow reads the indices back (`np.asarray(Image.open(path))`); OpenCV reads the colours.

    Args:
      layout: integers `[H, W]`, 0 to 255.
      path: where to, ending in .png; the folder must exist.
      palette: one (red, green, blue) a class.

    Raises:
      ValueError: the file cannot be written, or not as PNG.
    """
    path = Path(path)
    check_output(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: a layout is a PNG: end the name in .png")
    image = Image.fromarray(layout.astype(np.uint8))
    # Filled up to 256 entries: with fewer than 17, Pillow packs the indices into 4 bits or less.
    image.putpalette(np.asarray(palette, np.uint8).tobytes().ljust(768, b"\0"))
    _write(image, path, "PNG", {})


def _write(image: Image.Image, path: Path, format_: str, options: dict[str, Any]) -> None:
    """The file complete under its name, or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        image.save(temporary, format=format_, **options)
        temporary.replace(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: str | Path) -> None:
    """Before the work, what would spoil it after.

    Raises:
      ValueError: an unknown ending, or no such folder.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"{path}: end the name in one of {', '.join(_FORMATS)}")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{path}: give a file in a folder that exists")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: its folder cannot be written to, give another")


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


