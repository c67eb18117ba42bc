"""Trains the latent diffusion model: eps, x0 or v by L2 (the paper, equation 4), under head-covers.

Examples are windows of cached latents (`training.tools.latents`): a convolutional UNet trained on
windows also works on whole images of the same scale, and a window costs a quarter of an image
(compare Patch Diffusion, arXiv 2304.12526). If `window` is the latents' side, this is the paper's
training.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax import weights
from hsd_jax.diffusion.conditioning import condition_of, predictor
from hsd_jax.diffusion.fusion import fuse
from hsd_jax.diffusion.schedule import Schedule, alpha_sigma, denoiser, q_sample, target, to_x0_eps
from hsd_jax.diffusion.solvers import fold_keys, normal
from hsd_jax.labels import LabelSet, colorize, get_label_set, one_hot
from hsd_jax.models import apply
from hsd_jax.models.condition import SpatialRescaler
from hsd_jax.models.discriminator import PatchDiscriminator
from hsd_jax.models.unet import UNet
from hsd_jax.swapping.mixing import Regions
from hsd_jax.training import augment
from hsd_jax.training.adversary import Terms, adversarial_terms
from hsd_jax.training.input import Example, LatentSource, latent_statistics
from hsd_jax.training.reconstruction import perceptual_loss
from hsd_jax.training.rng import per_example
from hsd_jax.training.state import Aux, Batch, Params
from hsd_jax.training.tasks import Arrays, Part, Ratios, Task


class Windows(NamedTuple):
    """Windows of a batch, `[B, h, w, ...]`: true latents, condition, and the mask of known ones."""

    z0: jax.Array
    s: jax.Array
    known: jax.Array


class Prediction(NamedTuple):
    """The network's output on noised windows, its target, and the noised windows."""

    output: jax.Array
    wanted: jax.Array
    z_t: jax.Array


