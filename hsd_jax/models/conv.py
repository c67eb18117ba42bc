"""Convolutions, NHWC: one `Conv` whose 3 x 3 stride-1 form is chosen per backend and shape.

On GPU and TPU a convolution is `lax.conv_general_dilated`. On CPU, XLA runs 2-D float32 dots near
the machine's peak but convolutions, and above all their gradients, well below it; there a 3 x 3
stride-1 convolution becomes sixteen dots, Winograd's F(2 x 2, 3 x 3) (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", arXiv 1509.09308). Parameters, results and gradients
are those of the plain convolution up to float32 rounding (relative error below 1e-5, tested).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]

# Lavin and Gray, section 4.1: Y = A^T [(G g G^T) * (B^T d B)] A, with the rows of B^T, G and A^T.
_BT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
_AT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)

# Below this the transforms, bound by memory, cost more than the dots save (measured on two cores).
_MIN_WINOGRAD_CHANNELS = 64

_Grid = list[list[Any]]

_platform: ContextVar[str | None] = ContextVar("platform", default=None)


@contextmanager
def compiled_for(platform: str) -> Iterator[None]:
    """Convolutions traced inside take the form for `platform`: "cpu", "gpu" or "tpu".

    For programs that are compiled ahead of time for other hardware.
    """
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def _combine(matrix: np.ndarray, arrays: Sequence[Any]) -> list[Any]:
    """Rows of `matrix` times `arrays`, as sums: XLA fuses these, and a matmul it would not."""
    rows = []
    for coefficients in matrix:
        total = None
        for c, x in zip(coefficients, arrays, strict=True):
            if c == 0:
                continue
            term = x if c == 1 else -x if c == -1 else x * float(c)
            total = term if total is None else total + term
        rows.append(total)
    return rows


def _sandwich(matrix: np.ndarray, grid: _Grid) -> _Grid:
    """`matrix @ grid @ matrix.T` for a grid (list of rows) of equally shaped arrays."""
    columns = [_combine(matrix, column) for column in zip(*grid, strict=True)]
    return [_combine(matrix, row) for row in zip(*columns, strict=True)]


def _input_tiles(x: jax.Array) -> _Grid:
    """The 4 x 4 grid of stride-2 views whose (i, j) entry holds pixel (i, j) of every tile."""
    b, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [
        [
            lax.slice(padded, (0, i, j, 0), (b, i + h - 1, j + w - 1, c), (1, 2, 2, 1))
            for j in range(4)
        ]
        for i in range(4)
    ]


def _kernel_transform(kernel: jax.Array) -> _Grid:
    return _sandwich(_G, [[kernel[i, j] for j in range(3)] for i in range(3)])


def _interleave(tiles: _Grid) -> jax.Array:
    """Puts the four pixels of every 2 x 2 output tile back in their places."""
    b, h, w, c = tiles[0][0].shape
    rows = [jnp.stack(row, axis=3).reshape(b, h, 2 * w, c) for row in tiles]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, c)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


def _winograd_forward(x: jax.Array, kernel: jax.Array, transposed: bool = False) -> jax.Array:
    b, h, w, _ = x.shape
    v = _sandwich(_BT, _input_tiles(x))
    u = _kernel_transform(kernel)
    # `transposed` contracts the output channels: the gradient needs no copy of the kernel.
    contract = (((1,), (1 if transposed else 0,)), ((), ()))
    products = [
        [
            lax.dot_general(_flat(v[i][j]), u[i][j], contract).reshape(b, h // 2, w // 2, -1)
            for j in range(4)
        ]
        for i in range(4)
    ]
    return _interleave(_sandwich(_AT, products))


@jax.custom_vjp
def winograd_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3 x 3 stride-1 convolution with zero padding 1, as F(2 x 2, 3 x 3).

    Args:
      x: `[B, H, W, Cin]` float32, H and W even.
      kernel: `[3, 3, Cin, Cout]`.

    Returns:
      `[B, H, W, Cout]`.
    """
    return _winograd_forward(x, kernel)


