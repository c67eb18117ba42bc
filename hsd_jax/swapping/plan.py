"""What is kept of two aligned photos, and what is painted: from their layouts, before any pixel.

Algorithm 1, line 1 (HS-Diffusion, arXiv 2212.06458): mix the layouts, inpaint the mixed one. Then
the two masks of the fusion, with margins for what parsers get wrong.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from hsd_jax.labels import LabelSet, one_hot
from hsd_jax.models import apply
from hsd_jax.swapping.mixing import Regions, dilate, erode, group_mask, mix_layouts
from hsd_jax.swapping.spec import UNIT, Finish, SwapSpec

# Pixels of a crop of 256: how far stray hair reaches around an old head, how far the edges of
# masks may be wrong. docs/finish.md has metrics for them on validation images.
_OLD_HEAD_MARGIN = 7
_OLD_EDGE = 3  # the same, where strands are looked for in the image itself (`finish.old_hair`)
_CHANGED_MARGIN = 3
_JAW_MARGIN = 2
_STRIP = 8  # of the head's own neck that stays under its jaw
_EDGE_OUTSIDE = 4
_EDGE_INSIDE = 2


class Plan(NamedTuple):
    """What is kept and what is painted, `[..., H, W]` each."""

    blended: Any
    """int32 layout with holes: Algorithm 1, line 1."""
    layout: Any
    """int32 layout after the layout generator."""
    head: Any
    """bool: kept from the head's photo."""
    body: Any
    """bool: kept from the body's photo, its body and its surroundings; disjoint from `head`."""


def make_plan(
    generator: Any,
    params: Any,
    layout_head: Integer[Array, "b h w"],
    layout_body: Integer[Array, "b h w"],
    spec: SwapSpec,
) -> Plan:
    """Mixes the layouts, inpaints the mixed ones, decides what is kept.

    Args:
      generator, params: the layout generator.
      layout_head, layout_body: aligned, at the spec's size and in its labels.
      spec: of the weights.
    """
    labels, margin = spec.labels, spec.pixels
    blended, regions = mix_layouts(layout_head, layout_body, labels)
    layout = _inpaint(generator, params, blended, regions, spec)
    if spec.finish.own_neck:
        seen = _seen_in_body(layout_head, layout_body, regions, labels)
        layout = jnp.where(seen, layout_body, layout)
    necks = group_mask(layout_body, labels.neck) | group_mask(layout, labels.neck)
    whole, kept = regions.head, jnp.zeros(necks.shape, bool)
    if spec.finish.keep_neck:
        necks &= layout != layout_body
        whole = jnp.maximum(whole, _under_jaw(layout_head, layout, spec))
        kept = _kept_neck(layout_body, layout, spec)
    painted = _around_old_head(layout_body, spec) | (dilate(necks, margin(_CHANGED_MARGIN)) > 0)
    if not spec.finish.hair:  # else the new head ends in an alpha, on what is there
        painted |= dilate(regions.head, margin(_EDGE_OUTSIDE)) > 0
    head = erode(whole, margin(_EDGE_INSIDE)) > 0
    return Plan(blended, layout, head, (~painted | kept) & ~head)


def _seen_in_body(
    layout_head: Array, layout_body: Array, regions: Regions, labels: LabelSet
) -> Bool[Array, "b h w"]:
    """Where the body's photo shows what is there: beside both heads, but for necks too high."""
    high_neck = group_mask(layout_body, labels.neck) & _beside_head(layout_head, labels)
    return (regions.rest > 0) & ~group_mask(layout_body, labels.head) & ~high_neck


def _around_old_head(layout_body: Array, spec: SwapSpec) -> Bool[Array, "b h w"]:
    """The old head, and as much around it as its loose hair may reach."""
    old_head, margin = group_mask(layout_body, spec.labels.head), spec.pixels
    wide = dilate(old_head, margin(_OLD_HEAD_MARGIN)) > 0
    if not spec.finish.old_hair:
        return wide
    near = dilate(old_head, margin(_OLD_EDGE)) > 0
    return jnp.where(layout_body == spec.labels.background, near, wide)


