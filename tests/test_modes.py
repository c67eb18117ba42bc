"""Depths, modes and colour profiles: the same colours, however a file stores them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from hsd_jax.imaging import files, modes

SRGB = modes.srgb_profile()
# The primaries of red and green exchanged, in the table of the profile's tags.
SWAPPED = SRGB.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


def _gradient() -> np.ndarray:
    ramp = np.linspace(0, 255, 64 * 64).round().astype(np.uint8).reshape(64, 64)
    return np.stack([ramp, ramp.T, 255 - ramp], -1)


def _linear_grey() -> bytes:
    """A grey profile of linear light, with the tags that one must have (ICC.1:2010, 8.3.4)."""
    white = struct.pack(">3i", *(round(x * 65536) for x in (0.9642, 1, 0.8249)))
    tags = {
        b"desc": b"desc" + struct.pack(">4xI", 5) + b"grey\0" + b"\0" * 79,
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": b"XYZ \0\0\0\0" + white,
        b"kTRC": b"curv\0\0\0\0\0\0\0\0",
    }
    at, table, content = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for key, value in tags.items():
        table += key + struct.pack(">II", at + len(content), len(value))
        content += value
    start = struct.pack(">I4xI", at + len(content), 0x02400000) + b"mntrGRAYXYZ " + b"\0" * 12
    header = (start + b"acsp" + b"\0" * 28 + white).ljust(128, b"\0")
    return header + table + content


def _opened(image: Image.Image, format_: str = "PNG", **options: object) -> files.Photo:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return files.read_photo(Image.open(io.BytesIO(file.getvalue())))


def _swapped(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., [1, 0, 2]]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_a_png_of_linear_light_is_brightened(mode):
    grey = np.repeat(np.arange(64, dtype=np.uint8)[None] * 4, 64, 0)
    file = io.BytesIO()
    Image.fromarray(grey).convert(mode).save(file, "PNG")
    data = file.getvalue()
    for gamma, chunks, brighter in ((1.0, b"", True), (0.45455, b"", False), (1.0, b"sRGB", False)):
        said = _chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
        said += _chunk(b"sRGB", b"\0") if chunks else b""
        photo = files.read_photo(Image.open(io.BytesIO(data[:33] + said + data[33:])))
        assert photo.srgb == brighter
        if brighter:  # IEC 61966-2-1: light of 128/255 is a level of 188
            assert photo.pixels[0, [0, 32, 63], 0].tolist() == [0, 188, 254]
        else:
            np.testing.assert_array_equal(photo.pixels[..., 0], grey)


def _chunk(kind: bytes, content: bytes) -> bytes:
    data = kind + content
    return struct.pack(">I", len(content)) + data + struct.pack(">I", zlib.crc32(data))


PROFILED = {
    "RGB": (lambda x: Image.fromarray(x), {}),
    "RGBA": (lambda x: Image.fromarray(x).convert("RGBA"), {}),
    "P": (lambda x: Image.fromarray(x).quantize(256), {}),
    "P, transparent": (lambda x: Image.fromarray(x).quantize(255), {"transparency": 255}),
    "WebP, RGBA": (lambda x: Image.fromarray(x).convert("RGBA"), {"format_": "WEBP"}),
}


@pytest.mark.parametrize("kind", PROFILED)
def test_profiles_count_in_every_mode(kind):
    make, options = PROFILED[kind]
    options = options | ({"lossless": True} if "format_" in options else {})
    image = make(_gradient())
    plain, profiled = (_opened(image, icc_profile=icc, **options) for icc in (None, SWAPPED))
    assert profiled.srgb and not plain.srgb
    np.testing.assert_allclose(profiled.pixels, _swapped(plain.pixels), atol=3)


def test_profiles_of_grey_count_with_alpha_and_16_bits():
    grey = _gradient()[..., 0]
    light = np.linspace(0, 1, 256)
    curve = np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    want = np.repeat(np.round(255 * curve)[grey][..., None], 3, -1)
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("LA"), wide):
        opened = _opened(image, icc_profile=_linear_grey())
        assert opened.srgb
        lit = grey > 40  # of the darkest, profiles of printers lift the black
        np.testing.assert_allclose(opened.pixels[lit], want[lit], atol=2)


def test_grey_with_a_profile_of_rgb_is_grey_under_it():
    grey = Image.fromarray(_gradient()[..., 0])
    for image in (grey, grey.convert("LA"), Image.fromarray(np.asarray(grey, np.uint16) * 257)):
        opened = _opened(image, icc_profile=SWAPPED)
        assert opened.srgb
        np.testing.assert_allclose(opened.pixels, np.asarray(grey.convert("RGB")), atol=2)


def test_the_pixels_of_an_srgb_photo_stay_to_the_bit():
    image = Image.fromarray(_gradient())
    opened = _opened(image, icc_profile=SRGB)
    assert opened.srgb and not opened.notes
    np.testing.assert_array_equal(opened.pixels, _gradient())


@pytest.mark.parametrize("profile", [b"none", SRGB[:90], _linear_grey()])
def test_a_profile_that_cannot_be_used_is_told(profile):
    opened = _opened(Image.fromarray(_gradient()), icc_profile=profile)
    np.testing.assert_array_equal(opened.pixels, _gradient())
    assert not opened.srgb and "colour profile cannot be used" in opened.notes[0]


def test_a_result_says_srgb_and_does_not_tell_the_date(tmp_path):
    for ending in (".png", ".jpg", ".webp"):
        files.save_image(_gradient(), tmp_path / f"a{ending}", srgb=True)
        with Image.open(tmp_path / f"a{ending}") as image:
            data = image.info["icc_profile"]
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        assert "sRGB" in ImageCms.getProfileDescription(profile)
        # Today's date would change every result. Pillow 12.3 cannot tell a date in January.
        assert struct.unpack(">6H", data[24:36]) == (2020, 1, 1, 0, 0, 0)
    np.testing.assert_array_equal(files.open_photo(tmp_path / "a.png"), _gradient())


FLOATS = {"0 to 1": 1 / 255, "0 to 255": 1.0, "0 to 65535": 257.0}


@pytest.mark.parametrize("scale", FLOATS)
def test_floats_are_scaled_by_their_range(scale):
    grey = _gradient()[..., 0]
    values = grey.astype(np.float32) * np.float32(FLOATS[scale])
    values[0, :3] = np.nan, np.inf, -np.inf
    opened = _opened(Image.fromarray(values), "TIFF").pixels
    np.testing.assert_array_equal(opened[1:], np.repeat(grey[1:, :, None], 3, -1))
    assert opened[0, :3, 0].tolist() == [0, 255, 0]


def test_highlights_beyond_one_are_white_and_nothing_at_all_is_black():
    values = np.full((64, 64), 0.5, np.float32)
    values[:2] = 1.4
    opened = _opened(Image.fromarray(values), "TIFF").pixels
    assert opened[0, 0, 0] == 255 and opened[9, 9, 0] == 128
    nothing = np.full((64, 64), np.nan, np.float32)
    assert not _opened(Image.fromarray(nothing), "TIFF").pixels.any()


def _tiff(values: bytes, bits: int, white_is_zero: bool = False) -> Image.Image:
    """A grey TIFF of 64 x 64."""
    entries = {
        256: 64, 257: 64, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 8, 277: 1,
        278: 64, 279: len(values),
    }  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    start = b"II*\0" + struct.pack("<I", 8 + len(values))
    table = struct.pack("<H", len(entries)) + table + b"\0\0\0\0"
    return Image.open(io.BytesIO(start + values + table))


def test_tiffs_of_12_bits_and_of_inverted_16_bits():
    grey = _gradient()[..., 0].astype(np.uint16)
    want = np.repeat(grey[..., None], 3, -1)
    pairs = (np.round(grey * (4095 / 255)).astype(np.uint16)).reshape(64, 32, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1)
    twelve = _tiff(packed.astype(np.uint8).tobytes(), 12)
    np.testing.assert_array_equal(files.open_photo(twelve), want)
    inverted = _tiff((65535 - grey * 257).astype("<u2").tobytes(), 16, white_is_zero=True)
    np.testing.assert_array_equal(files.open_photo(inverted), want)
