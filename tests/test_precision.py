"""bfloat16 compute learns as float32 does: 200 steps of the embedded diffusion network.

`python tests/test_precision.py [STEPS]` prints the two curves.
"""

import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from configs.embedded import get_config
from hsd_jax.labels import HALFBODY9
from hsd_jax.training.loop import DEFAULTS, Training
from hsd_jax.training.parallel import make_parallel
from hsd_jax.training.tasks import make_task

BATCH, CELLS, WINDOW = 2, 8, 8
SPAN = 20  # steps that a point of a curve is the mean of


def config_of(dtype: str, steps: int, folder: Path) -> dict:
    config = DEFAULTS | get_config("diffusion").to_dict()
    (folder / "stats.json").write_text(json.dumps({"mean": [0.0] * 4, "std": [1.0] * 4}))
    config["model"]["dtype"] = dtype
    config["data"] |= dict(latents=str(folder), window=WINDOW)
    config["optimizer"] |= dict(warmup=steps // 10)
    return config | dict(
        steps=steps, batch_size=BATCH, eval_batch_size=BATCH, mesh=dict(data=1, fsdp=1)
    )


def batch_of(step: int) -> dict[str, np.ndarray]:
    """Latents that follow from the layout's colours, so that there is something to learn."""
    rng, classes = np.random.default_rng(step), HALFBODY9.num_classes
    colours = np.random.default_rng(0).standard_normal((classes, 4))
    coarse = rng.integers(0, classes, (BATCH, CELLS // 2, CELLS // 2))
    layout = coarse.repeat(8, 1).repeat(8, 2).astype(np.uint8)
    latents = colours[layout[:, ::4, ::4]] + 0.1 * rng.standard_normal((BATCH, CELLS, CELLS, 4))
    return {
        "latents": latents.astype(np.float32),
        "layout": layout,
        "known": rng.integers(0, 2, (BATCH, CELLS, CELLS, 1)).astype(np.float32),
        "corner": np.zeros((BATCH, 2), np.int32),
    }


def curve(dtype: str, steps: int, folder: Path) -> np.ndarray:
    """Means of the loss over `SPAN` steps."""
    jax.config.update("jax_disable_most_optimizations", True)  # compiling well takes the longest
    config = config_of(dtype, steps, folder)
    training = Training(config, make_task(config), make_parallel(config, jax.devices()[:1]))
    state = training.parallel.create(training.create)
    run, losses = training.compile(state), []
    for step in range(steps):
        state, metrics = run(state, training.parallel.put(batch_of(step)))
        losses.append(metrics["loss"])
    return np.array(jax.device_get(losses)).reshape(-1, SPAN).mean(1)


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
def test_bfloat16_learns_as_float32_does(tmp_path: Path):
    single, half = (curve(dtype, 200, tmp_path) for dtype in ("float32", "bfloat16"))
    assert single[-1] < single[0] / 2  # there was something to learn
    np.testing.assert_allclose(half, single, rtol=0.02)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory() as name:
        steps = int(sys.argv[1]) if sys.argv[1:] else 200
        curves = []
        for dtype in ("float32", "bfloat16"):
            curves.append(curve(dtype, steps, Path(name)))
            print(dtype, np.array2string(curves[-1], precision=4), flush=True)
    print(f"largest difference: {100 * np.max(np.abs(curves[1] / curves[0] - 1)):.2f} %")
