"""Our own swaps of staged pairs: batched, split over the devices, compiled once."""

import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hsd_jax import weights
from hsd_jax.evaluation import cache
from hsd_jax.evaluation.pairs import in_labels
from hsd_jax.evaluation.staging import Staged
from hsd_jax.imaging.framing import Crop
from hsd_jax.labels import LabelSet, get_label_set
from hsd_jax.parsing.photo_parser import SIZE, Person
from hsd_jax.swap import finish
from hsd_jax.swapping.networks import PARTS, Painter, Plan

BATCH = 8


class Swapped(NamedTuple):
    """One pair's results, uint8 `[256, 256, 3]`."""

    pixels: np.ndarray
    """Kept pixels come from the photos, as `hsd swap` writes it."""
    latents: np.ndarray
    """Everything is decoded from latents, as in the paper (preserve="latents")."""


class Sampler:
    """Swaps with one set of weights; the layouts are given, so the parser has no part in it."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 0,
        solver: str = "dpmpp",
        steps: int | None = None,
        inpaint: bool = True,
        batch: int = BATCH,
    ):
        """Reads the four nets of a swap.

        Args:
          folder: of weights.
          seed: of the samples; a pair's sample depends on it and the pair's id alone.
          solver, steps: as `hsd swap` has them.
          inpaint: use the layout generator; without, the layout with its holes is the condition
            (the rows "incomplete layout" of the paper's table 3).
          batch: pairs at once.

        Raises:
          ValueError: weights that are missing or damaged.
        """
        parts = {name: weights.load_part(folder, name) for name in PARTS}
        painter = Painter(parts)
        self.labels = get_label_set(parts["unet"].extra["labels"])
        self._key, self._inpaint = jax.random.key(seed), inpaint
        devices = jax.devices()[:batch]
        mesh = Mesh(np.array(devices), ("data",))
        self._split = NamedSharding(mesh, PartitionSpec("data"))
        self.batch = -(-batch // len(devices)) * len(devices)
        params = {name: part.params for name, part in parts.items()}
        self._params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        self._plan = jax.jit(jax.vmap(painter.plan, in_axes=(None, 0, 0)))
        paint = partial(painter.paint, solver=solver, num_steps=steps, keep=False)
        self._paint = jax.jit(jax.vmap(paint, in_axes=(None, 0, 0, 0, 0)))

    def __call__(
        self, ids: Sequence[str], pairs: Sequence[Staged], labels: LabelSet
    ) -> list[Swapped]:
        """At most `batch` pairs, with layouts of `labels`.

        Raises:
          ValueError: pictures of another size.
        """
        for name, pair in zip(ids, pairs, strict=True):
            if pair.body.image.shape != (SIZE, SIZE, 3):
                raise ValueError(
                    f"pair {name} is of {pair.body.image.shape}: build the data at {SIZE} x {SIZE}"
                )
        heads = [in_labels(pair.head, labels, self.labels) for pair in pairs]
        bodies = [in_labels(pair.body, labels, self.labels) for pair in pairs]
        numbers = [np.array(zlib.crc32(name.encode()), np.uint32) for name in ids]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self._key, self._padded(numbers))
        head_layouts = self._padded([x.layout for x in heads])
        body_layouts = self._padded([x.layout for x in bodies])
        plans = self._plan(self._params, head_layouts, body_layouts)
        if not self._inpaint:
            plans = plans._replace(layout=plans.blended)
        images = (self._padded([x.image for x in people]) for people in (heads, bodies))
        painted, _ = self._paint(self._params, *images, plans, keys[:, None])
        painted, fields = np.asarray(painted)[:, 0], [np.asarray(x) for x in plans]
        results = []
        for i, (pair, head, body) in enumerate(zip(pairs, heads, bodies, strict=True)):
            plan = Plan(*(x[i] for x in fields))
            source = Person(pair.photo, pair.crop, 0.0, head.image, head.layout, 1)
            target = Person(body.image, Crop(0, 0, SIZE), 0.0, body.image, body.layout, 1)
            swapped = finish(source, target, plan, painted[i], self.labels)
            results.append(Swapped(swapped.image, painted[i]))
        return results

    def _padded(self, arrays: Sequence[np.ndarray]) -> jax.Array:
        """`[batch, ...]`, the arrays and copies of the last, split over the devices."""
        full = np.stack([*arrays, *[arrays[-1]] * (self.batch - len(arrays))])
        return jax.device_put(full, self._split)


def fingerprint(folder: Path) -> str:
    """Of the nets that a `Sampler` reads."""
    return cache.weights_fingerprint(folder, *PARTS)
