"""LPIPS, the learnt perceptual distance (Zhang et al. 2018, arXiv 1801.03924), in VGG16 or AlexNet.

Version 0.1 of the `lpips` package: the backbones are torchvision's, up to the last tap; the weights
come through `hsd_jax.convert`. Losses and metrics use the same module.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from hsd_jax.models.conv import Conv

# Mean and deviation of ImageNet's RGB for images in [-1, 1], rounded as `ScalingLayer` rounds them.
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)
# Added to a norm, not to its square (`normalize_tensor`).
EPS = 1e-10


class Layer(NamedTuple):
    """A convolution with ReLU; `index` is its place in torchvision's `features`."""

    index: int
    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int = 1


class Stage(NamedTuple):
    """Max pooling of `pool` pixels with stride 2 (0: none), then `layers`, then a tap."""

    pool: int
    layers: tuple[Layer, ...]


class Backbone(NamedTuple):
    """A feature network; `min_size` is the smallest side whose last tap has a pixel."""

    min_size: int
    stages: tuple[Stage, ...]


BACKBONES = {
    "vgg16": Backbone(
        16,
        (
            Stage(0, (Layer(0, 64), Layer(2, 64))),
            Stage(2, (Layer(5, 128), Layer(7, 128))),
            Stage(2, (Layer(10, 256), Layer(12, 256), Layer(14, 256))),
            Stage(2, (Layer(17, 512), Layer(19, 512), Layer(21, 512))),
            Stage(2, (Layer(24, 512), Layer(26, 512), Layer(28, 512))),
        ),
    ),
    "alexnet": Backbone(
        31,
        (
            Stage(0, (Layer(0, 64, kernel_size=11, stride=4, padding=2),)),
            Stage(3, (Layer(3, 192, kernel_size=5, padding=2),)),
            Stage(3, (Layer(6, 384),)),
            Stage(0, (Layer(8, 256),)),
            Stage(0, (Layer(10, 256),)),
        ),
    ),
}


def find_backbone(name: str) -> Backbone:
    """The entry of `BACKBONES`; ValueError for another name."""
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}: use {' or '.join(BACKBONES)}")
    return BACKBONES[name]


class FeatureStack(nn.Module):
    """The convolutions of a classifier, up to its last tap; parameters `conv{index}`.

    Attributes:
      backbone: "vgg16" (taps relu1_2, 2_2, 3_3, 4_3, 5_3) or "alexnet" (relu1 to relu5).
      dtype: compute type, None for float32.
    """

    backbone: str
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> list[jax.Array]:
        """Images scaled for the network (see `LPIPS`) -> the five taps, `[B, h, w, C]` each."""
        backbone = find_backbone(self.backbone)
        if min(x.shape[1:3]) < backbone.min_size:
            raise ValueError(
                f"{x.shape[2]} x {x.shape[1]} pixels are too few for {self.backbone}: "
                f"give images of {backbone.min_size} or more a side"
            )
        taps = []
        for stage in backbone.stages:
            if stage.pool:
                x = _halve(x) if stage.pool == 2 else nn.max_pool(x, (stage.pool,) * 2, (2, 2))
            for layer in stage.layers:
                sides = (layer.padding, layer.padding)
                conv = Conv(
                    layer.features,
                    layer.kernel_size,
                    layer.stride,
                    padding=(sides, sides),
                    dtype=self.dtype,
                    name=f"conv{layer.index}",
                )
                x = nn.relu(conv(x))
            taps.append(x)
        return taps


class LPIPS(nn.Module):
    """Distance between images in the features of a classifier.

    At each tap: features scaled to unit length over the channels, squared differences, weighted by
    channel (`lin_0` to `lin_4`) and summed, averaged over positions; then the sum over the taps.

    On TPU, and on GPU with TF32, float32 convolutions are rounded: measure for publication under
    `jax.default_matmul_precision("float32")`.

    Attributes:
      backbone: "vgg16", the usual training loss, or "alexnet", the usual metric.
      calibrated: the learnt weights of the channels; without, all are 1 (`lpips=False`).
      dtype: compute type of the convolutions, None for float32; distances are float32 always.
    """

    backbone: str = "vgg16"
    calibrated: bool = True
    dtype: Any = None

    def setup(self) -> None:
        self.net = FeatureStack(self.backbone, dtype=self.dtype)
        if self.calibrated:
            # Learnt weights are never negative; neither are those of an untrained module.
            init = nn.initializers.uniform(1.0)
            stages = find_backbone(self.backbone).stages
            self.lin = [Conv(1, 1, use_bias=False, kernel_init=init) for _ in stages]

    def features(self, x: Float[Array, "b h w 3"]) -> list[jax.Array]:
        """RGB images in [-1, 1] -> the five taps before normalisation, `[B, h, w, C]` each.

        Raises:
          ValueError: images smaller than 16 (vgg16) or 31 (alexnet) pixels.
        """
        return self.net((x - SHIFT[None, None, None]) / SCALE[None, None, None])

    def __call__(
        self, x: Float[Array, "b h w 3"], y: Float[Array, "b h w 3"], spatial: bool = False
    ) -> Float[Array, " b"] | Float[Array, "b h w"]:
        """RGB images in [-1, 1] -> distances `[B]`, 0 for equal images.

        With `spatial`, maps `[B, H, W]`: each tap's enlarged bilinearly before the sum.
        """
        levels = []
        for i, (a, b) in enumerate(zip(self.features(x), self.features(y), strict=True)):
            squared = jnp.square(_unit(a) - _unit(b))
            level = self.lin[i](squared)[..., 0] if self.calibrated else squared.sum(-1)
            if spatial:
                level = jax.image.resize(level, x.shape[:3], "bilinear", antialias=False)
            else:
                level = level.mean((1, 2))
            levels.append(level)
        return jnp.stack(levels).sum(0)


def _halve(x: jax.Array) -> jax.Array:
    """2 x 2 max pooling, a last odd row or column dropped; of equal values the first is taken.

    On CPU the gradient of strided views is much faster than that of `nn.max_pool`: a third of the
    time of VGG16's. The order, columns first, gives torch's gradients in flat regions too.
    """
    _, h, w, _ = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    left, right = x[:, :, ::2], x[:, :, 1::2]
    x = jnp.where(right > left, right, left)
    top, bottom = x[:, ::2], x[:, 1::2]
    return jnp.where(bottom > top, bottom, top)


def _unit(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    # Its slope at 0 is infinite, but no gradient passes a ReLU whose output is 0.
    norm = jnp.sqrt(jnp.square(x).sum(-1, keepdims=True))
    return x / (norm + EPS)
