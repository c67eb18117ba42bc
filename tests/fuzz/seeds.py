"""Writes the seeds of the fuzz targets: small files of every kind that the readers know.

    python tests/fuzz/seeds.py

No photograph is among them. Those of torch were saved by torch and are kept; this leaves them.
"""

import io
import pickle
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms
from safetensors.numpy import save

sys.path.insert(0, str(Path(__file__).parents[2]))
from data.shhq_labels import COLOURS  # noqa: E402

CORPUS = Path(__file__).parent / "corpus"


def _write(target: str, name: str, data: bytes) -> None:
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    (CORPUS / target / name).write_bytes(data)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def photos() -> None:
    """A gradient in each mode and format, with orientation, profile, transparency, text."""
    ramp = np.linspace(0, 255, 64 * 64 * 4).astype(np.uint8).reshape(64, 64, 4)
    rgb, rgba = Image.fromarray(ramp[..., :3]), Image.fromarray(ramp)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = Image.fromarray(ramp[..., 0].astype(np.uint16) * 257)
    files = {
        "rgb.jpg": _encoded(rgb, "JPEG", exif=exif, icc_profile=profile),
        "progressive.jpg": _encoded(rgb, "JPEG", progressive=True),
        "cmyk.jpg": _encoded(rgb.convert("CMYK"), "JPEG"),
        "rgba.png": _encoded(rgba, "PNG", icc_profile=profile),
        "palette.png": _encoded(rgb.quantize(16), "PNG", transparency=3),
        "deep.png": _encoded(deep, "PNG"),
        "bits.png": _encoded(rgb.convert("1"), "PNG"),
        "alpha.png": _encoded(rgba.convert("LA"), "PNG"),
        "rgba.webp": _encoded(rgba, "WEBP"),
        "rgb.gif": _encoded(rgb, "GIF"),
        "float.tif": _encoded(Image.fromarray(ramp[..., 0].astype(np.float32)), "TIFF"),
        "deep.tif": _encoded(deep, "TIFF", compression="tiff_lzw"),
        "rgb.bmp": _encoded(rgb, "BMP"),
    }
    for name, data in files.items():
        _write("photo", name, data)


def checkpoints() -> None:
    """safetensors of several types, and pickles of numpy's arrays."""
    tensors = {"a.weight": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float16)}
    _write("safetensors", "two", save(tensors))
    _write("safetensors", "ints", save({"a.b": np.arange(3), "flag": np.array([True])}))
    _write("safetensors", "empty", save({}))
    for protocol in range(6):
        data = pickle.dumps({"params": {"conv": tensors}}, protocol=protocol)
        _write("pickle", f"protocol{protocol}.pkl", data)


def layouts() -> None:
    """A layout as indices, by a palette and in colours."""
    classes = (np.arange(512 * 512).reshape(512, 512) // 20000).astype(np.uint8) % 17
    image = Image.fromarray(classes)
    _write("layout", "indices.png", _encoded(image, "PNG"))
    image.putpalette(bytes(range(48)))
    _write("layout", "palette.png", _encoded(image, "PNG"))
    colours = np.array(COLOURS, np.uint8)[classes]
    _write("layout", "colours.png", _encoded(Image.fromarray(colours), "PNG"))


if __name__ == "__main__":
    photos()
    checkpoints()
    layouts()
