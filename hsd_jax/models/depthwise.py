"""Depthwise convolutions, NHWC, with TensorFlow's padding.

XLA on CPU runs grouped convolutions ten to fifty times slower than a sum of shifted products, which
it fuses into one loop; the gradients of both, as autodiff writes them, are slow too. On GPU and TPU
they are `lax.conv_general_dilated`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from hsd_jax.models import forms


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME" for one side: as little as needed, the odd pixel at the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def depthwise_conv2d(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k 1 C"], stride: int = 1
) -> Float[Array, "B h w C"]:
    """One k x k filter per channel, `h = ceil(H / stride)`; on CPU only strides 1 and 2."""
    size = kernel.shape[0]
    padding = [same_padding(side, size, stride) for side in x.shape[1:3]]
    if not forms.on_cpu():
        return lax.conv_general_dilated(
            x, kernel.astype(x.dtype), (stride, stride), padding, feature_group_count=x.shape[-1],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    if stride == 1:
        return _valid(x, kernel)
    # Every second pixel of the image meets every second tap: four convolutions without stride.
    h, w = ((side - size) // 2 + 1 for side in x.shape[1:3])
    total = None
    for i in range(2):
        for j in range(2):
            taps = kernel[i::2, j::2]
            rows, columns = h + taps.shape[0] - 1, w + taps.shape[1] - 1
            part = _valid(x[:, i::2, j::2][:, :rows, :columns], taps)
            total = part if total is None else total + part
    return jnp.asarray(total)


@jax.custom_vjp
def _valid(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Without padding and stride: a sum of shifted products."""
    h, w = x.shape[1] - kernel.shape[0] + 1, x.shape[2] - kernel.shape[1] + 1
    total = None
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            part = x[:, i : i + h, j : j + w] * kernel[i : i + 1, j : j + 1]
            total = part if total is None else total + part
    return jnp.asarray(total)


def _valid_fwd(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return _valid(x, kernel), (x, kernel)


def _valid_bwd(residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[Any, Any]:
    x, kernel = residuals
    rows, columns = kernel.shape[0] - 1, kernel.shape[1] - 1
    padded = jnp.pad(dy, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    dx = _valid(padded, kernel[::-1, ::-1])
    return dx, _tap_gradients(x, dy, kernel.shape[0], kernel.shape[1])


def _tap_gradients(x: jax.Array, dy: jax.Array, rows: int, columns: int) -> jax.Array:
    """Sums of x times dy for each tap, a row of the images at a time, whose sums stay in caches.

    Eight times as fast as XLA's reductions over pixels.
    """
    images, h, w, channels = dy.shape

    def add_row(row: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        above = lax.dynamic_slice(x, (0, row, 0, 0), (images, rows, x.shape[2], channels))
        here = lax.dynamic_slice(dy, (0, row, 0, 0), (images, 1, w, channels))[:, 0]
        taps = (divmod(index, columns) for index in range(rows * columns))
        return [
            total + sum(above[b, i, j : j + w] * here[b] for b in range(images))
            for total, (i, j) in zip(sums, taps, strict=True)
        ]

    sums = [jnp.zeros((w, channels), dy.dtype)] * (rows * columns)
    sums = lax.fori_loop(0, h, add_row, sums)
    return jnp.stack(sums).sum(1).reshape(rows, columns, 1, channels)


_valid.defvjp(_valid_fwd, _valid_bwd)


class DepthwiseConv(nn.Module):
    """Depthwise convolution with bias.

    Attributes:
      kernel_size: side of the square kernel.
      stride: 1 or 2.
      dtype: compute type, None for float32.
    """

    kernel_size: int = 3
    stride: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        channels = x.shape[-1]
        shape = (self.kernel_size, self.kernel_size, 1, channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        x = x.astype(self.dtype or jnp.float32)
        y = depthwise_conv2d(x, kernel.astype(x.dtype), self.stride)
        return y + bias.astype(x.dtype)[None, None, None]
