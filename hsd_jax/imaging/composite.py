"""From generated pixels to the photo: kept pixels stay those of the photos, with no seam between.

The paper decodes everything from latents, so what it preserves is capped by its autoencoder. Here
only what had to be painted comes from the decoder; it is first brought to the colours that the
photos have along its border (a membrane, as in Poisson image editing, Perez et al. 2003), and then
fades into them over a band that lies inside the kept regions' own edge.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hsd_jax.imaging import texture
from hsd_jax.imaging.colour import to_lab, to_rgb
from hsd_jax.labels import LabelSet
from hsd_jax.parsing.complexion import skin_classes

_FADE = 3.0  # width of the fade, in pixels of the 256 crop
_SEEN = 0.01  # of the crop: from less there is nothing to continue
_FINE, _COARSE = 2.0, 6.0  # sigmas: of a colour at an edge, of a tone without its folds
_EDGE, _CLEAN = 3, 0.7  # pixels of the painted skin's edge, and how far these take colours inside
_TONE = 0.5  # of the way from painted clothes to the tone seen around them
_HUE, _BACK = 4.0, 0.8  # chroma that painted skin may stray from the face's; the way back of more
_HUE_SIGMA = 2.0
_MIN_FACE = 50  # pixels: fewer have no reliable median
_TEXTURE = 0.7  # share of completed clothes over painted ones


def soft_mask(mask: np.ndarray, fade: float = _FADE) -> np.ndarray:
    """A smooth ramp from 0 at the mask's edge to 1 `fade` pixels inside it, float32 `[H, W]`.

    `mask` is bool `[H, W]`; the picture's frame is no edge.
    """
    padded = np.pad(mask, 1, mode="edge")
    if padded.all():
        return np.ones(mask.shape, np.float32)
    distance = np.asarray(ndimage.distance_transform_edt(padded))[1:-1, 1:-1]
    x = np.clip((distance - 0.5) / fade, 0, 1)
    return (x * x * (3 - 2 * x)).astype(np.float32)


@dataclass(frozen=True)
class Layers:
    """What is kept: pictures uint8 `[H, W, 3]` and their alphas float32 `[H, W]`."""

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
        """float32 `[H, W]`: the share of the painted picture in the result."""
        return (1 - self.head_alpha) * (1 - self.body_alpha)


def blend(painted: np.ndarray, layers: Layers) -> np.ndarray:
    """The body's pixels over the painted ones, the head's over both; uint8 `[H, W, 3]`.

    Where an alpha is 1 the result is that photo's pixel, unchanged.
    """
    result = painted.astype(np.float32)
    for picture, alpha in ((layers.body, layers.body_alpha), (layers.head, layers.head_alpha)):
        result += alpha[..., None] * (picture - result)
    return np.clip(np.round(result), 0, 255).astype(np.uint8)


def settle(
    painted: np.ndarray,
    layers: Layers,
    layout: np.ndarray,
    labels: LabelSet,
    photo: np.ndarray | None = None,
) -> np.ndarray:
    """The painted picture made to fit what is kept: its colours, and what the old head hid.

    The paper, too, fills the background of photos apart from its diffusion model (appendix A.1,
    with LaMa): what the old head hid of it is here completed from what is seen around it. Clothes
    and arms are completed likewise, with what is painted as a first guess and as a part of the
    result: a small net paints their folds, but hardly their pattern.

    Args:
      painted: uint8 `[H, W, 3]`, sides powers of two.
      layers: what is kept, at the same size.
      layout: int `[H, W]`, inpainted.
      labels: its label set.
      photo: bool `[H, W]`, where the body's picture is its photo and not repeated pixels.

    Returns:
      uint8 `[H, W, 3]`.
    """
    result = match_border(painted, layers).astype(np.float32)
    inside = np.ones(layout.shape, bool) if photo is None else photo
    for index in labels.body:
        surface = (layout == index) & inside
        seen = (layers.body_alpha * surface)[..., None]
        if seen.mean() > _SEEN:
            result += _share(surface) * _TONE * _tone(result, layers, surface)
            guess = seen * layers.body + (1 - seen) * result
            result += _share(surface) * _TEXTURE * (_completed(guess, layers, surface) - result)
    face = (layout == labels.face) & (layers.head_alpha > 0.9)
    skin = np.isin(layout, skin_classes(labels))
    result = even_hue(result, skin, layers.head, face)
    result += layers.generated_alpha[..., None] * _clean_edge(result, skin)
    background = (layout == labels.background) & inside
    seen = layers.body_alpha * background
    if seen.mean() > _SEEN:
        guess = membrane(layers.body.astype(np.float32), seen)
        result += _share(background) * (_completed(guess, layers, background) - result)
    return np.clip(np.round(result), 0, 255).astype(np.uint8)


def even_hue(
    painted: np.ndarray, skin: np.ndarray, picture: np.ndarray, face: np.ndarray
) -> np.ndarray:
    """Painted skin whose hue strays from the face's, brought most of the way back; lightness stays.

    Args:
      painted: float32 `[H, W, 3]`, 0 to 255.
      skin: bool `[H, W]`, where it shows skin.
      picture: uint8 `[H, W, 3]`, that holds the face.
      face: bool `[H, W]`, where in it.

    Returns:
      float32 `[H, W, 3]`, 0 to 255.
    """
    face = np.asarray(ndimage.binary_erosion(face, iterations=2), bool)
    if face.sum() < _MIN_FACE or not skin.any():
        return painted
    smooth = to_lab(_local_mean(picture.astype(np.float32), face, 1.0))
    own = np.median(smooth[face], axis=0)
    lab = to_lab(np.clip(painted, 0, 255))
    away = _local_mean(lab, skin, _HUE_SIGMA)[..., 1:] - own[1:]
    chroma = np.hypot(away[..., :1], away[..., 1:])
    too_far = np.maximum(chroma - _HUE, 0) / np.maximum(chroma, 1e-6)
    lab[..., 1:] -= _BACK * too_far * away
    return painted + _share(skin) * (to_rgb(lab) - painted)


def _clean_edge(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    """What brings a region's edge to the colours inside it: a latent there mixes it with others."""
    inner = ndimage.binary_erosion(region, iterations=_EDGE, border_value=1)
    edge = _share(region) * (1 - _share(inner))
    near = _local_mean(picture, inner, _EDGE)
    known = ndimage.gaussian_filter(inner.astype(np.float32), _EDGE)[..., None] > 1e-3
    return _CLEAN * edge * np.where(known, near - picture, 0)


