"""Train the first stage: images to latents and back (the paper, section 4.1; CompVis `vq-f4`)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.diffusion.solvers import normal
from hsd_jax.models import apply
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.discriminator import PatchDiscriminator, hinge_d, hinge_g
from hsd_jax.training import augment
from hsd_jax.training.reconstruction import (
    against_critic,
    detail_loss,
    perceptual_loss,
    with_leaf,
)
from hsd_jax.training.rng import per_example
from hsd_jax.training.state import Aux, Batch, Params
from hsd_jax.training.tasks import Example, Part, Ratios, Task

_LAST_KERNEL = ("decoder", "conv_out", "kernel")
# A config without these trains against no discriminator and without LPIPS.
_PLAIN = {"perceptual": "", "disc_weight": 0.0}


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
        example["image"], example["layout"], rng, data["size"], tuple(data["scale"]),
        data["rotation"], data["jitter"], mirror=data["mirror"],
    )  # fmt: skip
    if rng.random() < data["backdrop"]:
        image = augment.change_backdrop(image, layout, rng)
    if data["colour"]:
        image = augment.jitter_colour(image, rng, data["colour"])
    return {"image": image}


def make(config: Mapping[str, Any]) -> Task:
    """`config`: `model` (fields of `Autoencoder`), `discriminator`, `data`, `loss`.

    `loss`, after CompVis' `VQLPIPSWithDiscriminator` and, for kl, `LPIPSWithDiscriminator`:
      perceptual: file of LPIPS' weights (and `backbone`, see `perceptual_loss`), weighted by
        `perceptual_weight`. "": the stand-in `detail_loss`, weighted by `detail`, takes its place.
      regulariser: weight of the codebook loss (CompVis' codebook_weight, 1), or of the KL summed
        over a picture's latents. CompVis sums the pixels' errors where we take means: its kl_weight
        is ours times the picture's numbers, 3 * H * W; its logvar is never trained, and 0.
      disc_weight, disc_factor, disc_start: CompVis' (0.75, 1 and 0 for `vq-f4`); a disc_weight of 0
        trains no discriminator.

    Net and discriminator take their steps at once, from one forward pass; CompVis' discriminator
    sees the reconstructions of the net that has moved.
    """
    model = Autoencoder(**config["model"])
    data, weights = config["data"], _PLAIN | config["loss"]
    adversarial = weights["disc_weight"] > 0
    critic = PatchDiscriminator(**config["discriminator"]) if adversarial else None
    lpips, note = None, ""
    if weights["perceptual"]:
        lpips = perceptual_loss(weights["perceptual"], weights["backbone"], model.dtype)
    elif "perceptual" in config["loss"]:
        note = "no file loss.perceptual: edges (loss.detail) stand in for LPIPS"

    def init(key: jax.Array) -> Params:
        x = jnp.zeros((1, 32, 32, 3))
        params = {"autoencoder": model.init(key, x)["params"]}
        if critic is not None:
            params["discriminator"] = critic.init(jax.random.fold_in(key, 1), x)["params"]
        return params

    def pixels(batch: Batch) -> jax.Array:
        return batch["image"].astype(jnp.float32) / 127.5 - 1

    def compare(x: jax.Array, y: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Reconstruction error, and its parts."""
        l1 = jnp.mean(jnp.abs(x - y))
        if lpips is None:
            detail = detail_loss(x, y)
            return l1 + weights["detail"] * detail, {"l1": l1, "detail": detail}
        distance = jnp.mean(lpips(x, y))
        value = l1 + weights["perceptual_weight"] * distance
        return value, {"l1": l1, "perceptual": distance}

    def loss(params: Params, batch: Batch, key: jax.Array, step: jax.Array):
        x = pixels(batch)
        z, regulariser = sample_latents(model, params["autoencoder"], x, per_example(key, batch))
        y = apply(model, params["autoencoder"], z, True, method="decode")
        value, metrics = compare(x, y)
        if critic is not None:
            value, judged = judge(critic, params, x, y, z, step)
            metrics |= judged
        value += weights["regulariser"] * regulariser
        return value, Aux({"loss": value} | metrics | {"regulariser": regulariser})

    def judge(
        critic: PatchDiscriminator, params: Params, x: jax.Array, y: jax.Array, z: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:  # fmt: skip
        """Reconstruction error, generator's and discriminator's losses; each moves its own net."""
        net, z = jax.lax.stop_gradient((params["autoencoder"], z))
        frozen, fake = jax.lax.stop_gradient((params["discriminator"], y))
        last = net[_LAST_KERNEL[0]][_LAST_KERNEL[1]][_LAST_KERNEL[2]]

        def logits(critic_params: Params, image: jax.Array) -> jax.Array:
            return apply(critic, critic_params, image, train=True)

        def decode(kernel: jax.Array) -> jax.Array:
            return apply(model, with_leaf(net, _LAST_KERNEL, kernel), z, True, method="decode")

        factor = jnp.where(step >= weights["disc_start"], weights["disc_factor"], 0.0)
        net_side = against_critic(
            lambda image: compare(x, image)[0],
            lambda image: hinge_g(logits(frozen, image)),
            decode, last, y, weights["disc_weight"] * factor,
        )  # fmt: skip
        d = hinge_d(*(logits(params["discriminator"], image) for image in (x, fake)))
        metrics = {"g": net_side.generator, "d": d, "adaptive": net_side.weight}
        return net_side.value + factor * d, metrics

    def reconstruct(params: Params, batch: Batch) -> jax.Array:
        return jnp.clip(apply(model, params["autoencoder"], pixels(batch)), -1, 1)

    def evaluate(params: Params, batch: Batch, key: jax.Array) -> Ratios:
        x, y, count = pixels(batch), reconstruct(params, batch), jnp.sum(batch["mask"])
        psnr = 10 * jnp.log10(4 / jnp.mean((y - x) ** 2, axis=(1, 2, 3)))
        figures = {"psnr": (jnp.sum(psnr * batch["mask"]), count)}
        if lpips is not None:
            figures["lpips"] = (jnp.sum(lpips(x, y) * batch["mask"]), count)
        return figures

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
        note=note,
    )
