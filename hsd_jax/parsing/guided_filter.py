"""The guided filter (He, Sun and Tang, "Guided Image Filtering", 2013) with a colour guide.

The affine coefficients vary slowly, so they are fitted to downsampled images ("Fast Guided Filter",
He and Sun, arXiv 1505.00996) and applied to the guide at full size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hsd_jax.models.blocks import average_pool


def guided_filter(
    guide: Float[Array, "b h w c"],
    values: Float[Array, "b h w k"],
    radius: int,
    eps: float,
    reduce: int = 1,
) -> Float[Array, "b h w k"]:
    """Smooths `values` inside the guide's regions and aligns their edges with the guide's.

    In every window the result is an affine function of the guide's colours, so it has edges only
    where the guide does. Channels that sum to 1 still do, but may leave [0, 1] slightly.

    Args:
      guide: colours in [0, 1], of any number of channels.
      values: for example class probabilities.
      radius: windows are 2 radius + 1 downsampled pixels wide, clipped at the image's border.
      eps: the variance of the guide from which on it counts as an edge.
      reduce: the downsampling factor of the fit; h and w must be multiples of it.

    Returns:
      The filtered values, float32.
    """
    # Variances are differences of means: centred colours keep them exact in float32.
    guide = guide - guide.mean((1, 2), keepdims=True)
    slope, offset = _fit(average_pool(guide, reduce), average_pool(values, reduce), radius, eps)
    if reduce > 1:
        size = guide.shape[:3]
        slope = jax.image.resize(slope, (*size, slope.shape[-1]), "bilinear")
        offset = jax.image.resize(offset, (*size, offset.shape[-1]), "bilinear")
    return _along(guide, slope) + offset


def _fit(
    guide: jax.Array, values: jax.Array, radius: int, eps: float
) -> tuple[jax.Array, jax.Array]:
    """Slopes `[b, h, w, c * k]` and offsets `[b, h, w, k]`, averaged over each pixel's windows."""
    channels = guide.shape[-1]

    def mean(x: jax.Array) -> jax.Array:
        return _box_mean(x, radius)

    colour, level = mean(guide), mean(values)
    joint = mean(_outer(guide, values)) - _outer(colour, level)
    variance = mean(_outer(guide, guide)) - _outer(colour, colour)
    matrix = variance.reshape(*variance.shape[:-1], channels, channels)
    matrix += eps * jnp.eye(channels)[None, None, None]
    right = joint.reshape(*joint.shape[:-1], channels, -1)
    slope = (_inverse(matrix) @ right).reshape(joint.shape)
    return mean(slope), mean(level - _along(colour, slope))


def _inverse(matrix: jax.Array) -> jax.Array:
    """Of matrices `[..., c, c]`; those of colours by cross products, which compile in no time."""
    if matrix.shape[-1] != 3:
        return jnp.linalg.inv(matrix)
    a, b, c = (matrix[..., i, :] for i in range(3))
    columns = jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)
    return jnp.stack(columns, -1) / jnp.sum(a * columns[0], -1)[..., None, None]


def _outer(a: jax.Array, b: jax.Array) -> jax.Array:
    """`[..., m]`, `[..., n]` -> `[..., m * n]`."""
    return (a[..., :, None] * b[..., None, :]).reshape(*a.shape[:-1], -1)


def _along(colours: jax.Array, slope: jax.Array) -> jax.Array:
    """`[..., c]`, `[..., c * k]` -> `[..., k]`, the sum over c."""
    slope = slope.reshape(*colours.shape, -1)
    return jnp.sum(colours[..., None] * slope, axis=-2)


def _box_mean(x: jax.Array, radius: int) -> jax.Array:
    for axis in (1, 2):
        x = _window_sum(x, radius, axis) / _window_sum(jnp.ones_like(x[:1, :, :, :1]), radius, axis)
    return x


def _window_sum(x: jax.Array, radius: int, axis: int) -> jax.Array:
    pad = [(0, 0)] * x.ndim
    pad[axis] = (radius + 1, radius)
    total = jnp.cumsum(jnp.pad(x, pad), axis)
    size, width = x.shape[axis], 2 * radius + 1
    upper = jax.lax.slice_in_dim(total, width, width + size, axis=axis)
    return upper - jax.lax.slice_in_dim(total, 0, size, axis=axis)
