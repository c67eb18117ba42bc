"""Trains the layout generator (the paper, section 3.3): holes in, the whole layout out."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.labels import LabelSet, colorize, get_label_set, one_hot
from hsd_jax.models import apply
from hsd_jax.models.discriminator import PatchDiscriminator, lsgan_d, lsgan_g
from hsd_jax.models.layout_generator import (
    LayoutGenerator,
    LayoutOutput,
    gumbel_softmax,
    log_probs,
)
from hsd_jax.models.norm import merge_stats
from hsd_jax.swapping.mixing import dilate, group_mask, head_cover, remove_neck
from hsd_jax.training import augment
from hsd_jax.training.input import Example
from hsd_jax.training.rng import per_example
from hsd_jax.training.state import Aux, Batch, Metrics, Params
from hsd_jax.training.tasks import Arrays, Part, Ratios, Task

_NEAR_HEAD = 3  # pixels around a removed head in which a neck is not sure (see `swapping.plan`)


class LayoutTask(Task):
    """`config`: `labels`, `model` (fields of `LayoutGenerator`), `discriminator`, `data`, `loss`.

    `loss`: `adversarial` is the paper's lambda_2 (0.2; 0 disables the discriminator); `logits`
    weights a second cross-entropy, on the prediction before the focus map. The paper has none;
    without it, a hole that the focus map ignores has a loss of log(0) and no gradient. `overlap`
    weights `soft_jaccard`.

    `data.visible_neck` is the probability that the network sees the neck where the partner's head
    does not cover it, as the body's photo shows it; 0 in the paper, which always removes it.
    """

    partner = True

    def __init__(self, config: Mapping[str, Any]):
        super().__init__(config)
        self.labels, self.weights = get_label_set(config["labels"]), config["loss"]
        self.model = LayoutGenerator(num_classes=self.labels.num_classes, **config["model"])
        self.critic = None
        if self.weights["adversarial"] > 0:
            self.critic = PatchDiscriminator(**config["discriminator"])

    def transform(self, example: Example, rng: np.random.Generator) -> Arrays:
        partner = self._partner(example, rng)
        # Both layouts get the same window: the partner takes the place of the image.
        partner, layout = augment.random_window(
            partner, example["layout"], rng, nearest=True, **augment.window_options(self.data)
        )
        visible = np.array(rng.random() < self.data.get("visible_neck", 0.0), np.float32)
        return {"layout": layout, "partner": partner, "visible_neck": visible}

    def eval_transform(self, example: Example, rng: np.random.Generator) -> Arrays:
        partner = self._partner(example, rng)
        factor = example["layout"].shape[0] // self.data["size"]
        coarse = (slice(factor // 2, None, factor),) * 2
        visible = np.array(self.data.get("visible_neck", 0.0) > 0, np.float32)
        return {
            "layout": example["layout"][coarse],
            "partner": partner[coarse],
            "visible_neck": visible,
        }

    def _partner(self, example: Example, rng: np.random.Generator) -> np.ndarray:
        if not self.data["fit_partner"]:
            return example["partner"]
        return augment.fit_partner(example["partner"], example["layout"], self.labels.face, rng)

    def init(self, key: jax.Array) -> Params:
        x = jnp.zeros((1, 64, 64, self.labels.num_classes))
        params = {"layout_generator": self.model.init(key, x)["params"]}
        if self.critic is not None:
            params["discriminator"] = self.critic.init(jax.random.fold_in(key, 1), x)["params"]
        return params

    def loss(
        self, params: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        target = batch["layout"].astype(jnp.int32)
        x = one_hot(holes(batch, self.labels), self.labels)
        out, changes = apply(
            self.model, params["layout_generator"], x, train=True, mutable=["stats"]
        )

        def cross_entropy(log_p: jax.Array) -> jax.Array:
            return -jnp.mean(jnp.take_along_axis(log_p, target[..., None], axis=-1))

        ce = cross_entropy(log_probs(out.probs))
        ce_logits = cross_entropy(jax.nn.log_softmax(out.logits))
        value = ce + self.weights["logits"] * ce_logits
        metrics = {"ce": ce, "ce_logits": ce_logits, "focus": jnp.mean(out.focus)}
        if self.weights["overlap"] > 0:
            overlap = jnp.mean(soft_jaccard(out.probs, one_hot(target, self.labels)))
            value += self.weights["overlap"] * overlap
            metrics["overlap"] = overlap
        if self.critic is not None:
            judged = self._judge(self.critic, params, out, target, per_example(key, batch))
            # One gradient suffices: each term depends only on its own network's parameters.
            value += self.weights["adversarial"] * judged["g"] + judged["d"]
            metrics |= judged
        overwrite = None
        if stats := changes.get("stats", {}):
            nothing = jax.tree.map(lambda _: None, params)
            merged = merge_stats(nothing["layout_generator"], stats)
            overwrite = nothing | {"layout_generator": merged}
        return value, Aux(metrics | {"loss": value}, overwrite)

    def _judge(
        self, critic: PatchDiscriminator, params: Params, out: LayoutOutput, target: jax.Array,
        keys: jax.Array,
    ) -> Metrics:  # fmt: skip
        """The losses of generator `g` and discriminator `d` on sampled layouts."""
        fake = jax.vmap(gumbel_softmax)(log_probs(out.probs), keys)
        real = one_hot(target, self.labels)
        frozen = jax.lax.stop_gradient(params["discriminator"])

        def logits(critic_params: Params, layout: jax.Array) -> jax.Array:
            return apply(critic, critic_params, layout, train=True)

        g = lsgan_g(logits(frozen, fake))
        d = lsgan_d(
            logits(params["discriminator"], real),
            logits(params["discriminator"], jax.lax.stop_gradient(fake)),
        )
        return {"g": g, "d": d}

    def inpaint(self, params: Params, layout: jax.Array) -> jax.Array:
        """Fills the holes of class indices `[B, H, W]`."""
        return apply(self.model, params["layout_generator"], layout, method="inpaint")

    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Ratios:
        target = batch["layout"].astype(jnp.int32)
        x = holes(batch, self.labels)
        found = self.inpaint(params, x)
        valid = (batch["mask"] > 0)[:, None, None]
        hole = (x != target) & valid
        ratios: Ratios = {"hole_accuracy": (jnp.sum((found == target) & hole), jnp.sum(hole))}
        for index, name in enumerate(self.labels.classes):
            a, b = (found == index) & valid, (target == index) & valid
            ratios[f"iou/{name}"] = (jnp.sum(a & b), jnp.sum(a | b))
        return ratios

    @cached_property
    def _inpaint(self) -> Any:
        return jax.jit(self.inpaint)

    def preview(self, params: Params, batch: dict[str, Any], key: jax.Array) -> Arrays:
        x = holes(batch, self.labels)
        columns = (batch["layout"], np.asarray(x), np.asarray(self._inpaint(params, x)))
        rows = zip(*(colorize(column[:8], self.labels) for column in columns), strict=True)
        return {"layout": np.concatenate([np.concatenate(row, axis=1) for row in rows])}

    def parts(self, params: Params) -> dict[str, Part]:
        visible = self.data.get("visible_neck", 0.0) > 0
        facts = {"labels": self.labels.name, "size": self.data["size"], "visible_neck": visible}
        return {"layout_generator": Part(self.model, params["layout_generator"], facts)}


def holes(batch: dict[str, Any], labels: LabelSet) -> jax.Array:
    """The generator's input: covered by the partner's head, without the neck (section 3.2).

    Examples with `visible_neck` keep the neck, except in and near the partner's head.
    """
    covered = head_cover(batch["layout"], batch["partner"], labels)
    if "visible_neck" not in batch:
        return remove_neck(covered, labels).astype(jnp.int32)
    near = dilate(group_mask(batch["partner"], labels.head), _NEAR_HEAD) > 0
    visible = (batch["visible_neck"] > 0)[:, None, None] & ~near
    return jnp.where(visible, covered, remove_neck(covered, labels)).astype(jnp.int32)


def soft_jaccard(probs: jax.Array, target: jax.Array) -> jax.Array:
    """One minus IoU of soft layouts (Rahman and Wang 2016), `[B]`, averaged over classes present.

    Args:
      probs: `[B, H, W, C]`.
      target: `[B, H, W, C]`, one-hot.
    """
    both = jnp.sum(probs * target, (1, 2))
    area = jnp.sum(target, (1, 2))
    lost = 1 - both / jnp.maximum(jnp.sum(probs, (1, 2)) + area - both, 1.0)
    return jnp.sum(lost * (area > 0), -1) / jnp.sum(area > 0, -1)
