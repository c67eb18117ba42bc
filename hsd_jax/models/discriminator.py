"""PatchGAN discriminator and the adversarial losses of the autoencoder and the layout generator."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hsd_jax.models.conv import Conv
from hsd_jax.models.norm import make_norm


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al., arXiv 1611.07004), `NLayerDiscriminator` of CompVis taming.

    4 x 4 convolutions with padding 1: the first `n_layers` have stride 2, the last two stride 1;
    with 3 layers a logit sees 70 x 70 pixels. Kernels start from N(0, 0.02) as there; scales start
    from 1, not N(1, 0.02).

    Attributes:
      ndf: channels of the first layer; doubled a layer up to 8 times.
      n_layers: number of stride-2 layers.
      norm: "batch", "group" or "none"; with a norm, its convolution has no bias.
      dtype: compute type, None for float32; logits are float32 always.
    """

    ndf: int = 64
    n_layers: int = 3
    norm: str = "batch"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b p q 1"]:
        """Images in [-1, 1] or one-hot layouts `[B, H, W, C]` -> a logit for every patch."""

        def conv(x: jax.Array, i: int, features: int, stride: int, use_bias: bool) -> jax.Array:
            return Conv(
                features,
                kernel_size=4,
                stride=stride,
                padding=((1, 1), (1, 1)),
                use_bias=use_bias,
                dtype=self.dtype,
                name=f"conv{i}",
                kernel_init=nn.initializers.normal(0.02),
            )(x)

        for i in range(self.n_layers + 1):
            features, normed = self.ndf * min(2**i, 8), i > 0
            stride = 2 if i < self.n_layers else 1
            x = conv(x, i, features, stride, use_bias=not normed or self.norm == "none")
            if normed:
                norm = make_norm(
                    self.norm, features, train=train, dtype=self.dtype, name=f"norm{i}"
                )
                x = norm(x)
            x = nn.leaky_relu(x, 0.2)
        return conv(x, self.n_layers + 1, 1, 1, use_bias=True).astype(jnp.float32)


def hinge_d(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Hinge loss of the discriminator on its logits, halved as in taming-transformers."""
    return 0.5 * (nn.relu(1 - real).mean() + nn.relu(1 + fake).mean())


def hinge_g(fake: jax.Array) -> jax.Array:
    """Generator's loss against a hinge discriminator."""
    return -fake.mean()


def lsgan_d(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Least-squares loss of the discriminator (Mao et al., arXiv 1611.04076), real 1, fake 0."""
    return 0.5 * (jnp.square(real - 1).mean() + jnp.square(fake).mean())


def lsgan_g(fake: jax.Array) -> jax.Array:
    """Generator's least-squares loss, without the factor 1/2, as CycleGAN's reference has it."""
    return jnp.square(fake - 1).mean()
