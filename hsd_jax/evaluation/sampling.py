"""Our own swaps of staged pairs, with the runner of `hsd swap`."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hsd_jax import weights
from hsd_jax.evaluation.pairs import in_labels
from hsd_jax.evaluation.regions import Staged
from hsd_jax.imaging import framing
from hsd_jax.imaging.framing import Crop
from hsd_jax.labels import LabelSet
from hsd_jax.parsing.photo_parser import Person
from hsd_jax.swapping.light import one_light
from hsd_jax.swapping.mixing import dilate
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.pair import Pair
from hsd_jax.swapping.paste import paste_back
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.runner import Runner
from hsd_jax.swapping.skin import one_skin
from hsd_jax.swapping.spec import PARTS, Sampling

BATCH = 8


class Swapped(NamedTuple):
    """One pair's results, uint8 `[S, S, 3]`."""

    pixels: np.ndarray
    """As `hsd swap` writes it: kept regions are the photos' own pixels."""
    latents: np.ndarray
    """As in the paper: everything is decoded from latents (preserve="latents")."""


class Sampler:
    """Swaps with one set of weights and given layouts, that is without the parser."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 0,
        solver: str = "dpmpp",
        steps: int | None = None,
        inpaint: bool = True,
        margin: int = 0,
        batch: int = BATCH,
        **mixing: Any,
    ):
        """Reads the four networks of a swap.

        Args:
          folder: of weights.
          seed: of the samples; a pair's sample only depends on it and on the pair's id.
          solver, steps: as for `hsd swap`.
          inpaint: whether to use the layout generator; without it, the layout with its holes is
            the condition ("incomplete layout" in the paper's table 3).
          margin: pixels at 256 by which what is generated grows on all sides.
          batch: pairs per batch, over all devices.
          mixing: `mixing`, `mixed` and `draws` of `spec.Sampling`.

        Raises:
          ValueError: weights that are missing or damaged.
        """
        self._runner = Runner(SwapNetworks.load(folder), batch, jax.devices())
        self.spec, self.batch = self._runner.spec, self._runner.batch
        self._sampling = Sampling(solver, steps, **mixing)
        self._seed, self._inpaint, self._margin = seed, inpaint, margin

    def __call__(
        self, ids: Sequence[str], pairs: Sequence[Staged], labels: LabelSet
    ) -> list[Swapped]:
        """Swaps pairs with layouts of `labels`.

        Raises:
          ValueError: images of another size.
        """
        size = self.spec.size
        for name, pair in zip(ids, pairs, strict=True):
            if pair.body.image.shape != (size, size, 3):
                raise ValueError(
                    f"pair {name} is of {pair.body.image.shape}: these weights need data that is "
                    f"built at {size} x {size}"
                )
        ours = [_pair(pair, labels, self.spec.labels) for pair in pairs]
        ours = [one_skin(one_light(pair, self.spec), self.spec) for pair in ours]
        plan = self._runner.plan_pairs(ours)
        if not self._inpaint:
            plan = plan._replace(layout=plan.blended)
        if self._margin:
            hole = dilate(~(plan.head | plan.body), self.spec.pixels(self._margin))
            kept = np.asarray(hole) == 0
            plan = plan._replace(head=plan.head & kept, body=plan.body & kept)
        painted = self._runner.paint(
            np.stack([pair.head.image for pair in ours]),
            np.stack([pair.body.image for pair in ours]),
            plan,
            seeds=np.full(len(pairs), self._seed, np.uint32),
            numbers=np.array([[zlib.crc32(name.encode())] for name in ids], np.uint32),
            sampling=self._sampling,
        ).images[:, 0]
        plans = [Plan(*(x[i] for x in plan)) for i in range(len(ours))]
        return [
            Swapped(paste_back(pair, one, image, self.spec).image, image)
            for pair, one, image in zip(ours, plans, painted, strict=True)
        ]


def _pair(staged: Staged, labels: LabelSet, own: LabelSet) -> Pair:
    """A staged pair with layouts of `own` labels; the body's image is all of its photo."""
    head, body = (in_labels(person, labels, own) for person in (staged.head, staged.body))
    size = len(body.image)
    inside = framing.inside(staged.photo, staged.crop, size)
    source = Person(staged.photo, staged.crop, 0.0, head.image, head.layout, 1, inside)
    whole = Crop(0, 0, size)
    target = Person(body.image, whole, 0.0, body.image, body.layout, 1, inside | True)
    return Pair(source, target, staged.shift)


def fingerprint(folder: Path) -> str:
    """The fingerprint of the networks of a `Sampler`."""
    return weights.fingerprint(folder, *PARTS)
