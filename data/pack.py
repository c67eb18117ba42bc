"""A folder of images and layouts as one small tar file, to be carried to a lent machine.

    python -m data.pack --source IMAGES --out images.tar [--quality N]

Images are compressed again, at most as finely as they were; layouts stay as they are, to the
pixel. Unpacked (`tar xf`), it is a source for `python -m data.build`. The terms of the images
travel with them: the file is as private as they are.
"""

import io
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hsd_jax.runtime.console import module_parser, status_of

_PICTURES = (".jpg", ".jpeg")


def pack(source: Path, out: Path, quality: int) -> int:
    """Writes the tar file and returns its size in bytes.

    Args:
      source: a folder as the builder `halfbody` takes it.
      out: the file.
      quality: of the JPEG images, 1 to 95.

    Raises:
      ValueError: no images there, or a quality out of range.
    """
    if not 1 <= quality <= 95:
        raise ValueError(f"quality {quality}: use 1 to 95")
    files = sorted(path for path in source.rglob("*") if path.is_file())
    if not any(path.suffix.lower() in _PICTURES for path in files):
        raise ValueError(f"{source} holds no JPEG images: give the folder with index.csv")
    with tarfile.open(out, "w") as tar:
        for path in files:
            data = path.read_bytes()
            if path.suffix.lower() in _PICTURES:
                data = min(data, _smaller(data, quality), key=len)
            elif path.suffix.lower() == ".png":
                data = min(data, _repacked(data), key=len)
            info = tarfile.TarInfo(path.relative_to(source).as_posix())
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.stat().st_size


def _smaller(data: bytes, quality: int) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue()


def _repacked(data: bytes) -> bytes:
    """The same class indices, packed as tightly as PNG can."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode not in ("L", "P"):
            return data
        pixels = np.asarray(image)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one line on stderr."""
    name = "data.pack"
    parser = module_parser(name, __doc__)
    parser.add_argument("--source", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.tar")
    parser.add_argument("--quality", type=int, default=60, help="default: %(default)s")
    options = parser.parse_args(argv)

    def run() -> None:
        size = pack(options.source, options.out, options.quality)
        print(f"{options.out}: {size / (1 << 20):.1f} MiB")

    return status_of(name, run)


if __name__ == "__main__":
    sys.exit(main())
