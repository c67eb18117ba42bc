"""Two photos in, one photo out: the head of the first person on the body of the second.

Data flow: `HeadSwapper.pair` crops and parses both photos and aligns the necks;
`swapping.runner` mixes and inpaints the layouts, then encodes, fuses and decodes;
`swapping.finish` fits the result to the photos and `swapping.paste` puts it into the body's.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Int32

from hsd_jax import weights
from hsd_jax.imaging.files import read_photo, save_image
from hsd_jax.imaging.framing import Crop
from hsd_jax.imaging.provenance import Mark
from hsd_jax.parsing.photo_parser import Face, Person, PhotoParser
from hsd_jax.swapping import finish, skin
from hsd_jax.swapping.edits import Edit, at_photo
from hsd_jax.swapping.light import Light, one_light
from hsd_jax.swapping.mattes import Matte
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.pair import Align, Pair, aligned, eyes_meet, frame_pair
from hsd_jax.swapping.paste import Preserve, begin_matte, paste_back
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.runner import Device, Preview, Runner
from hsd_jax.swapping.skin import SkinTone, one_skin
from hsd_jax.swapping.spec import DEFAULT_SAMPLING, Sampling, SwapSpec

WHOLE_HEAD = Edit()
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SwapResult:
    """The result of one swap.

    Attributes:
      image: uint8 `[H, W, 3]`, at the size of the body photo.
      layout: int32 `[s, s]`, the inpainted layout of the half-body crop.
      mask: float32 `[H, W]`, 1 where pixels were generated, 0 where they come from a photo.
      warnings: problems with the photos that may spoil the result, one sentence each.
      shift: by how many pixels of the crop neck alignment moved the head.
      faces: the number of faces in the head photo and in the body photo.
      steps: the solver's predictions of the crop, one per step, if `keep_steps` was set.
      stages: intermediate images and layouts of the crop, by name.
      mark: the provenance mark that `save` writes with the image.
      crop: the place of the layout in the upright photo.
      turns: the quarter turns, counter-clockwise, that set the body photo upright.
      srgb: whether the body's file had a colour profile, as then the result's should.
    """

    image: np.ndarray
    layout: np.ndarray
    mask: np.ndarray
    warnings: tuple[str, ...]
    shift: int
    faces: tuple[int, int]
    steps: tuple[np.ndarray, ...]
    stages: dict[str, np.ndarray]
    mark: Mark = Mark()
    crop: Crop = Crop(0, 0, 1)
    turns: int = 0
    srgb: bool = False

    @property
    def photo_layout(self) -> np.ndarray:
        """The layout at the size of the body photo, uint8 `[H, W]`, as `Edit` takes one."""
        upright = np.rot90(self.mask, self.turns)
        return np.rot90(at_photo(self.layout, self.crop, upright.shape), -self.turns)

    def after(self, first: "SwapResult") -> "SwapResult":
        """The result of an edit of `first`, as the result of both edits of its body photo."""
        warnings = tuple(dict.fromkeys((*first.warnings, *self.warnings)))
        return replace(self, mask=np.maximum(first.mask, self.mask), warnings=warnings)

    def save(self, path: str | Path, **options: Any) -> None:
        """Writes the image with its mark; options and errors are those of `files.save_image`."""
        save_image(self.image, path, self.mark, srgb=self.srgb, **options)


class HeadSwapper:
    """Swaps heads with one set of weights. It compiles once and takes photos of any size.

    Several threads may share one swapper.
    """

    def __init__(
        self, folder: Path, batch: int = 1, devices: Sequence[Device] | None = None
    ):
        """Loads the five networks from a folder of weights (see `hsd_jax.weights`).

        Args:
          folder: the folder of weights.
          batch: the number of pairs per device batch.
          devices: the devices that share a batch; None for the first device only.

        Raises:
          ValueError: if weights are missing, damaged or do not belong together.
        """
        networks, self._folder = SwapNetworks.load(folder), folder
        self.spec: SwapSpec = networks.spec
        self._parser = PhotoParser.load(folder, self.spec.size, self.spec.labels)
        self._runner = Runner(networks, batch, devices)

    @cached_property
    def mark(self) -> Mark:
        """The provenance mark of these weights' results."""
        return Mark(weights=weights.fingerprint(self._folder))

    @classmethod
    def from_pretrained(
        cls, name_or_dir: str | Path = weights.DEFAULT, **options: Any
    ) -> "HeadSwapper":
        """Loads a swapper by the name of shipped weights, or from a folder.

        `options` are the arguments `batch` and `devices` of the constructor.

        Raises:
          ValueError: if there are no such weights, or they are damaged.
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
        light: Light = "match",
        person: int = 1,
        head_person: int = 1,
        keep_steps: bool = False,
        align: Align = "shift",
        edit: Edit | Sequence[Edit] = WHOLE_HEAD,
        progress: Callable[[str], None] | None = None,
        preview: Preview | None = None,
    ) -> Any:
        """Puts the head of one photo on the body of another.

        Args:
          head, body: paths, PIL images or uint8 arrays `[H, W, 3]`.
          seed: 0 to 2**32 - 1; the same seed gives the same image.
          steps: the number of UNet calls; None for the default of the weights (dpmpp) or of the
            solver.
          samples: the number of results to generate.
          solver: "dpmpp", "ddim" or "ddpm".
          preserve: "photo" keeps the photos' own pixels wherever nothing is generated; "latents"
            decodes the whole crop from latents, as in the paper.
          skin_tone: whether the body's skin takes the tone of the new face: "auto" (if the faces
            differ visibly), "keep" (never) or "match" (always).
          light: whether the head takes the colour of the body's light: "match" or "keep".
          person: which person of the body photo to use; 1 is the one with the largest face.
          head_person: the same for the head photo.
          keep_steps: whether to return the solver's prediction at each step.
          align: "shift" moves the head sideways so that the necks meet, "similarity" also turns it
            so that its eyes lie as those of the body photo did, "none" does neither.
          edit: swaps a region other than the head, samples one, or takes a drawn layout or a mask;
            of several, each edits the result of the one before.
          progress: called with the name of each stage before it begins ("parsing", "painting",
            "finishing"); an exception that it raises cancels the swap and reaches the caller.
          preview: called after each step with what it predicts of the crop, uint8
            `[samples, s, s, 3]`, and may raise likewise. The steps are then programs of their own,
            whose result differs by rounding.

        Returns:
          A `SwapResult`, or a list of them if `samples` is more than 1.

        Raises:
          ValueError: if a photo cannot be read or shows no face, or an option is out of range.
        """
        sampling = Sampling(solver, steps, keep_steps)
        self._check(samples, sampling, preserve)
        self._prepare(samples, sampling)
        _enter("parsing", progress)
        pair = self.pair(
            head, body, person=person, head_person=head_person, skin_tone=skin_tone, light=light,
            align=align, edit=edit,
        )  # fmt: skip
        (results,) = self.paint([pair], [seed], samples, sampling, preserve, progress, preview)
        return results[0] if samples == 1 else results

    def _prepare(self, samples: int, sampling: Sampling) -> None:
        """Loads or compiles all programs in the background, in the order of their use."""
        self._parser.prepare()
        self._runner.prepare(samples, sampling)
        if self.spec.finish.skin_tone:
            skin.prepare(self.spec.size)
        if self.spec.finish.match_border:
            finish.prepare(self.spec.size)

    def look(self, photo: Any) -> tuple[np.ndarray, np.ndarray, list[Face]]:
        """What a swap sees in a photo.

        Returns:
          The photo turned upright, uint8 `[H, W, 3]`; its classes of `spec.labels`, uint8
          `[H, W]`; and its faces in the order in which persons are counted.

        Raises:
          ValueError: if it cannot be read.
        """
        pixels = read_photo(photo, "the photo").pixels
        upright = np.ascontiguousarray(np.rot90(pixels, self._parser.find(pixels)[0]))
        return upright, *self._parser.parse(upright)

    def persons(self, photo: Any) -> tuple[int, list[Face]]:
        """The quarter turns that set a photo upright, and then its persons' faces in order.

        Raises:
          ValueError: if it cannot be read.
        """
        return self._parser.persons(read_photo(photo, "the photo").pixels)

    def pair(
        self,
        head: Any,
        body: Any,
        *,
        person: int = 1,
        head_person: int = 1,
        skin_tone: SkinTone = "auto",
        light: Light = "match",
        align: Align = "shift",
        edit: Edit | Sequence[Edit] = WHOLE_HEAD,
    ) -> Pair:
        """Crops and parses both photos and aligns their necks; arguments are those of a call."""
        photos = read_photo(head, "the head photo"), read_photo(body, "the body photo")
        edits = [edit] if isinstance(edit, Edit) else list(edit)
        for each in edits:
            each.check(self.spec.labels, photos[1].pixels)
        if align not in get_args(Align):
            raise ValueError(f"align is {align!r}: use one of {', '.join(get_args(Align))}")
        turned = align == "similarity"
        people = frame_pair(self._parser, *photos, head_person, person, turned)
        for each in edits:
            each.check_head(people[0].layout, self.spec.labels, photos[0].name)
        first, *later = edits
        pair = self._aligned(*people, align, first.on_face)
        notes = tuple(note for photo in photos for note in photo.notes)
        if turned and not eyes_meet(*people):
            notes += ("the landmarks of a face are not reliable: the head was not turned",)
        again = partial(
            self.pair, photos[0], person=person, head_person=head_person, skin_tone=skin_tone,
            light=light, align=align, edit=later,
        )  # fmt: skip
        pair = replace(
            pair, edit=first.turned(people[1].turns), persons=(head_person, person), notes=notes,
            srgb=photos[1].srgb,
            then=(lambda image: again(replace(photos[1], pixels=image))) if later else None,
        )  # fmt: skip
        return self._matched(pair, skin_tone, light)

    def _aligned(self, head: Person, body: Person, align: Align, on_face: bool) -> Pair:
        """The pair with its necks aligned, unless a face is to stay where the eyes meet."""
        known = eyes_meet(head, body)
        if align == "none" or (known and on_face):
            return Pair(head, body, 0)
        eyes = np.array([known])
        shifts, layouts = self._runner.align(head.layout[None], body.layout[None], eyes)
        return aligned(head, body, int(shifts[0]), layouts[0])

    def _matched(self, pair: Pair, skin_tone: SkinTone, light: Light) -> Pair:
        """The pair in one light and, where the edit changes a face, with one tone of skin."""
        lit = one_light(pair, self.spec, light)
        if not pair.edit.keeps_face:
            return lit
        toned = one_skin(lit, self.spec, skin_tone)
        photo = pair.edit.limited(toned.body.photo, pair.body.photo)
        return replace(toned, body=replace(toned.body, photo=photo))

    def layout(self, pair: Pair) -> Int32[np.ndarray, "s s"]:
        """The inpainted layout of a result of `pair`: what its crop will show."""
        return self._runner.plan_pairs([pair]).layout[0]

    def paint(
        self,
        pairs: Sequence[Pair],
        seeds: Sequence[int],
        samples: int = 1,
        sampling: Sampling = DEFAULT_SAMPLING,
        preserve: Preserve = "photo",
        progress: Callable[[str], None] | None = None,
        preview: Preview | None = None,
    ) -> list[list[SwapResult]]:
        """Swaps a batch of pairs.

        Args:
          pairs: results of `pair`, any number, whose edits are as many and of the same regions.
          seeds: one for each pair.
          samples: the number of results for each pair.
          sampling: the solver and its steps.
          preserve, progress, preview: as for a call; of several pairs the first is shown.

        Returns:
          A list of `samples` results for each pair.

        Raises:
          ValueError: if the edits of the pairs differ in number or regions.
        """
        thens = [pair.then for pair in pairs if pair.then]
        if len(thens) not in (0, len(pairs)):
            raise ValueError("some pairs have more edits than others: paint them apart")
        options = sampling, preserve, progress, preview
        painted = self._paint(pairs, seeds, 1 if thens else samples, *options)
        if not thens:
            return painted
        firsts = [first for (first,) in painted]
        later = [then(first.image) for then, first in zip(thens, firsts, strict=True)]
        rest = self.paint(later, seeds, samples, *options)
        return [[x.after(first) for x in xs] for first, xs in zip(firsts, rest, strict=True)]

    def _paint(
        self,
        pairs: Sequence[Pair],
        seeds: Sequence[int],
        samples: int,
        sampling: Sampling,
        preserve: Preserve,
        progress: Callable[[str], None] | None,
        preview: Preview | None,
    ) -> list[list[SwapResult]]:
        heads, bodies = [pair.head for pair in pairs], [pair.body for pair in pairs]
        # Mattes are made beside the networks.
        whole = preserve == "latents"
        mattes = [None if whole else begin_matte(p, p.edit.finish(self.spec)) for p in pairs]
        plan = self._runner.plan_pairs(pairs)
        _enter("painting", progress)
        painted = self._runner.paint(
            _stack(heads, "image"), _stack(bodies, "image"), plan,
            seeds=np.array(seeds, np.uint32),
            numbers=np.tile(np.arange(samples, dtype=np.uint32), (len(pairs), 1)),
            sampling=sampling, preview=preview,
        )  # fmt: skip
        history = painted.history
        _enter("finishing", progress)
        return [
            [
                self._finished(
                    pair, Plan(*(x[i] for x in plan)), painted.images[i, n], preserve, mattes[i],
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
        matte: Future[Matte] | None,
        steps: tuple[np.ndarray, ...],
    ) -> SwapResult:
        head, body = pair.head, pair.body
        edit = pair.edit
        pasted = paste_back(pair, plan, image, edit.finish(self.spec), preserve, matte)
        result, notes = edit.limited(pasted.image, body.photo), pair.warnings(self.spec.labels)
        if np.array_equal(result, body.photo):
            notes += ("nothing is changed: the result is the body photo",)
        # A photo that was turned upright is given back as it was.
        arrays = result, edit.limited(pasted.mask, 0.0)
        result, mask = (np.ascontiguousarray(np.rot90(x, -body.turns)) for x in arrays)
        return SwapResult(
            image=result,
            layout=plan.layout,
            mask=mask,
            warnings=notes,
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
                "kept_head": plan.head,
                "kept_body": plan.body,
                "decoded": image,
                "result": pasted.crop,
            },
            mark=self.mark,
            crop=body.crop,
            turns=body.turns,
            srgb=pair.srgb,
        )

    def _check(self, samples: int, sampling: Sampling, preserve: str) -> None:
        if samples < 1:
            raise ValueError(f"samples is {samples}: ask for at least 1")
        if preserve not in ("photo", "latents"):
            raise ValueError(f"preserve is {preserve!r}: use 'photo' or 'latents'")
        self.spec.times(sampling)  # raises for a bad solver or number of steps


def _enter(stage: str, progress: Callable[[str], None] | None) -> None:
    _LOG.debug(stage)
    if progress is not None:
        progress(stage)


def _stack(people: Sequence[Any], name: str) -> np.ndarray:
    return np.stack([getattr(person, name) for person in people])
