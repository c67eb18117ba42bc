"""Decides from two aligned layouts what is kept of their photos and what is generated.

Algorithm 1, line 1 (HS-Diffusion, arXiv 2212.06458) mixes and inpaints the layouts. The two masks
of the fusion follow, with margins for parsing errors.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from hsd_jax.labels import LabelSet, one_hot
from hsd_jax.models import apply
from hsd_jax.parsing.complexion import skin_classes
from hsd_jax.swapping.mixing import (
    Region,
    Regions,
    dilate,
    erode,
    group_mask,
    mix_layouts,
    region_classes,
)
from hsd_jax.swapping.spec import UNIT, Finish, SwapSpec

# In pixels at 256: how far stray hair extends around an old head, and how wrong the edges of masks
# may be. docs/finish.md measures them.
_OLD_HEAD_MARGIN = 7
_OLD_EDGE = 3  # the same, where strands are looked for in the image itself (`finish.old_hair`)
_CHANGED_MARGIN = 3
_JAW_MARGIN = 2
_STRIP = 8  # height of the head's own neck that is kept under its jaw
_EDGE_OUTSIDE = 4
_EDGE_INSIDE = 2
_CHEEK_INSIDE = 4
_REGION_MARGINS = {"hair": 4, "hat": 4, "face": 2, "clothes": 3}  # around the part that is replaced


class Plan(NamedTuple):
    """Which pixels are kept and which are generated; all fields are `[..., H, W]`."""

    blended: Any
    """int32, the mixed layout with holes (Algorithm 1, line 1)."""
    layout: Any
    """int32, the layout inpainted by the layout generator."""
    head: Any
    """bool, pixels kept from the head photo."""
    body: Any
    """bool, pixels kept from the body photo, background included; disjoint from `head`."""


def make_plan(
    generator: Any,
    params: Any,
    layout_head: Integer[Array, "b h w"],
    layout_body: Integer[Array, "b h w"],
    spec: SwapSpec,
    region: Region = "head",
) -> Plan:
    """Mixes two batches of layouts, inpaints the result and decides what is kept.

    Args:
      generator, params: the layout generator.
      layout_head, layout_body: aligned layouts with the spec's size and labels.
      spec: of the weights.
      region: what the head photo gives (see `mixing.region_classes`).
    """
    if region != "head":
        return _local_plan(generator, params, layout_head, layout_body, spec, region)
    labels, margin = spec.labels, spec.pixels
    blended, regions = mix_layouts(layout_head, layout_body, labels)
    seen = _seen_in_body(layout_head, layout_body, regions, labels)
    shown = blended
    if spec.visible_neck:
        sure = seen & ~_around_old_head(layout_body, spec)
        shown = jnp.where(sure & group_mask(layout_body, labels.neck), layout_body, blended)
    layout = _inpaint(generator, params, shown, regions, spec)
    if spec.finish.own_neck:
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


def _local_plan(
    generator: Any,
    params: Any,
    layout_head: Array,
    layout_body: Array,
    spec: SwapSpec,
    region: Region,
) -> Plan:
    """Local replacement (section 5.1 of the paper): all but one region stays the body photo's."""
    labels, margin = spec.labels, spec.pixels
    given = region_classes(region, labels)
    blended, regions = mix_layouts(layout_head, layout_body, labels, region)
    old = group_mask(layout_body, given)
    if region == "hat":
        pressed = _above_hat(layout_head, layout_body, given, labels)
        old, layout_body = old | pressed, jnp.where(pressed, labels.background, layout_body)
    # Clothes continue behind the hair that hid them; other regions end where their photo says.
    without = labels.head if region == "clothes" else given
    filled = _inpaint(generator, params, blended, regions, spec, without)
    # What the old region hid is skin where the head photo shows skin: an open collar, or, be it
    # behind glasses, a forehead.
    if region == "clothes":
        filled = jnp.where(group_mask(layout_head, skin_classes(labels)), layout_head, filled)
    else:
        bare = group_mask(layout_head, region_classes("face", labels))
        filled = jnp.where(bare, labels.face, filled)
    if region == "face":
        filled = jnp.full_like(filled, labels.face)
    holes = group_mask(layout_body, given) & (regions.head == 0)
    layout = jnp.where(holes, filled, jnp.where(regions.head > 0, layout_head, layout_body))
    painted = dilate(old, margin(_REGION_MARGINS[region])) > 0
    if region == "hair":
        gap = _gap(layout_head, layout_body, given, labels)
        layout = jnp.where(gap, given[0], layout)
        painted |= dilate(gap, margin(_CHANGED_MARGIN)) > 0
    if not (spec.finish.hair and region in ("hair", "hat")):  # which end in an alpha then
        painted |= dilate(regions.head, margin(_EDGE_OUTSIDE)) > 0
    # Beside a face is its own hair, not the body's.
    inside = _CHEEK_INSIDE if region == "face" else _EDGE_INSIDE
    head = erode(regions.head, margin(inside)) > 0
    return Plan(blended, layout.astype(jnp.int32), head, ~painted & ~head)


