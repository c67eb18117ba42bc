"""The networks of a swap as pure functions on batches: align, plan, encode, sample, decode."""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, UInt8

from hsd_jax.diffusion.conditioning import condition_of, predictor
from hsd_jax.diffusion.fusion import Progress, fuse, fuse_step
from hsd_jax.diffusion.schedule import denoiser
from hsd_jax.models import apply
from hsd_jax.swapping.mixing import (
    Region,
    extended_neck_shift,
    neck_shift,
    shift_columns,
    turned_neck_shift,
)  # fmt: skip
from hsd_jax.swapping.plan import Plan, latent_regions, make_plan
from hsd_jax.swapping.spec import PARTS, Sampling, SwapSpec
from hsd_jax.weights import Loaded, load_part


class SwapNetworks:
    """The modules and parameters of one set of weights, with its `SwapSpec`.

    The methods are pure. Their first argument holds the parameters that they need, by part name,
    so that callers can jit, shard and export them.
    """

    def __init__(self, parts: Mapping[str, Loaded]):
        """Takes the networks named in `spec.PARTS`; raises ValueError as `SwapSpec.of` does."""
        self.spec = SwapSpec.of(parts)
        self.params = {name: parts[name].params for name in PARTS}
        self._modules = {name: parts[name].module for name in PARTS}

    @classmethod
    def load(cls, folder: Any) -> "SwapNetworks":
        """Loads a folder of weights; raises ValueError if they are damaged or incomplete."""
        return cls({name: load_part(folder, name) for name in PARTS})

    def with_finish(self, **changes: Any) -> "SwapNetworks":
        """The same networks with another finish; `changes` are fields of `spec.Finish`."""
        other = copy(self)
        other.spec = replace(self.spec, finish=replace(self.spec.finish, **changes))
        return other

    def module(self, name: str) -> Any:
        """The Flax module of one of `spec.PARTS`."""
        return self._modules[name]

    @property
    def facts(self) -> tuple[Any, ...]:
        """What the methods depend on besides their arguments."""
        return self._modules, self.spec

    def align(
        self,
        heads: Integer[Array, "b h w"],
        bodies: Integer[Array, "b h w"],
        eyes: Bool[Array, " b"],
    ) -> tuple[Integer[Array, " b"], Integer[Array, "b h w"]]:
        """Neck alignment (the paper, 3.4): the shifts in columns, and the moved head layouts.

        `eyes` tells for which pairs the eyes of the two crops coincide.
        """
        labels = self.spec.labels
        shift = neck_shift(heads, bodies, labels)
        if self.spec.finish.follow_necks:
            turned = turned_neck_shift(heads, bodies, labels)
            shift = jnp.where(eyes, extended_neck_shift(heads, bodies, labels), turned)
        moved = jax.vmap(shift_columns, (0, 0, None))(heads, shift, labels.background)
        return shift, moved

    def plan(
        self,
        params: Any,
        heads: Integer[Array, "b h w"],
        bodies: Integer[Array, "b h w"],
        region: Region = "head",
    ) -> Plan:
        """See `plan.make_plan`; `params` holds the layout generator's."""
        generator = self._modules["layout_generator"]
        return make_plan(generator, params["layout_generator"], heads, bodies, self.spec, region)

    def encode(self, params: Any, images: UInt8[Array, "b H W 3"]) -> Float[Array, "b h w c"]:
        """Encodes images to normalised latents; `params` holds the autoencoder's."""
        x = images.astype(jnp.float32) / 127.5 - 1
        h = apply(self._modules["autoencoder"], params["autoencoder"], x, method="encode")
        mean, std = self._latent_statistics()
        return ((h[0] if isinstance(h, tuple) else h) - mean) / std

    def decode(self, params: Any, z: Float[Array, "b h w c"]) -> UInt8[Array, "b H W 3"]:
        """Decodes normalised latents to images; `params` holds the autoencoder's."""
        mean, std = self._latent_statistics()
        z = z * std + mean
        x = apply(self._modules["autoencoder"], params["autoencoder"], z, method="decode")
        return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)

    def sample(
        self,
        params: Any,
        z_head: Float[Array, "b h w c"],
        z_body: Float[Array, "b h w c"],
        plan: Plan,
        seeds: Integer[Array, " b"],
        numbers: Integer[Array, "b k"],
        *,
        sampling: Sampling,
    ) -> tuple[Array, Array | None]:
        """Samples k latents for each pair, by progressive fusion.

        Args:
          params: those of the UNet and of its condition.
          z_head, z_body: latents of the aligned crops.
          plan: the plan of the pairs, `[b, H, W]`.
          seeds: uint32, one per pair.
          numbers: uint32, the indices of the samples to draw: sample n uses the key
            `fold_in(key(seed), n)`, whatever else is in the batch.
          sampling: static.

        Returns:
          z0 `[b, k, h, w, c]` and, with `keep`, the x0 of each step `[steps, b, k, h, w, c]`.
        """
        bound, options = self._bound(params, z_head, z_body, plan, seeds, numbers, sampling)
        options |= {name: getattr(sampling, name) for name in ("keep", "mixing", "mixed", "draws")}
        fused = fuse(*bound, **options)
        z0, history = fused if isinstance(fused, tuple) else (fused, None)
        z0 = z0.reshape(*numbers.shape, *z0.shape[1:])
        return z0, None if history is None else history.reshape(-1, *z0.shape)

    def sample_step(
        self,
        params: Any,
        z_head: Float[Array, "b h w c"],
        z_body: Float[Array, "b h w c"],
        plan: Plan,
        seeds: Integer[Array, " b"],
        numbers: Integer[Array, "b k"],
        z: Float[Array, "b k h w c"],
        x0: Float[Array, "b k h w c"],
        index: Integer[Array, ""],
        *,
        sampling: Sampling,
    ) -> tuple[Array, Array]:
        """One step of `sample` as the paper mixes, see `fusion.fuse_step`: z and x0 after it."""
        bound, options = self._bound(params, z_head, z_body, plan, seeds, numbers, sampling)
        before = Progress(*(x.reshape(-1, *x.shape[2:]) for x in (z, x0)))
        after = fuse_step(*bound, before=before, index=index, **options)
        return after.z.reshape(z.shape), after.x0.reshape(x0.shape)

    def _bound(
        self,
        params: Any,
        z_head: Array,
        z_body: Array,
        plan: Plan,
        seeds: Array,
        numbers: Array,
        sampling: Sampling,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of `fuse`, with a row for each sample of each pair, and its options."""
        k = numbers.shape[1]
        keys = jax.vmap(jax.random.key)(seeds)
        keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(keys, numbers).reshape(-1)
        plan = Plan(*(jnp.repeat(x, k, 0) for x in plan))
        z_head, z_body = jnp.repeat(z_head, k, 0), jnp.repeat(z_body, k, 0)
        masks = latent_regions(plan, self.spec.factor)
        known = masks.head * z_head + masks.body * z_body
        seen = (known, 1 - masks.rest) if self.spec.known else (None, None)
        stem = self._modules["condition"]
        s = condition_of(stem, params["condition"], plan.layout, self.spec.labels, *seen)
        times = np.array(self.spec.times(sampling))
        predict = predictor(self._modules["unet"], params["unet"], s, times)
        schedule = self.spec.schedule
        denoise = denoiser(predict, schedule, self.spec.prediction)
        options = {"solver": sampling.solver, "num_steps": len(times)}
        return (denoise, schedule, z_head, z_body, masks, keys), options

    def _latent_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        mean, std = (
            np.array(values, np.float32)[None, None, None]
            for values in (self.spec.latent_mean, self.spec.latent_std)
        )
        return mean, std
