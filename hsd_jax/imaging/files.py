"""Image files: opens, orients and saves them, with a provenance mark.

Beside `opening`, `provenance` and `drawings`, no other module knows file formats. Everywhere else a
photo is uint8 `[H, W, 3]` in sRGB.
"""

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hsd_jax.imaging import modes, png
from hsd_jax.imaging.credentials import Credentials
from hsd_jax.imaging.opening import LARGEST, Refusal, named, opened
from hsd_jax.imaging.provenance import Mark, labelled
from hsd_jax.runtime.files import atomic, check_folder

MAX_PIXELS = 80_000_000
MIN_SIDE = 64
_UNKNOWN = Mark()  # of this version, by unknown weights
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_LONGEST = {"JPEG": 65_500, "WEBP": 16_383}  # the longest side that a format can hold
_MISSING_ROWS = 1 / 16  # of a cut JPEG: with more, it is no photo


@dataclass(frozen=True)
class Photo:
    """A photo in memory."""

    pixels: UInt8[np.ndarray, "h w 3"]
    name: str
    """How messages call it: its path, or its role in a swap."""
    srgb: bool = False
    """Whether its file had a colour profile, so that a result should have one; pixels are sRGB."""
    notes: tuple[str, ...] = ()
    """Problems with the file, for the user."""


def read_photo(source: Any, role: str = "the image") -> Photo:
    """Reads an image as a `Photo`; a `Photo` is returned unchanged.

    Applies EXIF orientation, composites transparency onto white, scales 10 to 32 bits and floats
    to 8 bits and converts an embedded colour profile to sRGB. Animations give their first image.

    Args:
      source: a path, a PIL image, or a uint8 array `[H, W]`, `[H, W, 3]` or `[H, W, 4]`.
      role: the name for messages if there is no path, such as "the head photo".

    Raises:
      ValueError: if the file does not exist, is not an image, or is too large or too small.
    """
    if isinstance(source, Photo):
        return source
    if isinstance(source, np.ndarray):
        channels = source.shape[2:]
        if source.dtype != np.uint8 or source.ndim < 2 or channels not in ((), (3,), (4,)):
            raise ValueError(
                f"the array is {source.dtype} {source.shape}: give uint8 [H, W, 3], 0 to 255"
            )
        source = Image.fromarray(source)
    if isinstance(source, Image.Image):
        with named(role):
            _check_size(source, role)
            return _photo(source, role)
    name = os.fsdecode(source)
    with opened(name) as (image, file):
        _check_size(image, name)
        whole, notes = _decoded(image, file, name)
        return _photo(whole, name, notes)


def open_photo(source: Any) -> np.ndarray:
    """Reads an image as uint8 `[H, W, 3]` in sRGB, see `read_photo`."""
    return read_photo(source).pixels


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Refusal(
            f"{name} has {width} x {height} pixels, over {MAX_PIXELS // 10**6} million: shrink it"
        )
    if min(width, height) < MIN_SIDE:
        raise Refusal(f"{name} is only {width} x {height} pixels: give at least {MIN_SIDE}")


def _decoded(
    image: Image.Image, file: BufferedIOBase, name: str
) -> tuple[Image.Image, tuple[str, ...]]:
    """The image with its pixels, and notes; of a JPEG without its end, as far as it goes."""
    try:
        image.load()
        return image, ()
    except OSError:
        if image.format not in ("JPEG", "MPO"):
            raise
    file.seek(0)
    ended = Image.open(io.BytesIO(file.read(LARGEST) + b"\xff\xd9"), formats=["JPEG"])
    ended.load()
    rows = np.asarray(ended).reshape(ended.height, -1)[::-1]
    kept = ~((rows >= 127) & (rows <= 129)).all(1)  # what is missing is decoded as middle grey
    missing = int(kept.argmax()) if kept.any() else ended.height
    if missing > _MISSING_ROWS * ended.height:
        raise Refusal(
            f"{name} cannot be read (it ends early, {missing} of {ended.height} rows are missing): "
            "is the file complete?"
        )
    grey = f": {missing} of its rows are grey" if missing else ""
    return ended, (f"{name} lacks its last bytes{grey}",)


