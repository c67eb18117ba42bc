"""Opens image files that come from anyone: one is an image, or told for what it is, by name."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

# What is tried, the usual first. Not all that Pillow knows: EPS, say, would start Ghostscript.
_READ = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "ICO", "TGA", "AVIF")
LARGEST = 2**29
"""Bytes that are taken from a pipe, which may have no end."""
# Editors and generators store whole workflows as text; Pillow takes over 1 MB for an attack.
# All text of a file together stays under Pillow's MAX_TEXT_MEMORY.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
_ADDRESS = re.compile(r"[a-z]+://?", re.IGNORECASE)  # a `Path` drops the second slash
_RAW = "it is a camera's raw file: develop it, or export it as JPEG"
_ARCHIVE = "it is an archive: unpack it"
_VIDEO = "it is a video: give one of its frames as an image"
_STRANGERS = {  # by how a file begins
    rb"\Z": "it is empty",
    rb"version https://git-lfs": "it is a Git LFS pointer: git lfs pull brings the file",
    rb"\s*<": "it is a web page or an SVG drawing",
    rb"%PDF": "it is a PDF",
    rb"\x89PNG|\xff\xd8": "it is damaged",
    rb"IIRO|IIU\x00|FUJIFILM|....ftypcrx": _RAW,
    rb"II[*+]|MM\x00[*+]": "it is a damaged TIFF or of a rare kind: save it with 8 bits a channel",
    rb"....ftyp(he|mif|msf)": "it is HEIC, as phones store photos: export it",
    rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ": _VIDEO,
    rb"\xff\x0a|\x00{3}\x0cJXL ": "it is JPEG XL: export it",
    rb"8BPS": "it is Photoshop's: export it",
    rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!": _ARCHIVE,
    rb"\x93NUMPY": "it is a NumPy array: save it as an image",
    rb"data:image/|/9j/|iVBORw0KGgo": "it is text in base64: decode it",
}


class Refusal(ValueError):
    """Raised by what reads images, as opposed to a decoder."""


@contextmanager
def opened(
    name: str, formats: Sequence[str] = _READ
) -> Iterator[tuple[Image.Image, BufferedIOBase]]:
    """The image of a file, not decoded yet, and the file.

    Args:
      name: its path.
      formats: Pillow's names of those that are tried.

    Raises:
      ValueError: what it is if not an image; and whatever a decoder raises in the block.
    """
    with named(name), _seekable(name) as file, _identified(file, name, formats) as image:
        yield image, file


@contextmanager
def named(name: str) -> Iterator[None]:
    """Makes any error of a decoder a ValueError that names the file."""
    try:
        yield
    except (Refusal, MemoryError):
        raise
    except FileNotFoundError:
        raise Refusal(missing(name)) from None
    except IsADirectoryError:
        raise Refusal(f"{name} is a folder: give a photo") from None
    except Image.DecompressionBombError:
        raise Refusal(f"{name} has hundreds of millions of pixels: shrink it") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, KeyError, ...
        if isinstance(error, OSError) and error.errno:
            raise Refusal(f"{name} cannot be read: {error.strerror}") from None
        raise Refusal(f"{name} cannot be read ({error}): is the file complete?") from error


def missing(name: str) -> str:
    """What there is to say of a file that does not exist."""
    hint = ", and addresses are not read: download it" if _ADDRESS.match(name) else ""
    return f"{name}: no such file{hint}"


@contextmanager
def _seekable(name: str) -> Iterator[BufferedIOBase]:
    with open(name, "rb") as file:
        yield file if file.seekable() else io.BytesIO(_piped(file, name))


def _piped(file: BufferedIOBase, name: str) -> bytes:
    data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise Refusal(f"{name} sends more than {LARGEST >> 20} MiB: save it as a file")
    return data


def _identified(file: BufferedIOBase, name: str, formats: Sequence[str]) -> Image.Image:
    source: Any = file  # which Pillow's types do not know
    try:
        image = Image.open(source, formats=tuple(formats))
    except (UnidentifiedImageError, KeyError):  # KeyError: a Pillow that does not know AVIF
        file.seek(0)
        start = file.read(32)
        hints = [hint for sign, hint in _STRANGERS.items() if re.match(sign, start, re.DOTALL)]
        what = f" ({hints[0]})" if hints else ""
        advice = f"{name} is not an image that can be read{what}: give a JPEG, PNG or WebP"
        raise Refusal(advice) from None
    # The first image of a raw file is a thumbnail of it (DNG 1.7, chapter 2; TIFF/EP).
    tags = getattr(image, "tag_v2", {})
    if tags.get(_SUBFILE) == 1 or _DNG in tags or Path(name).suffix.lower() == ".cr2":
        raise Refusal(f"{name} holds only a small preview ({_RAW})")
    return image


_SUBFILE, _DNG = 254, 50706  # TIFF's tags: which image of several, and the version of DNG
