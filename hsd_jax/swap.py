"""Two photos in, one photo out: the head of the first person on the body of the second.

The way of the data: crop and parse both photos, align the necks, mix the layouts, inpaint the mixed
layout, fuse the latents, decode, paste back.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from hsd_jax import weights
from hsd_jax.imaging import composite, files, framing
from hsd_jax.labels import LabelSet
from hsd_jax.parsing.photo_parser import SIZE, Person, PhotoParser
from hsd_jax.swapping.networks import PARTS, Painter, Plan
from hsd_jax.swapping.runner import SwapPrograms


@dataclass(frozen=True)
class SwapResult:
    """One swap.

    Attributes:
      image: uint8 `[H, W, 3]`, the size of the body's photo.
      layout: int32 `[256, 256]`, the inpainted layout of the half-body crop.
      mask: float32 `[H, W]`, 1 where pixels were generated, 0 where they are a photo's.
      warnings: what a person should know before using it.
      shift: the neck alignment in pixels of the 256 crop.
      faces: how many faces the head photo and the body photo show.
      steps: the crop that each step of the solver predicts, when asked for.
      stages: pictures and layouts of the crop along the way, by name.
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

    def __init__(self, folder: Path):
        """Reads the five nets of a folder of weights (see `hsd_jax.weights`)."""
        parts = {name: weights.load_part(folder, name) for name in PARTS}
        self._parser = PhotoParser(weights.load_part(folder, "parser"))
        painter = Painter(parts)
        self._labels = painter.labels
        self._programs = SwapPrograms(painter, {name: part.params for name, part in parts.items()})

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path = weights.DEFAULT) -> "HeadSwapper":
        """The swapper of released weights: a shipped name, or a folder.

        Raises:
          ValueError: no such weights, or damaged ones.
        """
        return cls(weights.find(name_or_dir))

    def __call__(
        self,
        head: Any,
        body: Any,
        *,
        seed: int = 0,
        steps: int | None = None,
        samples: int = 1,
        solver: str = "dpmpp",
        person: int = 1,
        head_person: int = 1,
        keep_steps: bool = False,
    ) -> Any:
        """The head of one photo on the body of another.

        Args:
          head, body: paths, PIL images or uint8 arrays.
          seed: of the sample; the same seed gives the same picture.
          steps: calls of the UNet; None for what suits the weights (dpmpp), or the solver.
          samples: how many.
          solver: "dpmpp", "ddim" or "ddpm".
          person: which person of the body photo, 1 for the largest face.
          head_person: which person of the head photo.
          keep_steps: also return the crop that each step predicts.

        Returns:
          A `SwapResult`; a list of them when `samples` is more than 1.

        Raises:
          ValueError: a photo that cannot be read or shows no face, or an option out of range.
        """
        if samples < 1:
            raise ValueError(f"samples is {samples}: ask for at least 1")
        self._parser.prepare()
        self._programs.prepare(samples, solver, steps, keep_steps)
        target = self._parser.person(files.open_photo(body), person, _name(body, "body"))
        source = self._parser.person(
            files.open_photo(head), head_person, _name(head, "head"), target.share
        )
        source, target = widen(self._parser, source, target)
        source = rounded(source, self._labels)
        shift, layout = self._programs.align(source.layout, target.layout)
        source = moved(source, shift, layout)
        plan = self._programs.plan(source.layout, target.layout)
        # Beyond its photo's edge a head is repeated pixels: its layout may go on there, they not.
        plan = plan._replace(head=plan.head & framing.inside(source.photo, source.crop, SIZE))
        pictures, history = self._programs.paint(
            source.image, target.image, plan,
            seed=seed, samples=samples, solver=solver, num_steps=steps, keep=keep_steps,
        )
        results = []
        for index, picture in enumerate(pictures):
            result = finish(source, target, plan, picture, self._labels)
            steps_seen = () if history is None else tuple(history[:, index])
            results.append(replace(result, shift=shift, steps=steps_seen))
        return results[0] if samples == 1 else results


_WIDER, _TRIES = 0.85, 3
_CROWN = 0.4  # height of the half ellipse by half its width
_TOUCHING = 4  # pixels of the head on the crop's edge; fewer are stray


def widen(parser: PhotoParser, head: Person, body: Person) -> tuple[Person, Person]:
    """Both in wider crops, where theirs would cut the new head off inside the body's photo."""
    for _ in range(_TRIES):
        if not _cut_off(head, body, parser.labels):
            break
        share = head.share * _WIDER
        head, body = parser.reframed(head, share), parser.reframed(body, share)
    return head, body


