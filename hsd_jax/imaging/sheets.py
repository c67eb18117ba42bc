"""Several images on one: rows with captions, contact sheets, numbers on faces."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Tile = tuple[str, np.ndarray]
"""A caption and its image, uint8 `[h, w, 3]`."""

SIDE = 256  # of a tile, in pixels
_MARGIN, _CAPTION = 16, 32


def captioned(rows: Sequence[Sequence[Tile]]) -> UInt8[np.ndarray, "h w 3"]:
    """Draws rows of square images with their captions above them.

    Args:
      rows: at least one, with at least one tile each; images of another size are resized.
    """
    width = _MARGIN + max(len(row) for row in rows) * (SIDE + _MARGIN)
    height = len(rows) * (_CAPTION + SIDE) + _MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=18)
    for row, tiles in enumerate(rows):
        top = row * (_CAPTION + SIDE)
        for column, (caption, image) in enumerate(tiles):
            left = _MARGIN + column * (SIDE + _MARGIN)
            draw.text((left, top + _CAPTION // 2), caption, fill="black", font=font, anchor="lm")
            canvas.paste(_scaled(image, (SIDE, SIDE)), (left, top + _CAPTION))
    return np.asarray(canvas)


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "h w 3"]], side: int = 384
) -> UInt8[np.ndarray, "sheet_h sheet_w 3"]:
    """Puts images of one shape on one sheet, numbered from 1.

    Args:
      images: at least one.
      side: the longer side of each image on the sheet, in pixels; small images keep their size.
    """
    height, width = images[0].shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    columns = int(np.ceil(np.sqrt(len(images))))
    rows, gap = -(-len(images) // columns), 8
    shape = columns * (size[0] + gap) + gap, rows * (size[1] + gap) + gap
    sheet = Image.new("RGB", shape, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for n, image in enumerate(images):
        row, column = divmod(n, columns)
        left, top = gap + column * (size[0] + gap), gap + row * (size[1] + gap)
        sheet.paste(_scaled(image, size), (left, top))
        _number(draw, n + 1, (left + 6, top + 4), font)
    return np.array(sheet)


def numbered_faces(
    image: UInt8[np.ndarray, "h w 3"], faces: Sequence[tuple[float, float, float]]
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a copy with a circle around each face and its number, from 1.

    Args:
      image: the photo.
      faces: column and row of each centre, and size, in pixels.
    """
    canvas = Image.fromarray(image)
    draw, line = ImageDraw.Draw(canvas), max(2, min(image.shape[:2]) // 200)
    for number, (x, y, size) in enumerate(faces, 1):
        radius = 0.8 * size
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline="white", width=line)
        font = ImageFont.load_default(size=max(14, round(size / 2)))
        _number(draw, number, (x - radius, y - radius), font)
    return np.array(canvas)


def _number(draw: Any, number: int, place: tuple[float, float], font: Any) -> None:
    draw.text(place, str(number), "white", font, stroke_width=2, stroke_fill="black")


def _scaled(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(image)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
