"""Files of layouts and masks that somebody drew."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image

from hsd_jax.imaging.opening import Refusal, named, opened


def open_layout(
    path: str | Path, palette: Sequence[tuple[int, int, int]]
) -> UInt8[np.ndarray, "h w"]:
    """Reads a layout: the values of a palette or grey image, or classes by their colours.

    Args:
      path: the image.
      palette: one (red, green, blue) for each class.

    Raises:
      ValueError: if the image cannot be read, or a colour belongs to no class.
    """
    with opened(os.fsdecode(path)) as (image, _):
        if image.mode in ("P", "L"):
            return np.array(image)
        colours = np.array(image.convert("RGB"))
    classes = np.full(colours.shape[:2], 255, np.uint8)
    for index, colour in enumerate(palette):
        classes[(colours == colour).all(-1)] = index
    if (unknown := colours[classes == 255]).size:
        colour = tuple(unknown[0].tolist())
        raise ValueError(
            f"{path}: the colour {colour} belongs to no class: draw without soft edges, in the "
            "colours of a layout that hsd wrote"
        )
    return classes


def open_mask(path: str | Path) -> Bool[np.ndarray, "h w"]:
    """Reads a mask: true where an image is opaque, or, without alpha, lighter than mid-grey.

    Raises:
      ValueError: if the image cannot be read, or nothing in it is true.
    """
    with opened(os.fsdecode(path)) as (image, _):
        if "A" in image.mode or "transparency" in image.info:
            mask = np.array(image.convert("RGBA"))[..., 3] > 127
        else:
            mask = np.array(image.convert("L")) > 127
    if not mask.any():
        raise ValueError(f"{path} is black or transparent all over: paint white what may change")
    return mask


def open_strokes(
    path: str | Path, palette: Sequence[tuple[int, int, int]], most: int
) -> Integer[np.ndarray, "h w"]:
    """Reads classes drawn with soft brushes on a transparent image: of the nearest colour, or -1.

    Args:
      path: the image.
      palette: one (red, green, blue) for each class.
      most: pixels of a side; a larger image is refused before it is decoded.

    Raises:
      ValueError: if the image cannot be read, or is larger.
    """
    name = os.fsdecode(path)
    with named(name), Image.open(name, formats=("PNG", "WEBP")) as image:
        if max(image.size) > most:
            raise Refusal(f"the drawing is {image.width} x {image.height}: {most} is most")
        pixels = np.array(image.convert("RGBA"))
    classes = np.full(pixels.shape[:2], -1)
    drawn = pixels[..., 3] > 127
    apart = pixels[drawn][:, None, :3].astype(int) - np.array(palette)[None]
    classes[drawn] = np.abs(apart).sum(-1).argmin(-1)
    return classes
