"""From generated pixels to the photo: kept pixels stay those of the photos, with no seam between.

The paper decodes everything from latents, so what it preserves is capped by its autoencoder. Here
only what had to be painted comes from the decoder; it is first brought to the colours that the
photos have along its border (a membrane, as in Poisson image editing, Perez et al. 2003), and then
fades into them over a band that lies inside the kept regions' own edge.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from hsd_jax.diffusion.fill import push_pull
from hsd_jax.runtime.programs import Program

_FADE = 3.0 / 256  # width of the fade, as a share of the crop's side


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


_membrane = Program("membrane", lambda x, weight: push_pull(x[None], weight[None, ..., None])[0])
