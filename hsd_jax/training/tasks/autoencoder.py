"""Train the first stage: images to latents and back (the paper, section 4.1; CompVis `vq-f4`)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.diffusion.solvers import normal
from hsd_jax.models import apply
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.blocks import average_pool
from hsd_jax.training import augment
from hsd_jax.training.rng import per_example
from hsd_jax.training.state import Aux, Batch, Params
from hsd_jax.training.tasks import Example, Part, Ratios, Task


def detail_loss(x: jax.Array, y: jax.Array, levels: int = 3) -> jax.Array:
    """L1 distance of horizontal and vertical differences over a pyramid of means.

    A stand-in for LPIPS, which needs a pretrained net: it asks for edges of the right sharpness in
    the right place, which the pixels' own L1 pays little for.

    Args:
      x, y: `[B, H, W, C]`, sides multiples of `2 ** (levels - 1)`.
      levels: sizes compared.

    Returns:
      A scalar.
    """
    total = jnp.zeros(())
    difference = x - y  # differences and means are linear: the pyramid of x - y is enough
    for level in range(levels):
        if level:
            difference = average_pool(difference, 2)
        total += jnp.mean(jnp.abs(jnp.diff(difference, axis=1)))
        total += jnp.mean(jnp.abs(jnp.diff(difference, axis=2)))
    return total


def sample_latents(model: Autoencoder, params: Params, x: jax.Array, keys: jax.Array):
    """(latents ready to decode, regulariser): a draw of the posterior, or the nearest codes.

    `keys`: one a picture.
    """
    h = apply(model, params, x, method="encode")
    if model.kind == "vq":
        quantized = apply(model, params, h, method="vector_quantize")
        return quantized.latents, quantized.loss
    mean, logvar = h
    z = mean + jnp.exp(0.5 * logvar) * normal(keys, mean.shape[1:])
    kl = 0.5 * jnp.mean(jnp.sum(mean**2 + jnp.exp(logvar) - 1 - logvar, axis=(1, 2, 3)))
    return z, kl


def _transform(example: Example, rng: np.random.Generator, data: Mapping[str, Any]) -> Example:
    image, layout = augment.random_window(
        example["image"], example["layout"], rng, data["size"], tuple(data["scale"]), 10.0
    )
    if rng.random() < data["backdrop"]:
        image = augment.change_backdrop(image, layout, rng)
    return {"image": augment.jitter_colour(image, rng, strength=0.6)}


def make(config: Mapping[str, Any]) -> Task:
    """`config`: `model` (fields of `Autoencoder`), `data`, `loss` (`detail`, `regulariser`)."""
    model = Autoencoder(**config["model"])
    data, weights = config["data"], config["loss"]

    def init(key: jax.Array) -> Params:
        return {"autoencoder": model.init(key, jnp.zeros((1, 32, 32, 3)))["params"]}

    def pixels(batch: Batch) -> jax.Array:
        return batch["image"].astype(jnp.float32) / 127.5 - 1

    def loss(params: Params, batch: Batch, key: jax.Array, step: jax.Array):
        x = pixels(batch)
        z, regulariser = sample_latents(model, params["autoencoder"], x, per_example(key, batch))
        y = apply(model, params["autoencoder"], z, True, method="decode")
        l1, detail = jnp.mean(jnp.abs(x - y)), detail_loss(x, y)
        value = l1 + weights["detail"] * detail + weights["regulariser"] * regulariser
        metrics = {"loss": value, "l1": l1, "detail": detail, "regulariser": regulariser}
        return value, Aux(metrics)

    def reconstruct(params: Params, batch: Batch) -> jax.Array:
        return jnp.clip(apply(model, params["autoencoder"], pixels(batch)), -1, 1)

    def evaluate(params: Params, batch: Batch, key: jax.Array) -> Ratios:
        mse = jnp.mean((reconstruct(params, batch) - pixels(batch)) ** 2, axis=(1, 2, 3))
        psnr = 10 * jnp.log10(4 / mse)
        return {"psnr": (jnp.sum(psnr * batch["mask"]), jnp.sum(batch["mask"]))}

    def preview(params: Params, batch: Batch, key: jax.Array) -> dict[str, np.ndarray]:
        batch = {"image": batch["image"][:6]}
        y = np.asarray((jax.jit(reconstruct)(params, batch) + 1) * 127.5).astype(np.uint8)
        pairs = [np.concatenate([a, b], axis=1) for a, b in zip(batch["image"], y, strict=True)]
        return {"reconstruction": np.concatenate(pairs)}

    return Task(
        init=init,
        loss=loss,
        transform=lambda example, rng: _transform(example, rng, data),
        eval_transform=lambda example, rng: {"image": example["image"]},
        evaluate=evaluate,
        preview=preview,
        parts=lambda params: {"autoencoder": Part(model, params["autoencoder"], {})},
    )
