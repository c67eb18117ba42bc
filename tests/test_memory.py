"""How much memory the command takes: its ceilings, and that of a long batch stays."""

import os
import resource
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import write_weights

from hsd_jax import weights
from hsd_jax.imaging.demo import find_photos

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
GIB, MIB = 2**30, 2**20


# Starts a command and prints the memory and the seconds that it took; a child's peak is that of the
# process that started it, if that was larger, so this one is small.
_LAUNCHER = """
import os, sys
pid = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
_, status, used = os.wait4(pid, 0)
print(1024 * used.ru_maxrss, used.ru_utime + used.ru_stime)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def started(*arguments: object, cache: Path, by: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "HSD_", "XLA_"))}
    return subprocess.Popen(
        [sys.executable, *by, "-m", "hsd_jax", *map(str, arguments)], text=True,
        stdout=subprocess.PIPE if by else subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**inherited, "JAX_PLATFORMS": "cpu", "HSD_CACHE_DIR": str(cache)},
    )  # fmt: skip


def ended(*arguments: object, cache: Path) -> tuple[int, str, float, float]:
    """The status, what was said, and the peak of bytes and the processor's seconds."""
    process = started(*arguments, cache=cache, by=("-c", _LAUNCHER))
    told, said = process.communicate()
    peak, seconds = map(float, told.split()[-2:])
    return process.returncode, said, peak, seconds


def resident(pid: int) -> int:
    """Bytes that a process has now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow  # compiles the swap
def test_two_photos_of_13_megapixels(tmp_path: Path):
    photos = []
    for path in find_photos():
        photos.append(tmp_path / path.with_suffix(".jpg").name)
        Image.open(path).convert("RGB").resize((3120, 4160)).save(photos[-1], quality=92)
    command = ["swap", *photos, "-o", tmp_path / "out.jpg"]
    for _ in range(2):  # the first compiles
        status, said, peak, _ = ended(*command, cache=tmp_path / "cache")
        assert status == 0, said
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.size == (3120, 4160)
    print(f"{peak / GIB:.2f} GiB")
    assert 0.3 * GIB < peak < 1.4 * GIB


@pytest.mark.parametrize("side, told", [(10_000, "over 80 million"), (30_000, "hundreds of mill")])
def test_100_megapixels_are_refused_before_they_are_decoded(tmp_path: Path, side: int, told: str):
    photo = tmp_path / "large.png"
    if side > 20_000:  # only its head: what is claimed decides
        Image.new("1", (side, 1)).save(photo)
        data = bytearray(photo.read_bytes())
        data[20:24] = side.to_bytes(4, "big")
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        photo.write_bytes(data)
    else:
        Image.new("1", (side, side)).save(photo)
    out = tmp_path / "out.png"
    status, said, peak, seconds = ended("swap", photo, photo, "-o", out, cache=tmp_path)
    assert status == 2 and told in said and not out.exists()
    assert seconds < 3 and peak < 0.3 * GIB


@pytest.mark.slow  # a thousand pairs, by networks that are tiny but for the parser
def test_the_second_half_of_a_thousand_pairs_takes_no_more_memory(tmp_path: Path):
    folder, count = write_weights(tmp_path / "weights", 64), 1000
    for path in weights.find().glob("parser.*"):
        shutil.copyfile(path, folder / path.name)
    rng = np.random.default_rng(0)
    for number in range(32):  # photos of 16 sizes, of two people
        side = int(rng.integers(200, 300))
        photo = Image.open(find_photos()[number % 2]).convert("RGB").resize((side, side))
        photo.save(tmp_path / f"{number}.jpg")
    rows = [f"{a}.jpg,{b}.jpg,{n}.jpg" for n, (a, b) in enumerate(rng.integers(0, 32, (count, 2)))]
    (tmp_path / "pairs.csv").write_text("\n".join(["head,body,output", *rows]))
    out, seen = tmp_path / "out", []
    process = started(
        "batch", tmp_path / "pairs.csv", "-o", out, "--weights", folder, cache=tmp_path / "cache"
    )
    while process.poll() is None:
        try:
            seen.append((len(list(out.glob("*.jpg"))), resident(process.pid)))
        except (OSError, IndexError):
            pass  # it has just ended
        time.sleep(0.2)
    assert process.stderr is not None and process.stderr.read() == ""
    process.stderr.close()
    assert process.returncode == 0 and len(list(out.glob("*.jpg"))) == count
    done, used = np.array(seen, float).T
    early, late = used[(done > 400) & (done < 600)], used[done > 800]
    growth = np.median(late) - np.median(early)
    slope = np.polyfit(done[done > 400], used[done > 400], 1)[0]
    print(f"{np.median(early) / MIB:.0f} MiB, {growth / MIB:+.1f} later, {slope:.0f} bytes a pair")
    assert growth < 40 * MIB
