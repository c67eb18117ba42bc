"""Adapts generated pixels to the photo and blends them into it without a seam.

The paper decodes everything from latents, so what it preserves is capped by its autoencoder. Here
only what had to be painted comes from the decoder, and fades into the photos' pixels over a band
that lies inside the kept regions' own edge (`Layers`, `blend`).

Before that it is made to fit what is kept, as far as the weights ask for it (`settle`,
`spec.Finish`): the small embedded networks paint a soft mean of what fits, whose colours, patterns
and edges are brought to what the photos show around it. Weights that ask for nothing get nothing.
The paper, too, fills the background of photos apart from its diffusion model (appendix A.1, with
LaMa).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from scipy import ndimage

from hsd_jax.diffusion.fill import push_pull
from hsd_jax.imaging import texture
from hsd_jax.imaging.colour import to_lab, to_rgb
from hsd_jax.imaging.framing import Scaled, Tile
from hsd_jax.parsing.complexion import skin_classes
from hsd_jax.runtime.programs import Program
from hsd_jax.swapping.mixing import Region
from hsd_jax.swapping.spec import Finish, SwapSpec

_FADE = 3.0 / 256  # width of the fade, as a share of the crop's side
_SEEN = 0.01  # of the crop: from less there is nothing to continue
_MIN_SKIN = 0.2  # of the face's area; of less of the body's skin the face tells more
_MIN_FACE = 50  # pixels: fewer have no reliable median
_ALIKE = 25.0  # CIE76: skin differs by less from what is around it
# Sigmas and widths in pixels of a crop of 256.
_FINE, _COARSE = 2.0, 6.0  # of a colour at an edge, of a tone without its folds
_WIDE = 12.0  # of a cheek
_HUE = 2.0  # of the hue of painted skin
_SOFT = 1.0  # of a region's soft edge
_OUTLINE = 1.5  # of what is rounded off a painted outline
_SHARP = 2.0  # pixels of the photo over which an outline goes from one side to the other


class Settled(NamedTuple):
    """A painted image with the finish of its weights, at the size of the networks."""

    image: Float[np.ndarray, "s s 3"]
    """0 to 255; before a background of its own it goes on a little beyond its outline."""
    background: Float[np.ndarray, "s s 3"] | None
    """What is behind it."""
    behind: Bool[np.ndarray, "s s"]
    """Where that is seen."""
    sources: Integer[np.ndarray, "s s 2"]
    """Row and column of the body's pixel that each painted one is like; -1 where there is none."""

    def at(self, side: int) -> Callable[[Tile], Float[np.ndarray, "R C 3"]]:
        """The image at another size, of which any tile can be had."""
        image = Scaled(self.image, side)
        if self.background is None:
            return image.at
        plate, outline = Scaled(self.background, side), _outline(self.behind, side)

        def before_background(tile: Tile) -> Float[np.ndarray, "R C 3"]:
            result = image.at(tile)
            return result + outline(tile)[..., None] * (plate.at(tile) - result)

        return before_background


def soft_mask(mask: np.ndarray, fade: float | None = None) -> np.ndarray:
    """A smooth ramp from 0 at the mask's edge to 1 `fade` pixels inside it, float32 `[H, W]`.

    `mask` is bool `[H, W]`; the image's frame is no edge. `fade` None is 3 pixels of a crop of 256.
    """
    width = _FADE * mask.shape[0] if fade is None else fade
    padded = np.pad(mask, 1, mode="edge")
    if padded.all():
        return np.ones(mask.shape, np.float32)
    distance = np.asarray(ndimage.distance_transform_edt(padded))[1:-1, 1:-1]
    x = np.clip((distance - 0.5) / width, 0, 1)
    return (x * x * (3 - 2 * x)).astype(np.float32)


@dataclass(frozen=True)
class Layers:
    """What is kept: images uint8 `[H, W, 3]` and their alphas float32 `[H, W]`."""

    head: np.ndarray
    body: np.ndarray
    head_alpha: np.ndarray
    body_alpha: np.ndarray

    @classmethod
    def at_crop(
        cls, head: np.ndarray, body: np.ndarray, head_mask: np.ndarray, body_mask: np.ndarray
    ) -> "Layers":
        """From the bool masks of a plan, faded inside their edges."""
        return cls(head, body, soft_mask(head_mask), soft_mask(body_mask))

    @property
    def generated_alpha(self) -> np.ndarray:
        """float32 `[H, W]`: the share of the painted image in the result."""
        return (1 - self.head_alpha) * (1 - self.body_alpha)


