"""One seed and two photos are one image: the same bytes again, within 1/255 however it runs."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import write_weights

from hsd_jax import HeadSwapper
from hsd_jax.imaging.demo import find_photos
from hsd_jax.labels import HALFBODY9
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.runner import Runner
from hsd_jax.swapping.spec import Sampling

SIZE, PAIRS = 64, 3
SEEDS = np.array([3, 3, 2**32 - 1], np.uint32)


def apart(images: np.ndarray, others: np.ndarray) -> int:
    """The largest difference, in 255ths."""
    assert images.shape == others.shape
    return int(np.abs(images.astype(int) - others).max())


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> SwapNetworks:
    return SwapNetworks.load(write_weights(tmp_path_factory.mktemp("weights"), SIZE, steps=3))


@pytest.fixture(scope="module")
def crops() -> tuple[np.ndarray, np.ndarray, Plan]:
    """Heads, bodies and a plan with holes of three sizes."""
    rng = np.random.default_rng(0)
    heads, bodies = rng.integers(0, 256, (2, PAIRS, SIZE, SIZE, 3), np.uint8)
    above = np.broadcast_to(np.arange(SIZE)[:, None] < 25, (PAIRS, SIZE, SIZE))
    hole = np.zeros((PAIRS, SIZE, SIZE), bool)
    for one, (start, end) in zip(hole, ((20, 30), (0, SIZE), (40, 50)), strict=True):
        one[start:end, start:end] = True
    layout = np.where(above, HALFBODY9.face, HALFBODY9.index("clothes")).astype(np.int32)
    return heads, bodies, Plan(layout, layout, above & ~hole, ~above & ~hole)


def painted(
    runner: Runner, crops: tuple[np.ndarray, np.ndarray, Plan], which: slice = slice(None),
    in_window: bool | None = None, shift: int = 0,
) -> np.ndarray:  # fmt: skip
    heads, bodies, plan = crops
    seeds = SEEDS[which] + np.uint32(shift)
    return runner.paint(
        heads[which], bodies[which], Plan(*(x[which] for x in plan)), seeds=seeds,
        numbers=np.zeros((len(seeds), 1), np.uint32), sampling=Sampling(), in_window=in_window,
    ).images  # fmt: skip


@pytest.fixture(scope="module")
def alone(
    networks: SwapNetworks, crops: tuple[np.ndarray, np.ndarray, Plan], quick_compiles: None
) -> np.ndarray:
    """Each pair by itself on one device, as `hsd swap` paints it."""
    runner = Runner(networks)
    images = [painted(runner, crops, slice(i, i + 1)) for i in range(PAIRS)]
    for i, image in enumerate(images):
        assert apart(painted(runner, crops, slice(i, i + 1)), image) == 0
    assert apart(painted(runner, crops, slice(1, 2), shift=1), images[1]) > 1
    return np.concatenate(images)


@pytest.mark.parametrize("batch, devices", [(2, 1), (8, 8)])
def test_batches_and_devices_change_nothing_that_is_seen(
    networks: SwapNetworks, crops: tuple[np.ndarray, np.ndarray, Plan], alone: np.ndarray,
    quick_compiles: None, batch: int, devices: int,
):  # fmt: skip
    together = Runner(networks, batch, jax.devices()[:devices])
    first = painted(together, crops)
    assert apart(first, alone) <= 1
    assert apart(first, painted(together, crops)) == 0


def test_windows_change_nothing_that_is_seen(
    networks: SwapNetworks, crops: tuple[np.ndarray, np.ndarray, Plan], alone: np.ndarray,
    quick_compiles: None,
):  # fmt: skip
    """One as large as the crop is the crop; a smaller one is the same with others and without.

    It is other arithmetic than the crop's (see `test_window`): weights that take it always do.
    """
    runner = Runner(networks)
    together = painted(runner, crops, in_window=True)
    assert apart(together[1], alone[1]) <= 1
    for i in range(PAIRS):
        assert apart(together[i : i + 1], painted(runner, crops, slice(i, i + 1), True)) == 0


@pytest.mark.slow  # two processes; test_web holds the page against the command every day
def test_the_same_again_is_the_same_file(swapper: HeadSwapper, tmp_path: Path):
    for name in ("a.png", "b.png", "a.jpg", "b.jpg"):
        swapper(*find_photos(), seed=7).save(tmp_path / name)
    for ending in (".png", ".jpg"):
        files = [(tmp_path / name).with_suffix(ending).read_bytes() for name in "ab"]
        assert files[0] == files[1]


@pytest.mark.slow  # everything is compiled three times
def test_processes_write_the_same_file(tmp_path: Path):
    """With a cold cache, with the cache that this filled, and without one."""
    command = [sys.executable, "-m", "hsd_jax.cli", "swap", *map(str, find_photos())]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "HSD_"))}
    for name, cache in (("cold", "cache"), ("warm", "cache"), ("none", "")):
        folder = str(tmp_path / cache) if cache else "/proc/none"
        subprocess.run(
            [*command, "-o", str(tmp_path / f"{name}.png"), "--seed", "7"],
            env={**inherited, "JAX_PLATFORMS": "cpu", "HSD_CACHE_DIR": folder}, check=True,
        )  # fmt: skip
    first, *others = [(tmp_path / f"{name}.png").read_bytes() for name in ("cold", "warm", "none")]
    assert all(other == first for other in others)


@pytest.mark.slow  # the embedded networks are compiled for two batches more
def test_the_embedded_weights_swap_alike_alone_and_in_batches(swapper: HeadSwapper, pair):
    head, body = pair
    photos = [pair, pair[::-1], (head[:, ::-1], body)]
    pairs = [swapper.pair(*two) for two in photos]
    alone = [swapper.paint([one], [5])[0][0] for one in pairs]
    for batch, devices in ((3, 1), (8, 8)):
        together = HeadSwapper.from_pretrained(batch=batch, devices=jax.devices()[:devices])
        for one, (same,) in zip(alone, together.paint(pairs, [5] * len(pairs)), strict=True):
            np.testing.assert_array_equal(same.layout, one.layout)
            assert apart(same.image, one.image) <= 1
