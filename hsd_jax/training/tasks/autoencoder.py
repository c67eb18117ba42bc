"""Trains the first stage: images to latents and back (the paper, section 4.1; CompVis `vq-f4`)."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.diffusion.solvers import normal
from hsd_jax.models import apply
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.discriminator import PatchDiscriminator, hinge_d, hinge_g
from hsd_jax.training import augment
from hsd_jax.training.input import Example
from hsd_jax.training.reconstruction import (
    against_critic,
    detail_loss,
    perceptual_loss,
    sharpness,
    with_leaf,
)
from hsd_jax.training.rng import per_example
from hsd_jax.training.state import Aux, Batch, Metrics, Params
from hsd_jax.training.tasks import Arrays, Part, Ratios, Task

_LAST_KERNEL = ("decoder", "conv_out", "kernel")
# A config without these trains against no discriminator and without LPIPS.
_PLAIN = {"perceptual": "", "disc_weight": 0.0}


class AutoencoderTask(Task):
    """`config`: `model` (fields of `Autoencoder`), `discriminator`, `data`, `loss`.

    `loss`, after CompVis' `VQLPIPSWithDiscriminator` and, for kl, `LPIPSWithDiscriminator`:
      perceptual: file of LPIPS' weights (and `backbone`, see `perceptual_loss`), weighted by
        `perceptual_weight`. "": the stand-in `detail_loss`, weighted by `detail`, takes its place.
      regulariser: weight of the codebook loss (CompVis' codebook_weight, 1), or of the KL summed
        over an image's latents. CompVis sums the pixels' errors where we take means: its kl_weight
        is ours times the image's numbers, 3 * H * W; its logvar is never trained, and 0.
      disc_weight, disc_factor, disc_start: CompVis' (0.75, 1 and 0 for `vq-f4`); a disc_weight of 0
        trains no discriminator.

    Autoencoder and discriminator are updated together, from one forward pass; CompVis updates the
    discriminator on reconstructions of the updated autoencoder.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__(config)
        self.model, self.weights = Autoencoder(**config["model"]), _PLAIN | config["loss"]
        self.critic = self.lpips = None
        if self.weights["disc_weight"] > 0:
            self.critic = PatchDiscriminator(**config["discriminator"])
        if file := self.weights["perceptual"]:
            self.lpips = perceptual_loss(file, self.weights["backbone"], self.model.dtype)
        elif "perceptual" in config["loss"]:
            self.note = "no file loss.perceptual: edges (loss.detail) stand in for LPIPS"

    def transform(self, example: Example, rng: np.random.Generator) -> Arrays:
        image, layout = augment.random_window(
            example["image"], example["layout"], rng, **augment.window_options(self.data)
        )
        return {"image": augment.recolour(image, layout, rng, self.data)}

    def eval_transform(self, example: Example, rng: np.random.Generator) -> Arrays:
        return {"image": example["image"]}

    def init(self, key: jax.Array) -> Params:
        x = jnp.zeros((1, 32, 32, 3))
        params = {"autoencoder": self.model.init(key, x)["params"]}
        if self.critic is not None:
            params["discriminator"] = self.critic.init(jax.random.fold_in(key, 1), x)["params"]
        return params

    def loss(
        self, params: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        x, keys = _pixels(batch), per_example(key, batch)
        z, regulariser = sample_latents(self.model, params["autoencoder"], x, keys)
        y = apply(self.model, params["autoencoder"], z, True, method="decode")
        value, metrics = self._compare(x, y)
        if self.critic is not None:
            value, judged = self._judge(self.critic, params, x, y, z, step)
            metrics |= judged
        value += self.weights["regulariser"] * regulariser
        return value, Aux({"loss": value} | metrics | {"regulariser": regulariser})

    def _compare(self, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Metrics]:
        """Reconstruction error, and its parts."""
        l1 = jnp.mean(jnp.abs(x - y))
        if self.lpips is None:
            detail = detail_loss(x, y)
            return l1 + self.weights["detail"] * detail, {"l1": l1, "detail": detail}
        distance = jnp.mean(self.lpips(x, y))
        value = l1 + self.weights["perceptual_weight"] * distance
        return value, {"l1": l1, "perceptual": distance}

    def _judge(
        self, critic: PatchDiscriminator, params: Params, x: jax.Array, y: jax.Array, z: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Metrics]:  # fmt: skip
        """The reconstruction error and both adversarial losses; each trains its own network."""
        net, z = jax.lax.stop_gradient((params["autoencoder"], z))
        frozen, fake = jax.lax.stop_gradient((params["discriminator"], y))
        last = net[_LAST_KERNEL[0]][_LAST_KERNEL[1]][_LAST_KERNEL[2]]

        def logits(critic_params: Params, image: jax.Array) -> jax.Array:
            return apply(critic, critic_params, image, train=True)

        def decode(kernel: jax.Array) -> jax.Array:
            changed = with_leaf(net, _LAST_KERNEL, kernel)
            return apply(self.model, changed, z, True, method="decode")

        started = step >= self.weights["disc_start"]
        factor = jnp.where(started, self.weights["disc_factor"], 0.0)
        net_side = against_critic(
            lambda image: self._compare(x, image)[0],
            lambda image: hinge_g(logits(frozen, image)),
            decode, last, y, self.weights["disc_weight"] * factor,
        )  # fmt: skip
        d = hinge_d(*(logits(params["discriminator"], image) for image in (x, fake)))
        metrics = {"g": net_side.generator, "d": d, "adaptive": net_side.weight}
        return net_side.value + factor * d, metrics

    def reconstruct(self, params: Params, batch: Batch) -> jax.Array:
        """The batch's images through the network, in [-1, 1]."""
        return jnp.clip(apply(self.model, params["autoencoder"], _pixels(batch)), -1, 1)

    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Ratios:
        x, y, count = _pixels(batch), self.reconstruct(params, batch), jnp.sum(batch["mask"])
        psnr = 10 * jnp.log10(4 / jnp.mean((y - x) ** 2, axis=(1, 2, 3)))
        sharp = sharpness(x, y)
        ratios = {
            "psnr": (jnp.sum(psnr * batch["mask"]), count),
            "sharpness": (jnp.sum(sharp * batch["mask"]), count),
        }
        if self.lpips is not None:
            ratios["lpips"] = (jnp.sum(self.lpips(x, y) * batch["mask"]), count)
        return ratios

    @cached_property
    def _reconstruct(self) -> Any:
        return jax.jit(self.reconstruct)

    def preview(self, params: Params, batch: dict[str, Any], key: jax.Array) -> Arrays:
        batch = {"image": batch["image"][:6]}
        y = np.asarray((self._reconstruct(params, batch) + 1) * 127.5).astype(np.uint8)
        pairs = [np.concatenate([a, b], axis=1) for a, b in zip(batch["image"], y, strict=True)]
        return {"reconstruction": np.concatenate(pairs)}

    def parts(self, params: Params) -> dict[str, Part]:
        return {"autoencoder": Part(self.model, params["autoencoder"], {})}


def _pixels(batch: Batch) -> jax.Array:
    return batch["image"].astype(jnp.float32) / 127.5 - 1


def sample_latents(model: Autoencoder, params: Params, x: jax.Array, keys: jax.Array):
    """(latents ready to decode, regulariser): a draw of the posterior, or the nearest codes.

    Args:
      model: with its `params`.
      x: images `[B, H, W, 3]` in [-1, 1].
      keys: `[B]`, one an image.
    """
    h = apply(model, params, x, method="encode")
    if model.kind == "vq":
        quantized = apply(model, params, h, method="vector_quantize")
        return quantized.latents, quantized.loss
    mean, logvar = h
    z = mean + jnp.exp(0.5 * logvar) * normal(keys, mean.shape[1:])
    kl = 0.5 * jnp.mean(jnp.sum(mean**2 + jnp.exp(logvar) - 1 - logvar, axis=(1, 2, 3)))
    return z, kl
