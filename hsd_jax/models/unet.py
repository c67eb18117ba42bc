"""The denoiser eps_theta(z_t, t, s): a UNet over latents with the condition in its channels.

HS-Diffusion (arXiv 2212.06458, section 3.1) gives no sizes; the defaults are CompVis
latent-diffusion's `semantic_synthesis256` (`UNetModel`, openaimodel.py), the nearest published
network. Where CompVis numbers the parts of a `Sequential`, ours have names; one for one:
`in_layers.0/2` norm1, conv1; `emb_layers.1` emb_proj; `out_layers.0/3` norm2, conv2;
`time_embed.0/2` time_embed_0, time_embed_2; `out.0/2` norm_out, conv_out; `input_blocks.I.J`
input_blocks_I_J (so middle_block, output_blocks), without the inner `op` or `conv` of resamplers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Num

from hsd_jax.models.blocks import (
    UNET_EPS,
    AttentionBlock,
    GroupNorm,
    average_pool,
    timestep_embedding,
)
from hsd_jax.models.conv import (
    Conv,
    Filters,
    UpsampleConv,
    conv2d,
    transform_kernels,
    upsample_nearest,
)

_ZEROS = nn.initializers.zeros_init()


class TimestepResBlock(nn.Module):
    """Residual block with the step embedding (`ResBlock`, openaimodel.py).

    Attributes:
      features: output channels; if the input has others, a 1 x 1 `skip_connection` maps it to them.
      dropout: rate, active only with `train`.
      scale_shift: the step's embedding scales and shifts after the second norm, instead of being
        added before it.
      resample: "up" (nearest x 2) or "down" (2 x 2 means) inside the block, or None.
      dtype: compute type, None for float32.
      num_groups: of the norms, see `GroupNorm`.
      eps: of the norms.
      projected: whether the step embedding is already the output of `emb_proj` (see `bind`).
    """

    features: int
    dropout: float = 0.0
    scale_shift: bool = False
    resample: str | None = None
    dtype: Any = None
    num_groups: int = 32
    eps: float = UNET_EPS
    projected: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array, train: bool) -> jax.Array:
        """`[B, H, W, C]`, `[B, E]` -> `[B, H', W', features]`."""
        norm = (self.eps, self.num_groups, self.dtype)
        h = nn.swish(GroupNorm(*norm, name="norm1")(x))
        if self.resample == "up":
            h, x = upsample_nearest(h), upsample_nearest(x)
        elif self.resample == "down":
            h, x = average_pool(h, 2), average_pool(x, 2)
        h = Conv(self.features, dtype=self.dtype, name="conv1")(h)
        width = 2 * self.features if self.scale_shift else self.features
        if not self.projected:
            emb = nn.Dense(width, name="emb_proj")(nn.swish(emb))
        emb = emb[:, None, None]
        norm2 = GroupNorm(*norm, name="norm2")
        if self.scale_shift:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = norm2(h) * (1 + scale) + shift
        else:
            h = norm2(h + emb)
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.swish(h))
        h = Conv(self.features, dtype=self.dtype, kernel_init=_ZEROS, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, kernel_size=1, dtype=self.dtype, name="skip_connection")(x)
        return x + h


class Bound(NamedTuple):
    """The parts of a call that depend only on the condition or the step; made by `bind`."""

    stem: Array  # [b, h, w, model_channels]: the first convolution of s, without its bias
    steps: dict[str, Array]  # [b, width] per residual block: its projection of the embedding


class UNet(nn.Module):
    """eps_theta; the number of input channels is that of z and s together.

    Attributes:
      out_channels: channels of eps, those of z.
      model_channels: channels of the first level.
      channel_mult: multiples of `model_channels`, one per level; every level but the last halves.
      num_res_blocks: residual blocks per level (one more on the way up).
      attention_factors: downsampling factors (1, 2, 4, ...) whose levels attend after every block.
        CompVis calls them `attention_resolutions`; its semantic_synthesis256 names 8, 16, 32, which
        its three levels never reach, so only the middle attends.
      mid_attention: attention in the middle (CompVis: always).
      num_heads: heads of every attention, unless `num_head_channels` is positive.
      num_head_channels: channels per head, or -1 to use `num_heads`.
      use_scale_shift_norm: see `TimestepResBlock.scale_shift`. Levels of 32 channels need it: there
        GroupNorm's groups are single channels (as in CompVis) and undo an added embedding.
      resblock_updown: resamples inside residual blocks instead of by convolutions.
      legacy_attention: order of the channels of qkv, see `blocks.split_heads`.
      dropout: rate inside residual blocks, active only with `train`.
      dtype: compute type, None for float32; the step's embedding, the last norm and the last
        convolution are float32 always.
      remat: levels (0 is the full resolution) whose residual blocks are recomputed in the backward
        pass: less memory for more time. Parameters and results are the same.

    The other fields are options of diffusers' `UNet2DModel`; the defaults are CompVis':
      num_groups: of every norm, see `GroupNorm`.
      norm_eps: of every norm; 1e-6 in DDPM's networks.
      mid_attention_norm: a norm in the middle's attention.
      freq_shift, sin_first: see `timestep_embedding`; 1 and True in DDPM's networks.
      down_padding: 1 on all sides of downsampling convolutions; 0 is DDPM's, below and to the right
        only, as in the autoencoder.
    """

    out_channels: int = 3
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 4, 8)
    num_res_blocks: int = 2
    attention_factors: tuple[int, ...] = ()
    mid_attention: bool = True
    num_heads: int = 8
    num_head_channels: int = -1
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    legacy_attention: bool = True
    dropout: float = 0.0
    dtype: Any = None
    remat: tuple[int, ...] = ()
    num_groups: int = 32
    norm_eps: float = UNET_EPS
    mid_attention_norm: bool = True
    freq_shift: int = 0
    sin_first: bool = False
    down_padding: int = 1

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b h w c"],
        t: Num[Array, " b"],
        s: Float[Array, "b h w k"] | None,
        train: bool = False,
        bound: Bound | None = None,
    ) -> Float[Array, "b h w c"]:
        """Predicted noise.

        Args:
          z: `[B, h, w, C]` noisy latents; h and w multiples of `2 ** (len(channel_mult) - 1)`.
          t: `[B]` diffusion steps, int or float, 0 to 999 for the paper's schedule.
          s: `[B, h, w, K]` condition, concatenated to z; None for an unconditional network.
          train: activates dropout (needs the rng "dropout" where the rate is not 0).
          bound: replaces t and s, together with the parameters from `bind`.

        Returns:
          eps `[B, h, w, out_channels]` float32.

        Raises:
          ValueError: h or w does not halve evenly at every level.
        """
        multiple = 2 ** (len(self.channel_mult) - 1)
        if z.shape[1] % multiple or z.shape[2] % multiple:
            raise ValueError(
                f"latents of {z.shape[1]} x {z.shape[2]} cannot be denoised: "
                f"their sides must be multiples of {multiple}"
            )
        emb = self._embed(t) if bound is None else bound.steps
        h = z if s is None else jnp.concatenate([z, s.astype(z.dtype)], axis=-1)
        h = Conv(self.model_channels, dtype=self.dtype, name="input_blocks_0_0")(h)
        if bound is not None:
            h = h + bound.stem
        h, skips = self._down(h, emb, train)
        last = len(self.channel_mult) - 1
        h = self._res(h, emb, train, h.shape[-1], "middle_block_0", last)
        if self.mid_attention:
            groups = self.num_groups if self.mid_attention_norm else 0
            h = self._attention(h, "middle_block_1", groups)
        h = self._res(h, emb, train, h.shape[-1], "middle_block_2", last)
        h = self._up(h, skips, emb, train)
        h = nn.swish(GroupNorm(self.norm_eps, self.num_groups, name="norm_out")(h))
        return Conv(self.out_channels, kernel_init=_ZEROS, name="conv_out")(h)

    def _embed(self, t: jax.Array) -> jax.Array:
        width = 4 * self.model_channels
        emb = timestep_embedding(
            t, self.model_channels, freq_shift=self.freq_shift, sin_first=self.sin_first
        )
        emb = nn.swish(nn.Dense(width, name="time_embed_0")(emb))
        return nn.Dense(width, name="time_embed_2")(emb)

    def _res(
        self,
        h: jax.Array,
        emb: jax.Array | dict[str, jax.Array],
        train: bool,
        features: int,
        name: str,
        level: int,
        resample: str | None = None,
    ) -> jax.Array:
        block, projected = TimestepResBlock, isinstance(emb, dict)
        if level in self.remat:
            block = nn.remat(block, static_argnums=(3,))  # `train`, `self` being 0
        block = block(
            features, self.dropout, self.use_scale_shift_norm, resample, self.dtype,
            self.num_groups, self.norm_eps, projected, name=name,
        )
        return block(h, emb[name] if isinstance(emb, dict) else emb, train)

    def _attention(self, h: jax.Array, name: str, num_groups: int | None = None) -> jax.Array:
        heads = self.num_heads
        groups = self.num_groups if num_groups is None else num_groups
        if self.num_head_channels > 0:
            if h.shape[-1] % self.num_head_channels:
                raise ValueError(
                    f"{h.shape[-1]} channels do not split into heads of {self.num_head_channels}: "
                    "choose num_head_channels that divides every attending level"
                )
            heads = h.shape[-1] // self.num_head_channels
        block = AttentionBlock(
            heads, self.legacy_attention, self.dtype, groups, self.norm_eps, name=name
        )
        return block(h)

    def _down(
        self, h: jax.Array, emb: jax.Array | dict[str, jax.Array], train: bool
    ) -> tuple[jax.Array, list[jax.Array]]:
        """The way down; every output is kept for the way up."""
        skips = [h]
        for level, mult in enumerate(self.channel_mult):
            for _ in range(self.num_res_blocks):
                block = f"input_blocks_{len(skips)}"
                h = self._res(h, emb, train, self.model_channels * mult, f"{block}_0", level)
                if 2**level in self.attention_factors:
                    h = self._attention(h, f"{block}_1")
                skips.append(h)
            if level < len(self.channel_mult) - 1:
                name = f"input_blocks_{len(skips)}_0"
                if self.resblock_updown:
                    h = self._res(h, emb, train, h.shape[-1], name, level, "down")
                else:
                    # On all sides by default, unlike the autoencoder's.
                    padding = None if self.down_padding == 1 else ((0, 1), (0, 1))
                    h = Conv(h.shape[-1], 3, 2, padding, dtype=self.dtype, name=name)(h)
                skips.append(h)
        return h, skips

    def _up(
        self,
        h: jax.Array,
        skips: list[jax.Array],
        emb: jax.Array | dict[str, jax.Array],
        train: bool,
    ) -> jax.Array:
        total = len(skips)
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for i in range(self.num_res_blocks + 1):
                block = f"output_blocks_{total - len(skips)}"
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._res(h, emb, train, self.model_channels * mult, f"{block}_0", level)
                attends = 2**level in self.attention_factors
                if attends:
                    h = self._attention(h, f"{block}_1")
                if level > 0 and i == self.num_res_blocks:
                    name = f"{block}_{1 + attends}"
                    if self.resblock_updown:
                        h = self._res(h, emb, train, h.shape[-1], name, level, "up")
                    else:
                        h = UpsampleConv(h.shape[-1], dtype=self.dtype, name=name)(h)
        return h


# The number of calls from which on transforming kernels ahead pays off: it triples the program,
# whose loading costs as much as several calls save.
MANY = 8
# These compute in float32 whatever the module's dtype.
_FLOAT32 = ("norm", "emb_proj", "time_embed", "conv_out", "bias")


def bind(
    unet: UNet,
    params: Mapping[str, Any],
    s: Float[Array, "b h w k"],
    times: Int[Array, " n"],
) -> tuple[dict[str, Any], Float[Array, "b h w m"], dict[str, Float[Array, "n width"]]]:
    """Precomputes what calls with the same condition share, for samplers that call at `times`.

    Args:
      unet: with its parameters `params`.
      s: the condition.
      times: steps.

    Returns:
      Parameters for calls with `Bound` at the shape of s, already of the type that they are
      computed in and, for eight times or more, with kernels transformed as their convolutions take
      them; its `stem`; and tables of its `steps`, of which row i belongs to times[i].
    """
    first = params["input_blocks_0_0"]
    dtype, channels = unet.dtype or jnp.float32, first["kernel"].shape[2] - s.shape[-1]
    stem = conv2d(s.astype(dtype), first["kernel"][:, :, channels:].astype(dtype))
    emb = timestep_embedding(
        times, unet.model_channels, freq_shift=unet.freq_shift, sin_first=unet.sin_first
    )
    for name in ("time_embed_0", "time_embed_2"):
        emb = nn.swish(_dense(params[name], emb))
    table = {
        name: _dense(part["emb_proj"], emb) for name, part in params.items() if "emb_proj" in part
    }

    params = {**params, "input_blocks_0_0": {**first, "kernel": first["kernel"][:, :, :channels]}}
    z = jax.ShapeDtypeStruct((*s.shape[:3], channels), jnp.float32)
    steps = {name: jnp.repeat(rows[:1], s.shape[0], 0) for name, rows in table.items()}
    if len(times) >= MANY:
        t = jnp.repeat(times[:1], s.shape[0])
        params = transform_kernels(unet, params, z, t, None, bound=Bound(stem, steps))

    def cast(path: Any, x: Any) -> Any:
        if isinstance(x, Filters) or any(key.key.startswith(_FLOAT32) for key in path):
            return x
        return x.astype(dtype)

    own: Any = jax.tree.map_with_path(cast, params, is_leaf=lambda x: isinstance(x, Filters))
    return own, stem, table


def _dense(params: Mapping[str, Array], x: Array) -> Array:
    return x @ params["kernel"] + params["bias"][None]
