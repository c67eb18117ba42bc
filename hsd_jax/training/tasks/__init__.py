"""The four trainings: each file makes a `Task` from a config; the loop knows no more than this."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from hsd_jax.training.state import Batch, Loss, Params

Example = dict[str, Any]
Ratios = dict[str, tuple[jax.Array, jax.Array]]
TASKS = ("autoencoder", "diffusion", "layout", "parser")


@dataclass(frozen=True)
class Part:
    """A trained net as it is released: its module, its parameters, and facts that go with it."""

    module: nn.Module
    params: Params
    extra: Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """What the loop needs of a training."""

    init: Callable[[jax.Array], Params]
    """key -> the whole parameter tree, nets that are trained together side by side."""
    loss: Loss
    """The scalar to minimise; pure."""
    transform: Callable[[Example, np.random.Generator], Example]
    """Record -> training example (augmentation included)."""
    eval_transform: Callable[[Example, np.random.Generator], Example]
    """Record -> test example."""
    evaluate: Callable[[Params, Batch, jax.Array], Ratios]
    """Test figures of a batch as (numerator, denominator): both are summed over the split. Pure."""
    preview: Callable[[Params, Batch, jax.Array], dict[str, np.ndarray]]
    """Pictures that show a person how it goes."""
    parts: Callable[[Params], dict[str, Part]]
    """What the training yields, by part name (see `hsd_jax.weights`)."""
    partner: bool = False
    """Examples carry `partner`, the layout of another random person."""
    source: Callable[[str, str], Any] | None = None
    """(data folder, split) -> records, where they are not the pictures and layouts themselves."""
    note: str = ""
    """What a person should be told at the start of a run."""


def make_task(config: Mapping[str, Any]) -> Task:
    """The task that `config["task"]` names.

    Raises:
      ValueError: no such task.
    """
    name = config["task"]
    if name not in TASKS:
        raise ValueError(f"task is {name!r}: use one of {', '.join(TASKS)}")
    return importlib.import_module(f"hsd_jax.training.tasks.{name}").make(config)
