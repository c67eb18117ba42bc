"""Train the latent diffusion model: eps, x0 or v by L2 (the paper, equation 4), under head-covers.

Examples are windows of cached latents (`training.tools.latents`): a convolutional UNet that has
learnt windows at one scale runs on whole pictures of that scale, at a quarter of the cost a picture
(compare Patch Diffusion, arXiv 2304.12526). `window` = the latents' side is the paper's training.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.diffusion.conditioning import condition_of, predictor
from hsd_jax.diffusion.fusion import fuse
from hsd_jax.diffusion.schedule import Schedule, alpha_sigma, denoiser, q_sample, target, to_x0_eps
from hsd_jax.diffusion.solvers import fold_keys, normal
from hsd_jax.labels import LABEL_SETS, LabelSet, colorize, one_hot
from hsd_jax.models import apply
from hsd_jax.models.condition import SpatialRescaler
from hsd_jax.models.discriminator import PatchDiscriminator
from hsd_jax.models.unet import UNet
from hsd_jax.swapping.mixing import Regions
from hsd_jax.training import augment
from hsd_jax.training.adversary import adversarial_terms
from hsd_jax.training.rng import per_example
from hsd_jax.training.state import Aux, Batch, Params
from hsd_jax.training.tasks import Example, Part, Ratios, Task
from hsd_jax.training.tools.latents import LatentSource


class Seen(NamedTuple):
    """Windows `[B, h, w, ...]`: the truth, its noised form, the condition and the known mask."""

    z0: jax.Array
    z_t: jax.Array
    s: jax.Array
    known: jax.Array


def _grow(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilation by a disc of `radius` pixels, erosion by one of `-radius`."""
    if radius == 0:
        return mask
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(radius) + 1,) * 2)
    return (cv2.dilate if radius > 0 else cv2.erode)(mask, kernel)


def hole_of(layout: np.ndarray, partner: np.ndarray, labels: LabelSet, rng: np.random.Generator):
    """What a swap of this head onto the partner's old place would have to paint, uint8 [H, W].

    The neck, the partner's head with a margin for stray hair, and a band around the own head's
    outline, but not the own head itself; margins as wide as a swap's or wider, at random.
    """
    head = np.isin(layout, labels.head).astype(np.uint8)
    old_head = np.isin(partner, labels.head).astype(np.uint8)
    neck = np.isin(layout, labels.neck).astype(np.uint8)
    inner = _grow(head, -int(rng.integers(0, 5)))
    outer = _grow(head, int(rng.integers(0, 9)))
    hole = _grow(old_head, int(rng.integers(0, 13))) | _grow(neck, int(rng.integers(0, 7)))
    return (hole | outer) & (1 - inner)


