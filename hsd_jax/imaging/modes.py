"""Pillow images of any mode, depth and colour profile as 8-bit RGB in sRGB."""

import io
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageCms

_UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # of profiles: Pillow's modes
_SAME_COLOURS = 2  # levels by which profiles that mean sRGB differ from one another


def to_pixels(image: Image.Image) -> tuple[UInt8[np.ndarray, "h w 3"], bool]:
    """The pixels in sRGB, upright and on white, and whether a colour profile defined them.

    A profile that is damaged or of other colours than the image's is ignored.
    """
    orientation = _orientation(image)
    rgb, known = _to_rgb(_eight_bits(image), image.info.get("icc_profile"), _gamma(image))
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return np.array(rgb), known


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF is no reason to refuse a photo
        return None


def _gamma(image: Image.Image) -> float | None:
    """By which a PNG encodes light (its gAMA), unless it is sRGB's or another chunk tells more."""
    gamma = image.info.get("gamma")
    if not gamma or "srgb" in image.info or not 0.05 < gamma < 2 or abs(2.2 * gamma - 1) < 0.05:
        return None
    return gamma


def _decoded_gamma(colours: Image.Image, gamma: float) -> Image.Image:
    light = (np.arange(256) / 255) ** (1 / gamma)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return colours.point(np.rint(255 * srgb).astype(int).tolist() * len(colours.getbands()))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Images of wide integers or floats as 8-bit grey; all others as they are."""
    if image.mode[0] not in "IF":
        return image
    values = np.nan_to_num(np.asarray(image, np.float32))
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if image.mode == "F":
        # Highlights may go beyond the range; a photo whose brightest percent is 2 of 255 is none.
        bright, tops = np.percentile(values, 99) / 2, (1, 255, 65535)
    else:
        bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
        bright, tops = values.max(), (255, 2.0**bits - 1)
    top = next((top for top in tops if bright <= top), float(values.max()))
    if image.mode != "F" and tags.get(ExifTags.Base.PhotometricInterpretation) == 0:
        values = top - values  # white is zero
    return Image.fromarray(np.rint(np.clip(values, 0, top) * (255 / top)).astype(np.uint8))


def _to_rgb(
    image: Image.Image, profile: bytes | None, gamma: float | None
) -> tuple[Image.Image, bool]:
    """RGB in sRGB's colours on white, and whether the profile or the gamma told them."""
    rgba = image.convert("RGBA") if image.has_transparency_data else None
    colours = rgba or image
    if image.mode in ("1", "L", "LA"):
        colours = colours.convert("L")
    elif colours.mode not in ("RGB", "CMYK", "LAB"):
        colours = colours.convert("RGB")
    converted = _to_srgb(colours, profile) if profile else None
    if converted is None and gamma:
        converted = _decoded_gamma(colours.convert("RGB"), gamma)
    rgb = converted or (colours if colours.mode == "RGB" else colours.convert("RGB"))
    if rgba is not None:
        rgb.putalpha(rgba.getchannel("A"))
        white = Image.new("RGBA", rgb.size, "white")
        rgb = Image.alpha_composite(white, rgb).convert("RGB")
    return rgb, converted is not None


def _to_srgb(colours: Image.Image, profile: bytes) -> Image.Image | None:
    """RGB in sRGB's colours: a phone's Display P3 photo would come out pale otherwise.

    None where the profile is damaged, or of other colours than the image's.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        core: Any = source.profile  # Pillow's own annotation is another class's
        mode = _SPACES.get(core.xcolor_space.strip())
        if (colours.mode, mode) == ("L", "RGB"):
            colours = colours.convert("RGB")
        if mode != colours.mode:
            return None
        if mode == "RGB" and _is_srgb(source):
            return colours
        target = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(colours, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return None


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """Whether pixels may stay as they are: conversion would round them."""
    steps = np.linspace(0, 255, 18).astype(np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    target = ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(Image.fromarray(lattice), profile, target)
    return bool(np.abs(np.asarray(image).astype(int) - lattice).max() <= _SAME_COLOURS)


@cache
def srgb_profile() -> bytes:
    """A colour profile to embed."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[24:36] = bytes([7, 228, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0])  # not today: same swap, same bytes
    return bytes(data)
