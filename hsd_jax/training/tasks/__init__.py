"""The interface of the five trainings; each file of this folder makes a `Task` of a config."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from hsd_jax.training.input import Example, Records, load_source
from hsd_jax.training.state import Aux, Batch, Params

Arrays = dict[str, np.ndarray]
Ratios = dict[str, tuple[jax.Array, jax.Array]]
# Name in a config -> class in the file of that name.
TASKS = {
    "autoencoder": "AutoencoderTask",
    "diffusion": "DiffusionTask",
    "landmarks": "LandmarksTask",
    "layout": "LayoutTask",
    "parser": "ParserTask",
}


@dataclass(frozen=True)
class Part:
    """A trained network for release: its module, its parameters and its metadata."""

    module: nn.Module
    params: Params
    extra: Mapping[str, Any]


class Task(ABC):
    """What the training loop needs to know; immutable.

    Attributes:
      config: the whole of it, as a plain nested dict; `data` is its part about the examples.
      partner: examples carry `partner`, the layout of another random person.
      note: a message for the start of a run.
    """

    partner: bool = False
    note: str = ""

    def __init__(self, config: Mapping[str, Any]):
        self.config, self.data = config, config["data"]

    def source(self, split: str) -> Records:
        """The records of a split of the data set.

        Raises:
          ValueError: if there is no such split.
        """
        name, cache = self.data.get("name", "halfbody"), self.data.get("cache", True)
        return load_source(self.data["dir"], split, name=name, cache=cache)

    @abstractmethod
    def transform(self, example: Example, rng: np.random.Generator) -> Arrays:
        """Turns a record into a training example, with augmentation."""

    @abstractmethod
    def eval_transform(self, example: Example, rng: np.random.Generator) -> Arrays:
        """Turns a record into an evaluation example."""

    @abstractmethod
    def init(self, key: jax.Array) -> Params:
        """The whole parameter tree, networks that are trained together side by side; pure."""

    @abstractmethod
    def loss(
        self, params: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """See `state.Loss`; pure."""

    @abstractmethod
    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Ratios:
        """Metrics of a batch as (numerator, denominator), both summed over the split; pure."""

    @abstractmethod
    def preview(self, params: Params, batch: dict[str, Any], key: jax.Array) -> Arrays:
        """Sample images for inspection, uint8 `[H, W, 3]`."""

    @abstractmethod
    def parts(self, params: Params) -> dict[str, Part]:
        """The trained networks, by part name (see `hsd_jax.weights`)."""


def make_task(config: Mapping[str, Any]) -> Task:
    """The task that `config["task"]` names.

    Raises:
      ValueError: if there is no such task.
    """
    name = config["task"]
    if name not in TASKS:
        raise ValueError(f"task is {name!r}: use one of {', '.join(TASKS)}")
    module = importlib.import_module(f"hsd_jax.training.tasks.{name}")
    return getattr(module, TASKS[name])(config)
