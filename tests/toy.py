"""A task that compiles in a moment, for the real loop around it; also a program of its own.

`python tests/toy.py WORKDIR DEVICES [key=value ...]` trains it; the values are JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.models import apply
from hsd_jax.models.condition import SpatialRescaler
from hsd_jax.training import loop, processes
from hsd_jax.training.rng import per_example
from hsd_jax.training.state import Aux
from hsd_jax.training.tasks import Part, Task

MODEL = SpatialRescaler(out_channels=16, n_stages=1)


class Source:
    """Sixteen random images of 4 x 4."""

    names = ["toy"] * 16

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(index)
        return {"x": rng.random((4, 4, 8), np.float32), "source": "toy"}

    def layout(self, index: int) -> np.ndarray:
        raise NotImplementedError("the toy's examples have no partners")


class ToyTask(Task):
    def source(self, split: str) -> Source:
        return Source()

    def transform(self, example, rng):
        return {"x": example["x"], "weight": np.float32(0.5 + rng.random())}

    def eval_transform(self, example, rng):
        return {"x": example["x"]}

    def init(self, key: jax.Array):
        return {"condition": MODEL.init(key, jnp.zeros((1, 4, 4, 8)))["params"]}

    def loss(self, params, batch, key, step):
        """A weighted mean under noise: what has to be told of parts of a batch."""
        keys = per_example(key, batch)
        noise = jax.vmap(lambda key: jax.random.normal(key, (2, 2, 16)))(keys)
        y = apply(MODEL, params["condition"], batch["x"])
        error = jnp.mean((y - noise) ** 2, axis=(1, 2, 3))
        total, weighted = jnp.sum(batch["weight"]), jnp.sum(batch["weight"] * error)
        metrics = {"loss": (weighted, total), "error": jnp.mean(error)}
        return weighted / total, Aux(metrics, weight=total)

    def evaluate(self, params, batch, key):
        y = apply(MODEL, params["condition"], batch["x"])
        return {"size": (jnp.sum(jnp.mean(y**2, (1, 2, 3)) * batch["mask"]), batch["mask"].sum())}

    def preview(self, params, batch, key):
        return {"toy": np.zeros((8, 8, 3), np.uint8)}

    def parts(self, params):
        return {"condition": Part(MODEL, params["condition"], {})}


def config(**changes: Any) -> dict[str, Any]:
    optimizer = dict(
        learning_rate=1e-2, warmup=1, decay="constant", b1=0.9, b2=0.99, weight_decay=0.0, clip=1.0
    )
    return dict(
        seed=0, steps=6, batch_size=8, eval_batch_size=8, ema=0.9, keep=2, init_from="",
        log_every=1, save_every=2, eval_every=3, optimizer=optimizer,
        data=dict(dir="", sources=(), test_sources=(), eval_split="test"),
    ) | changes  # fmt: skip


def train(workdir: Path, extra_metrics: Any = None, **changes: Any):
    with mock.patch.object(loop, "make_task", ToyTask):
        return loop.train(config(**changes), workdir, extra_metrics=extra_metrics)


def main() -> None:
    """Joins, trains and ends as `hsd_jax.train` does."""
    processes.join()
    pairs = (pair.split("=") for pair in sys.argv[3:])
    with processes.together():
        train(Path(sys.argv[1]), **{name: json.loads(value) for name, value in pairs})


if __name__ == "__main__":
    from hsd_jax import train as command

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
    sys.exit(command._ended(main))
