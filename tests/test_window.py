"""The window that large networks paint: it holds what is generated, and changes little there."""

import jax
import numpy as np
import pytest

from hsd_jax import weights
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.runner import Runner
from hsd_jax.swapping.spec import Sampling
from hsd_jax.swapping.window import MARGIN, Window, window_around

SIZE = 256


def band(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    generated = np.zeros((SIZE, SIZE), bool)
    generated[top:bottom, left:right] = True
    return generated


@pytest.mark.parametrize("step", [4, 8])
def test_a_window_holds_what_is_generated_and_its_margin(step):
    rng = np.random.default_rng(step)
    sizes = set()
    for _ in range(300):
        (top, bottom), (left, right) = np.sort(rng.integers(0, SIZE + 1, (2, 2)))
        if top == bottom or left == right:
            continue
        window = window_around(band(top, bottom, left, right), step)
        for start, side, first, last in (
            (window.top, window.height, top, bottom), (window.left, window.width, left, right)
        ):  # fmt: skip
            assert start % step == 0 and 0 <= start and start + side <= SIZE
            assert start <= max(first - MARGIN, 0)
            assert start + side >= min(last + MARGIN, SIZE)
            assert side == (192 if last - first <= 192 - 2 * MARGIN - 2 * step else side)
        sizes.add(window[2:])
    assert sizes == {(192, 192), (192, 256), (256, 192), (256, 256)}  # one program each


def test_the_whole_is_the_window_of_nothing_and_of_everything():
    whole = Window(0, 0, SIZE, SIZE)
    assert window_around(band(0, 0, 0, 0), 4) == whole == window_around(band(0, 256, 0, 256), 4)
    assert window_around(band(0, 10, 250, 256), 4) == Window(0, 64, 192, 192)
    assert window_around(band(0, 10, 250, 256), 16) == whole  # 12 latents do not halve thrice


def test_parts_go_back_where_they_were_cut():
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    window = Window(8, 60, 192, 192)
    np.testing.assert_array_equal(window.put(window.cut(picture), picture), picture)
    put = window.put(np.zeros((2, 3, 192, 192, 3), np.uint8), picture)
    assert put.shape == (2, 3, SIZE, SIZE, 3) and not window.cut(put[1, 2]).any()
    np.testing.assert_array_equal(put[0, 0, 200:], picture[200:])


@pytest.fixture(scope="module")
def runner():
    return Runner(SwapNetworks.load(weights.find()))


def pair_with_hole(hole: np.ndarray) -> tuple[np.ndarray, np.ndarray, Plan]:
    """Smooth images, one pair; above the hole's middle the head's, below the body's."""
    at = np.linspace(0, 1, SIZE, dtype=np.float32)
    plane = np.stack(np.broadcast_arrays(at[:, None], at[None], 1 - at[:, None]), -1)
    head, body = (np.round(255 * x).astype(np.uint8) for x in (plane, plane[:, ::-1] ** 2))
    upper = np.arange(SIZE)[:, None] < 110
    layout = np.where(upper, 3, 5).astype(np.int32) * np.ones((1, SIZE), np.int32)
    plan = Plan(layout, layout, upper & ~hole, ~upper & ~hole)
    return head[None], body[None], Plan(*(x[None] for x in plan))


def painted(runner, head, body, plan, number: int = 0, in_window: bool | None = None):
    numbers = np.array([[number]], np.uint32)
    options = dict(seeds=np.ones(1, np.uint32), numbers=numbers, sampling=Sampling())
    return runner.paint(head, body, plan, in_window=in_window, **options).images[0, 0]


@pytest.mark.slow
def test_a_window_changes_hardly_more_than_another_sample(runner):
    hole = band(80, 140, 90, 170)
    head, body, plan = pair_with_hole(hole)
    whole = painted(runner, head, body, plan)
    part = painted(runner, head, body, plan, in_window=True)
    window = window_around(hole, 4)
    outside = window.put(np.zeros((192, 192, 3), bool), np.ones((SIZE, SIZE, 3), bool))
    kept = np.where(plan.head[0, ..., None], head[0], body[0])
    np.testing.assert_array_equal(part[outside], kept[outside])
    others = [painted(runner, head, body, plan, number) for number in (1, 2, 3)]
    by_noise = [np.abs(other[hole].astype(int) - whole[hole]).mean() for other in others]
    by_window = np.abs(part[hole].astype(int) - whole[hole]).mean()
    assert 0 < by_window < 1.5 * max(by_noise)  # its noise is another as well


def test_a_window_of_the_whole_is_the_whole(runner):
    pair = pair_with_hole(band(10, 250, 10, 250))
    whole, part = (painted(runner, *pair, in_window=in_window) for in_window in (False, True))
    np.testing.assert_array_equal(whole, part)


def test_only_large_nets_on_a_cpu_paint_windows(runner, monkeypatch):
    assert jax.default_backend() == "cpu" and not runner.in_window
    monkeypatch.setattr("hsd_jax.swapping.runner.LARGE", 10_000_000)
    large = Runner(runner._networks)
    assert large.in_window and not Runner(runner._networks, 2).in_window
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not large.in_window