def _cut_off(head: Person, body: Person, labels: LabelSet) -> bool:
    """Whether the head goes on beyond an edge of its crop, where the body's photo goes on too."""
    edges = np.isin(head.layout, labels.head)
    touched = np.array([edges[0].sum(), edges[-1].sum(), edges[:, 0].sum(), edges[:, -1].sum()])
    rooms = [framing.room(person.photo, person.crop) for person in (head, body)]
    return bool(np.any((touched > _TOUCHING) & (np.min(rooms, axis=0) > 0.01)))


def rounded(head: Person, labels: LabelSet) -> Person:
    """A head that its photo's edges cut off, ended beyond them in flat half ellipses.

    What the parser sees there are repeated pixels; only the layout's shape is used, and painted.
    """
    inside, layout = framing.inside(head.photo, head.crop, SIZE), head.layout.copy()
    for view, within in ((layout, inside.any(1)), (layout.T, inside.any(0))):
        places = np.flatnonzero(within)
        _end(view[places[0] :: -1], labels)
        _end(view[places[-1] :], labels)
    return replace(head, layout=layout)


def _end(layout: np.ndarray, labels: LabelSet) -> None:
    """Ends heads beyond the first row, in place: each run of that row's head pixels by itself."""
    head = np.isin(layout[0], labels.head)
    beyond = layout[1:]
    beyond[np.isin(beyond, labels.head)] = labels.background
    runs: Any = ndimage.label(ndimage.binary_closing(head, iterations=_TOUCHING))
    for run in range(1, runs[1] + 1):
        columns = np.flatnonzero(head & (runs[0] == run))
        if len(columns) <= _TOUCHING:
            continue
        middle, half = np.mean(columns[[0, -1]]), np.ptp(columns) / 2 + 1
        height = _CROWN * half * np.sqrt(1 - ((columns - middle) / half) ** 2)
        rows, order = np.nonzero(np.arange(1, len(layout))[:, None] <= height[None])
        beyond[rows, columns[order]] = layout[0, columns[order]]


def moved(head: Person, shift: int, layout: np.ndarray) -> Person:
    """The head's crop moved sideways by whole pixels: neck alignment (the paper, section 3.4)."""
    crop = head.crop.shifted(-shift * head.crop.side / SIZE)
    return replace(head, crop=crop, image=framing.take(head.photo, crop, SIZE), layout=layout)


def finish(
    head: Person, body: Person, plan: Plan, picture: np.ndarray, labels: LabelSet
) -> SwapResult:
    """Paste back: the painted crop at the body photo's resolution, under the kept pixels."""
    layers = composite.Layers.at_crop(head.image, body.image, plan.head, plan.body)
    inside = framing.inside(body.photo, body.crop, SIZE)
    painted = composite.settle(picture, layers, np.asarray(plan.layout), labels, inside)
    # The head by its own crop and the body's very pixels, at the resolution of the body's photo.
    side = body.crop.side
    native = composite.Layers(
        head=framing.take(head.photo, head.crop, side),
        body=framing.take(body.photo, body.crop),
        head_alpha=framing.resize_map(layers.head_alpha, side),
        body_alpha=framing.resize_map(layers.body_alpha, side),
    )
    square = composite.blend(framing.resize(painted, side), native)
    result = framing.paste(body.photo, square, body.crop)
    nothing = np.zeros(body.photo.shape[:2], np.float32)
    return SwapResult(
        image=result,
        layout=plan.layout,
        mask=framing.paste(nothing, native.generated_alpha, body.crop),
        warnings=_warnings(head, body, labels),
        shift=0,
        faces=(head.faces, body.faces),
        steps=(),
        stages={
            "head": head.image,
            "body": body.image,
            "head_layout": head.layout,
            "body_layout": body.layout,
            "blended": plan.blended,
            "inpainted": plan.layout,
            "decoded": picture,
            "result": framing.take(result, body.crop, SIZE),
        },
    )


def _warnings(head: Person, body: Person, labels: LabelSet) -> tuple[str, ...]:
    found = [
        f"the {name} photo shows {person.faces} faces: the largest counts unless you choose"
        for name, person in (("head", head), ("body", body))
        if person.faces > 1
    ]
    outside = ~framing.inside(head.photo, head.crop, SIZE)
    if np.sum(np.isin(head.layout, labels.head) & outside) > 30:
        found.append("the head reaches over the edge of its photo and is cut off there")
    enlarged = body.crop.side / head.crop.side
    if enlarged > 2:
        found.append(f"the head is enlarged {enlarged:.1f} times and will look soft")
    return tuple(found)


def _name(source: Any, role: str) -> str:
    return str(source) if isinstance(source, str | Path) else f"the {role} photo"
