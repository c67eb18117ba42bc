"""Trains the parser by cross-entropy.

Classes that automatic labels confuse are only distinguished in hand-made layouts.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.labels import colorize, get_label_set
from hsd_jax.models import apply
from hsd_jax.models.lite_parser import LiteParser
from hsd_jax.models.parser import Parser
from hsd_jax.training import augment
from hsd_jax.training.input import Example
from hsd_jax.training.state import Aux, Batch, Params
from hsd_jax.training.tasks import Arrays, Part, Ratios, Task

_KINDS = {"residual": Parser, "lite": LiteParser}


class ParserTask(Task):
    """`config`: `labels`, `model` (`kind`, and its fields), `data`, `loss` (`class_weights`)."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__(config)
        self.labels = get_label_set(config["labels"])
        fields = dict(config["model"])
        kind = _KINDS[fields.pop("kind", "residual")]
        self.model = kind(num_classes=self.labels.num_classes, **fields)
        self.merged = tuple(self.labels.index(name) for name in self.data["merged"])
        given = config["loss"]["class_weights"]
        if lacking := set(self.labels.classes) - set(given):
            raise ValueError(
                f"loss.class_weights has none for {', '.join(sorted(lacking))}, classes of labels "
                f"{self.labels.name}: give a weight for each"
            )
        # numpy: the step is compiled under the transfer guard, so constants must be on the host.
        self.weights = np.array([given[name] for name in self.labels.classes], np.float32)

    def transform(self, example: Example, rng: np.random.Generator) -> Arrays:
        image, layout = augment.random_window(
            example["image"], example["layout"], rng, **augment.window_options(self.data)
        )
        image = augment.degrade(augment.recolour(image, layout, rng, self.data), rng)
        return {"image": image, "layout": layout, "drawn": self._drawn(example)}

    def eval_transform(self, example: Example, rng: np.random.Generator) -> Arrays:
        return {
            "image": example["image"], "layout": example["layout"], "drawn": self._drawn(example)
        }  # fmt: skip

    def _drawn(self, example: Example) -> Any:
        return np.bool_(example["source"] in self.data["trusted"])

    def init(self, key: jax.Array) -> Params:
        side = self.model.multiple
        return {"parser": self.model.init(key, jnp.zeros((1, side, side, 3)))["params"]}

    def logits(self, params: Params, batch: Batch) -> jax.Array:
        """The logits of the batch's images, `[B, H, W, K]`."""
        x = batch["image"].astype(jnp.float32) / 127.5 - 1
        return apply(self.model, params["parser"], x)

    def loss(
        self, params: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        layout = batch["layout"].astype(jnp.int32)
        logits = self.logits(params, batch)
        weight = jnp.asarray(self.weights)[layout]
        nll = -log_likelihood(logits, layout, batch["drawn"], self.merged)
        total, wrong = jnp.sum(weight), jnp.sum(weight * nll)
        accuracy = jnp.mean((jnp.argmax(logits, -1) == layout).astype(jnp.float32))
        return wrong / total, Aux({"loss": (wrong, total), "accuracy": accuracy}, weight=total)

    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Ratios:
        layout = batch["layout"].astype(jnp.int32)
        found = jnp.argmax(self.logits(params, batch), -1)
        trusted = (batch["drawn"] & (batch["mask"] > 0))[:, None, None]

        def iou(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
            a, b = a & trusted, b & trusted
            return jnp.sum(a & b), jnp.sum(a | b)

        ious = {
            f"iou/{name}": iou(found == index, layout == index)
            for index, name in enumerate(self.labels.classes)
        }
        background = jnp.array(self.labels.background)
        person = iou(~jnp.isin(found, background), ~jnp.isin(layout, background))
        return ious | {"iou/person": person}

    @cached_property
    def _predict(self) -> Any:
        return jax.jit(lambda params, batch: jnp.argmax(self.logits(params, batch), -1))

    def preview(self, params: Params, batch: dict[str, Any], key: jax.Array) -> Arrays:
        found = np.asarray(self._predict(params, batch))
        rows = [
            np.concatenate(
                [image, colorize(layout, self.labels), colorize(mine, self.labels)], axis=1
            )
            for image, layout, mine in zip(batch["image"], batch["layout"], found, strict=True)
        ]
        return {"parser": np.concatenate(rows[:6])}

    def parts(self, params: Params) -> dict[str, Part]:
        facts = {"labels": self.labels.name, "size": self.config["crop_size"]}
        return {"parser": Part(self.model, params["parser"], facts)}


def log_likelihood(
    logits: jax.Array, layout: jax.Array, drawn: jax.Array, merged: tuple[int, ...]
) -> jax.Array:
    """The log-probability of every label, or of all of `merged` in automatic layouts.

    Args:
      logits: `[B, H, W, K]`.
      layout: `[B, H, W]`, class indices.
      drawn: bool `[B]`, whether the layout is hand-made.
      merged: classes that automatic labels confuse.
    """
    log_probs = jax.nn.log_softmax(logits)
    of_label = jnp.take_along_axis(log_probs, layout[..., None], axis=-1)[..., 0]
    if not merged:
        return of_label
    of_group = jax.nn.logsumexp(log_probs[..., jnp.array(merged)], axis=-1)
    in_group = jnp.isin(layout, jnp.array(merged)) & ~drawn[:, None, None]
    return jnp.where(in_group, of_group, of_label)
