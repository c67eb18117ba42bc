"""Building blocks shared by the autoencoder and the UNet, NHWC.

Parameter trees follow CompVis latent-diffusion (`model.py`, `openaimodel.py`, `util.py`) tensor by
tensor, so that importing its checkpoints only renames and transposes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hsd_jax.models import forms
from hsd_jax.models.conv import Conv

VAE_EPS = 1e-6  # `Normalize` in model.py
UNET_EPS = 1e-5  # `GroupNorm32` in util.py keeps torch's default


def fitting_groups(channels: int, num_groups: int = 32) -> int:
    """`num_groups` if it divides `channels`, else fewer groups of at least four channels.

    CompVis only has multiples of 32 channels. In narrow networks, groups of one channel would
    remove the mean of every channel, and with it the UNet's step embedding, which is added as a
    constant.
    """
    if channels % num_groups == 0:
        return num_groups
    most = max(1, min(num_groups, channels // 4))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def average_pool(x: jax.Array, factor: int) -> jax.Array:
    """Averages `factor` x `factor` tiles: `[B, H, W, C]` -> `[B, H / factor, W / factor, C]`.

    With factor 2 this is exactly torch's bilinear x 0.5 (no antialias), which
    `jax.image.resize` with its default antialias is not.

    Raises:
      ValueError: H or W is no multiple of `factor`.
    """
    b, h, w, c = x.shape
    if h % factor or w % factor:
        raise ValueError(
            f"a {h} x {w} image cannot be reduced by {factor}: pad it to a multiple of {factor}"
        )
    return x.reshape(b, h // factor, factor, w // factor, factor, c).mean(axis=(2, 4))


def space_to_depth(x: jax.Array, patch: int) -> jax.Array:
    """`[B, H, W, C]` -> `[B, H / patch, W / patch, patch**2 * C]`, channels (row, column, C)."""
    b, h, w, c = x.shape
    if h % patch or w % patch:
        raise ValueError(f"sides of {h} and {w} pixels are no multiples of the patch of {patch}")
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // patch, w // patch, patch * patch * c)


def depth_to_space(x: jax.Array, patch: int) -> jax.Array:
    """Inverts `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, patch, patch, c // patch**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * patch, w * patch, c // patch**2)


def timestep_embedding(
    t: jax.Array,
    dim: int,
    max_period: float = 10000.0,
    freq_shift: float = 0.0,
    sin_first: bool = False,
) -> jax.Array:
    """Sinusoids of the diffusion step: `[B]` int or float -> `[B, dim]` float32.

    The order is `[cos, sin]`, with frequencies `max_period ** (-i / (dim // 2 - freq_shift))`.
    CompVis' UNet (`util.py`) has shift 0; its `model.py`, like DDPM, has shift 1 and `[sin, cos]`
    (`sin_first`). An odd `dim` ends in a zero.
    """
    half = dim // 2
    steps = jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    frequencies = jnp.exp(-jnp.log(max_period) * steps)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    waves = [jnp.cos(angles), jnp.sin(angles)]
    embedding = jnp.concatenate(waves[::-1] if sin_first else waves, axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


class GroupNorm(nn.Module):
    """Group normalisation with statistics in float32.

    Attributes:
      eps: added to the variance; `VAE_EPS` or `UNET_EPS`, which differ.
      num_groups: the number of groups, reduced by `fitting_groups` if necessary.
      dtype: type of the result, None for float32.
    """

    eps: float
    num_groups: int = 32
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> the same shape."""
        b, _, _, c = x.shape
        scale = self.param("scale", nn.initializers.ones_init(), (c,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (c,), jnp.float32)
        groups = fitting_groups(c, self.num_groups)

        def group_mean(values: jax.Array) -> jax.Array:
            # Channels stay the minor axis of the large reduction; only [B, C] is regrouped.
            means = values.mean(axis=(1, 2)).reshape(b, groups, c // groups)
            means = jnp.broadcast_to(means.mean(axis=-1, keepdims=True), means.shape)
            return means.reshape(b, 1, 1, c)

        x = x.astype(jnp.float32)
        mean = group_mean(x)
        variance = group_mean(jnp.square(x - mean))
        gain = jax.lax.rsqrt(variance + self.eps) * scale[None, None, None]
        # Not x - mean again: XLA would store it in memory to use it twice.
        centred = x + -mean
        return (centred * gain + bias[None, None, None]).astype(self.dtype or jnp.float32)


class ResBlock(nn.Module):
    """norm, swish, conv, norm, swish, dropout, conv, plus the input (`ResnetBlock`, model.py).

    Attributes:
      features: output channels; if the input has others, a 1 x 1 `nin_shortcut` maps it to them.
      dropout: rate, active only with `train`.
      dtype: compute type, None for float32.
      num_groups: of the norms, see `GroupNorm`.
    """

    features: int
    dropout: float = 0.0
    dtype: Any = None
    num_groups: int = 32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H, W, features]`."""
        h = nn.swish(GroupNorm(VAE_EPS, self.num_groups, self.dtype, name="norm1")(x))
        h = Conv(self.features, dtype=self.dtype, name="conv1")(h)
        h = nn.swish(GroupNorm(VAE_EPS, self.num_groups, self.dtype, name="norm2")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = Conv(self.features, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, kernel_size=1, dtype=self.dtype, name="nin_shortcut")(x)
        return x + h


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions, with a residual (`AttnBlock`, model.py)."""

    dtype: Any = None
    num_groups: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> the same shape."""
        b, h, w, c = x.shape
        y = GroupNorm(VAE_EPS, self.num_groups, self.dtype, name="norm")(x)
        q, k, v = (
            Conv(c, kernel_size=1, dtype=self.dtype, name=name)(y).reshape(b, h * w, c)
            for name in ("q", "k", "v")
        )
        y = attend(q, k, v).reshape(b, h, w, c)
        return x + Conv(c, kernel_size=1, dtype=self.dtype, name="proj_out")(y)


_QUERIES = 1024  # their weights over 64 x 64 positions are 16 MB, which fits in caches


def attend(
    q: Float[Array, "b t c"], k: Float[Array, "b t c"], v: Float[Array, "b t c"]
) -> Float[Array, "b t c"]:
    """`jax.nn.dot_product_attention` of one head, a quarter faster on CPU for large maps.

    On CPU it consists of 2-D matmuls of at most 1,024 queries.
    """
    length, channels = q.shape[1:]
    least = -(-length // _QUERIES)
    parts = next((n for n in range(least, 2 * least) if length % n == 0), 1)
    if parts == 1 or not forms.on_cpu():
        return jax.nn.dot_product_attention(*(x[:, :, None] for x in (q, k, v)))[:, :, 0]

    def one(qkv: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q, k, v = qkv

        def some(q: jax.Array) -> jax.Array:
            logits = q @ k.T
            weights = jnp.exp(logits - logits.max(-1, keepdims=True))
            return (weights @ v) / weights.sum(-1, keepdims=True)

        scaled = q * channels**-0.5
        return jax.lax.map(some, scaled.reshape(parts, -1, channels)).reshape(q.shape)

    return jax.lax.map(one, (q, k, v))


def split_heads(
    qkv: jax.Array, num_heads: int, legacy: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`[B, T, 3 * C]` -> q, k, v, each `[B, T, num_heads, C / num_heads]`.

    `legacy` cuts the channels into heads first and each head into q, k, v (`QKVAttentionLegacy`,
    openaimodel.py, what the released checkpoints use); otherwise q, k, v first (`QKVAttention`).
    """
    b, length, width = qkv.shape
    dim = width // (3 * num_heads)
    if legacy:
        q, k, v = jnp.split(qkv.reshape(b, length, num_heads, 3 * dim), 3, axis=-1)
    else:
        parts = qkv.reshape(b, length, 3, num_heads, dim)
        q, k, v = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
    return q, k, v


class AttentionBlock(nn.Module):
    """Multi-head self-attention over all positions, with a residual (openaimodel.py).

    Attributes:
      num_heads: heads; must divide the channels.
      legacy: order of the channels of `qkv`, see `split_heads`.
      dtype: compute type, None for float32.
      num_groups: of the norm, see `GroupNorm`; 0 for no norm.
      eps: of the norm.
    """

    num_heads: int
    legacy: bool = True
    dtype: Any = None
    num_groups: int = 32
    eps: float = UNET_EPS

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> the same shape.

        Raises:
          ValueError: C is no multiple of `num_heads`.
        """
        b, h, w, c = x.shape
        if c % self.num_heads:
            raise ValueError(
                f"{c} channels do not split into {self.num_heads} heads: "
                "choose num_heads or num_head_channels that divide them"
            )
        y = x
        if self.num_groups:
            y = GroupNorm(self.eps, self.num_groups, self.dtype, name="norm")(x)
        qkv = Conv(3 * c, kernel_size=1, dtype=self.dtype, name="qkv")(y)
        q, k, v = split_heads(qkv.reshape(b, h * w, 3 * c), self.num_heads, self.legacy)
        y = jax.nn.dot_product_attention(q, k, v).reshape(b, h, w, c)
        zeros = nn.initializers.zeros_init()
        return x + Conv(c, 1, dtype=self.dtype, kernel_init=zeros, name="proj_out")(y)