def _photo(image: Image.Image, name: str, notes: tuple[str, ...] = ()) -> Photo:
    pixels, known = modes.to_pixels(image)
    if image.info.get("icc_profile") and not known:
        notes = (*notes, f"{name}: its colour profile cannot be used: taken for sRGB")
    return Photo(pixels, name, known, notes)


def save_image(
    image: np.ndarray,
    path: str | Path,
    mark: Mark | None = _UNKNOWN,
    *,
    label: bool = False,
    credentials: Credentials | None = None,
    srgb: bool = False,
) -> None:
    """Writes an image atomically, as PNG, JPEG or WebP by its suffix.

    Args:
      image: uint8 `[H, W, 3]`.
      path: the file; its folder must exist.
      mark: the provenance mark to write with it; None for an image that is not synthetic.
      label: whether to print in a corner that the image is synthetic.
      credentials: who signs the mark; None for nobody.
      srgb: whether to embed sRGB's profile; without one, readers assume these colours.

    Raises:
      ValueError: if the suffix is unknown or the file cannot be written.
    """
    path = Path(path)
    check_ending(path)
    check_fits(image, path)
    format_ = _FORMATS[path.suffix.lower()]
    options: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}}.get(format_, {})
    if format_ == "WEBP":
        options = {"lossless": True}
    if srgb:
        options["icc_profile"] = modes.srgb_profile()
    marked = {} if mark is None else mark.save_options(format_)
    sign = None
    if mark is not None and credentials is not None:
        sign = partial(credentials.sign, format_=format_, mark=mark)
    shown = labelled(image) if label else image
    if format_ == "PNG":
        save = partial(_save_png, shown, **options | marked)
    else:
        save = partial(Image.fromarray(shown).save, format=format_, **options | marked)
    _write(save, path, sign)


def _save_png(image: np.ndarray, path: Path, **options: Any) -> None:
    path.write_bytes(png.encode(image, **options))


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
    _write(partial(first.save, format="WEBP", **options), path)


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
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: a layout is a PNG: end the name in .png")
    image = Image.fromarray(layout.astype(np.uint8))
    # 256 entries: with fewer than 17, Pillow packs the indices into 4 bits or less.
    image.putpalette(np.asarray(palette, np.uint8).tobytes().ljust(768, b"\0"))
    _write(partial(image.save, format="PNG"), path)


def _write(
    save: Callable[[Path], None], path: Path, sign: Callable[[bytes], bytes] | None = None
) -> None:
    try:
        with atomic(path) as temporary:
            save(temporary)
            if sign is not None:
                temporary.write_bytes(sign(temporary.read_bytes()))
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from error


def check_ending(path: Path) -> None:
    """Raises ValueError for a suffix that is not a supported image format."""
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"{path}: end the name in one of {', '.join(_FORMATS)}")


def check_fits(image: np.ndarray, path: Path) -> None:
    """ValueError for a image `[H, W, ...]` that is too long for the format of its name."""
    longest = _LONGEST.get(_FORMATS[path.suffix.lower()])
    if longest and max(image.shape[:2]) > longest:
        raise ValueError(
            f"{path}: {max(image.shape[:2])} pixels are too many for this format, which holds "
            f"{longest} a side: end the name in .png"
        )


def check_output(path: str | Path) -> None:
    """Before the work, what would spoil it after.

    Raises:
      ValueError: an unknown ending, a name too long, no such folder, or one that takes no files.
    """
    path = Path(path)
    check_ending(path)
    check_name(path)
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        raise ValueError(f"{path}: give a file in a folder that exists")
    check_folder(path.parent)


def check_name(path: Path) -> None:
    """ValueError for a name that the file system refuses; the file need not exist."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}: give another name") from error
