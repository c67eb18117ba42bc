"""Metrics of the benchmark during training: `--config.eval_metrics="('pd',)"`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax import weights
from hsd_jax.evaluation.metrics import PerceptualDistance
from hsd_jax.models import apply
from hsd_jax.training.input import EVAL_SPLIT, eval_batches
from hsd_jax.training.loop import ExtraMetric
from hsd_jax.training.parallel import numbered
from hsd_jax.training.rng import named_key
from hsd_jax.training.state import Batch, Params
from hsd_jax.training.tasks import make_task
from hsd_jax.training.tasks.diffusion import DiffusionTask


def resolve(config: Mapping[str, Any]) -> dict[str, ExtraMetric]:
    """The metrics in `config["eval_metrics"]`, as functions of the EMA parameters.

    Raises:
      ValueError: an unknown name, or a metric that does not fit the task, its data or
        `config["eval_weights"]`.
    """
    names = tuple(config["eval_metrics"])
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"no eval_metrics {unknown[0]!r}: use some of {', '.join(METRICS)}")
    return {name: METRICS[name](config) for name in names}


def hole_distance(config: Mapping[str, Any]) -> ExtraMetric:
    """PD-hsd between a batch of samples and the truth, inside the holes.

    Both are decoded from latents, so that the autoencoder's error does not count. The batch, its
    holes and its noise are the same at every evaluation.
    """
    task = make_task(config)
    if not isinstance(task, DiffusionTask):
        raise ValueError(f"eval_metrics pd is for task diffusion, not {config['task']}")
    folder = weights.find(config["eval_weights"] or weights.DEFAULT)
    coder, parser = (weights.load_part(folder, name) for name in ("autoencoder", "parser"))
    if (channels := coder.module.embed_dim) != task.channels:
        raise ValueError(
            f"the autoencoder in {folder} has latents of {channels} channels, the data "
            f"{task.channels}: give --config.eval_weights, the folder of the one that encoded them"
        )
    distance = PerceptualDistance(parser)
    data, key = config["data"], named_key(config["seed"], "eval")
    batches = eval_batches(
        task.source(data.get("eval_split", EVAL_SPLIT)), config["eval_batch_size"],
        task.eval_transform, partner=True, sources=tuple(data["test_sources"]) or None,
    )  # fmt: skip
    batch = numbered(next(batches))

    @jax.jit
    def painted(params: Params, coder_params: Params, batch: Batch) -> tuple[jax.Array, ...]:
        """True images, the samples in their holes (uint8 `[B, H, W, 3]`), and the holes."""
        z0, known, z = task.sample(params, batch, key)
        true, made = (
            apply(coder.module, coder_params, x * task.std + task.mean, method="decode")
            for x in (z0, z)
        )
        factor = true.shape[1] // z0.shape[1]
        hole = (known[..., 0] == 0).repeat(factor, 1).repeat(factor, 2)
        images = (jnp.clip((x + 1) * 127.5, 0, 255) for x in (true, made))
        true, made = (jnp.round(x).astype(jnp.uint8) for x in images)
        return true, jnp.where(hole[..., None], made, true), hole

    def measure(params: Params) -> dict[str, float]:
        true, made, hole = (np.asarray(x) for x in painted(params, coder.params, batch))
        distances = distance(made, distance.features(true), hole)
        counted = (batch["mask"] > 0) & hole.any((1, 2))
        return {"pd": float(distances[counted].mean())}

    return measure


METRICS: Mapping[str, Callable[[Mapping[str, Any]], ExtraMetric]] = {"pd": hole_distance}
