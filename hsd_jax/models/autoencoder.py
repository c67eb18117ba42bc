"""The first stage: images to latents and back, VQ (the paper's) or KL regularised.

HS-Diffusion (arXiv 2212.06458, section 4.1) uses a VQGAN with factor 4, the `vq-f4` of CompVis
latent-diffusion (`autoencoder.py`, `model.py`); the defaults below are that network. Diffusion runs
on the latents before quantisation and `decode` quantises first, as `VQModelInterface` does.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from hsd_jax.models.blocks import (
    VAE_EPS,
    AttnBlock,
    GroupNorm,
    ResBlock,
    depth_to_space,
    space_to_depth,
)
from hsd_jax.models.conv import Conv, UpsampleConv

# CompVis pads stride-2 convolutions only below and to the right.
_DOWN_PADDING = ((0, 1), (0, 1))


class Middle(nn.Module):
    """Two residual blocks around single-head attention, at the lowest resolution."""

    attention: bool
    dropout: float
    dtype: Any
    num_groups: int

    @nn.compact
    def __call__(self, h: jax.Array, train: bool) -> jax.Array:
        block = (h.shape[-1], self.dropout, self.dtype, self.num_groups)
        h = ResBlock(*block, name="block_1")(h, train)
        if self.attention:
            h = AttnBlock(self.dtype, self.num_groups, name="attn_1")(h)
        return ResBlock(*block, name="block_2")(h, train)


class _Coder(nn.Module):
    """Fields of encoder and decoder as in `Autoencoder`; `out_channels` of the last convolution."""

    out_channels: int
    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_levels: tuple[int, ...]
    mid_attention: bool
    dropout: float
    dtype: Any
    num_groups: int


class Encoder(_Coder):
    """`Encoder` of CompVis' model.py."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H / f, W / f, out_channels]` float32."""
        h = Conv(self.ch, dtype=self.dtype, name="conv_in")(x)
        for level, mult in enumerate(self.ch_mult):
            features = self.ch * mult
            for i in range(self.num_res_blocks):
                name = f"down_{level}_block_{i}"
                block = ResBlock(features, self.dropout, self.dtype, self.num_groups, name=name)
                h = block(h, train)
                if level in self.attn_levels:
                    name = f"down_{level}_attn_{i}"
                    h = AttnBlock(self.dtype, self.num_groups, name=name)(h)
            if level < len(self.ch_mult) - 1:
                name = f"down_{level}_downsample"
                h = Conv(features, 3, 2, _DOWN_PADDING, dtype=self.dtype, name=name)(h)
        middle = (self.mid_attention, self.dropout, self.dtype, self.num_groups)
        h = Middle(*middle, name="mid")(h, train)
        h = nn.swish(GroupNorm(VAE_EPS, self.num_groups, name="norm_out")(h))
        # In float32: the last convolution is cheap and limits the precision of the latents.
        return Conv(self.out_channels, name="conv_out")(h)


class Decoder(_Coder):
    """`Decoder` of CompVis' model.py."""

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        """`[B, h, w, C]` -> `[B, h * f, w * f, out_channels]` float32."""
        h = Conv(self.ch * self.ch_mult[-1], dtype=self.dtype, name="conv_in")(z)
        middle = (self.mid_attention, self.dropout, self.dtype, self.num_groups)
        h = Middle(*middle, name="mid")(h, train)
        for level, mult in reversed(list(enumerate(self.ch_mult))):
            features = self.ch * mult
            for i in range(self.num_res_blocks + 1):
                name = f"up_{level}_block_{i}"
                block = ResBlock(features, self.dropout, self.dtype, self.num_groups, name=name)
                h = block(h, train)
                if level in self.attn_levels:
                    name = f"up_{level}_attn_{i}"
                    h = AttnBlock(self.dtype, self.num_groups, name=name)(h)
            if level > 0:
                h = UpsampleConv(features, dtype=self.dtype, name=f"up_{level}_upsample")(h)
        h = nn.swish(GroupNorm(VAE_EPS, self.num_groups, name="norm_out")(h))
        # float32 again: bfloat16 near 1 has steps of half an 8-bit grey level.
        return Conv(self.out_channels, name="conv_out")(h)


class Quantized(NamedTuple):
    """The result of `Autoencoder.vector_quantize`.

    Attributes:
      latents: `[B, h, w, embed_dim]` nearest codebook entries, gradient passed straight through.
      loss: scalar codebook loss.
      indices: `[B, h, w]` int32 rows of the codebook.
    """

    latents: Float[Array, "b h w c"]
    loss: Float[Array, ""]
    indices: Int[Array, "b h w"]


