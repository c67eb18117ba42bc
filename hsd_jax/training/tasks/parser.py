"""Train the parser: cross-entropy, with the classes that automatic labels confuse told apart only
where people drew them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.labels import LABEL_SETS, colorize
from hsd_jax.models import apply
from hsd_jax.models.parser import Parser
from hsd_jax.training import augment
from hsd_jax.training.state import Aux, Batch, Params
from hsd_jax.training.tasks import Example, Part, Ratios, Task


def _transform(example: Example, rng: np.random.Generator, data: Mapping[str, Any]) -> Example:
    image, layout = augment.random_window(
        example["image"], example["layout"], rng, data["size"], tuple(data["scale"]),
        data["rotation"], data["jitter"], mirror=data["mirror"],
    )  # fmt: skip
    if rng.random() < data["backdrop"]:
        image = augment.change_backdrop(image, layout, rng)
    if data["colour"]:
        image = augment.jitter_colour(image, rng, data["colour"])
    image = augment.degrade(image, rng)
    drawn = example["source"] in data["trusted"]
    return {"image": image, "layout": layout, "drawn": np.bool_(drawn)}


def _log_likelihood(
    logits: jax.Array, layout: jax.Array, drawn: jax.Array, merged: tuple[int, ...]
) -> jax.Array:
    """Log-probability of every pixel's label; of any of `merged` where labels are automatic."""
    log_probs = jax.nn.log_softmax(logits)
    of_label = jnp.take_along_axis(log_probs, layout[..., None], axis=-1)[..., 0]
    if not merged:
        return of_label
    of_group = jax.nn.logsumexp(log_probs[..., jnp.array(merged)], axis=-1)
    in_group = jnp.isin(layout, jnp.array(merged)) & ~drawn[:, None, None]
    return jnp.where(in_group, of_group, of_label)


def make(config: Mapping[str, Any]) -> Task:
    """`config`: `labels`, `model` (fields of `Parser`), `data`, `loss` (`class_weights`)."""
    labels = LABEL_SETS[config["labels"]]
    model = Parser(num_classes=labels.num_classes, **config["model"])
    data = config["data"]
    merged = tuple(labels.index(name) for name in data["merged"])
    given = config["loss"]["class_weights"]
    # numpy: the step, compiled under the transfer guard, may not ask a device for a constant.
    weights = np.array([given[name] for name in labels.classes], np.float32)

    def init(key: jax.Array) -> Params:
        side = model.multiple
        return {"parser": model.init(key, jnp.zeros((1, side, side, 3)))["params"]}

    def logits_of(params: Params, batch: Batch) -> jax.Array:
        x = batch["image"].astype(jnp.float32) / 127.5 - 1
        return apply(model, params["parser"], x)

    def loss(params: Params, batch: Batch, key: jax.Array, step: jax.Array):
        layout = batch["layout"].astype(jnp.int32)
        logits = logits_of(params, batch)
        weight = jnp.asarray(weights)[layout]
        nll = -_log_likelihood(logits, layout, batch["drawn"], merged)
        total, wrong = jnp.sum(weight), jnp.sum(weight * nll)
        accuracy = jnp.mean((jnp.argmax(logits, -1) == layout).astype(jnp.float32))
        return wrong / total, Aux({"loss": (wrong, total), "accuracy": accuracy}, weight=total)

    def evaluate(params: Params, batch: Batch, key: jax.Array) -> Ratios:
        layout = batch["layout"].astype(jnp.int32)
        seen = jnp.argmax(logits_of(params, batch), -1)
        ious: Ratios = {}
        trusted = (batch["drawn"] & (batch["mask"] > 0))[:, None, None]
        for index, name in enumerate(labels.classes):
            a, b = (seen == index) & trusted, (layout == index) & trusted
            ious[f"iou/{name}"] = (jnp.sum(a & b), jnp.sum(a | b))
        background = jnp.array(labels.background)
        a, b = ~jnp.isin(seen, background) & trusted, ~jnp.isin(layout, background) & trusted
        return ious | {"iou/person": (jnp.sum(a & b), jnp.sum(a | b))}

    predict = jax.jit(lambda params, batch: jnp.argmax(logits_of(params, batch), -1))

    def preview(params: Params, batch: Batch, key: jax.Array) -> dict[str, np.ndarray]:
        seen = np.asarray(predict(params, batch))
        rows = [
            np.concatenate([image, colorize(layout, labels), colorize(mine, labels)], axis=1)
            for image, layout, mine in zip(batch["image"], batch["layout"], seen, strict=True)
        ]
        return {"parser": np.concatenate(rows[:6])}

    def eval_transform(example: Example, rng: np.random.Generator) -> Example:
        drawn = np.bool_(example["source"] in data["trusted"])
        return {"image": example["image"], "layout": example["layout"], "drawn": drawn}

    return Task(
        init=init,
        loss=loss,
        transform=lambda example, rng: _transform(example, rng, data),
        eval_transform=eval_transform,
        evaluate=evaluate,
        preview=preview,
        parts=lambda params: {"parser": Part(model, params["parser"], {"labels": labels.name})},
    )
