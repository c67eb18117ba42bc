"""Between the two crops and the painted one: plan what is kept, then encode, fuse and decode.

Pure functions over arrays of the 256 grid, bound to one set of nets; callers jit them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.diffusion.conditioning import condition_of, predictor
from hsd_jax.diffusion.fusion import fuse, step_times
from hsd_jax.diffusion.schedule import Schedule, denoiser
from hsd_jax.labels import LabelSet, get_label_set, one_hot
from hsd_jax.models import apply
from hsd_jax.parsing.photo_parser import SIZE
from hsd_jax.swapping.mixing import Regions, dilate, erode, group_mask, mix_layouts
from hsd_jax.weights import Loaded

# Widths in pixels of the 256 crop, chosen by looking at swaps: how far stray hair reaches around
# an old head, how far a mask's edge may be wrong.
_OLD_HEAD_MARGIN = 7
_NECK_MARGIN = 3
_EDGE_OUTSIDE = 4
_EDGE_INSIDE = 2
_SMOOTH = 4  # pixels of an inpainted layout's edges


PARTS = ("autoencoder", "unet", "condition", "layout_generator")
"""The nets that a `Painter` takes."""


class Plan(NamedTuple):
    """What is kept and what is painted, `[256, 256]` each."""

    blended: Any
    """int32 layout with holes: Algorithm 1, line 1."""
    layout: Any
    """int32 layout after the layout generator."""
    head: Any
    """bool: kept from the head's photo."""
    body: Any
    """bool: kept from the body's photo, its body and its surroundings; disjoint from `head`."""


