"""The finish: what was painted made to fit what is kept, as far as the weights ask for it.

Nothing happens here for weights without a `spec.Finish`: their painted pixels go under the photos'
as the decoder gives them. The small embedded networks paint a soft mean of what fits; here its
colours, patterns and edges are brought to what the photos show around it. The paper, too, fills
the background of photos apart from its diffusion model (appendix A.1, with LaMa).
"""

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from scipy import ndimage

from hsd_jax.imaging import texture
from hsd_jax.imaging.colour import to_lab, to_rgb
from hsd_jax.imaging.composite import Layers, match_border, membrane
from hsd_jax.parsing.complexion import skin_classes
from hsd_jax.swapping.spec import SwapSpec

_SEEN = 0.01  # of the crop: from less there is nothing to continue
_MIN_FACE = 50  # pixels: fewer have no reliable median
# Sigmas and widths in pixels of a crop of 256.
_FINE, _COARSE = 2.0, 6.0  # of a colour at an edge, of a tone without its folds
_HUE = 2.0  # of the hue of painted skin
_EDGE = 3  # of painted skin, that takes the colours inside
_SOFT = 1.0  # of a region's soft edge


def settle(
    painted: UInt8[np.ndarray, "h w 3"],
    layers: Layers,
    layout: Integer[np.ndarray, "h w"],
    spec: SwapSpec,
    inside: Bool[np.ndarray, "h w"],
) -> UInt8[np.ndarray, "h w 3"]:
    """The painted image with the finish of the weights.

    Args:
      painted: the decoder's.
      layers: what is kept, at the same size.
      layout: inpainted, in the spec's labels.
      spec: of the weights.
      inside: where the body's image is its photo and not repeated pixels.
    """
    finish, labels = spec.finish, spec.labels
    result = painted if not finish.match_border else match_border(painted, layers)
    result = result.astype(np.float32)
    scale = spec.scale
    if finish.tone or finish.texture:
        for index in labels.body:
            surface = (layout == index) & inside
            result = _continued(result, layers, surface, finish.tone, finish.texture, scale)
    skin = np.isin(layout, skin_classes(labels))
    if finish.hue:
        face = (layout == labels.face) & (layers.head_alpha > 0.9)
        result = even_hue(result, skin, layers.head, face, finish.hue, finish.hue_range, scale)
    if finish.clean_edge:
        cleaner = _clean_edge(result, skin, finish.clean_edge, scale)
        result = result + layers.generated_alpha[..., None] * cleaner
    if finish.background:
        background = (layout == labels.background) & inside
        seen = layers.body_alpha * background
        if seen.mean() > _SEEN:
            guess = membrane(layers.body.astype(np.float32), seen)
            share = finish.background * _share(background, scale)
            result = result + share * (_completed(guess, layers, background, scale) - result)
    return np.clip(np.round(result), 0, 255).astype(np.uint8)


def _continued(
    result: np.ndarray, layers: Layers, surface: np.ndarray, tone: float, patches: float,
    scale: float,
) -> np.ndarray:  # fmt: skip
    """A surface of clothes or limbs brought to the tone and the pattern that is seen of it."""
    seen = (layers.body_alpha * surface)[..., None]
    if seen.mean() <= _SEEN:
        return result
    share = _share(surface, scale)
    result = result + share * tone * _tone(result, layers, surface, scale)
    guess = seen * layers.body + (1 - seen) * result
    return result + share * patches * (_completed(guess, layers, surface, scale) - result)


def even_hue(
    painted: Float[np.ndarray, "h w 3"],
    skin: Bool[np.ndarray, "h w"],
    image: UInt8[np.ndarray, "h w 3"],
    face: Bool[np.ndarray, "h w"],
    back: float,
    reach: float,
    scale: float = 1.0,
) -> Float[np.ndarray, "h w 3"]:
    """Painted skin whose hue strays from the face's, brought back by a share; lightness stays.

    Args:
      painted: 0 to 255.
      skin: where it shows skin.
      image: that holds the face.
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
    away = _local_mean(lab, skin, _HUE * scale)[..., 1:] - own[1:]
    chroma = np.hypot(away[..., :1], away[..., 1:])
    too_far = np.maximum(chroma - reach, 0) / np.maximum(chroma, 1e-6)
    lab[..., 1:] -= back * too_far * away
    return painted + _share(skin, scale) * (to_rgb(lab) - painted)


def _clean_edge(
    image: np.ndarray, region: np.ndarray, strength: float, scale: float
) -> np.ndarray:
    """What brings a region's edge to the colours inside it: a latent there mixes it with others."""
    width = _whole(_EDGE * scale)
    inner = ndimage.binary_erosion(region, iterations=width, border_value=1)
    edge = _share(region, scale) * (1 - _share(inner, scale))
    near = _local_mean(image, inner, width)
    known = ndimage.gaussian_filter(inner.astype(np.float32), width)[..., None] > 1e-3
    return strength * edge * np.where(known, near - image, 0)


def _share(region: np.ndarray, scale: float) -> np.ndarray:
    """A region with a soft edge, float32 `[H, W, 1]`."""
    return ndimage.gaussian_filter(region.astype(np.float32), _SOFT * scale)[..., None]


def _tone(image: np.ndarray, layers: Layers, region: np.ndarray, scale: float) -> np.ndarray:
    """How far the region's colours are from the smooth continuation of what is seen of it."""
    seen = (layers.body_alpha > 0.5) & region
    near = _local_mean(layers.body.astype(np.float32), seen, _FINE * scale)
    sigma = (2 * scale, 2 * scale, 0)
    plate = ndimage.gaussian_filter(membrane(near, seen.astype(np.float32)), sigma)
    return plate - _local_mean(image, region, _COARSE * scale)


def _completed(
    guess: np.ndarray, layers: Layers, region: np.ndarray, scale: float
) -> np.ndarray:
    """The region where it is not kept, made of what is seen of it; from a first guess."""
    seen = (layers.body_alpha == 1) & region
    hidden = (_share(region, scale)[..., 0] > 0.01) & (layers.generated_alpha > 0)
    return _level(texture.complete(guess, seen & ~hidden, hidden), seen, hidden, scale)


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
