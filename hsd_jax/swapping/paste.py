"""Puts a generated crop into the body's photo, at the photo's own resolution.

Photos may be fifty times the size of a crop: what is composed at their resolution is made strip by
strip.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from hsd_jax.imaging import detail, framing
from hsd_jax.imaging.matting import colours_apart, foreground
from hsd_jax.swapping.finish import Layers, Settled, blend, settle
from hsd_jax.swapping.mattes import head_matte
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
) -> Pasted:
    """Puts a generated crop into the body's photo.

    Args:
      pair: the photos and their layouts.
      plan: of this pair, `[s, s]`.
      painted: the decoder's image.
      spec: of the weights.
      preserve: "photo" keeps the photos' own pixels wherever nothing is generated; "latents" takes
        the whole crop from the decoder, as in the paper.
    """
    body = pair.body
    if preserve == "latents":
        square = framing.resize(painted, body.crop.side)
        generated = np.ones(square.shape[:2], np.float32)
    else:
        square, generated = _composed(pair, plan, painted, spec)
    image = framing.paste(body.photo, square, body.crop)
    mask = framing.paste(np.zeros(body.photo.shape[:2], np.float32), generated, body.crop)
    return Pasted(image, mask, framing.take(image, body.crop, spec.size))


def _composed(
    pair: Pair, plan: Plan, painted: np.ndarray, spec: SwapSpec
) -> tuple[np.ndarray, np.ndarray]:
    """The crop at its own resolution, and how much of each pixel was generated."""
    head, body, side = pair.head, pair.body, pair.body.crop.side
    # The head's neck fades into the body's, not into what is generated between them.
    necks = np.isin(body.layout, spec.labels.neck) & (plan.layout == body.layout)
    under = plan.head & necks if spec.finish.keep_neck else False
    layers = Layers.at_crop(head.image, body.image, plan.head, plan.body | under)
    settled = settle(painted, layers, plan.layout, spec, body.inside)
    photos = Photos(framing.take(head.photo, head.crop, side), framing.take(body.photo, body.crop))
    hair = _Hair.of(pair, spec) if spec.finish.hair else None
    fine = detail.reduced(photos.body, spec.size) if spec.finish.detail else None
    square, generated = np.empty_like(photos.body), np.empty((side, side), np.float32)
    for rows in framing.strips(side):
        strip = _layers(photos, layers, rows)
        strip = hair.on(strip, side, rows) if hair else strip
        image = strip.body
        if strip.generated_alpha.any():
            image = _enlarged(settled, photos.body, fine, spec.finish.detail, rows)
        square[rows] = blend(image, strip)
        generated[rows] = strip.generated_alpha
    return square, generated


class Photos(NamedTuple):
    """The crops of both photos at the resolution of the body's."""

    head: UInt8[np.ndarray, "S S 3"]
    body: UInt8[np.ndarray, "S S 3"]


def _layers(photos: Photos, layers: Layers, rows: slice) -> Layers:
    """Rows of the layers at the resolution of the photos."""
    alphas = (
        framing.resize_rows(alpha, len(photos.body), rows, smooth=True)
        for alpha in (layers.head_alpha, layers.body_alpha)
    )
    return Layers(photos.head[rows], photos.body[rows], *alphas)


def _enlarged(
    settled: Settled, body: np.ndarray, reduced: np.ndarray | None, share: float, rows: slice
) -> np.ndarray:
    """Rows of the generated image, with a share of the photo's fine detail."""
    image = settled.at(len(body), rows)
    if reduced is None:
        return image
    return image + share * detail.carried(body, reduced, settled.sources, rows)


@dataclass(frozen=True)
class _Hair:
    """The soft edge of the new head, and the colours on both sides of it, at the matte's size."""

    alpha: np.ndarray
    zone: np.ndarray
    front: np.ndarray
    back: np.ndarray

    @classmethod
    def of(cls, pair: Pair, spec: SwapSpec) -> "_Hair":
        matte = head_matte(pair.head, spec)
        alpha = np.where(matte.zone > 0.5, matte.alpha, 1.0).astype(np.float32)
        return cls(matte.alpha, matte.zone, *colours_apart(matte.image, alpha))

    def on(self, layers: Layers, side: int, rows: slice) -> Layers:
        """Rows of layers whose head ends in its own strands."""
        zone = framing.resize_rows(self.zone, side, rows, smooth=True)
        if not zone.any():
            return layers
        alpha, front, back = (
            framing.resize_rows(x, side, rows, smooth=True)
            for x in (self.alpha, self.front, self.back)
        )
        opacity = np.where(zone > 0.5, alpha, 1.0).astype(np.float32)[..., None]
        colours = np.clip(foreground(layers.head.astype(np.float32), front, back, opacity), 0, 255)
        head = layers.head + zone[..., None] * (colours - layers.head)
        whole = layers.head_alpha + zone * (alpha - layers.head_alpha)
        return replace(layers, head=np.round(head).astype(np.uint8), head_alpha=whole)
