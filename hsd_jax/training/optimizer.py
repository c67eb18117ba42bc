"""Optimizers and learning-rate schedules from a config."""

from collections.abc import Mapping
from typing import Any

import optax


def learning_rate(config: Mapping[str, Any], steps: int) -> optax.Schedule:
    """Linear warm-up, then constant or a cosine down to a fiftieth.

    Args:
      config: `learning_rate`, `warmup` (steps) and `decay` ("constant" or "cosine").
      steps: length of the run.

    Raises:
      ValueError: an unknown `decay`; a warm-up that leaves a cosine no steps.
    """
    peak, warmup = config["learning_rate"], max(1, config["warmup"])
    if config["decay"] == "cosine":
        if warmup >= steps:
            raise ValueError(
                f"optimizer.warmup is {warmup} of {steps} steps: give fewer "
                "(--config.optimizer.warmup=...), or more --config.steps"
            )
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, peak / 50)
    if config["decay"] == "constant":
        return optax.join_schedules(
            [optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)], [warmup]
        )
    raise ValueError(f"optimizer.decay is {config['decay']!r}: use 'constant' or 'cosine'")


def make_optimizer(config: Mapping[str, Any], steps: int) -> optax.GradientTransformation:
    """Adam(W) with the paper's betas by config, clipped by the global norm when `clip` > 0."""
    adam = optax.adamw(
        learning_rate(config, steps),
        b1=config["b1"],
        b2=config["b2"],
        weight_decay=config["weight_decay"],
    )
    clip = config["clip"]
    return optax.chain(optax.clip_by_global_norm(clip), adam) if clip else adam