def blend(painted: np.ndarray, layers: Layers) -> np.ndarray:
    """The body's pixels over the painted ones, the head's over both; uint8 `[H, W, 3]`.

    Where an alpha is 1 the result is that photo's pixel, unchanged.
    """
    result = painted.astype(np.float32)
    for image, alpha in ((layers.body, layers.body_alpha), (layers.head, layers.head_alpha)):
        result += alpha[..., None] * (image - result)
    return np.clip(np.round(result), 0, 255).astype(np.uint8)


def settle(
    painted: UInt8[np.ndarray, "h w 3"],
    layers: Layers,
    layout: Integer[np.ndarray, "h w"],
    spec: SwapSpec,
    inside: Bool[np.ndarray, "h w"],
    head_inside: Bool[np.ndarray, "h w"] | None = None,
    drawn: Bool[np.ndarray, "h w"] | None = None,
    region: Region = "head",
) -> Settled:
    """The painted image with the finish of the weights.

    Args:
      painted: the decoder's.
      layers: what is kept, at the same size.
      layout: inpainted, in the spec's labels.
      spec: of the weights.
      inside: where the body's image is its photo and not repeated pixels.
      head_inside: the same of the head's; None for everywhere.
      drawn: where the layout has hair or a hat that the head's image does not; None for nowhere.
      region: what the head photo gives.
    """
    finish, labels, scale = spec.finish, spec.labels, spec.scale
    result = painted if not finish.match_border else match_border(painted, layers)
    result, sources = result.astype(np.float32), np.full((*layout.shape, 2), -1)
    skin = np.isin(layout, skin_classes(labels))
    if finish.tone or finish.texture or finish.detail:
        surfaces = [layout == index for index in set(labels.body) - set(skin_classes(labels))]
        for surface in (*surfaces, skin):
            result = _continued(result, layers, surface & inside, finish, sources, scale)
        if region in ("hair", "hat", "face"):
            face = (layout == labels.face) & inside
            share = finish.tone if region == "face" else 1.0
            result = _face_continued(result, layers, face, region, share, scale)
    beyond = np.zeros(skin.shape, bool) if head_inside is None else ~head_inside
    drawn = np.zeros(skin.shape, bool) if drawn is None else drawn
    if finish.texture and (beyond.any() or drawn.any()):
        for index in set(labels.head) - {labels.face}:
            result = _grown(result, layers, layout == index, beyond, drawn, scale)
    if finish.hue:
        face = (layout == labels.face) & (layers.head_alpha > 0.9)
        bare = skin & (layers.body_alpha == 1) & inside
        known = (layers.body, bare) if bare.sum() > _MIN_SKIN * face.sum() else (layers.head, face)
        result = even_hue(result, skin, *known, finish.hue, finish.hue_range, scale)
    behind = (layout == labels.background) & inside
    seen = layers.body_alpha * behind
    if not finish.background or seen.mean() <= _SEEN:
        return Settled(result, None, behind, sources)
    guess = membrane(layers.body.astype(np.float32), seen)
    plate = _completed(guess, layers, behind, sources, scale)
    plate = result + finish.background * (plate - result)
    return Settled(_beyond_outline(result, behind, scale), plate, behind, sources)


def _outline(region: np.ndarray, side: int) -> Callable[[Tile], np.ndarray]:
    """A region at another size, float32 `[R, C]`, with an edge as sharp as a photo's."""
    sigma = _OUTLINE * len(region) / 256
    smooth = Scaled(ndimage.gaussian_filter(region.astype(np.float32), sigma), side, smooth=True)
    steep = max(side / len(region) * sigma * np.sqrt(2 * np.pi) / _SHARP, 1.0)
    return lambda tile: np.clip((smooth.at(tile) - 0.5) * steep + 0.5, 0, 1)


def _beyond_outline(image: np.ndarray, behind: np.ndarray, scale: float) -> np.ndarray:
    """The image with the colours inside its outline along it and beyond: latents there mix both."""
    inner = _eroded(~behind, _whole(_FINE * scale))
    return image + _share(~inner, scale) * _towards(image, inner, _FINE * scale)


def _continued(
    result: np.ndarray, layers: Layers, surface: np.ndarray, finish: Finish, sources: np.ndarray,
    scale: float,
) -> np.ndarray:  # fmt: skip
    """Clothes, an accessory or skin with the tone and the pattern that is visible of it."""
    seen = (layers.body_alpha * surface)[..., None]
    if seen.mean() <= _SEEN:
        return result
    share = _share(surface, scale)
    result = result + share * finish.tone * _tone(result, layers, surface, scale)
    guess = seen * layers.body + (1 - seen) * result
    plate = _completed(guess, layers, surface, sources, scale)
    return result + share * finish.texture * (plate - result)


