"""Semantic layout generator: a U^2-Net that fills the holes of a layout, under a focus map.

HS-Diffusion, arXiv 2212.06458, section 3.3. The nested U-Net is U^2-Net (Qin et al.,
arXiv 2005.09007), with the module names of the reference (xuebinqin/U-2-Net, u2net.py), so that
its checkpoints import by renaming. The focus map is Council-GAN's (Nizan and Tal,
arXiv 1911.10538), and discretisation Gumbel-softmax (Jang et al., arXiv 1611.01144).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from hsd_jax.models.blocks import depth_to_space, space_to_depth
from hsd_jax.models.conv import Conv
from hsd_jax.models.norm import make_norm

MIN_PROB = 1e-6


class Stage(NamedTuple):
    """One residual U-block: `kind` "7", "6", "5", "4" (its height) or "4F" (dilated, unpooled)."""

    kind: str
    mid: int
    out: int


class Stages(NamedTuple):
    """U^2-Net's table: encoder stages top down (n of them), decoder stages bottom up (n - 1)."""

    encoder: tuple[Stage, ...]
    decoder: tuple[Stage, ...]


_KINDS = ("7", "6", "5", "4", "4F", "4F"), ("4F", "4", "5", "6", "7")


def _table(encoder: list[tuple[int, int]], decoder: list[tuple[int, int]]) -> Stages:
    down, up = (
        tuple(Stage(kind, mid, out) for kind, (mid, out) in zip(kinds, widths, strict=True))
        for kinds, widths in zip(_KINDS, (encoder, decoder), strict=True)
    )
    return Stages(down, up)


# (mid, out) of U2NET and U2NETP in the reference; arXiv 2005.09007, table 1, has the first.
PRESETS = {
    "full": _table(
        [(32, 64), (32, 128), (64, 256), (128, 512), (256, 512), (256, 512)],
        [(256, 512), (128, 256), (64, 128), (32, 64), (16, 64)],
    ),
    "small": _table([(16, 64)] * 6, [(16, 64)] * 5),
}


