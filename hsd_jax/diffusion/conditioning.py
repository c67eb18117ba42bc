"""What the UNet sees beside z_t: the layout's stem and, in our nets, what is known of the result.

The paper's condition is s = tau_theta(l) alone (section 3.1); what is known of the result reaches
the UNet only through the mixing, as noisy as z_t. Our embedded nets are small and trained on few
pictures: they are also given the clean known latents, continued into the hole class by class
(`hsd_jax.diffusion.fill`), and where they are known (as inpainting latent diffusion models are).
That ties the colours of neck, cloth and background to the photo from the first step on. It is a
field of the released net, `known`; without it this file is the paper.
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
    """The condition s.

    Args:
      stem: tau_theta (`SpatialRescaler`), with its parameters.
      params: of the stem.
      layout: one-hot or class indices, at the picture's size.
      labels: what its classes mean.
      latents: what is known, normalised; read only where `known` is 1. None: the paper's condition.
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

    With `times`, every t that it will be called at, what does not depend on z is computed here,
    once for all steps, instead of in `predict`: the condition's part of the first convolution, the
    projections of the steps' embeddings, and parameters in the type that the UNet computes in.
    Results are the same up to float32 rounding. A t that `times` lacks gives NaN.
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
