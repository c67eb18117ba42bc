"""Edits of a swap: another region, a region to sample, a drawn layout, a mask.

Each edit only changes the masks and the layout of the same fusion (HS-Diffusion, arXiv 2212.06458,
sections 4.4 and 5.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from scipy import ndimage

from hsd_jax.imaging import framing
from hsd_jax.imaging.framing import Crop
from hsd_jax.labels import LabelSet
from hsd_jax.swapping.mixing import Region, region_classes
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.spec import SwapSpec

Generated = Literal["head", "hair", "clothes"]
Hair = Literal["source", "target"]

# In pixels at 256: the margin around a sampled region, whose old edge would show, and the width
# inside a mask over which kept pixels fade.
_AROUND = 3
_FADE = 5


@dataclass(frozen=True)
class Edit:
    """How a swap differs from one of the whole head. By default it does not."""

    region: Region = "head"
    """What the head photo gives (see `mixing.region_classes`)."""
    generate: Generated | None = None
    """What is sampled anew in its own layout, instead of kept from a photo."""
    layout: Integer[np.ndarray, "h w"] | None = None
    """The inpainted layout as somebody drew it, at the size of the body photo."""
    mask: Bool[np.ndarray, "h w"] | None = None
    """Where the body photo may change, at its size."""

    @classmethod
    def of(cls, region: Region = "head", hair: Hair = "source", **others: Any) -> "Edit":
        """Makes an edit from the options of a command; `hair="target"` swaps only the face.

        Raises:
          ValueError: if the options contradict each other.
        """
        if hair not in ("source", "target"):
            raise ValueError(f"hair is {hair!r}: use 'source' or 'target'")
        if hair == "target" and region not in ("head", "face"):
            raise ValueError(f"hair 'target' swaps the face alone: ask for no region {region!r}")
        return cls("face" if hair == "target" else region, **others)

    @classmethod
    def in_turn(
        cls,
        regions: Sequence[Region],
        hair: Hair = "source",
        *,
        mask: np.ndarray | None = None,
        **last: Any,
    ) -> list["Edit"]:
        """Makes the edits of a command that names several regions, one after another.

        The mask is of all, what else is asked for (`generate`, `layout`) of the last.

        Raises:
          ValueError: as `of` does.
        """
        edits = [cls.of(region, hair, mask=mask) for region in regions]
        return [*edits[:-1], replace(edits[-1], **last)]

    def check(self, labels: LabelSet, photo: UInt8[np.ndarray, "H W 3"]) -> None:
        """Checks the edit before a swap.

        Args:
          labels: the label set of the layouts.
          photo: the body photo.

        Raises:
          ValueError: if a region is unknown, or the layout or the mask does not fit the photo.
        """
        region_classes(self.region, labels)
        if self.generate is not None:
            if self.generate not in ("head", "hair", "clothes"):
                raise ValueError(f"generate is {self.generate!r}: use head, hair or clothes")
            region_classes(self.generate, labels)
        for name, drawn in (("layout", self.layout), ("mask", self.mask)):
            if drawn is not None and drawn.shape != photo.shape[:2]:
                own, wanted = (f"{x.shape[1]} x {x.shape[0]}" for x in (drawn, photo))
                raise ValueError(f"the {name} is {own}: give the body photo's size, {wanted}")
        if self.layout is not None:
            wrong = self.layout[(self.layout < 0) | (self.layout >= labels.num_classes)]
            if wrong.size:
                raise ValueError(f"the layout holds class {wrong[0]}: {labels.name} has 0 to "
                                 f"{labels.num_classes - 1}")  # fmt: skip

    def turned(self, turns: int) -> "Edit":
        """Returns the edit for a body photo after so many quarter turns, counter-clockwise."""
        if not turns:
            return self
        arrays = {"layout": self.layout, "mask": self.mask}
        return replace(self, **{k: np.rot90(x, turns) for k, x in arrays.items() if x is not None})

    def check_head(self, layout: Integer[np.ndarray, "s s"], labels: LabelSet, name: str) -> None:
        """Raises ValueError if the head photo, of this layout and name, lacks the region."""
        if not np.isin(layout, region_classes(self.region, labels)).any():
            raise ValueError(f"{name} shows no {self.region}: choose another photo or region")

    @property
    def only_region(self) -> bool:
        """Whether `masks` leaves a plan as it is."""
        return self.generate is None and self.layout is None and self.mask is None

    @property
    def keeps_face(self) -> bool:
        """Whether the result shows the face of the head photo."""
        return self.region in ("head", "face") and self.generate != "head"

    @property
    def on_face(self) -> bool:
        """Whether the region belongs to the body photo's own face."""
        return self.region in ("hair", "hat", "face")

    @property
    def drops_hair(self) -> bool:
        """Whether the body photo's own hair is replaced, with its loose strands."""
        return self.region in ("head", "hair")

    def finish(self, spec: SwapSpec) -> SwapSpec:
        """Returns the spec, without the finish of hair if the head photo gives none, nor a hat."""
        if self.region in ("head", "hair", "hat") and self.generate in (None, "clothes"):
            return spec
        return replace(spec, finish=replace(spec.finish, hair=0.0))

    def masks(self, plan: Plan, crop: Crop, spec: SwapSpec) -> Plan:
        """Returns a plan with the layout and the masks of this edit.

        Args:
          plan: the plan of one pair, `[s, s]`.
          crop: the crop of the body photo.
          spec: of the weights.
        """
        layout, size = plan.layout, spec.size
        anew = np.zeros(layout.shape, bool)
        if self.layout is not None:
            drawn = _taken(self.layout, crop, size)
            # Compared with the own layout at the photo's size and back: scaling moves edges.
            saved = _taken(at_photo(layout, crop, self.layout.shape), crop, size)
            anew |= drawn != saved
            layout = np.where(anew, drawn, layout).astype(layout.dtype)
        if self.generate is not None:
            given = np.isin(layout, region_classes(self.generate, spec.labels))
            anew |= np.asarray(
                ndimage.binary_dilation(given, iterations=spec.pixels(_AROUND)), bool
            )
        head, body = plan.head & ~anew, plan.body & ~anew
        if self.mask is not None:
            fixed = np.logical_not(_taken(self.mask, crop, size))
            fixed = np.asarray(ndimage.binary_dilation(fixed, iterations=spec.pixels(_FADE)), bool)
            head, body = head & ~fixed, body | fixed
        return plan._replace(layout=layout, head=head, body=body)

    def limited(self, values: np.ndarray, photo: np.ndarray | float) -> np.ndarray:
        """Returns `values` `[H, W, ...]` inside the mask and those of `photo` outside it."""
        if self.mask is None:
            return values
        inside = self.mask if values.ndim == 2 else self.mask[..., None]
        return np.where(inside, values, photo).astype(values.dtype)


def at_photo(layout: np.ndarray, crop: Crop, shape: tuple[int, int]) -> np.ndarray:
    """Returns a crop's layout on a photo of this shape, uint8 `[H, W]`, 0 around the crop."""
    return framing.paste(np.zeros(shape, np.uint8), framing.enlarge(layout, crop.side), crop)


def _taken(picture: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """Cuts a crop out of a layout or mask, nearest neighbour."""
    return framing.enlarge(framing.take(picture, crop), size)
