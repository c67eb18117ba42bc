"""Train the layout generator (the paper, section 3.3): holes in, the whole layout out."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.labels import LABEL_SETS, LabelSet, colorize, one_hot
from hsd_jax.models import apply
from hsd_jax.models.discriminator import PatchDiscriminator, lsgan_d, lsgan_g
from hsd_jax.models.layout_generator import LayoutGenerator, gumbel_softmax, log_probs
from hsd_jax.models.norm import merge_stats
from hsd_jax.swapping.mixing import head_cover, remove_neck
from hsd_jax.training import augment
from hsd_jax.training.rng import per_example
from hsd_jax.training.state import Aux, Batch, Params
from hsd_jax.training.tasks import Example, Part, Ratios, Task


def _partner(
    example: Example, rng: np.random.Generator, data: Mapping[str, Any], labels: LabelSet
) -> np.ndarray:
    if not data["fit_partner"]:
        return example["partner"]
    return augment.fit_partner(example["partner"], example["layout"], labels.face, rng)


def _transform(
    example: Example, rng: np.random.Generator, data: Mapping[str, Any], labels: LabelSet
) -> Example:
    partner = _partner(example, rng, data, labels)
    # Both layouts ride through one window: the partner as the "picture".
    partner, layout = augment.random_window(
        partner, example["layout"], rng, data["size"], tuple(data["scale"]), data["rotation"],
        data["jitter"], nearest=True, mirror=data["mirror"],
    )  # fmt: skip
    return {"layout": layout, "partner": partner}


def holes(batch: Batch, labels: LabelSet) -> jax.Array:
    """The generator's input: head-covered by the partner, neck removed (section 3.2)."""
    covered = head_cover(batch["layout"], batch["partner"], labels)
    return remove_neck(covered, labels).astype(jnp.int32)


def soft_jaccard(probs: jax.Array, target: jax.Array) -> jax.Array:
    """One minus IoU of soft layouts (Rahman and Wang 2016), `[B]`: mean over the classes shown.

    Args:
      probs: `[B, H, W, C]`.
      target: `[B, H, W, C]`, one-hot.
    """
    inside = jnp.sum(probs * target, (1, 2))
    area = jnp.sum(target, (1, 2))
    lost = 1 - inside / jnp.maximum(jnp.sum(probs, (1, 2)) + area - inside, 1.0)
    return jnp.sum(lost * (area > 0), -1) / jnp.sum(area > 0, -1)


def make(config: Mapping[str, Any]) -> Task:
    """`config`: `labels`, `model` (fields of `LayoutGenerator`), `discriminator`, `data`, `loss`.

    `loss`: `adversarial` is the paper's lambda_2 (0.2; 0 trains no discriminator), `logits` weighs
    a second cross-entropy, on the prediction before the focus map. The paper has none; without it a
    hole that the focus map leaves alone has log(0) for a loss and no gradient.
    """
    labels = LABEL_SETS[config["labels"]]
    model = LayoutGenerator(num_classes=labels.num_classes, **config["model"])
    critic = PatchDiscriminator(**config["discriminator"])
    data, weights = config["data"], config["loss"]
    adversarial = weights["adversarial"] > 0

    def init(key: jax.Array) -> Params:
        x = jnp.zeros((1, 64, 64, labels.num_classes))
        params = {"layout_generator": model.init(key, x)["params"]}
        if adversarial:
            params["discriminator"] = critic.init(jax.random.fold_in(key, 1), x)["params"]
        return params

    def loss(params: Params, batch: Batch, key: jax.Array, step: jax.Array):
        target = batch["layout"].astype(jnp.int32)
        x = one_hot(holes(batch, labels), labels)
        out, changes = apply(
            model, params["layout_generator"], x, train=True, mutable=["stats"]
        )

        def cross_entropy(log_p: jax.Array) -> jax.Array:
            return -jnp.mean(jnp.take_along_axis(log_p, target[..., None], axis=-1))

        ce = cross_entropy(log_probs(out.probs))
        ce_logits = cross_entropy(jax.nn.log_softmax(out.logits))
        value = ce + weights["logits"] * ce_logits
        metrics = {"ce": ce, "ce_logits": ce_logits, "focus": jnp.mean(out.focus)}
        if weights["overlap"] > 0:
            overlap = jnp.mean(soft_jaccard(out.probs, one_hot(target, labels)))
            value += weights["overlap"] * overlap
            metrics["overlap"] = overlap
        if adversarial:
            fake = jax.vmap(gumbel_softmax)(log_probs(out.probs), per_example(key, batch))
            real = one_hot(target, labels)
            frozen = jax.lax.stop_gradient(params["discriminator"])

            def judge(critic_params: Params, layout: jax.Array) -> jax.Array:
                return apply(critic, critic_params, layout, train=True)

            g = lsgan_g(judge(frozen, fake))
            d = lsgan_d(
                judge(params["discriminator"], real),
                judge(params["discriminator"], jax.lax.stop_gradient(fake)),
            )
            # One gradient serves both: each term moves only its own net's parameters.
            value += weights["adversarial"] * g + d
            metrics |= {"g": g, "d": d}
        stats = changes.get("stats", {})
        overwrite = None
        if stats:
            nothing = jax.tree.map(lambda _: None, params)
            overwrite = nothing | {
                "layout_generator": merge_stats(nothing["layout_generator"], stats)
            }
        return value, Aux(metrics | {"loss": value}, overwrite)

    def inpaint(params: Params, layout: jax.Array) -> jax.Array:
        return apply(model, params["layout_generator"], layout, method="inpaint")

    def evaluate(params: Params, batch: Batch, key: jax.Array) -> Ratios:
        target = batch["layout"].astype(jnp.int32)
        x = holes(batch, labels)
        got = inpaint(params, x)
        valid = (batch["mask"] > 0)[:, None, None]
        hole = (x != target) & valid
        ious: Ratios = {"hole_accuracy": (jnp.sum((got == target) & hole), jnp.sum(hole))}
        for index, name in enumerate(labels.classes):
            a, b = (got == index) & valid, (target == index) & valid
            ious[f"iou/{name}"] = (jnp.sum(a & b), jnp.sum(a | b))
        return ious

    run = jax.jit(inpaint)

    def preview(params: Params, batch: Batch, key: jax.Array) -> dict[str, np.ndarray]:
        x = holes(batch, labels)
        columns = (batch["layout"], np.asarray(x), np.asarray(run(params, x)))
        rows = zip(*(colorize(column[:8], labels) for column in columns), strict=True)
        return {"layout": np.concatenate([np.concatenate(row, axis=1) for row in rows])}

    def eval_transform(example: Example, rng: np.random.Generator) -> Example:
        partner = _partner(example, rng, data, labels)
        factor = example["layout"].shape[0] // data["size"]
        coarse = (slice(factor // 2, None, factor),) * 2
        return {"layout": example["layout"][coarse], "partner": partner[coarse]}

    return Task(
        init=init,
        loss=loss,
        transform=lambda example, rng: _transform(example, rng, data, labels),
        eval_transform=eval_transform,
        evaluate=evaluate,
        preview=preview,
        parts=lambda params: {
            "layout_generator": Part(
                model, params["layout_generator"], {"labels": labels.name, "size": data["size"]}
            )
        },
        partner=True,
    )