def _transform(
    example: Example, rng: np.random.Generator, data: Mapping[str, Any], labels: LabelSet
) -> Example:
    layout, partner = example["layout"], example["partner"]
    if data["fit_partner"]:
        partner = augment.fit_partner(partner, layout, labels.face, rng)
    hole = hole_of(layout, partner, labels, rng)
    covered = layout.copy()
    if rng.random() < data["cover"]:
        seen = np.isin(partner, labels.head) & ~np.isin(layout, labels.head)
        covered[seen] = labels.background
    if data["remove_neck"]:
        covered[np.isin(covered, labels.neck)] = labels.background
    factor = layout.shape[0] // example["latents"].shape[0]
    # A latent is known only where every pixel of its cell is.
    hole = hole.reshape(hole.shape[0] // factor, factor, -1, factor).max((1, 3))
    return {
        "latents": example["latents"].astype(np.float32),
        "layout": covered,
        "known": 1.0 - hole.astype(np.float32)[..., None],
        "corner": _corner(hole, data["window"], rng),
    }


def _corner(hole: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Upper left cell of a `size` x `size` window around a random cell of the hole, int32 [2]."""
    rows, columns = np.nonzero(hole)
    at = int(rng.integers(len(rows))) if len(rows) else 0
    center = (rows[at], columns[at]) if len(rows) else (hole.shape[0] // 2, hole.shape[1] // 2)
    starts = [
        int(np.clip(c - rng.integers(size), 0, side - size))
        for c, side in zip(center, hole.shape, strict=True)
    ]
    return np.array(starts, np.int32)


def make(config: Mapping[str, Any]) -> Task:
    """`config`: `labels`, `model` (fields of `UNet`), `condition`, `schedule`, `data`, `loss`.

    `loss`: `prediction`, `known_weight` (of the error where the latents are known, against 1 in
    the hole), `known` (see `hsd_jax.diffusion.conditioning`), and `shift` of the uniform t towards
    noise (Esser et al. 2024, equation 23; 1 is the paper's). `sampling_steps`: how many calls
    of the UNet suit the trained net, released with it. `adversarial` is the share of the
    gradient that a discriminator on one call's prediction has (`hsd_jax.training.adversary`; 0, the
    paper's, trains none). `data.cover` is the probability
    of the head-cover on the condition: 1 in the paper, whose test condition is inpainted all the
    same; ours sees both kinds. `data.remove_neck` takes necks from the condition too (the paper's
    ablation without a layout generator); `data.fit_partner` brings partners to this face's size and
    place first.
    """
    labels = LABEL_SETS[config["labels"]]
    data, weights = config["data"], config["loss"]
    stats = json.loads((Path(data["latents"]) / "stats.json").read_text())
    # numpy: the step, compiled under the transfer guard, may not ask a device for a constant.
    mean, std = (np.array(stats[name], np.float32)[None, None, None] for name in ("mean", "std"))
    channels = len(stats["mean"])
    unet = UNet(out_channels=channels, **config["model"])
    stem = SpatialRescaler(**config["condition"])
    critic = PatchDiscriminator(**config["discriminator"]) if weights["adversarial"] else None
    schedule = Schedule(**config["schedule"])
    kind, use_known, shift = weights["prediction"], weights["known"], weights["shift"]

    def examples(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Windows of z0, condition and known mask; the condition has seen the whole picture."""
        z0 = (batch["latents"] - mean) / std
        onehot = one_hot(batch["layout"].astype(jnp.int32), labels)
        known = (z0, batch["known"]) if use_known else (None, None)
        s = condition_of(stem, params["condition"], onehot, labels, *known)

        def window(x: jax.Array, corner: jax.Array) -> jax.Array:
            size = (data["window"], data["window"], x.shape[-1])
            return jax.lax.dynamic_slice(x, (corner[0], corner[1], 0), size)

        corner = batch["corner"]
        z0, s, known = (jax.vmap(window)(x, corner) for x in (z0, s, batch["known"]))
        return z0, s, known

    def init(key: jax.Array) -> Params:
        factor = 2**stem.n_stages
        onehot = jnp.zeros((1, 16 * factor, 16 * factor, labels.num_classes))
        params = {"condition": stem.init(key, onehot)["params"]}
        z, known = jnp.zeros((1, 16, 16, channels)), jnp.zeros((1, 16, 16, 1))
        known_parts = (z, known) if use_known else (None, None)
        s = condition_of(stem, params["condition"], onehot, labels, *known_parts)
        params["unet"] = unet.init(key, z, jnp.zeros((1,), jnp.int32), s)["params"]
        if critic is not None:
            seen = jnp.zeros((1, data["window"], data["window"], channels + s.shape[-1]))
            params["discriminator"] = critic.init(jax.random.fold_in(key, 1), seen)["params"]
        return params

    def predict(params: Params, batch: Batch, key: jax.Array, t: jax.Array, train: bool):
        """The net's output on the batch's windows, what it should be, and what it was made from."""
        z0, s, known = examples(params, batch)
        keys = per_example(key, batch)
        eps = normal(fold_keys(keys, 0), z0.shape[1:])
        z_t = q_sample(z0, t, eps, schedule)
        # The first example's key: another one on each device of a pmap and in each part of a batch.
        rngs = {"dropout": fold_keys(keys, 1)[0]}
        output = apply(unet, params["unet"], z_t, t, s, train, rngs=rngs)
        wanted = target(kind, z0, eps, *alpha_sigma(schedule, t, z0.ndim))
        return output, wanted, Seen(z0, z_t, s, known)

    def random_times(key: jax.Array, batch: Batch) -> jax.Array:
        # One draw shifted evenly over the whole batch (VDM): the loss of a batch varies less.
        u = (jax.random.uniform(key) + batch["index"] / config["batch_size"]) % 1
        u = shift * u / (1 + (shift - 1) * u)
        return (u * schedule.num_timesteps).astype(jnp.int32)

    def loss(params: Params, batch: Batch, key: jax.Array, step: jax.Array):
        t = random_times(jax.random.fold_in(key, 1), batch)
        output, wanted, seen = predict(params, batch, key, t, train=True)
        weight = 1 - (1 - weights["known_weight"]) * seen.known
        total = jnp.sum(weight)
        weighted = jnp.sum(weight * jnp.mean((output - wanted) ** 2, -1, keepdims=True))
        value, metrics = weighted, {"loss": (weighted, total)}
        if critic is not None:

            def picture_of(output: jax.Array) -> jax.Array:
                x0, _ = to_x0_eps(kind, output, seen.z_t, *alpha_sigma(schedule, t, output.ndim))
                return seen.known * seen.z0 + (1 - seen.known) * x0

            hole = 1 - seen.known
            terms = adversarial_terms(
                critic, params["discriminator"], output, picture_of, seen.z0, seen.s, hole,
                pull=weights["adversarial"] * 2 * weight * (output - wanted) / channels,
            )
            value += terms.generator + terms.discriminator
            metrics |= {
                name: (getattr(terms, name), jnp.sum(hole))
                for name in ("discriminator", "real", "fake")
            }
        return value / total, Aux(metrics, weight=total)

    def sample(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, ...]:
        """z0, known mask and sample of the batch's windows."""
        z0, s, known = examples(params, batch)
        masks = Regions(known, jnp.zeros_like(known), 1 - known)
        denoise = denoiser(predictor(unet, params["unet"], s), schedule, kind)
        keys = jax.random.split(key, z0.shape[0])
        steps = config["sampling_steps"]
        z = jnp.asarray(fuse(denoise, schedule, z0, z0, masks, keys, num_steps=steps))
        return z0, known, z

    def evaluate(params: Params, batch: Batch, key: jax.Array) -> Ratios:
        """The loss inside the hole at ten noise levels, and the error of its samples."""
        count = batch["latents"].shape[0]
        times = jnp.linspace(50, schedule.num_timesteps - 50, count).astype(jnp.int32)
        output, wanted, _ = predict(params, batch, key, times, train=False)
        squared = (output - wanted) ** 2
        z0, known, z = sample(params, batch, key)
        hole = (1 - known) * batch["mask"][:, None, None, None]
        squared, distance = jnp.sum(squared * hole), jnp.sum((z - z0) ** 2 * hole)
        count = jnp.sum(hole) * channels
        return {"hole_loss": (squared, count), "sample_mse": (distance, count)}

    draw = jax.jit(sample)

    def preview(params: Params, batch: Batch, key: jax.Array) -> dict[str, np.ndarray]:
        """First three latent channels as colours: truth, known, sample; and the layout."""
        z0, known, z = (np.asarray(x) for x in draw(params, batch, key))
        side = batch["layout"].shape[1] // batch["latents"].shape[1] * data["window"]
        starts = batch["corner"] * (side // data["window"])
        layouts = [
            x[i : i + side, j : j + side] for x, (i, j) in zip(batch["layout"], starts, strict=True)
        ]

        def colours(x: np.ndarray) -> np.ndarray:
            grey = np.clip(x[..., :3] * 48 + 128, 0, 255).astype(np.uint8)
            return grey.repeat(4, axis=1).repeat(4, axis=2)

        columns = (
            colours(z0), colours(z0 * known), colours(z), colorize(np.stack(layouts), labels)
        )
        rows = [np.concatenate(row, axis=1) for row in zip(*columns, strict=True)]
        return {"diffusion": np.concatenate(rows[:8])}

    facts = {
        "labels": labels.name, "latent_mean": stats["mean"], "latent_std": stats["std"],
        "schedule": dict(config["schedule"]), "prediction": kind, "known": use_known,
        "steps": config["sampling_steps"],
    }
    return Task(
        init=init,
        loss=loss,
        transform=lambda example, rng: _transform(example, rng, data, labels),
        eval_transform=lambda example, rng: _transform(example, rng, data, labels),
        evaluate=evaluate,
        preview=preview,
        parts=lambda params: {
            "unet": Part(unet, params["unet"], facts),
            "condition": Part(stem, params["condition"], {}),
        },
        partner=True,
        source=lambda folder, split: LatentSource(data["latents"], split),
    )
