"""The UNet's condition: the layout and, for our embedded networks, what is known of the result.

The paper's condition is s = tau_theta(l) alone (section 3.1); what is known of the result reaches
the UNet only through the mixing, as noisy as z_t. Our embedded networks are small and trained on
few images. Like inpainting latent diffusion models, they also see the clean known latents,
continued into the hole class by class (`hsd_jax.diffusion.fill`), and their mask. That ties the
colours of neck, clothes and background to the photo from the first step on. The metadata field
`known` turns it on; without it, the condition is the paper's.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from hsd_jax.diffusion.fill import class_fill
from hsd_jax.diffusion.schedule import Predict
from hsd_jax.labels import LabelSet, one_hot
from hsd_jax.models import apply
from hsd_jax.models.unet import Bound, UNet, bind


def condition_of(
    stem: nn.Module,
    params: Any,
    layout: Float[Array, "b H W k"] | Int[Array, "b H W"],
    labels: LabelSet,
    latents: Float[Array, "b h w c"] | None = None,
    known: Float[Array, "b h w 1"] | None = None,
) -> Float[Array, "b h w s"]:
    """Computes the condition s.

    Args:
      stem: tau_theta (`SpatialRescaler`).
      params: the stem's parameters.
      layout: one-hot or class indices, at the image's size.
      labels: the label set of the layout.
      latents: normalised latents, read only where `known` is 1; None for the paper's condition.
      known: 0/1 mask at the latents' size.

    Returns:
      tau(l), followed by the latents, filled where they are unknown, and the mask when they are
      given.
    """
    if latents is None or known is None:
        return apply(stem, params, layout)
    onehot = one_hot(layout, labels) if layout.ndim == 3 else layout
    s = apply(stem, params, onehot)  # the fill averages the same tiles, so a look-up saves nothing
    return jnp.concatenate([s, class_fill(latents, known, onehot, labels), known], axis=-1)


def predictor(
    unet: UNet,
    params: Any,
    s: Float[Array, "b h w s"],
    times: Int[np.ndarray, " n"] | None = None,
) -> Predict:
    """`predict(z, t) -> output` with the condition bound in.

    If `times`, all values of t to come, is given, everything that does not depend on z is computed
    once, ahead of the steps: the condition's part of the first convolution, the projections of the
    step embeddings, and the cast of the parameters to the compute type. Results are the same up to
    float32 rounding. A t that is not in `times` gives NaN.
    """
    if times is None:
        return lambda z, t: apply(unet, params, z, t, s)
    params, stem, table = bind(unet, params, s, jnp.asarray(times))

    def predict(z: Array, t: Array) -> Array:
        at = t[:, None] == jnp.asarray(times)[None]
        row = jnp.where(at.any(1), at.argmax(1), len(times))  # beyond the table: NaN
        steps = {
            name: rows.at[row].get(mode="fill", fill_value=jnp.nan) for name, rows in table.items()
        }
        return apply(unet, params, z, t, None, bound=Bound(stem, steps))

    return predict
