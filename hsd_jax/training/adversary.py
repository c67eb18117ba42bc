"""Adds a discriminator to a diffusion loss, so that few UNet calls give sharp images.

The mean squared error of one call is smallest if the network paints the mean of everything that
could fill the hole: a blur. A patch discriminator that sees the condition tells blur from texture
(compare Adversarial Diffusion Distillation, Sauer et al., arXiv 2311.17042). The paper has none; it
can afford many calls of a large network.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hsd_jax.models import apply
from hsd_jax.training.state import Params

_TINY = 1e-8


class Terms(NamedTuple):
    """Sums over the holes, to be divided by the weight of the loss.

    Attributes:
      generator: only its gradient, which trains the UNet, is meaningful, not its value.
      discriminator: the hinge loss, which trains the discriminator.
      real, fake: logits.
    """

    generator: jax.Array
    discriminator: jax.Array
    real: jax.Array
    fake: jax.Array


def adversarial_terms(
    critic: nn.Module,
    params: Params,
    output: Float[Array, "b h w c"],
    latents_of: Callable[[jax.Array], jax.Array],
    real: Float[Array, "b h w c"],
    s: Float[Array, "b h w s"],
    hole: Float[Array, "b h w 1"],
    pull: Float[Array, "b h w c"],
) -> Terms:
    """The adversarial terms of a loss whose gradient with respect to `output` is `pull`.

    For each example, the generator's gradient is scaled to the length of `pull`: this is VQGAN's
    adaptive weight (Esser et al., arXiv 2012.09841, equation 7), taken at the network's output and
    not at its last layer.

    Args:
      critic: `PatchDiscriminator`, with its `params`.
      output: the network's output.
      latents_of: maps `output` to the latents for the critic, with the known cells put back.
      real: the true latents.
      s: the condition, which the critic sees too.
      hole: 1 in the cells that count.
      pull: gradient of the summed loss with respect to `output`.
    """
    frozen, s = jax.lax.stop_gradient((params, s))

    def judge(critic_params: Params, z: jax.Array) -> jax.Array:
        return apply(critic, critic_params, jnp.concatenate([z, s], axis=-1), train=True)

    fake = jax.lax.stop_gradient(latents_of(output))
    on_real, on_fake = judge(params, real), judge(params, fake)
    cells = jax.image.resize(hole, on_real.shape, "linear")
    # Weighted by the cells of the hole, so that the terms sum over the same area as the loss.
    cells *= hole[0].size / cells[0].size

    def fooled(x: jax.Array) -> jax.Array:
        return -jnp.sum(cells * judge(frozen, latents_of(x)))

    push = jax.grad(fooled)(jax.lax.stop_gradient(output))
    scale = _length(pull) / jnp.maximum(_length(push), _TINY)
    return Terms(
        jnp.sum(jax.lax.stop_gradient(scale * push) * output),
        jnp.sum(cells * (nn.relu(1 - on_real) + nn.relu(1 + on_fake))) / 2,
        jnp.sum(cells * jax.lax.stop_gradient(on_real)),
        jnp.sum(cells * jax.lax.stop_gradient(on_fake)),
    )


def _length(x: jax.Array) -> jax.Array:
    """The Euclidean norm of each example, `[B, 1, 1, 1]`."""
    return jnp.sqrt(jnp.sum(jax.lax.stop_gradient(x) ** 2, axis=(1, 2, 3), keepdims=True))