class Painter:
    """The nets of a swap and the facts that go with them."""

    def __init__(self, parts: dict[str, Loaded]):
        """`parts`: those of `PARTS`.

        Raises:
          ValueError: they lack a fact that a swap needs.
        """
        self._modules = {name: part.module for name, part in parts.items()}
        facts: dict[str, Any] = {"known": False} | parts["unet"].extra
        _check_facts(facts, parts["layout_generator"].extra)
        self.labels = get_label_set(facts["labels"])
        self._layout_size = parts["layout_generator"].extra["size"]
        self._mean, self._std = (
            np.array(facts[name], np.float32)[None, None, None]
            for name in ("latent_mean", "latent_std")
        )
        self._schedule = Schedule(**facts["schedule"])
        self._prediction, self._known = facts["prediction"], facts["known"]
        self._steps = facts["steps"]

    @property
    def facts(self) -> tuple[Any, ...]:
        """What these functions depend on beside their arguments."""
        settings = (self._layout_size, self._schedule, self._prediction, self._known, self._steps)
        latents = (self._mean.tolist(), self._std.tolist())
        return (self._modules, self.labels, settings, latents)

    @property
    def factor(self) -> int:
        """Pixels of a latent, along each axis."""
        return self._modules["autoencoder"].factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of a crop's latents."""
        small = SIZE // self.factor
        return small, small, self._mean.shape[-1]

    def calls(self, solver: str, num_steps: int | None) -> int:
        """Of the UNet for a sample; arguments as `paint` has them."""
        return len(self._times(solver, num_steps))

    def _times(self, solver: str, num_steps: int | None) -> np.ndarray:
        if num_steps is None and solver == "dpmpp":
            num_steps = self._steps
        return step_times(self._schedule, solver, num_steps)

    def plan(self, params: Any, layout_head: jax.Array, layout_body: jax.Array) -> Plan:
        """Mix the layouts, inpaint the mixed one, decide what is kept.

        Args:
          params: of the net "layout_generator", by part name.
          layout_head, layout_body: int32 `[256, 256]`, aligned.
        """
        labels = self.labels
        blended, regions = mix_layouts(layout_head, layout_body, labels)
        layout = self._inpaint(params["layout_generator"], blended, regions)
        own_neck = group_mask(layout_body, labels.neck)
        if self._known:
            # Our nets are told what the photos know; that holds for the shape of the body's neck.
            fits = own_neck & ~_beside_head(layout_head, labels)
            layout = jnp.where(fits & (regions.rest > 0), layout_body, layout)
        old_head = group_mask(layout_body, labels.head)
        necks = own_neck | group_mask(layout, labels.neck)
        painted = (
            (dilate(old_head, _OLD_HEAD_MARGIN) > 0)
            | (dilate(necks, _NECK_MARGIN) > 0)
            | (dilate(regions.head, _EDGE_OUTSIDE) > 0)
        )
        head = erode(regions.head, _EDGE_INSIDE) > 0
        return Plan(blended, layout, head, ~painted & ~head)

    def _inpaint(self, params: Any, blended: jax.Array, regions: Regions) -> jax.Array:
        """The generator's layout where the blended one has holes, itself elsewhere."""
        factor = SIZE // self._layout_size
        small = blended[factor // 2 :: factor, factor // 2 :: factor]
        generator = self._modules["layout_generator"]
        probs = layout_probs(generator, params, small[None], self.labels)
        filled = classes_without_head(probs, SIZE, self.labels)[0]
        return jnp.where(regions.rest > 0, filled, blended).astype(jnp.int32)

    def paint(
        self,
        params: Any,
        head: jax.Array,
        body: jax.Array,
        plan: Plan,
        keys: jax.Array,
        *,
        solver: str,
        num_steps: int | None,
        keep: bool,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Encode both crops, fuse their latents, decode.

        Args:
          params: of the four nets, by part name.
          head, body: uint8 `[256, 256, 3]`, aligned; or one window of both, and of the plan.
          plan: of this pair.
          keys: typed keys `[samples]`.
          solver, num_steps, keep: as in `diffusion.fusion.fuse`; static. With the solver "dpmpp",
            num_steps None is what suits these weights.

        Returns:
          uint8 `[samples, 256, 256, 3]` and, with `keep`, what each step predicts,
          `[steps, samples, 256, 256, 3]`.
        """
        z = self.encode(params["autoencoder"], jnp.stack([head, body]))
        z0, history = self._sample(params, z, plan, keys, solver, num_steps, keep)
        pictures = self.decode(params["autoencoder"], z0)
        if history is None:
            return pictures, None
        return pictures, jax.lax.map(lambda z: self.decode(params["autoencoder"], z), history)

    def sample(
        self,
        params: Any,
        z: jax.Array,
        plan: Plan,
        seed: jax.Array,
        first: jax.Array,
        *,
        samples: int,
        solver: str,
        num_steps: int | None,
        keep: bool,
    ) -> tuple[jax.Array, jax.Array | None]:
        """The latents of samples number `first`, `first` + 1, ... of a seed.

        Args:
          params: of the nets "unet" and "condition", by part name.
          z: both crops encoded, head first, `[2, h, w, c]`.
          plan: of this pair.
          seed, first: scalars; sample i has the i-th key that `jax.random.split` gives the seed.
          samples: how many; static, as the rest, for which see `paint`.

        Returns:
          z0 `[samples, h, w, c]` and, with `keep`, each step's x0 `[steps, samples, h, w, c]`.
        """
        numbers = first + jnp.arange(samples, dtype=jnp.uint32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)
        return self._sample(params, z, plan, keys, solver, num_steps, keep)

    def _sample(
        self,
        params: Any,
        z: jax.Array,
        plan: Plan,
        keys: jax.Array,
        solver: str,
        num_steps: int | None,
        keep: bool,
    ) -> tuple[jax.Array, jax.Array | None]:
        samples = keys.shape[0]
        times = self._times(solver, num_steps)
        masks = self.latent_regions(plan, samples)
        z_head, z_body = (jnp.repeat(each[None], samples, 0) for each in z)
        known = masks.head * z_head + masks.body * z_body
        s = condition_of(
            self._modules["condition"],
            params["condition"],
            jnp.repeat(plan.layout[None], samples, 0),
            self.labels,
            *((known, 1 - masks.rest) if self._known else (None, None)),
        )
        predict = predictor(self._modules["unet"], params["unet"], s, times)
        fused = fuse(
            denoiser(predict, self._schedule, self._prediction),
            self._schedule,
            z_head,
            z_body,
            masks,
            keys,
            solver=solver,
            num_steps=len(times),
            keep=keep,
        )
        return fused if isinstance(fused, tuple) else (fused, None)

    def encode(self, params: Any, pictures: jax.Array) -> jax.Array:
        """uint8 pictures `[b, 256, 256, 3]` to normalised latents `[b, h, w, c]`."""
        x = pictures.astype(jnp.float32) / 127.5 - 1
        h = apply(self._modules["autoencoder"], params, x, method="encode")
        return ((h[0] if isinstance(h, tuple) else h) - self._mean) / self._std

    def decode(self, params: Any, z: jax.Array) -> jax.Array:
        """Normalised latents `[b, h, w, c]` to uint8 pictures `[b, 256, 256, 3]`."""
        z = z * self._std + self._mean
        x = apply(self._modules["autoencoder"], params, z, method="decode")
        return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)

    def latent_regions(self, plan: Plan, samples: int) -> Regions:
        """A latent is known only where all pixels of its cell are."""
        factor = self.factor

        def cells(mask: jax.Array) -> jax.Array:
            h, w = (side // factor for side in mask.shape)
            whole = mask.reshape(h, factor, w, factor).all((1, 3))
            return jnp.repeat(whole.astype(jnp.float32)[None, ..., None], samples, 0)

        head, body = cells(plan.head), cells(plan.body)
        return Regions(head, body, 1 - head - body)


def _beside_head(layout: jax.Array, labels: LabelSet) -> jax.Array:
    """Right and left of a head, above its chin: where no neck shows. Bool `[H, W]`."""
    face, head = group_mask(layout, labels.face), group_mask(layout, labels.head)
    rows = jnp.arange(layout.shape[0])
    chin = jnp.max(jnp.where(face.any(1), rows, -1))
    return (rows <= chin)[:, None] & ~head.any(0)[None]


def layout_probs(module: Any, params: Any, layouts: jax.Array, labels: LabelSet) -> jax.Array:
    """The layout generator's probabilities, mean of a layout's and its mirror's: `[B, h, w, K]`.

    Args:
      module, params: of the generator.
      layouts: int `[B, h, w]`, with holes.
      labels: of the layouts.
    """
    x, swapped = one_hot(layouts, labels), jnp.array(labels.mirrored)
    both = jnp.concatenate([x, x[:, :, ::-1][..., swapped]])
    straight, mirrored = jnp.split(apply(module, params, both).probs, 2)
    return (straight + mirrored[:, :, ::-1][..., swapped]) / 2


def classes_without_head(probs: jax.Array, size: int, labels: LabelSet) -> jax.Array:
    """What the layout generator fills holes with: int `[B, size, size]` from `[B, h, w, K]`.

    Heads are the photo's alone: hair that the generator adds would be the old person's. Edges are
    smoothed over some pixels: the generator's tiles leave steps in them.
    """
    b, *_, k = probs.shape
    coarse = jax.image.resize(probs, (b, size // _SMOOTH, size // _SMOOTH, k), "bilinear")
    smooth = jax.image.resize(coarse, (b, size, size, k), "bilinear")
    head = jnp.isin(jnp.arange(k), jnp.array(labels.head))
    return jnp.argmax(jnp.where(head[None, None, None], -1.0, smooth), -1)


_FACTS = ("labels", "latent_mean", "latent_std", "schedule", "prediction", "steps")


def _check_facts(unet: dict[str, Any], layout_generator: dict[str, Any]) -> None:
    missing = [name for name in _FACTS if name not in unet]
    missing += [name for name in ("size",) if name not in layout_generator]
    if missing:
        raise ValueError(
            f"these weights do not tell {', '.join(missing)}: add them to `extra` of unet.json "
            "(size: layout_generator.json), or convert again with --set"
        )
