"""Losses of the first stage: pixels, a perceptual distance and an adaptive adversarial term.

They follow CompVis' `VQLPIPSWithDiscriminator` and `LPIPSWithDiscriminator`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hsd_jax.models import apply
from hsd_jax.models.blocks import average_pool
from hsd_jax.models.norm import mean_over_devices
from hsd_jax.training.state import Params

Images = Float[Array, "b h w c"]
HostImages = Float[Array | np.ndarray, "b h w c"]
# (truth, reconstruction) -> the distance of each pair, [B].
Distance = Callable[[Images, Images], jax.Array]

# Added to the norm of the discriminator's gradient, and the maximum weight (both CompVis').
_TINY, _CEILING = 1e-4, 1e4


def detail_loss(x: Images, y: Images, levels: int = 3) -> jax.Array:
    """L1 distance of horizontal and vertical differences over a pyramid of means.

    A stand-in for LPIPS, which needs a pretrained network: it rewards edges of the right sharpness
    in the right place, which the L1 of pixels hardly does.

    Args:
      x, y: `[B, H, W, C]`, sides multiples of `2 ** (levels - 1)`.
      levels: the number of pyramid levels.

    Returns:
      A scalar.
    """
    total = jnp.zeros(())
    difference = x - y  # differences and means are linear: the pyramid of x - y is enough
    for level in range(levels):
        if level:
            difference = average_pool(difference, 2)
        total += jnp.mean(jnp.abs(jnp.diff(difference, axis=1)))
        total += jnp.mean(jnp.abs(jnp.diff(difference, axis=2)))
    return total


def sharpness(x: Images, y: Images) -> Float[Array, " b"]:
    """The deviation of the Laplacian of grey `y` divided by that of `x`; 1 is as sharp as `x`."""

    def deviation(image: Images) -> jax.Array:
        grey = jnp.mean(image, axis=-1)
        sides = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
        return jnp.std(sides - 4 * grey[:, 1:-1, 1:-1], axis=(1, 2))

    return deviation(y) / jnp.maximum(deviation(x), 1e-6)


def perceptual_loss(file: str, backbone: str = "", dtype: Any = None) -> Distance:
    """LPIPS in the network of a checkpoint; its weights are constants.

    Args:
      file: LPIPS, torchvision's classifier, or a folder with the part `perceptual`; see `hsd
        convert`.
      backbone: torchvision's file, if `file` only has LPIPS' weights of channels.
      dtype: compute type of its convolutions, None for float32.

    Raises:
      ValueError: no such file, or another network.
    """
    from hsd_jax.convert import load
    from hsd_jax.convert.state import read

    state = read(file, "perceptual")
    module, params = load(state, "perceptual", {"backbone": backbone} if backbone else None)
    module = module.clone(dtype=dtype)

    def distance(x: HostImages, y: HostImages) -> jax.Array:
        # numpy until here, so that a compiled step embeds them without a transfer from a device.
        # Both images share one traced copy of the network.
        frozen = jax.lax.stop_gradient(params)
        return apply(module, frozen, jnp.asarray(x), jnp.asarray(y))

    return distance


class Judged(NamedTuple):
    """The scalars that `against_critic` returns.

    Attributes:
      value: the weighted sum of both losses; its gradient trains the autoencoder.
      generator: the unweighted hinge loss.
      weight: the weight of the hinge loss.
    """

    value: jax.Array
    generator: jax.Array
    weight: jax.Array


def against_critic(
    reconstruction: Callable[[Images], jax.Array],
    generator: Callable[[Images], jax.Array],
    decode: Callable[[jax.Array], Images],
    last_kernel: jax.Array,
    y: Images,
    share: jax.Array | float,
) -> Judged:
    """reconstruction(y) + w * generator(y), with w = share * |d reconstruction| / |d generator|.

    The derivatives are with respect to the decoder's last kernel, and w is a constant in the
    gradient (Esser et al., arXiv 2012.09841, equation 7, and CompVis' `calculate_adaptive_weight`).
    On several devices, w is computed over the whole batch.

    Args:
      reconstruction, generator: functions of images, to scalars.
      decode: maps a last kernel to images; equals `y` at `last_kernel`.
      last_kernel: the kernel of the decoder's last convolution.
      y: the images.
      share: 0 disables the generator's loss.
    """
    y_value, last_kernel = jax.lax.stop_gradient((y, last_kernel))
    # Gradients by the images first: backward passes of both networks run once for any weight.
    nll, by_nll = jax.value_and_grad(reconstruction)(y_value)
    g, by_g = jax.value_and_grad(generator)(y_value)
    _, pull = jax.vjp(decode, last_kernel)
    of_nll, of_g = (mean_over_devices(pull(slope)[0]) for slope in (by_nll, by_g))
    ratio = jnp.linalg.norm(of_nll.ravel()) / (jnp.linalg.norm(of_g.ravel()) + _TINY)
    weight = share * jnp.clip(ratio, 0, _CEILING)
    nll, g, weight, slope = jax.lax.stop_gradient((nll, g, weight, by_nll + weight * by_g))
    # Its value is 0; it only carries the gradient.
    carrier = jnp.sum(y * slope)
    return Judged(nll + weight * g + (carrier - jax.lax.stop_gradient(carrier)), g, weight)


def with_leaf(tree: Params, path: tuple[str, ...], leaf: jax.Array) -> dict[str, Any]:
    """Replaces the leaf at `path`, without copying other leaves."""
    assert isinstance(tree, Mapping)
    first, *rest = path
    return dict(tree) | {first: with_leaf(tree[first], tuple(rest), leaf) if rest else leaf}