def _face_continued(
    result: np.ndarray, layers: Layers, face: np.ndarray, region: Region, share: float,
    scale: float,
) -> np.ndarray:  # fmt: skip
    """A forehead or cheek that hair hid, or that is beyond the other face, like the kept face.

    What is painted there takes shadows from the hair beside it, and patches would show eyes.
    """
    image, alpha = layers.body, layers.body_alpha
    if region == "face":
        image = np.where((layers.head_alpha > 0.5)[..., None], layers.head, image)
        alpha = np.maximum(alpha, layers.head_alpha)
    seen = (alpha == 1) & face
    if seen.mean() <= _SEEN:
        return result
    fine, wide = (
        to_lab(_local_mean(image.astype(np.float32), seen, sigma * scale))
        for sigma in (_FINE, _WIDE)
    )
    seen &= np.linalg.norm(fine - wide, axis=-1) < _ALIKE  # neither eyes nor brows
    known = replace(layers, body=image, body_alpha=seen.astype(np.float32))
    tone = _tone(result, known, face, scale, (_COARSE, _FINE))
    return result + share * _share(face, scale) * tone


def _grown(
    result: np.ndarray, layers: Layers, hair: np.ndarray, beyond: np.ndarray, drawn: np.ndarray,
    scale: float,
) -> np.ndarray:  # fmt: skip
    """Hair or a hat that its photo cuts off, or does not show, made of what that shows of it."""
    seen, hidden = hair & (layers.head_alpha == 1), hair & (beyond | (layers.head_alpha < 1))
    hidden = np.asarray(ndimage.binary_propagation(hair & beyond, mask=hidden), bool)
    hidden |= hair & drawn
    if not hidden.any() or seen.mean() <= _SEEN:
        return result
    share = _share(hidden, scale)
    guess = np.where(seen[..., None], layers.head, result).astype(np.float32)
    plate = texture.complete(guess, seen, hidden).image
    return result + share * (plate - result)


def even_hue(
    painted: Float[np.ndarray, "h w 3"],
    skin: Bool[np.ndarray, "h w"],
    image: UInt8[np.ndarray, "h w 3"],
    face: Bool[np.ndarray, "h w"],
    back: float,
    reach: float,
    scale: float = 1.0,
) -> Float[np.ndarray, "h w 3"]:
    """Painted skin whose hue strays from known skin's, brought back by a share; lightness stays.

    Shade multiplies linear colours, and so a*, b* and L* + 16 alike: known skin is compared as it
    would look in the shade of each place.

    Args:
      painted: 0 to 255.
      skin: where it shows skin.
      image: that holds the known skin.
      face: where in it.
      back: share of the way back of what lies beyond `reach`.
      reach: how far hue may stray, in CIE a*b*.
      scale: of the crop, in sides of 256.
    """
    face = np.asarray(ndimage.binary_erosion(face, iterations=_whole(2 * scale)), bool)
    if face.sum() < _MIN_FACE or not skin.any():
        return painted
    smooth = to_lab(_local_mean(image.astype(np.float32), face, scale))
    own = np.median(smooth[face], axis=0)
    lab = to_lab(np.clip(painted, 0, 255))
    local = _local_mean(lab, skin, _HUE * scale)
    away = local[..., 1:] - own[1:] * (local[..., :1] + 16) / (own[0] + 16)
    chroma = np.hypot(away[..., :1], away[..., 1:])
    too_far = np.maximum(chroma - reach, 0) / np.maximum(chroma, 1e-6)
    lab[..., 1:] -= back * too_far * away
    return painted + _share(skin, scale) * (to_rgb(lab) - painted)


def _eroded(region: np.ndarray, width: int) -> np.ndarray:
    """A region without its edge, bool `[H, W]`; the image's frame is no edge."""
    return np.asarray(ndimage.binary_erosion(region, iterations=width, border_value=1), bool)


def _towards(image: np.ndarray, inner: np.ndarray, sigma: float) -> np.ndarray:
    """What brings an image to the colours of a region nearby, 0 where none is near."""
    near = _local_mean(image, inner, sigma)
    known = ndimage.gaussian_filter(inner.astype(np.float32), sigma)[..., None] > 1e-3
    return np.where(known, near - image, 0)