class DiffusionTask(Task):
    """`config`: `labels`, `model` (fields of `UNet`), `condition`, `schedule`, `data`, `loss`.

    `loss`: `prediction`, `known_weight` (of the error where the latents are known, against 1 in
    the hole), `known` (see `hsd_jax.diffusion.conditioning`), and `shift` of the uniform t towards
    noise (Esser et al. 2024, equation 23; 1 is the paper's). `adversarial` is the relative gradient
    of a discriminator on one call's prediction (`hsd_jax.training.adversary`; 0, as in the paper,
    disables it). `perceptual` is a file of LPIPS' weights (see `perceptual_loss`): the distance of
    the images that one call's prediction and the true latents decode to, with the decoder of the
    weights `autoencoder`, is added `perceptual_weight` times (compare Consistency Models, Song et
    al., arXiv 2303.01469). `sampling_steps` is the default number of UNet calls of the released
    network.

    `data.cover` is the probability of the head-cover on the condition: 1 in the paper, although its
    test condition is inpainted. `data.remove_neck` also removes necks from the condition (the
    paper's ablation without a layout generator); `data.fit_partner` first moves partners to this
    face's size and place.
    """

    partner = True

    def __init__(self, config: Mapping[str, Any]):
        super().__init__(config)
        self.labels, self.weights = get_label_set(config["labels"]), config["loss"]
        self.stats = latent_statistics(self.data["latents"])
        # numpy: the step is compiled under the transfer guard, so constants must be on the host.
        self.mean, self.std = (
            np.array(self.stats[name], np.float32)[None, None, None] for name in ("mean", "std")
        )
        self.channels = len(self.stats["mean"])
        self.unet = UNet(out_channels=self.channels, **config["model"])
        self.stem = SpatialRescaler(**config["condition"])
        self.critic = None
        if self.weights["adversarial"]:
            self.critic = PatchDiscriminator(**config["discriminator"])
        self.lpips = None
        if file := self.weights.get("perceptual", ""):
            self.lpips = perceptual_loss(file)
            folder = weights.find(self.weights["autoencoder"])
            self.decoder = weights.load_part(folder, "autoencoder")
        self.schedule = Schedule(**config["schedule"])

    def source(self, split: str) -> LatentSource:
        return LatentSource(self.data["latents"], split)

    def transform(self, example: Example, rng: np.random.Generator) -> Arrays:
        layout, partner, labels = example["layout"], example["partner"], self.labels
        if self.data["fit_partner"]:
            partner = augment.fit_partner(partner, layout, labels.face, rng)
        hole = hole_of(layout, partner, labels, rng)
        covered = layout.copy()
        if rng.random() < self.data["cover"]:
            seen = np.isin(partner, labels.head) & ~np.isin(layout, labels.head)
            covered[seen] = labels.background
        if self.data["remove_neck"]:
            covered[np.isin(covered, labels.neck)] = labels.background
        factor = layout.shape[0] // example["latents"].shape[0]
        # A latent is known only if every pixel of its cell is.
        hole = hole.reshape(hole.shape[0] // factor, factor, -1, factor).max((1, 3))
        return {
            "latents": example["latents"].astype(np.float32),
            "layout": covered,
            "known": 1.0 - hole.astype(np.float32)[..., None],
            "corner": corner_of(hole, self.data["window"], rng),
        }

    eval_transform = transform

    def init(self, key: jax.Array) -> Params:
        factor = 2**self.stem.n_stages
        onehot = jnp.zeros((1, 16 * factor, 16 * factor, self.labels.num_classes))
        params = {"condition": self.stem.init(key, onehot)["params"]}
        z, known = jnp.zeros((1, 16, 16, self.channels)), jnp.zeros((1, 16, 16, 1))
        s = self._condition(params, onehot, z, known)
        params["unet"] = self.unet.init(key, z, jnp.zeros((1,), jnp.int32), s)["params"]
        if self.critic is not None:
            side = self.data["window"]
            seen = jnp.zeros((1, side, side, self.channels + s.shape[-1]))
            params["discriminator"] = self.critic.init(jax.random.fold_in(key, 1), seen)["params"]
        return params

    def _condition(
        self, params: Params, onehot: jax.Array, z: jax.Array, known: jax.Array
    ) -> jax.Array:
        seen = (z, known) if self.weights["known"] else (None, None)
        return condition_of(self.stem, params["condition"], onehot, self.labels, *seen)

    def windows(self, params: Params, batch: Batch) -> Windows:
        """The batch's windows, with normalised latents; the condition is of the whole image."""
        z0 = (batch["latents"] - self.mean) / self.std
        onehot = one_hot(batch["layout"].astype(jnp.int32), self.labels)
        s = self._condition(params, onehot, z0, batch["known"])
        side = self.data["window"]

        def window(x: jax.Array, corner: jax.Array) -> jax.Array:
            size = (side, side, x.shape[-1])
            return jax.lax.dynamic_slice(x, (corner[0], corner[1], 0), size)

        return Windows(*(jax.vmap(window)(x, batch["corner"]) for x in (z0, s, batch["known"])))

    def predict(
        self, params: Params, batch: Batch, seen: Windows, keys: jax.Array, t: jax.Array,
        train: bool,
    ) -> Prediction:  # fmt: skip
        """One call of the network at times `t` `[B]`; noise and dropout come from `keys` `[B]`."""
        eps = normal(fold_keys(keys, 0), seen.z0.shape[1:])
        z_t = q_sample(seen.z0, t, eps, self.schedule)
        # The first example's key, which differs between devices of a pmap and parts of a batch.
        rngs = {"dropout": fold_keys(keys, 1)[0]}
        output = apply(self.unet, params["unet"], z_t, t, seen.s, train, rngs=rngs)
        noise = alpha_sigma(self.schedule, t, seen.z0.ndim)
        return Prediction(output, target(self.weights["prediction"], seen.z0, eps, *noise), z_t)

    def random_times(self, key: jax.Array, batch: Batch) -> jax.Array:
        """Times int32 `[B]`: one draw, shifted evenly over the batch for low variance (VDM)."""
        u = (jax.random.uniform(key) + batch["index"] / self.config["batch_size"]) % 1
        shift = self.weights["shift"]
        u = shift * u / (1 + (shift - 1) * u)
        return (u * self.schedule.num_timesteps).astype(jnp.int32)

    def loss(
        self, params: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        t = self.random_times(jax.random.fold_in(key, 1), batch)
        seen = self.windows(params, batch)
        made = self.predict(params, batch, seen, per_example(key, batch), t, train=True)
        error = made.output - made.wanted
        weight = 1 - (1 - self.weights["known_weight"]) * seen.known
        total = jnp.sum(weight)
        weighted = jnp.sum(weight * jnp.mean(error**2, -1, keepdims=True))
        value, metrics = weighted, {"loss": (weighted, total)}
        if self.critic is not None:
            pull = self.weights["adversarial"] * 2 * weight * error / self.channels
            terms = self._judge(self.critic, params, seen, made, t, pull)
            value += terms.generator + terms.discriminator
            metrics |= {
                name: (getattr(terms, name), jnp.sum(1 - seen.known))
                for name in ("discriminator", "real", "fake")
            }
        if self.lpips is not None:
            distance = self._distance(seen, made, t)
            value += self.weights["perceptual_weight"] * total * distance
            metrics |= {"perceptual": (distance * total, total)}
        return value / total, Aux(metrics, weight=total)

    def _latents(self, seen: Windows, output: jax.Array, z_t: jax.Array, t: jax.Array) -> jax.Array:
        """The windows that an output stands for: the known cells as they are."""
        noise = alpha_sigma(self.schedule, t, output.ndim)
        x0, _ = to_x0_eps(self.weights["prediction"], output, z_t, *noise)
        return seen.known * seen.z0 + (1 - seen.known) * x0

    def _distance(self, seen: Windows, made: Prediction, t: jax.Array) -> jax.Array:
        """LPIPS between what the prediction and the true latents decode to, a scalar."""
        assert self.lpips is not None

        def decode(z: jax.Array) -> jax.Array:
            z = z * self.std + self.mean
            return apply(self.decoder.module, self.decoder.params, z, method="decode")

        truth = jax.lax.stop_gradient(decode(seen.z0))
        return jnp.mean(self.lpips(truth, decode(self._latents(seen, made.output, made.z_t, t))))

    def _judge(
        self, critic: PatchDiscriminator, params: Params, seen: Windows, made: Prediction,
        t: jax.Array, pull: jax.Array,
    ) -> Terms:  # fmt: skip
        """The adversarial terms, on the latents that the output predicts."""
        return adversarial_terms(
            critic, params["discriminator"], made.output,
            lambda output: self._latents(seen, output, made.z_t, t), seen.z0, seen.s,
            1 - seen.known, pull,
        )  # fmt: skip

    def sample(
        self, params: Params, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns z0 `[B, h, w, c]`, the known mask `[B, h, w, 1]` and a sample of the windows."""
        z0, s, known = self.windows(params, batch)
        masks = Regions(known, jnp.zeros_like(known), 1 - known)
        net = predictor(self.unet, params["unet"], s)
        denoise = denoiser(net, self.schedule, self.weights["prediction"])
        keys, steps = jax.random.split(key, z0.shape[0]), self.config["sampling_steps"]
        z = jnp.asarray(fuse(denoise, self.schedule, z0, z0, masks, keys, num_steps=steps))
        return z0, known, z

    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Ratios:
        """The loss inside the hole at ten noise levels, and the error of samples."""
        count = batch["latents"].shape[0]
        times = jnp.linspace(50, self.schedule.num_timesteps - 50, count).astype(jnp.int32)
        seen, keys = self.windows(params, batch), per_example(key, batch)
        made = self.predict(params, batch, seen, keys, times, train=False)
        squared = (made.output - made.wanted) ** 2
        z0, known, z = self.sample(params, batch, key)
        hole = (1 - known) * batch["mask"][:, None, None, None]
        squared, distance = jnp.sum(squared * hole), jnp.sum((z - z0) ** 2 * hole)
        count = jnp.sum(hole) * self.channels
        return {"hole_loss": (squared, count), "sample_mse": (distance, count)}

    @cached_property
    def _sample(self) -> Any:
        return jax.jit(self.sample)

    def preview(self, params: Params, batch: dict[str, Any], key: jax.Array) -> Arrays:
        """First three latent channels as colours: truth, known, sample; and the layout."""
        z0, known, z = (np.asarray(x) for x in self._sample(params, batch, key))
        side = batch["layout"].shape[1] // batch["latents"].shape[1] * self.data["window"]
        starts = batch["corner"] * (side // self.data["window"])
        layouts = [
            x[i : i + side, j : j + side] for x, (i, j) in zip(batch["layout"], starts, strict=True)
        ]

        def colours(x: np.ndarray) -> np.ndarray:
            grey = np.clip(x[..., :3] * 48 + 128, 0, 255).astype(np.uint8)
            return grey.repeat(4, axis=1).repeat(4, axis=2)

        layouts = colorize(np.stack(layouts), self.labels)
        columns = (colours(z0), colours(z0 * known), colours(z), layouts)
        rows = [np.concatenate(row, axis=1) for row in zip(*columns, strict=True)]
        return {"diffusion": np.concatenate(rows[:8])}

    def parts(self, params: Params) -> dict[str, Part]:
        facts = {
            "size": self.config["crop_size"],
            "labels": self.labels.name,
            "latent_mean": self.stats["mean"],
            "latent_std": self.stats["std"],
            "schedule": dict(self.config["schedule"]),
            "prediction": self.weights["prediction"],
            "known": self.weights["known"],
            "steps": self.config["sampling_steps"],
        }
        return {
            "unet": Part(self.unet, params["unet"], facts),
            "condition": Part(self.stem, params["condition"], {"labels": self.labels.name}),
        }


def _grow(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilation by a disc of `radius` pixels, erosion by one of `-radius`."""
    if radius == 0:
        return mask
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(radius) + 1,) * 2)
    return (cv2.dilate if radius > 0 else cv2.erode)(mask, kernel)


def hole_of(layout: np.ndarray, partner: np.ndarray, labels: LabelSet, rng: np.random.Generator):
    """What a swap of this head onto the partner's body would generate, uint8 [H, W].

    It is the neck, the partner's head with a margin for stray hair, and a band around this head's
    outline, but not this head itself. Margins are random, at least as wide as a swap's.
    """
    head = np.isin(layout, labels.head).astype(np.uint8)
    old_head = np.isin(partner, labels.head).astype(np.uint8)
    neck = np.isin(layout, labels.neck).astype(np.uint8)
    inner = _grow(head, -int(rng.integers(0, 5)))
    outer = _grow(head, int(rng.integers(0, 9)))
    hole = _grow(old_head, int(rng.integers(0, 13))) | _grow(neck, int(rng.integers(0, 7)))
    return (hole | outer) & (1 - inner)


def corner_of(hole: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Upper left cell of a `size` x `size` window around a random cell of the hole, int32 [2]."""
    rows, columns = np.nonzero(hole)
    at = int(rng.integers(len(rows))) if len(rows) else 0
    center = (rows[at], columns[at]) if len(rows) else (hole.shape[0] // 2, hole.shape[1] // 2)
    starts = [
        int(np.clip(c - rng.integers(size), 0, side - size))
        for c, side in zip(center, hole.shape, strict=True)
    ]
    return np.array(starts, np.int32)
