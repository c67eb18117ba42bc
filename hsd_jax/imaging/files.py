"""Photo files: open, orient, save with provenance.

The only file that knows of image files. A photo is uint8 `[H, W, 3]` sRGB from here on.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

import hsd_jax
from hsd_jax.runtime.files import atomic

MAX_PIXELS = 80_000_000
MIN_SIDE = 64
PROVENANCE = (
    "Synthetic image: head swapped by hsd_jax {version} (HS-Diffusion, arXiv 2212.06458). "
    "Do not present it as a photograph."
)
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True)
class Photo:
    """A photo that was read."""

    pixels: UInt8[np.ndarray, "h w 3"]
    name: str
    """How messages call it: its path, or its part in a swap."""


def read_photo(source: Any, role: str) -> Photo:
    """Any image as a `Photo`; one that was read already as it is.

    Args:
      source: see `open_photo`.
      role: its name where it has no path, such as "the head photo".
    """
    if isinstance(source, Photo):
        return source
    return Photo(open_photo(source), str(source) if isinstance(source, str | Path) else role)


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
    try:
        with atomic(path) as temporary:
            image.save(temporary, format=format_, **options)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error


def check_ending(path: Path) -> None:
    """ValueError for a name that says no format that is written."""
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"{path}: end the name in one of {', '.join(_FORMATS)}")


def check_output(path: str | Path) -> None:
    """Before the work, what would spoil it after.

    Raises:
      ValueError: an unknown ending, or no such folder.
    """
    path = Path(path)
    check_ending(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{path}: give a file in a folder that exists")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: its folder cannot be written to, give another")