def _share(region: np.ndarray, scale: float) -> np.ndarray:
    """A region with a soft edge, float32 `[H, W, 1]`."""
    return ndimage.gaussian_filter(region.astype(np.float32), _SOFT * scale)[..., None]


def _tone(
    image: np.ndarray, layers: Layers, region: np.ndarray, scale: float,
    sigmas: tuple[float, float] = (_FINE, _COARSE),
) -> np.ndarray:  # fmt: skip
    """How far the region's colours are from the smooth continuation of what is seen of it.

    `sigmas` are of what is seen and of the region.
    """
    seen = (layers.body_alpha > 0.5) & region
    near = _local_mean(layers.body.astype(np.float32), seen, sigmas[0] * scale)
    sigma = (2 * scale, 2 * scale, 0)
    plate = ndimage.gaussian_filter(membrane(near, seen.astype(np.float32)), sigma)
    return plate - _local_mean(image, region, sigmas[1] * scale)


def _completed(
    guess: np.ndarray, layers: Layers, region: np.ndarray, sources: np.ndarray, scale: float
) -> np.ndarray:
    """The region where it is not kept, made of what is seen of it; from a first guess.

    Its pixels' sources are noted in `sources`.
    """
    seen = (layers.body_alpha == 1) & region
    hidden = (_share(region, scale)[..., 0] > 0.01) & (layers.generated_alpha > 0)
    completed = texture.complete(guess, seen & ~hidden, hidden)
    if completed.sources is not None:
        own = hidden & region
        sources[own] = completed.sources[own]
    return _level(completed.image, seen, hidden, scale)


def _level(
    plate: np.ndarray, seen: np.ndarray, hidden: np.ndarray, scale: float
) -> np.ndarray:
    """The hidden part of the plate brought to the brightness that is seen along its edge."""
    edge = hidden & ndimage.binary_dilation(seen, iterations=_whole(2 * scale))
    sigma = _FINE * scale
    step = _local_mean(plate, seen, sigma) - _local_mean(plate, hidden, sigma)
    return np.where(hidden[..., None], plate + membrane(step, edge.astype(np.float32)), plate)


def _local_mean(image: np.ndarray, region: np.ndarray, sigma: float) -> np.ndarray:
    """Of the region's pixels around each place, float32 `[H, W, C]`."""
    weight = region.astype(np.float32)[..., None]
    mean = ndimage.gaussian_filter(image * weight, (sigma, sigma, 0))
    return mean / np.maximum(ndimage.gaussian_filter(weight, (sigma, sigma, 0)), 1e-6)


def _whole(length: float) -> int:
    """Pixels, at least one: scipy takes no iterations for as many as change anything."""
    return max(1, round(length))


def match_border(painted: np.ndarray, layers: Layers) -> np.ndarray:
    """The painted image moved towards the kept pixels' colours along their border.

    Args:
      painted: uint8 `[H, W, 3]`.
      layers: what is kept, at the same size.

    Returns:
      uint8 `[H, W, 3]`.
    """
    weight = 1 - layers.generated_alpha
    difference = blend(painted, layers).astype(np.float32) - painted  # times the weight already
    # Fine differences at the border are detail, not colour: they must not smear into the hole.
    sigma = (2.0 * painted.shape[0] / 256,) * 2
    norm = ndimage.gaussian_filter(weight, sigma)
    colour = ndimage.gaussian_filter(difference, (*sigma, 0)) / np.maximum(norm, 1e-3)[..., None]
    offset = membrane(colour, np.clip(2 * norm - 1, 0, 1))
    return np.clip(np.round(painted + offset), 0, 255).astype(np.uint8)


def membrane(
    values: Float[np.ndarray, "h w c"], weight: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w c"]:
    """Fills where `weight` is 0 with the smooth continuation of `values`, by push and pull.

    See `diffusion.fill.push_pull`, which does the same with latents.

    Args:
      values: read where the weight is above 0.
      weight: 0 to 1, how much a value counts.

    Returns:
      `values` where the weight is 1, weighted means of what is near elsewhere.
    """
    return np.asarray(_membrane(values.astype(np.float32), weight.astype(np.float32)))


def prepare(size: int) -> None:
    """Loads this module's program for crops of this size in the background."""
    image, weight = (jax.ShapeDtypeStruct((size, size, *c), np.float32) for c in ((3,), ()))
    _membrane.prepare(image, weight)


_membrane = Program("membrane", lambda x, weight: push_pull(x[None], weight[None, ..., None])[0])
