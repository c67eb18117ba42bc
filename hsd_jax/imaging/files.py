"""Image files: opens, orients and saves them, with a provenance mark.

Beside `provenance` and `drawings`, no other module knows file formats. Everywhere else a photo is
uint8 `[H, W, 3]` in sRGB.
"""

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from hsd_jax.imaging.credentials import Credentials
from hsd_jax.imaging.provenance import Mark, labelled
from hsd_jax.runtime.files import atomic

MAX_PIXELS = 80_000_000
MIN_SIDE = 64
_UNKNOWN = Mark()  # of this version, by unknown weights
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True)
class Photo:
    """A photo in memory."""

    pixels: UInt8[np.ndarray, "h w 3"]
    name: str
    """What messages call it: its path, or its role in a swap."""


def read_photo(source: Any, role: str) -> Photo:
    """Reads an image as a `Photo`; a `Photo` is returned unchanged.

    Args:
      source: see `open_photo`.
      role: the name for messages if there is no path, such as "the head photo".
    """
    if isinstance(source, Photo):
        return source
    return Photo(open_photo(source), str(source) if isinstance(source, str | Path) else role)


def open_photo(source: Any) -> np.ndarray:
    """Reads an image as uint8 `[H, W, 3]` in sRGB.

    Applies EXIF orientation, composites transparency onto white, scales 16-bit grey to 8 bits and
    converts an embedded colour profile to sRGB.

    Args:
      source: a path, a PIL image, or a uint8 array `[H, W]`, `[H, W, 3]` or `[H, W, 4]`.

    Raises:
      ValueError: if the file does not exist, is not an image, or is too large or too small.
    """
    if isinstance(source, np.ndarray):
        channels = source.shape[2:]
        if source.dtype != np.uint8 or source.ndim < 2 or channels not in ((), (3,), (4,)):
            raise ValueError(
                f"the array is {source.dtype} {source.shape}: give uint8 [H, W, 3], 0 to 255"
            )
        return _to_rgb(Image.fromarray(source), "the array")
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the image")
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
        message = f"{name} is not an image that can be read: give a JPEG, PNG or WebP"
        raise ValueError(message) from None
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
    """Converts to sRGB; otherwise, say, Display P3 photos of phones would come out pale."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            return image.convert("RGB") if converted is None else converted
        except (ImageCms.PyCMSError, OSError):
            pass  # the profile is damaged or does not fit the image's mode: ignore it
    return image.convert("RGB")


def save_image(
    image: np.ndarray,
    path: str | Path,
    mark: Mark | None = _UNKNOWN,
    *,
    label: bool = False,
    credentials: Credentials | None = None,
) -> None:
    """Writes an image atomically, as PNG, JPEG or WebP by its suffix.

    Args:
      image: uint8 `[H, W, 3]`.
      path: the file; its folder must exist.
      mark: the provenance mark to write with it; None for an image that is not synthetic.
      label: whether to print in a corner that the image is synthetic.
      credentials: who signs the mark; None for nobody.

    Raises:
      ValueError: if the suffix is unknown or the file cannot be written.
    """
    path = Path(path)
    check_output(path)
    format_ = _FORMATS[path.suffix.lower()]
    options: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}}.get(format_, {})
    if format_ == "WEBP":
        options = {"lossless": True}
    marked = {} if mark is None else mark.save_options(format_)
    sign = None
    if mark is not None and credentials is not None:
        sign = partial(credentials.sign, format_=format_, mark=mark)
    shown = Image.fromarray(labelled(image) if label else image)
    _write(shown, path, format_, options | marked, sign)


def save_animation(
    images: Sequence[np.ndarray], path: Path, mark: Mark | None = _UNKNOWN, seconds: float = 3.0
) -> None:
    """Writes images as an animated WebP that repeats, atomically.

    Args:
      images: uint8 `[H, W, 3]`, at least one; the last one is shown longest.
      path: the file; its folder must exist.
      mark: as for `save_image`.
      seconds: the length without the last image.

    Raises:
      ValueError: if the file cannot be written.
    """
    first, *others = map(Image.fromarray, images)
    durations = [round(1000 * seconds / len(images))] * len(others) + [1500]
    options = {"save_all": True, "append_images": others, "duration": durations, "loop": 0,
               "quality": 90, **({} if mark is None else mark.save_options("WEBP"))}  # fmt: skip
    _write(first, path, "WEBP", options)


def save_layout(
    layout: np.ndarray, path: str | Path, palette: Sequence[tuple[int, int, int]]
) -> None:
    """Writes class indices as an 8-bit PNG with a palette of class colours.

    Pillow reads the indices back (`np.asarray(Image.open(path))`); OpenCV reads the colours.

    Args:
      layout: integers `[H, W]`, 0 to 255.
      path: a file ending in .png; its folder must exist.
      palette: (red, green, blue) for each class.

    Raises:
      ValueError: if the file cannot be written or does not end in .png.
    """
    path = Path(path)
    check_output(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: a layout is a PNG: end the name in .png")
    image = Image.fromarray(layout.astype(np.uint8))
    # 256 entries: with fewer than 17, Pillow packs the indices into 4 bits or less.
    image.putpalette(np.asarray(palette, np.uint8).tobytes().ljust(768, b"\0"))
    _write(image, path, "PNG", {})


def _write(
    image: Image.Image,
    path: Path,
    format_: str,
    options: dict[str, Any],
    sign: Callable[[bytes], bytes] | None = None,
) -> None:
    try:
        with atomic(path) as temporary:
            image.save(temporary, format=format_, **options)
            if sign is not None:
                temporary.write_bytes(sign(temporary.read_bytes()))
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error


def check_ending(path: Path) -> None:
    """Raises ValueError for a suffix that is not a supported image format."""
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"{path}: end the name in one of {', '.join(_FORMATS)}")


def check_output(path: str | Path) -> None:
    """Checks before the work that a file can be written.

    Raises:
      ValueError: if the suffix is unknown, or the folder is missing or read-only.
    """
    path = Path(path)
    check_ending(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{path}: give a file in a folder that exists")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: its folder cannot be written to, give another")
