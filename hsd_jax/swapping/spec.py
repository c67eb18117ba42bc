"""What a set of weights is: sizes, labels, schedule and finish, read from the files beside them.

Nothing else in the package knows how large a crop is or which classes a layout has: models, solvers
and programs take what they need from here.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hsd_jax.diffusion.fusion import step_times
from hsd_jax.diffusion.schedule import PREDICTIONS, Prediction, Schedule
from hsd_jax.labels import LabelSet, get_label_set
from hsd_jax.weights import Loaded

PARTS = ("autoencoder", "unet", "condition", "layout_generator")
"""The networks between two parsed photos and one."""

_LENGTHS = ("hue_range", "smooth_layout", "hair", "old_hair")
UNIT = 256
"""Lengths are told in pixels of a crop of this side."""

_HALVINGS = 8  # latents along a side come in multiples of it, for UNets that halve them three times


@dataclass(frozen=True)
class Finish:
    """How far an image that was painted is brought to what the photos show around it.

    These are strengths for small networks, in the json of the weights that they were tuned for. By
    default all of them are off: the decoder's own pixels under the photos' (the paper's networks
    need no more). docs/finish.md has what each one brings on validation images.
    """

    match_border: bool = False
    """Painted colours move to the photos' along the border of what is kept, smoothly inwards."""
    tone: float = 0.0
    """Share of the way from painted clothes and limbs to the tone seen around them."""
    texture: float = 0.0
    """Share of patches from what is seen of clothes and limbs over what is painted of them."""
    background: float = 0.0
    """Share of patches from what is seen of the background over what is painted of it."""
    detail: float = 0.0
    """Share of the photo's detail finer than the crop's pixels, on what is painted of it."""
    hue: float = 0.0
    """Share of the way back for painted skin beyond `hue_range`."""
    hue_range: float = 4.0
    """How far painted skin may be from the face in CIE a*b*."""
    clean_edge: float = 0.0
    """Share of the colours inside painted skin over those of its edge, where latents mix."""
    hair: float = 0.0
    """Pixels of a crop of 256 around the new head in which its strands are matted."""
    old_hair: float = 0.0
    """Pixels of a crop of 256 around the old head in which its strands are painted over."""
    smooth_layout: float = 0.0
    """Pixels of a crop of 256 over which edges of generated layouts are smoothed."""
    mirror_layout: bool = False
    """Layouts are inpainted from two views, straight and mirrored."""
    own_neck: bool = False
    """Where the body's neck shows, the inpainted layout keeps its shape."""
    keep_neck: bool = False
    """What shows of the body's neck stays; else it is painted anew, as in the paper."""
    skin_tone: bool = False
    """The body's skin may follow the tone of the new face (see `swapping.skin`)."""
    follow_necks: bool = False
    """Heads move on where necks lie beside their faces (see `mixing.turned_neck_shift`)."""

    @staticmethod
    def parse(pairs: Sequence[str]) -> dict[str, Any]:
        """Fields by name from texts KEY=VALUE, whose values are JSON; ValueError as `read`."""
        found: dict[str, Any] = {}
        for pair in pairs:
            name, _, text = pair.partition("=")
            try:
                found[name] = json.loads(text)
            except ValueError:
                raise ValueError(f"finish {pair!r}: give KEY=VALUE, such as texture=0") from None
        Finish.read(found)
        return found

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Finish":
        """From a json's object.

        Raises:
          ValueError: an unknown name, or a value of another type or beyond its range.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(fields)):
            raise ValueError(f"finish has no {unknown[0]!r}: it has {', '.join(fields)}")
        for name, value in values.items():
            wants_bool = isinstance(fields[name].default, bool)
            if isinstance(value, bool) != wants_bool or not isinstance(value, bool | int | float):
                kind = "true or false" if wants_bool else "a number"
                raise ValueError(f"finish: {name} is {value!r}, it must be {kind}")
            is_share = not wants_bool and name not in _LENGTHS
            if not wants_bool and not 0 <= value <= (1 if is_share else UNIT):
                raise ValueError(f"finish: {name} is {value!r}, out of range")
        return cls(**values)


@dataclass(frozen=True)
class Sampling:
    """How latents are sampled; what a program for them is compiled for."""

    solver: str = "dpmpp"
    num_steps: int | None = None
    """Calls of the UNet; None for what suits the weights, or else the solver."""
    keep: bool = False
    """Also return what each step predicts."""


DEFAULT_SAMPLING = Sampling()


@dataclass(frozen=True)
class SwapSpec:
    """One set of weights, described. Frozen and hashable: compiled programs are told apart by it.

    Attributes:
      size: pixels of a crop's side, 64 to 1024.
      labels: the classes of layouts between parser and UNet.
      factor: pixels of a latent along each axis.
      latent_mean, latent_std: latents are normalised by these, a value a channel.
      schedule: of the noise.
      prediction: what the UNet predicts: "eps", "x0" or "v".
      known: whether it also sees the known latents (see `diffusion.conditioning`).
      steps: calls of the UNet that suit these weights with DPM-Solver++; None: the solver's own.
      layout_size: the side that the layout generator works at; size is a multiple of it.
      finish: see `Finish`.
    """

    size: int
    labels: LabelSet
    factor: int
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]
    schedule: Schedule
    prediction: Prediction
    known: bool
    steps: int | None
    layout_size: int
    finish: Finish = Finish()

    def __post_init__(self) -> None:
        step = self.factor * _HALVINGS
        if not 64 <= self.size <= 1024 or self.size % step:
            raise ValueError(f"size is {self.size}: it must be a multiple of {step}, 64 to 1024")
        if self.size % self.layout_size:
            raise ValueError(
                f"size {self.size} is no multiple of the layout generator's {self.layout_size}"
            )
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction is {self.prediction!r}: use {', '.join(PREDICTIONS)}")
        if len(self.latent_mean) != len(self.latent_std) or min(self.latent_std) <= 0:
            raise ValueError(
                f"latent_mean {self.latent_mean} and latent_std {self.latent_std} must have one "
                "value a channel, deviations above 0"
            )

    @classmethod
    def of(cls, parts: Mapping[str, Loaded]) -> "SwapSpec":
        """Reads the description from the networks' json files.

        Args:
          parts: those of `PARTS`.

        Raises:
          ValueError: one lacks what a swap needs, or they do not belong together.
        """
        facts, generator = dict(parts["unet"].extra), parts["layout_generator"].extra
        missing = [name for name in _NEEDED if name not in facts]
        missing += [f"{name} (layout_generator)" for name in ("size",) if name not in generator]
        if missing:
            raise ValueError(
                f"these weights do not tell {', '.join(missing)}: add them to `extra` of unet.json "
                "(or layout_generator.json), or convert again with --set"
            )
        labels = get_label_set(facts["labels"])
        for name in ("layout_generator", "condition"):
            theirs = parts[name].extra.get("labels", labels.name)
            if theirs != labels.name:
                raise ValueError(
                    f"the {name} speaks {theirs}, the UNet {labels.name}: use networks that "
                    "were trained with one label set"
                )
        return cls(
            # Converted UNets may not tell theirs: then all networks work at the generator's.
            size=int(facts.get("size", generator["size"])),
            labels=labels,
            factor=parts["autoencoder"].module.factor,
            latent_mean=tuple(map(float, facts["latent_mean"])),
            latent_std=tuple(map(float, facts["latent_std"])),
            schedule=Schedule(**facts["schedule"]),
            prediction=facts["prediction"],
            known=bool(facts.get("known", False)),
            steps=facts["steps"],
            layout_size=int(generator["size"]),
            finish=Finish.read(facts.get("finish", {})),
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of a crop's latents."""
        side = self.size // self.factor
        return side, side, len(self.latent_mean)

    @property
    def scale(self) -> float:
        """The crop's side, in sides of 256."""
        return self.size / UNIT

    def pixels(self, length: float) -> int:
        """A length in pixels of a crop of 256, in those of this size's crops; at least 1."""
        return max(1, round(length * self.scale))

    def times(self, sampling: Sampling) -> tuple[int, ...]:
        """The timesteps at which the UNet is called, falling."""
        num_steps = sampling.num_steps
        if num_steps is None and sampling.solver == "dpmpp":
            num_steps = self.steps
        return tuple(step_times(self.schedule, sampling.solver, num_steps).tolist())

    def describe(self) -> dict[str, Any]:
        """For people and for json: everything by name, the label set by its own."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["schedule"] = dataclasses.asdict(self.schedule)
        values["finish"] = dataclasses.asdict(self.finish)
        return values | {"labels": self.labels.name}


_NEEDED = ("labels", "latent_mean", "latent_std", "schedule", "prediction", "steps")

