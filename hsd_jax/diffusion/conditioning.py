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
from flax import linen as nn
from jaxtyping import Array, Float

from hsd_jax.diffusion.fill import class_fill
from hsd_jax.diffusion.schedule import Predict
from hsd_jax.labels import LabelSet
from hsd_jax.models import apply


def condition_of(
    stem: nn.Module,
    params: Any,
    onehot: Float[Array, "b H W k"],
    labels: LabelSet,
    latents: Float[Array, "b h w c"] | None = None,
    known: Float[Array, "b h w 1"] | None = None,
) -> Float[Array, "b h w s"]:
    """The condition s.

    Args:
      stem: tau_theta (`SpatialRescaler`), with its parameters.
      params: of the stem.
      onehot: the layout, at the picture's size.
      labels: what its classes mean.
      latents: what is known, normalised; read only where `known` is 1. None: the paper's condition.
      known: 0/1 mask at the latents' size.

    Returns:
      tau(l), followed by the latents, filled where they are unknown, and the mask when they are
      given.
    """
    s = apply(stem, params, onehot)
    if latents is None or known is None:
        return s
    return jnp.concatenate([s, class_fill(latents, known, onehot, labels), known], axis=-1)


def predictor(unet: nn.Module, params: Any, s: Float[Array, "b h w s"]) -> Predict:
    """`predict(z, t) -> output` with the condition bound in."""

    return lambda z, t: apply(unet, params, z, t, s)