def _under_jaw(layout_head: Array, layout: Array, spec: SwapSpec) -> Bool[Array, "b h w"]:
    """A strip of the head's own neck, so that jaws keep their shadow and end on a photo."""
    near = dilate(group_mask(layout_head, spec.labels.face), spec.pixels(_STRIP)) > 0
    neck = spec.labels.neck
    return near & group_mask(layout_head, neck) & group_mask(layout, neck)


def _kept_neck(layout_body: Array, layout: Array, spec: SwapSpec) -> Bool[Array, "b h w"]:
    """The body's neck up to the jaws; loose hair of the old head needs its whole margin."""
    labels, margin = spec.labels, spec.pixels
    hair = tuple(index for index in labels.head if index != labels.face)
    near = dilate(group_mask(layout_body, labels.face), margin(_JAW_MARGIN)) > 0
    near |= dilate(group_mask(layout_body, hair), margin(_OLD_HEAD_MARGIN)) > 0
    return group_mask(layout_body, labels.neck) & (layout == layout_body) & ~near


def latent_regions(plan: Plan, factor: int) -> Regions:
    """The fusion's masks, float32 `[b, h, w, 1]`: a latent is known only where its whole cell is.

    Args:
      plan: `[b, H, W]`.
      factor: pixels of a latent along each axis.
    """

    def cells(mask: Bool[Array, "b H W"]) -> Float[Array, "b h w 1"]:
        b, h, w = mask.shape
        whole = mask.reshape(b, h // factor, factor, w // factor, factor).all((2, 4))
        return whole.astype(jnp.float32)[..., None]

    head, body = cells(plan.head), cells(plan.body)
    return Regions(head, body, 1 - head - body)


def _inpaint(
    generator: Any, params: Any, blended: Array, regions: Regions, spec: SwapSpec
) -> Integer[Array, "b h w"]:
    """The generator's layouts where the blended ones have holes, themselves elsewhere."""
    factor = spec.size // spec.layout_size
    small = blended[:, factor // 2 :: factor, factor // 2 :: factor]
    probs = layout_probs(generator, params, small, spec.labels, spec.finish)
    filled = classes_without_head(probs, spec.size, spec.labels, spec.finish)
    return jnp.where(regions.rest > 0, filled, blended).astype(jnp.int32)


def layout_probs(
    module: Any,
    params: Any,
    layouts: Integer[Array, "b h w"],
    labels: LabelSet,
    finish: Finish,
) -> Float[Array, "b h w k"]:
    """The layout generator's probabilities; with `mirror_layout`, means of two views.

    Args:
      module, params: of the generator.
      layouts: with holes, at the generator's size.
      labels: of the layouts.
      finish: of the weights.
    """
    x = one_hot(layouts, labels)
    if not finish.mirror_layout:
        return apply(module, params, x).probs
    swapped = jnp.array(labels.mirrored)
    both = jnp.concatenate([x, x[:, :, ::-1][..., swapped]])
    straight, mirrored = jnp.split(apply(module, params, both).probs, 2)
    return (straight + mirrored[:, :, ::-1][..., swapped]) / 2


def classes_without_head(
    probs: Float[Array, "b h w k"], size: int, labels: LabelSet, finish: Finish
) -> Integer[Array, "b size size"]:
    """What the layout generator fills holes with, `smooth_layout` at its edges.

    Heads are the photo's alone: hair that the generator adds would be the old person's.

    Args:
      probs: of the generator.
      size: of the layouts' side.
      labels: of the classes.
      finish: of the weights.
    """
    b, *_, k = probs.shape
    smooth = max(1, round(finish.smooth_layout * size / UNIT))
    coarse = jax.image.resize(probs, (b, size // smooth, size // smooth, k), "bilinear")
    fine = jax.image.resize(coarse, (b, size, size, k), "bilinear")
    head = jnp.isin(jnp.arange(k), jnp.array(labels.head))
    return jnp.argmax(jnp.where(head[None, None, None], -1.0, fine), -1)


def _beside_head(layout: Integer[Array, "b h w"], labels: LabelSet) -> Bool[Array, "b h w"]:
    """Right and left of a head, above its chin: where no neck shows."""
    face, head = group_mask(layout, labels.face), group_mask(layout, labels.head)
    rows = jnp.arange(layout.shape[-2])
    chin = jnp.max(jnp.where(face.any(-1), rows[None], -1), -1)
    return (rows[None] <= chin[:, None])[:, :, None] & ~head.any(-2)[:, None]
