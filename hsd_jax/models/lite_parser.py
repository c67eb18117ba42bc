"""A parser on EfficientNet-Lite2's encoder, which has seen ImageNet.

The encoder is that of Tan and Le (arXiv 1905.11946) in its Lite form: no squeeze-and-excitation,
relu6, a stem of fixed width. Its batch norms are folded into the convolutions before them
(`hsd_jax.convert.efficientnet`), so that training and inference are the same function. The decoder
is a U-Net's; the encoder's features at half of the side enter it as blocks of 2 x 2 cells, so that
no convolution of the decoder runs at more than a quarter of the side.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from hsd_jax.models.blocks import GroupNorm, depth_to_space, space_to_depth
from hsd_jax.models.conv import Conv, upsample_nearest
from hsd_jax.models.depthwise import DepthwiseConv, same_padding
from hsd_jax.models.parser import Residual


class Stage(NamedTuple):
    """Inverted residual blocks of one width; the first has the stride."""

    blocks: int
    kernel_size: int
    stride: int
    features: int
    expansion: int


STEM = 32
STAGES = (  # of EfficientNet-Lite2
    Stage(1, 3, 1, 16, 1),
    Stage(3, 3, 2, 24, 6),
    Stage(3, 5, 2, 48, 6),
    Stage(4, 3, 2, 88, 6),
    Stage(4, 5, 1, 120, 6),
    Stage(5, 5, 2, 208, 6),
    Stage(1, 3, 1, 352, 6),
)
_LEVEL_ENDS = (0, 1, 2, 4, 6)  # stages after which the side is 1/2, 1/4, 1/8, 1/16, 1/32


def relu6(x: jax.Array) -> jax.Array:
    """Between 0 and 6; its gradient is 0 outside."""
    return jnp.clip(x, 0, 6)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection; a skip if the shape stays (MobileNetV2)."""

    features: int
    kernel_size: int
    stride: int
    expansion: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h, width = x, x.shape[-1]
        if self.expansion > 1:
            h = Conv(self.expansion * width, kernel_size=1, dtype=self.dtype, name="expand")(h)
            h = relu6(h)
        h = DepthwiseConv(self.kernel_size, self.stride, self.dtype, name="depthwise")(h)
        h = Conv(self.features, kernel_size=1, dtype=self.dtype, name="project")(relu6(h))
        return x + h if self.stride == 1 and width == self.features else h


class Encoder(nn.Module):
    """EfficientNet-Lite2 without its classifier."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """`[B, H, W, 3]` in [-1, 1] -> features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the side."""
        top, left = (same_padding(side, 3, 2) for side in x.shape[1:3])
        stem = Conv(STEM, stride=2, padding=(top, left), dtype=self.dtype, name="stem")
        h, levels = relu6(stem(x)), []
        for index, stage in enumerate(STAGES):
            for i in range(stage.blocks):
                h = InvertedResidual(
                    stage.features, stage.kernel_size, stage.stride if i == 0 else 1,
                    stage.expansion, self.dtype, name=f"stage{index}_{i}",
                )(h)  # fmt: skip
            if index in _LEVEL_ENDS:
                levels.append(h)
        return levels


class LiteParser(nn.Module):
    """Semantic segmentation of people; called like `parser.Parser`.

    Attributes:
      num_classes: classes of the label set.
      widths: the decoder's channels at 1/4, 1/8, 1/16 of the side; multiples of 16.
      dtype: compute type, None for float32.
    """

    num_classes: int = 9
    widths: tuple[int, int, int] = (64, 96, 128)
    dtype: Any = None

    @property
    def multiple(self) -> int:
        """The image's height and width must be multiples of this."""
        return 32

    @nn.compact
    def __call__(self, x: jax.Array, features: bool = False) -> Any:
        """Logits of every pixel.

        Args:
          x: `[B, H, W, 3]` in [-1, 1]; H and W multiples of `multiple`.
          features: whether to also return the encoder's activations at 1/4, 1/8, 1/16 and 1/32.

        Returns:
          `[B, H, W, num_classes]` float32 logits, or `(logits, [features, ...])`.

        Raises:
          ValueError: H or W is no multiple.
        """
        height, width = x.shape[1:3]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"the parser takes sides that are multiples of {self.multiple}, "
                f"not {height} x {width}: pad the image"
            )
        finest, *levels = Encoder(self.dtype, name="encoder")(x)
        h = levels[-1]
        for level, skip in reversed(list(enumerate(levels[:-1]))):
            features_ = self.widths[level]
            h = upsample_nearest(self._mapped(h, features_, f"up{level}"))
            h = h + self._mapped(skip, features_, f"skip{level}")
            if level == 0:
                h = h + self._mapped(space_to_depth(finest, 2), features_, "finest")
            h = Residual(features_, dtype=self.dtype, name=f"decoder{level}")(h)
        h = nn.swish(GroupNorm(1e-6, 16, self.dtype, name="norm_out")(h))
        h = Conv(4 * self.num_classes, dtype=self.dtype, name="head")(h)
        h = depth_to_space(h, 2).astype(jnp.float32)
        logits = jax.image.resize(h, (*x.shape[:3], self.num_classes), "bilinear")
        return (logits, levels) if features else logits

    def _mapped(self, x: jax.Array, features: int, name: str) -> jax.Array:
        return Conv(features, kernel_size=1, dtype=self.dtype, name=name)(x)
