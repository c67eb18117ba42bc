"""The condition tau_theta: a one-hot layout, resized to the latents.

HS-Diffusion (arXiv 2212.06458, section 3.1): s = tau_theta(l), concatenated to the UNet's input.
This is CompVis latent-diffusion's `SpatialRescaler` (`encoders/modules.py`).
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from hsd_jax.models.blocks import average_pool
from hsd_jax.models.conv import Conv


class SpatialRescaler(nn.Module):
    """Bilinear x 0.5 (no antialias), `n_stages` times, then a 1 x 1 convolution.

    Both are linear, so for class indices the convolution comes first, as a look-up in its kernel.
    This is the same up to float32 rounding and avoids the one-hot array (21 MB for 20 classes at
    512 px).

    Attributes:
      out_channels: channels of the condition.
      n_stages: halvings; 2 for latents of factor 4.
      use_bias: bias of the 1 x 1 convolution `channel_mapper`.
      dtype: compute type of that convolution, None for float32.
    """

    out_channels: int = 3
    n_stages: int = 2
    use_bias: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, layout: Float[Array, "b H W k"] | Int[Array, "b H W"]
    ) -> Float[Array, "b h w c"]:
        """One-hot layout `[B, H, W, K]` -> `[B, H / 2^n, W / 2^n, out_channels]` float32.

        Also takes class indices `[B, H, W]`, except in `init`.

        Raises:
          ValueError: H or W is no multiple of `2 ** n_stages`.
        """
        # Repeated 2 x 2 means equal one mean over a larger tile.
        tile = 2**self.n_stages
        if layout.ndim == 3:
            mapper = self.get_variable("params", "channel_mapper")
            table = mapper["kernel"][0, 0].astype(jnp.float32)
            if self.use_bias:
                table = table + mapper["bias"][None]
            return average_pool(table[layout], tile)
        pooled = average_pool(layout.astype(jnp.float32), tile)
        s = Conv(
            self.out_channels, kernel_size=1, use_bias=self.use_bias, dtype=self.dtype,
            name="channel_mapper",
        )(pooled)
        return s.astype(jnp.float32)
