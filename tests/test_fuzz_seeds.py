"""The fuzz targets on their seeds, whole and damaged: what Atheris does for hours, for a moment."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from fuzz.run import HERE, TARGETS, check
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

SEEDS = sorted(
    (target, seed) for target in TARGETS for seed in (HERE / "corpus" / target).iterdir()
)
pytestmark = [
    pytest.mark.untyped,
    # Decoders warn of what they read over.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("target, seed", SEEDS, ids=[f"{t}-{s.name}" for t, s in SEEDS])
def test_a_seed_cut_or_changed_is_read_or_refused_in_one_line(tmp_path, target, seed):
    good = seed.read_bytes()
    rng = np.random.default_rng(0)
    for cut in (0, len(good) // 3, len(good) - 1, len(good)):
        check(target, good[:cut], tmp_path)
    for _ in range(3):
        data = bytearray(good)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(0, 256)
        check(target, bytes(data), tmp_path)


def test_the_seeds_are_what_the_readers_know(tmp_path):
    """A target that refused all its seeds would fuzz one line of code."""
    for target, seed in SEEDS:
        path = tmp_path / TARGETS[target][1]
        path.write_bytes(seed.read_bytes())
        if seed.name not in ("data.pkl", "empty"):  # a pickle out of its archive; no tensors
            TARGETS[target][0](path)


@given(
    size=st.sampled_from([(512, 512), (512, 1024), (64, 64), (1, 1)]),
    mode=st.sampled_from(["L", "P", "RGB", "RGBA", "1", "I;16", "LA", "CMYK", "F"]),
    value=st.integers(0, 255), kind=st.sampled_from(["PNG", "TIFF", "GIF", "JPEG"]),
)  # fmt: skip
def test_any_image_is_a_layout_or_a_refusal(tmp_path, size, mode, value, kind):
    image = Image.new("L", size, value)
    if mode == "P":
        image.putpalette(bytes(range(48)))
    out = io.BytesIO()
    try:
        image.convert(mode).save(out, kind)
    except (OSError, ValueError):
        return  # this format has no such mode
    check("layout", out.getvalue(), tmp_path)


@pytest.mark.parametrize("error", [TypeError("x"), MemoryError(), ValueError("two\nlines")])
def test_what_a_reader_may_not_raise_is_found(tmp_path, monkeypatch, error):
    def broken(path: Path) -> None:
        raise error

    monkeypatch.setitem(TARGETS, "photo", (broken, "x"))
    with pytest.raises((TypeError, MemoryError, AssertionError)):
        check("photo", b"", tmp_path)


def test_an_image_beyond_all_measure_is_refused(tmp_path):
    """Pillow raises an error of its own for it, which is no OSError."""
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    data += struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I4s", 0, b"IDAT") + b"\0" * 4
    for target in ("photo", "layout"):
        path = tmp_path / TARGETS[target][1]
        path.write_bytes(data)
        with pytest.raises(ValueError, match="million|exceeds limit"):
            TARGETS[target][0](path)