def _above_hat(
    layout_head: Array, layout_body: Array, hat: tuple[int, ...], labels: LabelSet
) -> Bool[Array, "b h w"]:
    """The body's hair that the new hat would press down: it would stand beside and above it."""
    rows, columns = (jnp.arange(side) for side in layout_head.shape[-2:])
    edge = jnp.max(jnp.where(group_mask(layout_head, hat), rows[None, :, None], -1), -2)
    places = jnp.where(edge >= 0, columns[None], 0)
    middle = jnp.sum(places, -1) / jnp.maximum(jnp.sum(edge >= 0, -1), 1)
    left = columns[None] < middle[:, None]
    brims = [jnp.max(jnp.where(side, edge, -1), -1) for side in (left, ~left)]
    above = rows[None, :, None] <= jnp.where(left, *(brim[:, None] for brim in brims))[:, None]
    hair = group_mask(layout_body, region_classes("hair", labels))
    return above & hair & (layout_head == labels.background)


def _gap(
    layout_head: Array, layout_body: Array, hair: tuple[int, ...], labels: LabelSet
) -> Bool[Array, "b h w"]:
    """Where new hair frames a wider face than the body's: there it would frame the background."""
    framed = jnp.ones(layout_head.shape, bool)
    for reverse in (False, True):
        framed &= jax.lax.cummax(group_mask(layout_head, hair).astype(jnp.int8), 2, reverse) > 0
    own = group_mask(layout_head, labels.head) & ~group_mask(layout_head, hair)
    return framed & own & (layout_body == labels.background)


def _under_jaw(layout_head: Array, layout: Array, spec: SwapSpec) -> Bool[Array, "b h w"]:
    """A strip of the head's own neck, which keeps the shadow of the jaw."""
    near = dilate(group_mask(layout_head, spec.labels.face), spec.pixels(_STRIP)) > 0
    neck = spec.labels.neck
    return near & group_mask(layout_head, neck) & group_mask(layout, neck)


def _kept_neck(layout_body: Array, layout: Array, spec: SwapSpec) -> Bool[Array, "b h w"]:
    """The body's neck up to the jaws; around old hair the full margin is generated."""
    labels, margin = spec.labels, spec.pixels
    hair = tuple(index for index in labels.head if index != labels.face)
    near = dilate(group_mask(layout_body, labels.face), margin(_JAW_MARGIN)) > 0
    near |= dilate(group_mask(layout_body, hair), margin(_OLD_HEAD_MARGIN)) > 0
    return group_mask(layout_body, labels.neck) & (layout == layout_body) & ~near


def latent_regions(plan: Plan, factor: int) -> Regions:
    """The fusion's masks, float32 `[b, h, w, 1]`; a latent is kept if all of its pixels are.

    Args:
      plan: a batch of plans, `[b, H, W]`.
      factor: pixels per latent along each axis.
    """

    def cells(mask: Bool[Array, "b H W"]) -> Float[Array, "b h w 1"]:
        b, h, w = mask.shape
        whole = mask.reshape(b, h // factor, factor, w // factor, factor).all((2, 4))
        return whole.astype(jnp.float32)[..., None]

    head, body = cells(plan.head), cells(plan.body)
    return Regions(head, body, 1 - head - body)


def _inpaint(
    generator: Any,
    params: Any,
    blended: Array,
    regions: Regions,
    spec: SwapSpec,
    without: tuple[int, ...] | None = None,
) -> Integer[Array, "b h w"]:
    """Fills the holes of blended layouts with the generator's classes."""
    factor = spec.size // spec.layout_size
    small = blended[:, factor // 2 :: factor, factor // 2 :: factor]
    probs = layout_probs(generator, params, small, spec.labels, spec.finish)
    filled = classes_without_head(probs, spec.size, spec.labels, spec.finish, without)
    return jnp.where(regions.rest > 0, filled, blended).astype(jnp.int32)


def layout_probs(
    module: Any,
    params: Any,
    layouts: Integer[Array, "b h w"],
    labels: LabelSet,
    finish: Finish,
) -> Float[Array, "b h w k"]:
    """The layout generator's probabilities, averaged over mirror images if `mirror_layout`.

    Args:
      module, params: the layout generator.
      layouts: layouts with holes, at the generator's size.
      labels: the label set of the layouts.
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
    probs: Float[Array, "b h w k"],
    size: int,
    labels: LabelSet,
    finish: Finish,
    without: tuple[int, ...] | None = None,
) -> Integer[Array, "b size size"]:
    """The most probable classes of a layout generator other than the head's, edges smoothed.

    The head comes from its photo only: hair that the generator adds would be the old person's.

    Args:
      probs: the generator's probabilities.
      size: the side of the result.
      labels: the label set of the classes.
      finish: of the weights; `smooth_layout` is the width of the smoothing.
      without: the classes to leave out; None for the head's.
    """
    b, *_, k = probs.shape
    smooth = max(1, round(finish.smooth_layout * size / UNIT))
    coarse = jax.image.resize(probs, (b, size // smooth, size // smooth, k), "bilinear")
    fine = jax.image.resize(coarse, (b, size, size, k), "bilinear")
    head = jnp.isin(jnp.arange(k), jnp.array(labels.head if without is None else without))
    return jnp.argmax(jnp.where(head[None, None, None], -1.0, fine), -1)


def _beside_head(layout: Integer[Array, "b h w"], labels: LabelSet) -> Bool[Array, "b h w"]:
    """Pixels right and left of a head, above its chin, where there can be no neck."""
    face, head = group_mask(layout, labels.face), group_mask(layout, labels.head)
    rows = jnp.arange(layout.shape[-2])
    chin = jnp.max(jnp.where(face.any(-1), rows[None], -1), -1)
    return (rows[None] <= chin[:, None])[:, :, None] & ~head.any(-2)[:, None]
