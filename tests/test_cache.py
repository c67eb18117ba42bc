"""The cache of compiled programs, whatever became of it: rebuilt, never fatal, of no influence."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hsd_jax.imaging.demo import find_photos

pytestmark = pytest.mark.slow  # processes that compile


def started(cache: Path, output: Path, largest: int = 0) -> subprocess.Popen[str]:
    """`hsd parse` of a photo; `largest`: bytes that it may write into one file."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "HSD_", "XLA_"))}

    def limit() -> None:
        if largest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    return subprocess.Popen(
        [sys.executable, "-m", "hsd_jax", "parse", str(find_photos()[0]), "-o", str(output)],
        text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=limit,
        env={**inherited, "JAX_PLATFORMS": "cpu", "HSD_CACHE_DIR": str(cache)},
    )  # fmt: skip


def layout(process: subprocess.Popen[str], output: Path) -> bytes:
    """What it has written, without a word."""
    _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (0, "")
    return output.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A cache that two processes wrote at once, and what both of them found."""
    folder = tmp_path_factory.mktemp("cold")
    outputs = [folder / f"{number}.png" for number in range(2)]
    both = [started(folder / "cache", output) for output in outputs]
    one, other = (layout(*each) for each in zip(both, outputs, strict=True))
    assert one == other
    return folder / "cache", one


def programs(cache: Path) -> list[Path]:
    """Lowered and compiled ones."""
    found = [
        path for path in cache.rglob("*") if path.suffix == ".stablehlo" or "-cache" in path.name
    ]
    return sorted(path for path in found if path.is_file())


def _flipped(path: Path) -> None:
    data = path.read_bytes()
    start = len(data) // 2
    middle = bytes(x ^ 85 for x in data[start : start + 64])
    path.write_bytes(data[:start] + middle + data[start + 64 :])


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "flipped": _flipped,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "of something else": lambda path: path.write_bytes(b"another version" * 999),
    "a folder": _folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_cache_of_two_processes_and_any_damage_to_it(whole, damage: str, tmp_path: Path):
    cache, wanted = whole
    copy = Path(shutil.copytree(cache, tmp_path / "cache"))
    assert len(programs(copy)) > 4
    for path in programs(copy):
        DAMAGES[damage](path)
    for name in ("first.png", "second.png"):
        assert layout(started(copy, tmp_path / name), tmp_path / name) == wanted


def test_a_cache_on_a_full_disk(whole, tmp_path: Path):
    """There is room for the layout, but for none of the programs."""
    output, room = tmp_path / "out.png", 1 << 16
    assert len(whole[1]) < room
    assert layout(started(tmp_path / "cache", output, room), output) == whole[1]
    assert all(path.stat().st_size <= room for path in programs(tmp_path / "cache"))