def _winograd_fwd(x: jax.Array, kernel: jax.Array):
    return _winograd_forward(x, kernel), (x, kernel)


def _winograd_bwd(residuals: tuple[jax.Array, jax.Array], dy: jax.Array):
    """dx is the same convolution with the kernel rotated; dW stays in the transformed domain."""
    x, kernel = residuals
    dx = _winograd_forward(dy, kernel[::-1, ::-1], transposed=True)
    v = _sandwich(_BT, _input_tiles(x))
    dy_tiles = [
        [lax.slice(dy, (0, i, j, 0), dy.shape, (1, 2, 2, 1)) for j in range(2)] for i in range(2)
    ]
    dm = _sandwich(_AT.T, dy_tiles)
    sum_tiles = (((0,), (0,)), ((), ()))
    du = [
        [lax.dot_general(_flat(v[i][j]), _flat(dm[i][j]), sum_tiles) for j in range(4)]
        for i in range(4)
    ]
    dw = _sandwich(_G.T, du)
    return dx, jnp.stack([jnp.stack(row) for row in dw])


winograd_conv.defvjp(_winograd_fwd, _winograd_bwd)


def _prefers_winograd(x: jax.Array, features: int) -> bool:
    _, h, w, channels = x.shape
    return (
        (_platform.get() or jax.default_backend()) == "cpu"
        and x.dtype == jnp.float32
        and min(channels, features) >= _MIN_WINOGRAD_CHANNELS
        and h % 2 == 0
        and w % 2 == 0
        and h * w >= 16
    )


def conv2d(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Padding | None = None,
    dilation: int = 1,
) -> jax.Array:
    """Convolution `[B, H, W, Cin] x [k, k, Cin, Cout]`; `padding` None is torch's symmetric one."""
    reach = dilation * (kernel.shape[0] // 2)
    symmetric = ((reach, reach), (reach, reach))
    plain = kernel.shape[:2] == (3, 3) and stride == dilation == 1
    if plain and padding in (None, symmetric) and _prefers_winograd(x, kernel.shape[-1]):
        return winograd_conv(x, kernel)
    if kernel.shape[:2] == (1, 1) and stride == 1 and padding in (None, symmetric):
        return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding or symmetric,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def upsample_nearest(x: jax.Array, factor: int = 2) -> jax.Array:
    """Nearest-neighbour enlargement of `[B, H, W, C]` by an integer factor."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, factor, w, factor, c))
    return x.reshape(b, h * factor, w * factor, c)


class Conv(nn.Module):
    """2-D convolution with torch's default padding (`dilation * (kernel_size // 2)` a side).

    Attributes:
      features: output channels.
      kernel_size: side of the square kernel.
      stride: same in both directions.
      padding: None, or explicit `((top, bottom), (left, right))`.
      dilation: spacing of the kernel's taps.
      use_bias: adds a bias per output channel.
      dtype: compute type, None for float32; parameters are always float32.
      kernel_init: initialiser of the kernel `[k, k, Cin, Cout]`.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: Padding | None = None
    dilation: int = 1
    use_bias: bool = True
    dtype: Any = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, Cin]` -> `[B, H', W', features]`."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        dtype = self.dtype or jnp.float32
        y = conv2d(
            x.astype(dtype), kernel.astype(dtype), self.stride, self.padding, self.dilation
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
            y = y + bias.astype(dtype)[None, None, None, :]
        return y


class UpsampleConv(nn.Module):
    """Nearest-neighbour x 2, then a 3 x 3 convolution (CompVis latent-diffusion, `Upsample`)."""

    features: int
    dtype: Any = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, Cin]` -> `[B, 2H, 2W, features]`."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        dtype = self.dtype or jnp.float32
        y = conv2d(upsample_nearest(x.astype(dtype)), kernel.astype(dtype))
        return y + bias.astype(dtype)[None, None, None, :]
