"""The description of a set of weights: sizes, labels, schedule and finish, from their metadata.

No other module knows the size of a crop or the classes of a layout: models, solvers and programs
take them from here.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hsd_jax.diffusion.fusion import Draws, Mixed, Mixing, step_times
from hsd_jax.diffusion.schedule import PREDICTIONS, Prediction, Schedule
from hsd_jax.labels import LabelSet, get_label_set
from hsd_jax.weights import Loaded

PARTS = ("autoencoder", "unet", "condition", "layout_generator")
"""The networks that turn two parsed photos into one."""

_LENGTHS = ("hue_range", "smooth_layout", "hair", "old_hair")
UNIT = 256
"""Lengths are given in pixels of a crop of this side."""

_HALVINGS = 8  # UNets halve latents three times, so a side has a multiple of 8


@dataclass(frozen=True)
class Finish:
    """How strongly generated pixels are adapted to the photo around them.

    These are settings for small networks, stored with the weights that they were tuned for. By
    default all of them are off, and the decoder's pixels are used as they are, which suits the
    paper's networks. docs/finish.md measures the effect of each on validation images.
    """

    match_border: bool = False
    """Whether generated colours are matched to the photos' along the border, smoothly inwards."""
    tone: float = 0.0
    """How far generated clothes and limbs move to the tone visible around them, 0 to 1."""
    texture: float = 0.0
    """Opacity of patches of visible clothes and limbs over generated ones, 0 to 1."""
    background: float = 0.0
    """Opacity of patches of visible background over generated background, 0 to 1."""
    detail: float = 0.0
    """Strength of the photo's fine detail on what was generated at the networks' size, 0 to 1."""
    hue: float = 0.0
    """How far generated skin outside `hue_range` moves back to it, 0 to 1."""
    hue_range: float = 4.0
    """How far the hue of generated skin may differ from visible skin's, in CIE a*b*."""
    hair: float = 0.0
    """How far around the new head hair is matted, in pixels at 256; 0 for not at all."""
    old_hair: float = 0.0
    """How far around the old head hair is removed, in pixels at 256; 0 for not at all."""
    smooth_layout: float = 0.0
    """Width over which edges of generated layouts are smoothed, in pixels at 256."""
    mirror_layout: bool = False
    """Whether the layout generator's output is averaged over a layout and its mirror image."""
    own_neck: bool = False
    """Whether the inpainted layout is the body's wherever its photo shows what is there."""
    keep_neck: bool = False
    """Whether visible pixels of the body's neck are kept; the paper generates them anew."""
    skin_tone: bool = False
    """Whether the body's skin may take the tone of the new face (see `swapping.skin`)."""
    light: bool = False
    """Whether the head may take the colour of the light in the body's photo (`swapping.light`)."""
    follow_necks: bool = False
    """Whether heads are aligned by their necks too (see `mixing.extended_neck_shift`)."""

    @staticmethod
    def parse(pairs: Sequence[str]) -> dict[str, Any]:
        """Parses KEY=VALUE texts with JSON values; raises ValueError as `read` does."""
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
    """How latents are sampled: the static arguments of the sampler."""

    solver: str = "dpmpp"
    num_steps: int | None = None
    """UNet calls; None for the default of the weights or, without one, of the solver."""
    keep: bool = False
    """Whether to return the prediction at each step, too."""
    mixing: Mixing = "every"
    """When known latents are mixed in, see `fusion.fuse`; other than the defaults for ablations."""
    mixed: Mixed = "both"
    draws: Draws = "fresh"


DEFAULT_SAMPLING = Sampling()


@dataclass(frozen=True)
class SwapSpec:
    """The description of one set of weights; hashable, so that it is a key of compiled programs.

    Attributes:
      size: the side of a crop in pixels, 64 to 1024.
      labels: the label set of all layouts.
      factor: pixels per latent along each axis.
      latent_mean, latent_std: the statistics that normalise latents, one value per channel.
      schedule: the noise schedule.
      prediction: what the UNet predicts: "eps", "x0" or "v".
      known: whether the UNet also sees the known latents (see `diffusion.conditioning`).
      steps: the default number of UNet calls with DPM-Solver++; None for the solver's own.
      layout_size: the layout generator's size, a divisor of `size`.
      visible_neck: whether the layout generator is shown the body's neck where the photo does.
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
    visible_neck: bool = False
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
        """Reads the description from the networks' metadata.

        Args:
          parts: the networks named in `PARTS`.

        Raises:
          ValueError: if a network lacks metadata, or they do not belong together.
        """
        facts, generator = dict(parts["unet"].extra), parts["layout_generator"].extra
        missing = [name for name in _NEEDED if name not in facts]
        missing += [f"{name} (layout_generator)" for name in ("size",) if name not in generator]
        if missing:
            raise ValueError(
                f"these weights lack {', '.join(missing)}: add them to `extra` of unet.json "
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
            # Converted UNets may lack a size: then all networks use the generator's.
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
            visible_neck=bool(generator.get("visible_neck", False)),
            finish=Finish.read(facts.get("finish", {})),
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (h, w, c) of a crop's latents."""
        side = self.size // self.factor
        return side, side, len(self.latent_mean)

    @property
    def scale(self) -> float:
        """The crop's side divided by `UNIT`."""
        return self.size / UNIT

    def pixels(self, length: float) -> int:
        """Converts a length in pixels at `UNIT` to pixels at this size, at least 1."""
        return max(1, round(length * self.scale))

    def times(self, sampling: Sampling) -> tuple[int, ...]:
        """The timesteps at which the UNet is called, in decreasing order."""
        num_steps = sampling.num_steps
        if num_steps is None and sampling.solver == "dpmpp":
            num_steps = self.steps
        return tuple(step_times(self.schedule, sampling.solver, num_steps).tolist())

    def describe(self) -> dict[str, Any]:
        """All fields as a JSON-serialisable dict; the label set by its name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["schedule"] = dataclasses.asdict(self.schedule)
        values["finish"] = dataclasses.asdict(self.finish)
        return values | {"labels": self.labels.name}


_NEEDED = ("labels", "latent_mean", "latent_std", "schedule", "prediction", "steps")

