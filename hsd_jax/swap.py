"""Two photos in, one photo out: the head of the first person on the body of the second.

The way of the data: crop and parse both photos, align the necks (`HeadSwapper.pair`); mix the
layouts, inpaint the mixed one, encode, fuse and decode (`swapping.runner`); finish and paste back
(`swapping.paste`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hsd_jax import weights
from hsd_jax.imaging.files import read_photo
from hsd_jax.parsing.photo_parser import PhotoParser
from hsd_jax.swapping.finish import Preserve, paste_back
from hsd_jax.swapping.mattes import old_strands
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.pair import Pair, aligned, frame_pair
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.runner import Device, Runner
from hsd_jax.swapping.skin import SkinTone, follow_face
from hsd_jax.swapping.spec import DEFAULT_SAMPLING, Sampling, SwapSpec


@dataclass(frozen=True)
class SwapResult:
    """One swap.

    Attributes:
      image: uint8 `[H, W, 3]`, the size of the body's photo.
      layout: int32 `[s, s]`, the inpainted layout of the half-body crop.
      mask: float32 `[H, W]`, 1 where pixels were generated, 0 where they are a photo's.
      warnings: what a person should know before using it.
      shift: the neck alignment in pixels of the crop.
      faces: how many faces the head photo and the body photo show.
      steps: the crop that each step of the solver predicts, when asked for.
      stages: images and layouts of the crop along the way, by name.
    """

    image: np.ndarray
    layout: np.ndarray
    mask: np.ndarray
    warnings: tuple[str, ...]
    shift: int
    faces: tuple[int, int]
    steps: tuple[np.ndarray, ...]
    stages: dict[str, np.ndarray]


class HeadSwapper:
    """Swaps heads with one set of weights; compiled once, for photos of any size."""

    def __init__(
        self, folder: Path, batch: int = 1, devices: Sequence[Device] | None = None
    ):
        """Reads the five networks of a folder of weights (see `hsd_jax.weights`).

        Args:
          folder: of weights.
          batch: pairs that `paint` takes at once.
          devices: to split batches over; None for the first one alone.

        Raises:
          ValueError: weights that are missing, damaged or do not belong together.
        """
        networks = SwapNetworks.load(folder)
        self.spec: SwapSpec = networks.spec
        part = weights.load_part(folder, "parser")
        self._parser = PhotoParser(part, self.spec.size, self.spec.labels)
        self._runner = Runner(networks, batch, devices)

    @classmethod
    def from_pretrained(
        cls, name_or_dir: str | Path = weights.DEFAULT, **options: Any
    ) -> "HeadSwapper":
        """The swapper of released weights: a shipped name, or a folder.

        Raises:
          ValueError: no such weights, or damaged ones.
        """
        return cls(weights.find(name_or_dir), **options)

    def __call__(
        self,
        head: Any,
        body: Any,
        *,
        seed: int = 0,
        steps: int | None = None,
        samples: int = 1,
        solver: str = "dpmpp",
        preserve: Preserve = "photo",
        skin_tone: SkinTone = "auto",
        person: int = 1,
        head_person: int = 1,
        keep_steps: bool = False,
    ) -> Any:
        """The head of one photo on the body of another.

        Args:
          head, body: paths, PIL images or uint8 arrays.
          seed: of the sample, 0 to 2**32 - 1; the same seed gives the same image.
          steps: calls of the UNet; None for what suits the weights (dpmpp), or the solver.
          samples: how many.
          solver: "dpmpp", "ddim" or "ddpm".
          preserve: "photo": what is not generated is the photos' own pixels; "latents": the whole
            crop is decoded from latents, as in the paper.
          skin_tone: whether the body's skin follows the new face: "auto", "keep" or "match".
          person: which person of the body photo, 1 for the largest face.
          head_person: which person of the head photo.
          keep_steps: also return the crop that each step predicts.

        Returns:
          A `SwapResult`; a list of them when `samples` is more than 1.

        Raises:
          ValueError: a photo that cannot be read or shows no face, or an option out of range.
        """
        sampling = Sampling(solver, steps, keep_steps)
        self._check(samples, sampling, preserve)
        self._parser.prepare()
        self._runner.prepare(samples, sampling)
        pair = self.pair(
            head, body, person=person, head_person=head_person, skin_tone=skin_tone
        )
        (results,) = self.paint([pair], [seed], samples, sampling, preserve)
        return results[0] if samples == 1 else results

    def pair(
        self,
        head: Any,
        body: Any,
        *,
        person: int = 1,
        head_person: int = 1,
        skin_tone: SkinTone = "auto",
    ) -> Pair:
        """Crops and parses both photos and aligns the necks; arguments and errors as above."""
        photos = read_photo(head, "the head photo"), read_photo(body, "the body photo")
        source, target = frame_pair(self._parser, *photos, head_person, person)
        shifts, layouts = self._runner.align(source.layout[None], target.layout[None])
        pair = aligned(source, target, int(shifts[0]), layouts[0])
        if not self.spec.finish.skin_tone:
            return pair
        toned = follow_face(source, target, self.spec.labels, skin_tone)
        note = f"the body's skin follows the new face, {toned.difference:.0f} apart (CIE76)"
        return replace(pair, body=toned.body, notes=(note,) if toned.changed else ())

    def paint(
        self,
        pairs: Sequence[Pair],
        seeds: Sequence[int],
        samples: int = 1,
        sampling: Sampling = DEFAULT_SAMPLING,
        preserve: Preserve = "photo",
    ) -> list[list[SwapResult]]:
        """The swaps of a batch of pairs, `samples` of each."""
        heads, bodies = [pair.head for pair in pairs], [pair.body for pair in pairs]
        plan = self._runner.plan(_stack(heads, "layout"), _stack(bodies, "layout"))
        # Beyond its photo's edge a head is repeated pixels: its layout may go on there, they not.
        plan = plan._replace(head=plan.head & _stack(heads, "inside"))
        if self.spec.finish.old_hair:
            strands = [old_strands(body, self.spec) for body in bodies]
            plan = plan._replace(body=plan.body & ~np.stack(strands))
        painted = self._runner.paint(
            _stack(heads, "image"), _stack(bodies, "image"), plan,
            seeds=np.array(seeds, np.uint32),
            numbers=np.tile(np.arange(samples, dtype=np.uint32), (len(pairs), 1)),
            sampling=sampling,
        )  # fmt: skip
        history = painted.history
        return [
            [
                self._finished(
                    pair, Plan(*(x[i] for x in plan)), painted.images[i, n], preserve,
                    () if history is None else tuple(history[:, i, n]),
                )
                for n in range(samples)
            ]
            for i, pair in enumerate(pairs)
        ]  # fmt: skip

    def _finished(
        self,
        pair: Pair,
        plan: Plan,
        image: np.ndarray,
        preserve: Preserve,
        steps: tuple[np.ndarray, ...],
    ) -> SwapResult:
        head, body = pair.head, pair.body
        pasted = paste_back(pair, plan, image, self.spec, preserve)
        return SwapResult(
            image=pasted.image,
            layout=plan.layout,
            mask=pasted.mask,
            warnings=pair.warnings(self.spec.labels),
            shift=pair.shift,
            faces=(head.faces, body.faces),
            steps=steps,
            stages={
                "head": head.image,
                "body": body.image,
                "head_layout": head.layout,
                "body_layout": body.layout,
                "blended": plan.blended,
                "inpainted": plan.layout,
                "decoded": image,
                "result": pasted.crop,
            },
        )

    def _check(self, samples: int, sampling: Sampling, preserve: str) -> None:
        if samples < 1:
            raise ValueError(f"samples is {samples}: ask for at least 1")
        if preserve not in ("photo", "latents"):
            raise ValueError(f"preserve is {preserve!r}: use 'photo' or 'latents'")
        self.spec.times(sampling)  # refuses solvers and steps before the work


def _stack(people: Sequence[Any], name: str) -> np.ndarray:
    return np.stack([getattr(person, name) for person in people])