def _share(region: np.ndarray) -> np.ndarray:
    """A region with a soft edge, float32 `[H, W, 1]`."""
    return ndimage.gaussian_filter(region.astype(np.float32), 1.0)[..., None]


def _tone(picture: np.ndarray, layers: Layers, region: np.ndarray) -> np.ndarray:
    """How far the region's colours are from the smooth continuation of what is seen of it."""
    seen = (layers.body_alpha > 0.5) & region
    near = _local_mean(layers.body.astype(np.float32), seen, _FINE)
    plate = ndimage.gaussian_filter(membrane(near, seen.astype(np.float32)), (2, 2, 0))
    return plate - _local_mean(picture, region, _COARSE)


def _completed(guess: np.ndarray, layers: Layers, region: np.ndarray) -> np.ndarray:
    """The region where it is not kept, made of what is seen of it; from a first guess."""
    seen = (layers.body_alpha == 1) & region
    hidden = (_share(region)[..., 0] > 0.01) & (layers.generated_alpha > 0)
    return _level(texture.complete(guess, seen & ~hidden, hidden), seen, hidden)


def _level(plate: np.ndarray, seen: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The hidden part of the plate brought to the brightness that is seen along its edge."""
    edge = hidden & ndimage.binary_dilation(seen, iterations=2)
    step = _local_mean(plate, seen, _FINE) - _local_mean(plate, hidden, _FINE)
    return np.where(hidden[..., None], plate + membrane(step, edge.astype(np.float32)), plate)


def _local_mean(picture: np.ndarray, region: np.ndarray, sigma: float) -> np.ndarray:
    """Of the region's pixels around each place, float32 `[H, W, C]`."""
    weight = region.astype(np.float32)[..., None]
    mean = ndimage.gaussian_filter(picture * weight, (sigma, sigma, 0))
    return mean / np.maximum(ndimage.gaussian_filter(weight, (sigma, sigma, 0)), 1e-6)


def match_border(painted: np.ndarray, layers: Layers) -> np.ndarray:
    """The painted picture moved towards the kept pixels' colours along their border.

    Args:
      painted: uint8 `[H, W, 3]`, sides powers of two.
      layers: what is kept, at the same size.

    Returns:
      uint8 `[H, W, 3]`.
    """
    weight = 1 - layers.generated_alpha
    difference = blend(painted, layers).astype(np.float32) - painted  # times the weight already
    # Fine differences at the border are detail, not colour: they must not smear into the hole.
    sigma = (2.0, 2.0)
    norm = ndimage.gaussian_filter(weight, sigma)
    colour = ndimage.gaussian_filter(difference, (*sigma, 0)) / np.maximum(norm, 1e-3)[..., None]
    offset = membrane(colour, np.clip(2 * norm - 1, 0, 1))
    return np.clip(np.round(painted + offset), 0, 255).astype(np.uint8)


def membrane(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fills where `weight` is 0 with the smooth continuation of `values`, by push and pull.

    Args:
      values: float32 `[H, W, C]`, sides powers of two.
      weight: float32 `[H, W]`, 0 to 1, how much a value counts.

    Returns:
      float32 `[H, W, C]`: `values` where the weight is 1, weighted means of what is near elsewhere.
    """
    h, w, c = values.shape
    if min(h, w) == 1:
        return values
    sums = weight.reshape(h // 2, 2, w // 2, 2).sum((1, 3))
    weighted = (values * weight[..., None]).reshape(h // 2, 2, w // 2, 2, c).sum((1, 3))
    coarse = weighted / np.maximum(sums, 1e-6)[..., None]
    filled = membrane(coarse, np.minimum(sums, 1.0))
    filled = ndimage.zoom(filled, (2, 2, 1), order=1, mode="nearest", grid_mode=True)
    keep = weight[..., None]
    return keep * values + (1 - keep) * filled