def stages(preset: str, width: float = 1.0) -> Stages:
    """The table of `preset` ("full" or "small") with every channel count times `width`."""
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: use one of {sorted(PRESETS)}")
    if width <= 0:
        raise ValueError(f"width is {width}: use a positive factor, such as 0.5")

    def scale(row: tuple[Stage, ...]) -> tuple[Stage, ...]:
        return tuple(
            Stage(s.kind, max(1, round(s.mid * width)), max(1, round(s.out * width))) for s in row
        )

    return Stages(*map(scale, PRESETS[preset]))


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """2 x 2 maximum, stride 2; an odd last row or column is a window of its own (ceil mode)."""
    _, h, w, _ = x.shape
    if h % 2 or w % 2:
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), constant_values=-jnp.inf)
    # On CPU the gradient of strided views is some 20 times faster than that of reduce_window.
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def upsample_to(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
    """Bilinear enlargement to `size`, torch's `F.interpolate(..., align_corners=False)`."""
    b, h, w, c = x.shape
    return x if size == (h, w) else jax.image.resize(x, (b, *size, c), "bilinear", antialias=False)


class ConvNormRelu(nn.Module):
    """3 x 3 convolution, normalisation, ReLU (`REBNCONV` in the reference)."""

    features: int
    dilation: int = 1
    norm: str = "batch"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[B, H, W, Cin]` -> `[B, H, W, features]`."""
        x = Conv(self.features, dilation=self.dilation, dtype=self.dtype, name="conv_s1")(x)
        norm = make_norm(self.norm, self.features, train=train, dtype=self.dtype, name="bn_s1")
        return nn.relu(norm(x))


class ResidualUBlock(nn.Module):
    """RSU-L and RSU-4F of U^2-Net: a small U-Net added to its own first convolution.

    RSU-L pools between levels and dilates only the bottom convolution, by 2. RSU-4F has height 4
    and keeps the size: convolution i is dilated by 2^(i - 1) instead, on both ways.
    """

    stage: Stage
    norm: str = "batch"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[B, H, W, Cin]` -> `[B, H, W, stage.out]`, any size."""
        kind, mid, out = self.stage
        flat, height = kind.endswith("F"), int(kind.rstrip("F"))

        def conv(x: jax.Array, name: str, features: int, dilation: int) -> jax.Array:
            return ConvNormRelu(features, dilation, self.norm, self.dtype, name=name)(x, train)

        x = conv(x, "rebnconvin", out, 1)
        y, skips = x, []
        for i in range(1, height):
            y = conv(
                max_pool(y) if skips and not flat else y,
                f"rebnconv{i}",
                mid,
                2 ** (i - 1) if flat else 1,
            )
            skips.append(y)
        y = conv(y, f"rebnconv{height}", mid, 2 ** (height - 1) if flat else 2)
        for i in range(height - 1, 0, -1):
            skip = skips[i - 1]
            y = jnp.concatenate([upsample_to(y, skip.shape[1:3]), skip], -1)
            y = conv(y, f"rebnconv{i}d", out if i == 1 else mid, 2 ** (i - 1) if flat else 1)
        return y + x


class U2NetOutput(NamedTuple):
    """Logits `[B, H, W, out_channels]`: the fused d0, and the side outputs d1 (fine) .. d6."""

    fused: jax.Array
    sides: tuple[jax.Array, ...]


class U2Net(nn.Module):
    """U^2-Net, U2NET and U2NETP of the reference without their final sigmoids.

    Attributes:
      out_channels: channels of every output.
      stages: the table, `stages("full")`, `stages("small", width=0.5)` or one's own.
      norm: "batch" as the reference, or "group", which needs no running statistics.
      dtype: compute type, None for float32.
    """

    out_channels: int
    stages: Stages = PRESETS["full"]
    norm: str = "batch"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> U2NetOutput:
        """`[B, H, W, Cin]` of any size -> logits of the same size."""

        def block(x: jax.Array, stage: Stage, name: str) -> jax.Array:
            return ResidualUBlock(stage, self.norm, self.dtype, name=name)(x, train)

        size, encoded = (x.shape[1], x.shape[2]), []
        down, up = self.stages  # plain tuples when they come from a file
        for i, stage in enumerate(down, 1):
            x = block(max_pool(x) if encoded else x, stage, f"stage{i}")
            encoded.append(x)
        decoded = [encoded[-1]]
        for i, stage in zip(range(len(encoded) - 1, 0, -1), up, strict=True):
            skip = encoded[i - 1]
            x = jnp.concatenate([upsample_to(x, skip.shape[1:3]), skip], -1)
            x = block(x, stage, f"stage{i}d")
            decoded.append(x)
        sides = tuple(
            upsample_to(Conv(self.out_channels, dtype=self.dtype, name=f"side{i}")(y), size)
            for i, y in enumerate(reversed(decoded), 1)
        )
        fuse = Conv(self.out_channels, kernel_size=1, dtype=self.dtype, name="outconv")
        return U2NetOutput(fuse(jnp.concatenate(sides, -1)), sides)


class LayoutOutput(NamedTuple):
    """What the layout generator gives, all float32 `[B, H, W, ...]`.

    Attributes:
      probs: `[..., K]`, class probabilities m * l_hat + (1 - m) * l, the paper's l~.
      logits: `[..., K]`, those of l_hat before the softmax.
      focus: `[..., 1]` in [0, 1], the focus map m: where the prediction replaces the input.
    """

    probs: jax.Array
    logits: jax.Array
    focus: jax.Array


class LayoutGenerator(nn.Module):
    """G_layout: fills the holes of a layout and keeps the rest through its focus map.

    The paper says "nested U-Net" and gives no size; ours is a preset times a width.

    Attributes:
      num_classes: K.
      preset: "full" (44 M parameters at width 1) or "small" (1.1 M).
      width: factor on all channel counts of the preset.
      norm: "batch" or "group".
      focus_sharpness: a in m = (tanh(a x) + 1) / 2; 10 in Council-GAN.
      patch: our addition: tiles of `patch` x `patch` pixels become channels of one position, so
        that a small network draws edges at full resolution.
      dtype: compute type, None for float32; outputs are float32 always.
    """

    num_classes: int
    preset: str = "full"
    width: float = 1.0
    norm: str = "batch"
    focus_sharpness: float = 10.0
    patch: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, layout: Float[Array, "b h w k"], train: bool = False) -> LayoutOutput:
        """One-hot layouts `[B, H, W, K]`, holes being class 0; H and W multiples of `patch`."""
        if layout.shape[-1] != self.num_classes:
            raise ValueError(
                f"layout has shape {layout.shape}, expected {self.num_classes} channels last: "
                "give it one-hot in the model's label set"
            )
        net = U2Net(
            (self.num_classes + 1) * self.patch**2,
            stages(self.preset, self.width),
            self.norm,
            self.dtype,
            name="net",
        )
        fused = net(space_to_depth(layout, self.patch), train).fused.astype(jnp.float32)
        out = depth_to_space(fused, self.patch)
        logits = out[..., :-1]
        focus = (jnp.tanh(self.focus_sharpness * out[..., -1:]) + 1) / 2
        probs = focus * nn.softmax(logits) + (1 - focus) * layout.astype(jnp.float32)
        return LayoutOutput(probs, logits, focus)

    def inpaint(self, layout: Int[Array, "b h w"]) -> Int[Array, "b h w"]:
        """Class indices with holes as class 0 -> class indices, the most probable of l~."""
        probs = self(jax.nn.one_hot(layout, self.num_classes)).probs
        return probs.argmax(-1).astype(layout.dtype)


def log_probs(probs: Float[Array, "*b k"]) -> Float[Array, "*b k"]:
    """Logarithm of probabilities clamped from below at 1e-6.

    Where the focus map is 0 in a hole, l~ of the true class is exactly 0 and its cross-entropy
    infinite. Below the clamp the gradient is 0: a cross-entropy on `LayoutOutput.logits` beside
    it keeps such pixels learning.
    """
    return jnp.log(jnp.maximum(probs, MIN_PROB))


def gumbel_softmax(
    logits: Float[Array, "*b k"], key: jax.Array, tau: float = 1.0, hard: bool = True
) -> Float[Array, "*b k"]:
    """A sample of the categorical distribution over the last axis, with a gradient.

    Args:
      logits: unnormalised, or log-probabilities as `log_probs` gives.
      key: PRNG key.
      tau: temperature; the smaller, the nearer the relaxed sample is to one-hot.
      hard: one-hot values with the relaxed sample's gradient (straight-through), else the relaxed
        sample itself.

    Returns:
      `[..., K]`, sums to 1. Source: arXiv 1611.01144, section 2.2.
    """
    soft = nn.softmax((logits + jax.random.gumbel(key, logits.shape, logits.dtype)) / tau)
    if not hard:
        return soft
    one_hot = jax.nn.one_hot(soft.argmax(-1), soft.shape[-1], dtype=soft.dtype)
    # In this order the two soft terms cancel exactly, and the values are 0 and 1, not nearly so.
    return one_hot + (soft - jax.lax.stop_gradient(soft))
