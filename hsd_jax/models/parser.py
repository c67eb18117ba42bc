"""A light parser: a residual U-Net from photos to class logits, at a quarter of the size and below.

The paper uses SCHP (Li et al., TPAMI 2020), with 67 M parameters. Ours is small enough to train on
a CPU and to ship: the input is 4 x 4 blocks of pixels (48 channels), the output 2 x 2 blocks of
logits, resized bilinearly, so that every convolution has 64 channels or more at a quarter of the
side or less.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from hsd_jax.models.blocks import GroupNorm, depth_to_space, space_to_depth
from hsd_jax.models.conv import Conv, upsample_nearest


class Residual(nn.Module):
    """Norm, swish, convolution, twice, around a skip (pre-activation, He et al. 2016)."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = x
        for i in range(2):
            h = nn.swish(GroupNorm(1e-6, 16, self.dtype, name=f"norm{i}")(h))
            h = Conv(self.features, dtype=self.dtype, name=f"conv{i}")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, kernel_size=1, dtype=self.dtype, name="skip")(x)
        return x + h


class Parser(nn.Module):
    """Semantic segmentation of people.

    Attributes:
      num_classes: classes of the label set.
      widths: channels at 1/4, 1/8, 1/16, ... of the side; multiples of 16.
      depths: residual blocks at each of them in the encoder.
      dtype: compute type, None for float32.
    """

    num_classes: int = 9
    widths: tuple[int, ...] = (64, 128, 192, 192)
    depths: tuple[int, ...] = (1, 2, 2, 2)
    dtype: Any = None

    @property
    def multiple(self) -> int:
        """The image's height and width must be multiples of this."""
        return 4 * 2 ** (len(self.widths) - 1)

    @nn.compact
    def __call__(self, x: jax.Array, features: bool = False) -> Any:
        """Logits of every pixel.

        Args:
          x: `[B, H, W, 3]` in [-1, 1]; H and W multiples of `multiple`.
          features: whether to also return the encoder's activations, one array per level.

        Returns:
          `[B, H, W, num_classes]` float32 logits, or `(logits, [features, ...])`.
        """
        height, width = x.shape[1:3]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"the parser takes sides that are multiples of {self.multiple}, "
                f"not {height} x {width}: pad the image"
            )
        h = Conv(self.widths[0], dtype=self.dtype, name="stem")(space_to_depth(x, 4))
        skips = []
        for level, (features_, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            if level:
                h = Conv(features_, stride=2, dtype=self.dtype, name=f"down{level}")(h)
            for i in range(depth):
                h = Residual(features_, dtype=self.dtype, name=f"encoder{level}_{i}")(h)
            skips.append(h)
        for level in reversed(range(len(self.widths) - 1)):
            h = Conv(self.widths[level], kernel_size=1, dtype=self.dtype, name=f"up{level}")(h)
            h = upsample_nearest(h) + skips[level]
            h = Residual(self.widths[level], dtype=self.dtype, name=f"decoder{level}")(h)
        h = nn.swish(GroupNorm(1e-6, 16, self.dtype, name="norm_out")(h))
        h = Conv(4 * self.num_classes, dtype=self.dtype, name="head")(h)
        h = depth_to_space(h, 2).astype(jnp.float32)
        logits = jax.image.resize(h, (*x.shape[:3], self.num_classes), "bilinear")
        return (logits, skips) if features else logits