class Autoencoder(nn.Module):
    """VQ or KL autoencoder; the defaults are the paper's `vq-f4`.

    Attributes:
      kind: "vq" (`VQModelInterface`) or "kl" (`AutoencoderKL`).
      embed_dim: channels of the latents.
      n_embed: entries of the codebook (vq only).
      z_channels: channels between encoder and decoder and their 1 x 1 `quant_conv`s.
      ch: channels of the first level.
      ch_mult: multiples of `ch`, one per level; every level but the last halves the resolution.
      num_res_blocks: residual blocks per level (one more in the decoder).
      attn_levels: indices of the levels with attention after every block. CompVis names them by
        resolution (`attn_resolutions`), which ties the network to an image size.
      mid_attention: attention at the lowest resolution (False is CompVis' `noattn`).
      out_ch: channels of the decoded image.
      dropout: rate inside residual blocks, active only with `train`.
      patch: our addition: space-to-depth by this factor before the encoder and its inverse after
        the decoder, so that small networks skip the costly full-resolution level; 1 is CompVis.
      dtype: compute type, None for float32; latents, codebook and images are always float32.
      num_groups: of every norm, see `GroupNorm`; always 32 in CompVis.
    """

    kind: str = "vq"
    embed_dim: int = 3
    n_embed: int = 8192
    z_channels: int = 3
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    attn_levels: tuple[int, ...] = ()
    mid_attention: bool = True
    out_ch: int = 3
    dropout: float = 0.0
    patch: int = 1
    dtype: Any = None
    num_groups: int = 32

    @property
    def factor(self) -> int:
        """Pixels per latent along each axis."""
        return self.patch * 2 ** (len(self.ch_mult) - 1)

    def setup(self) -> None:
        if self.kind not in ("vq", "kl"):
            raise ValueError(f"unknown kind of autoencoder {self.kind!r}: use 'vq' or 'kl'")
        moments = 2 if self.kind == "kl" else 1
        trunk = (
            self.ch, self.ch_mult, self.num_res_blocks, self.attn_levels,
            self.mid_attention, self.dropout, self.dtype, self.num_groups,
        )
        self.encoder = Encoder(moments * self.z_channels, *trunk)
        self.decoder = Decoder(self.out_ch * self.patch**2, *trunk)
        self.quant_conv = Conv(moments * self.embed_dim, kernel_size=1)
        self.post_quant_conv = Conv(self.z_channels, kernel_size=1)
        if self.kind == "vq":
            self.codebook = self.param(
                "codebook", self._codebook_init, (self.n_embed, self.embed_dim), jnp.float32
            )

    def _codebook_init(self, key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -1.0 / self.n_embed, 1.0 / self.n_embed)

    def encode(
        self, x: Float[Array, "b H W k"], train: bool = False
    ) -> Float[Array, "b h w c"] | tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
        """Encodes images.

        Args:
          x: `[B, H, W, C]` in [-1, 1]; H and W multiples of `factor`.
          train: activates dropout (needs the rng "dropout" where the rate is not 0).

        Returns:
          vq: latents before quantisation `[B, H / factor, W / factor, embed_dim]` float32;
          kl: the posterior's (mean, logvar), each of that shape, logvar clipped to [-30, 20].

        Raises:
          ValueError: H or W is no multiple of `factor`.
        """
        height, width = x.shape[1:3]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"a {height} x {width} image cannot be encoded: "
                f"its sides must be multiples of {self.factor}"
            )
        h = self.quant_conv(self.encoder(space_to_depth(x, self.patch), train))
        if self.kind == "vq":
            return h
        mean, logvar = jnp.split(h, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def vector_quantize(self, h: Float[Array, "b h w c"]) -> Quantized:
        """Nearest codebook entries (squared Euclidean distance) and the codebook loss.

        The loss is that of taming-transformers' `VectorQuantizer2` with its default legacy=True:
        mean |sg(q) - h|^2 + 0.25 mean |q - sg(h)|^2. Its beta of 0.25 weights the codebook's term
        and not the encoder's, as in the VQ-VAE paper; CompVis trained its first stages like this.

        Args:
          h: `[B, h, w, embed_dim]`.

        Raises:
          ValueError: if this autoencoder has no codebook.
        """
        if self.kind != "vq":
            raise ValueError(f"an autoencoder of kind {self.kind!r} has no codebook: use kind 'vq'")
        h = h.astype(jnp.float32)
        # |h|^2 is the same for all entries. Without full precision, accelerators pick wrong ones.
        scores = jnp.square(self.codebook).sum(-1)[None, None, None] - 2 * jnp.einsum(
            "bhwd,nd->bhwn", h, self.codebook, precision=jax.lax.Precision.HIGHEST
        )
        indices = jnp.argmin(scores, axis=-1).astype(jnp.int32)
        q = self.codebook[indices]
        commitment = jnp.square(jax.lax.stop_gradient(q) - h).mean()
        codebook = jnp.square(q - jax.lax.stop_gradient(h)).mean()
        return Quantized(h + jax.lax.stop_gradient(q - h), commitment + 0.25 * codebook, indices)

    def quantize(self, h: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """vq: the nearest codebook entries, gradient passed straight through; kl: `h` itself."""
        return self.vector_quantize(h).latents if self.kind == "vq" else h

    def decode(
        self, z: Float[Array, "b h w c"], force_not_quantize: bool = False, train: bool = False
    ) -> Float[Array, "b H W k"]:
        """Decodes latents.

        Args:
          z: `[B, h, w, embed_dim]`; vq quantises it first unless `force_not_quantize`.
          force_not_quantize: decodes `z` as it is, e.g. if it is quantised already.
          train: activates dropout.

        Returns:
          `[B, h * factor, w * factor, out_ch]` float32, about [-1, 1] but not clipped.
        """
        z = z if force_not_quantize else self.quantize(z)
        return depth_to_space(self.decoder(self.post_quant_conv(z), train), self.patch)

    def __call__(
        self, x: Float[Array, "b H W k"], train: bool = False
    ) -> Float[Array, "b H W k"]:
        """Reconstructs `x`, by the posterior's mean for kl; initialises all parameters."""
        h = self.encode(x, train)
        return self.decode(h[0] if isinstance(h, tuple) else h, train=train)
