"""Puts a generated crop into the body's photo, at the photo's own resolution.

Photos may be fifty times the size of a crop: what is composed at their resolution is made tile by
tile, on all cores, and only where it differs from the body's photo.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from hsd_jax.imaging import detail, framing
from hsd_jax.imaging.framing import Scaled, Tile
from hsd_jax.imaging.matting import foreground
from hsd_jax.runtime.threads import begin, spread
from hsd_jax.swapping.finish import Layers, Settled, blend, settle
from hsd_jax.swapping.light import greyed, is_grey
from hsd_jax.swapping.mattes import Matte, head_matte
from hsd_jax.swapping.mixing import region_classes
from hsd_jax.swapping.pair import Pair
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.spec import SwapSpec

Preserve = Literal["photo", "latents"]


class Pasted(NamedTuple):
    """The body's photo with the new head."""

    image: UInt8[np.ndarray, "H W 3"]
    mask: Float[np.ndarray, "H W"]
    """1 where pixels were generated, 0 where they are a photo's."""
    crop: UInt8[np.ndarray, "s s 3"]
    """The crop of the image, at the size of the networks."""


def paste_back(
    pair: Pair,
    plan: Plan,
    painted: UInt8[np.ndarray, "s s 3"],
    spec: SwapSpec,
    preserve: Preserve = "photo",
    matte: Future[Matte] | None = None,
) -> Pasted:
    """Puts a generated crop into the body's photo.

    Args:
      pair: the photos and their layouts.
      plan: of this pair, `[s, s]`.
      painted: the decoder's image.
      spec: of the weights.
      matte: what `begin_matte` returned.
      preserve: "photo" keeps the photos' own pixels wherever nothing is generated; "latents" takes
        the whole crop from the decoder, as in the paper.
    """
    body, side = pair.body, pair.body.crop.side
    image, mask = body.photo.copy(), np.zeros(body.photo.shape[:2], np.float32)

    def put(tile: Tile, pixels: np.ndarray, generated: np.ndarray) -> None:
        framing.put(image, pixels, body.crop, tile)
        framing.put(mask, generated, body.crop, tile)

    if preserve == "latents":
        whole = slice(0, side), slice(0, side)
        put(whole, framing.resize(painted, side), np.ones((side, side), np.float32))
    else:
        _compose(pair, plan, painted, spec, matte or begin_matte(pair, spec), put)
    return Pasted(image, mask, framing.take(image, body.crop, spec.size))


def begin_matte(pair: Pair, spec: SwapSpec) -> Future[Matte] | None:
    """Starts to matte the head, if the weights ask for it: it only takes the head's photo."""
    if not spec.finish.hair:
        return None
    region = pair.edit.region
    given = None if region == "head" else region_classes(region, spec.labels)
    return begin(head_matte, pair.head, spec, given)


def _compose(
    pair: Pair,
    plan: Plan,
    painted: np.ndarray,
    spec: SwapSpec,
    matte: Future[Matte] | None,
    put: Callable[[Tile, np.ndarray, np.ndarray], None],
) -> None:
    """Puts the crop at its own resolution, and how much of each pixel was generated."""
    head, body, side = pair.head, pair.body, pair.body.crop.side
    # The head's neck fades into the body's, not into what is generated between them.
    necks = np.isin(body.layout, spec.labels.neck) & (plan.layout == body.layout)
    under = plan.head & necks if spec.finish.keep_neck else False
    layers = Layers.at_crop(head.image, body.image, plan.head, plan.body | under)
    if spec.finish.light and is_grey(head.image) and is_grey(body.image):
        painted = greyed(painted)
    drawn = np.isin(plan.layout, spec.labels.head) & (plan.layout != head.layout) & ~plan.body
    settled = settle(
        painted, layers, plan.layout, spec, body.inside, head.inside, drawn, pair.edit.region
    )
    kept = _Kept.of(pair, layers)
    hair = _Hair.of(matte.result(), side) if matte else None
    enlarged = _enlarged(settled, kept.body, spec.finish.detail)

    def compose(tile: Tile) -> None:
        shown = kept.at(tile)
        shown = hair.on(shown, tile) if hair else shown
        generated = shown.generated_alpha
        put(tile, blend(enlarged(tile) if generated.any() else shown.body, shown), generated)

    spread(compose, filter(_changing(layers, hair, side), framing.tiles(side)))


class _Kept(NamedTuple):
    """The crops of both photos and their alphas, at the resolution of the body's."""

    head: Scaled
    body: UInt8[np.ndarray, "S S 3"]
    head_alpha: Scaled
    body_alpha: Scaled

    @classmethod
    def of(cls, pair: Pair, layers: Layers) -> "_Kept":
        head, body, side = pair.head, pair.body, pair.body.crop.side
        alphas = (Scaled(x, side, smooth=True) for x in (layers.head_alpha, layers.body_alpha))
        own = Scaled(framing.take(head.photo, head.crop), side)
        return cls(own, framing.take(body.photo, body.crop), *alphas)

    def at(self, tile: Tile) -> Layers:
        alphas = self.head_alpha.at(tile), self.body_alpha.at(tile)
        return Layers(self.head.at(tile), self.body[tile], *alphas)


def _changing(layers: Layers, hair: "_Hair | None", side: int) -> Callable[[Tile], bool]:
    """Tells of a tile whether anything but the body shows in it."""
    masks = [(layers.head_alpha > 0) | (layers.body_alpha < 1), *([hair.reach] if hair else [])]
    return lambda tile: any(
        mask[framing.cells(tile, side, len(mask))].any() for mask in masks
    )


def _enlarged(
    settled: Settled, body: np.ndarray, share: float
) -> Callable[[Tile], Float[np.ndarray, "R C 3"]]:
    """The generated image by tiles, with a share of the photo's fine detail."""
    image = settled.at(len(body))
    if not share:
        return image
    fine = detail.Carried.of(body, settled.sources)
    return lambda tile: image(tile) + share * fine.at(tile)


@dataclass(frozen=True)
class _Hair:
    """The soft edge of the new head, and the colours on both sides of it."""

    reach: Bool[np.ndarray, "m m"]
    """Where the edge may be, at the matte's size."""
    alpha: Scaled
    zone: Scaled
    front: Scaled
    back: Scaled

    @classmethod
    def of(cls, matte: Matte, side: int) -> "_Hair":
        return cls(matte.zone > 0, *(Scaled(x, side, smooth=True) for x in matte))

    def on(self, layers: Layers, tile: Tile) -> Layers:
        """A tile of layers whose head ends in its own strands."""
        zone = self.zone.at(tile)
        if not zone.any():
            return layers
        alpha, front, back = (x.at(tile) for x in (self.alpha, self.front, self.back))
        opacity = np.where(zone > 0.5, alpha, 1.0).astype(np.float32)[..., None]
        colours = np.clip(foreground(layers.head.astype(np.float32), front, back, opacity), 0, 255)
        head = layers.head + zone[..., None] * (colours - layers.head)
        whole = layers.head_alpha + zone * (alpha - layers.head_alpha)
        return replace(layers, head=np.round(head).astype(np.uint8), head_alpha=whole)
