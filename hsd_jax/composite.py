"""From generated pixels to the photo: kept pixels stay those of the photos, with no seam between.

The paper decodes everything from latents, so what it preserves is capped by its autoencoder. Here
only what had to be painted comes from the decoder; it is first brought to the colours that the
photos have along its border (a membrane, as in Poisson image editing, Perez et al. 2003), and then
fades into them over a band that lies inside the kept regions' own edge.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hsd_jax import texture

_FADE = 3.0  # width of the fade, in pixels of the 256 crop


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


def settle(painted: np.ndarray, layers: Layers, background: np.ndarray) -> np.ndarray:
    """The painted picture made to fit what is kept: its colours, and the background behind it.

    The paper, too, fills the background of photos apart from its diffusion model (appendix A.1,
    with LaMa): what the old head hid of it is here completed from what is seen around it.

    Args:
      painted: uint8 `[H, W, 3]`, sides powers of two.
      layers: what is kept, at the same size.
      background: bool `[H, W]`, where the inpainted layout has background.

    Returns:
      uint8 `[H, W, 3]`.
    """
    painted = match_border(painted, layers)
    seen = layers.body_alpha * background
    if seen.mean() < 0.01:
        return painted
    share = ndimage.gaussian_filter(background.astype(np.float32), 1.0)
    hidden = (share > 0.01) & (layers.generated_alpha > 0)
    plate = membrane(layers.body.astype(np.float32), seen)
    plate = _level(texture.complete(plate, (seen == 1) & ~hidden, hidden), seen == 1, hidden)
    mixed = painted + share[..., None] * (plate - painted)
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def _level(plate: np.ndarray, seen: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The hidden part of the plate brought to the brightness that is seen along its edge."""

    def local_mean(region: np.ndarray) -> np.ndarray:
        weight = region.astype(np.float32)[..., None]
        mean = ndimage.gaussian_filter(plate * weight, (2, 2, 0))
        return mean / np.maximum(ndimage.gaussian_filter(weight, (2, 2, 0)), 1e-6)

    edge = hidden & ndimage.binary_dilation(seen, iterations=2)
    offset = membrane(local_mean(seen) - local_mean(hidden), edge.astype(np.float32))
    return np.where(hidden[..., None], plate + offset, plate)


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
