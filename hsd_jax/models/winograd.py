"""3 x 3 stride-1 convolutions as a few matmuls: Winograd's minimal filtering and variants.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), section 4.1:
Y = A^T [(G g G^T) * (B^T d B)] A. Every frequency (entry of the starred product) is one matmul over
channels. Transforms are sums of strided views, which XLA fuses, rather than matmuls; the matmuls
use lists of 2-D arrays, since stacking them would copy once more. Backward, the transposed
algorithm uses the same transformed kernel and shares the transform of dy with dW.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

_Grid = list[list[Any]]


@dataclass(frozen=True, eq=False)
class Algorithm:
    """A bilinear algorithm for tiles of the plane, the same along both axes.

    Attributes:
      bt: input transform `[n, p]`, of tiles of p pixels that begin every `step` pixels.
      g: kernel transform `[n, 3]`.
      at: output transform `[q, n]`, to tiles of q pixels.
      step: input pixels between tiles.
      stored: whether sums along one axis are stored before those along the other are computed.
    """

    bt: np.ndarray
    g: np.ndarray
    at: np.ndarray
    step: int
    stored: bool = False

    @property
    def size(self) -> int:
        """Frequencies along an axis; there are `size ** 2` matmuls."""
        return self.g.shape[0]

    def tiles(self, side: int) -> int:
        """How many tiles cover `side` input pixels."""
        return -(-side // self.step)


def _matrix(*rows: Sequence[float]) -> np.ndarray:
    return np.array(rows, np.float32)


# Lavin and Gray, section 4.1: F(2 x 2, 3 x 3), 2.25 times fewer multiplications.
F2 = Algorithm(
    _matrix([1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]),
    _matrix([1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]),
    _matrix([1, 1, 1, 0], [0, 1, -1, -1]),
    step=2,
)
# Section 4.2: F(4 x 4, 3 x 3), 4 times fewer; its error is some five times that of F(2 x 2).
F4 = Algorithm(
    _matrix(
        [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
    ),
    _matrix(
        [1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1],
    ),
    _matrix([1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]),
    step=4,
    stored=True,
)  # fmt: skip
# Nearest-neighbour x 2 and then 3 x 3: two pixels of each tile of F(2 x 2) are equal, so that one
# frequency an axis is zero, and the others are those of the small image (ours; exact).
UP2 = Algorithm(
    _matrix([1, -1, 0], [0, 2, 0], [0, 1, -1]),
    _matrix([1, 0, 0], [0.5, 0.5, 0.5], [0, 0, 1]),
    _matrix([1, 1, 0], [0, 1, -1]),
    step=1,
)


def _combine(matrix: np.ndarray, arrays: Sequence[Any]) -> list[Any]:
    """Rows of `matrix` times `arrays` as sums, which XLA fuses, unlike a matmul."""
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


def _sandwich(matrix: np.ndarray, grid: _Grid, stored: bool = False) -> _Grid:
    """`matrix @ grid @ matrix.T` for a grid (list of rows) of equally shaped arrays."""

    def along_height(grid: _Grid) -> _Grid:
        return [_combine(matrix, column) for column in zip(*grid, strict=True)]

    columns = (_apart(along_height) if stored else along_height)(grid)
    return [_combine(matrix, row) for row in zip(*columns, strict=True)]


def _apart(function: Any) -> Any:
    """Compiles `function` separately, so that its results are stored and not recomputed.

    Otherwise XLA fuses the sums along both axes into each result. For F(4 x 4), with up to 36
    terms, this is a tenth to a third slower and takes three times as long to compile; for F(2 x 2),
    with 4 terms, it is faster.
    """

    def call(*args: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(*args)

    return call


def _dots(left: _Grid, right: _Grid, contract: tuple[int, int], dtype: Any) -> _Grid:
    """One float32 product of 2-D arrays a frequency, operands rounded to `dtype`."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))

    def dot(x: jax.Array, y: jax.Array) -> jax.Array:
        x, y = x.astype(dtype), y.astype(dtype)
        return lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)

    return [
        [dot(x, y) for x, y in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)
    ]


def transform_kernel(kernel: jax.Array, algorithm: Algorithm) -> _Grid:
    """`[3, 3, Cin, Cout]` -> `size` x `size` arrays `[Cin, Cout]` float32."""
    kernel = kernel.astype(jnp.float32)
    return _sandwich(algorithm.g, [[kernel[i, j] for j in range(3)] for i in range(3)])


def _transform_input(x: jax.Array, algorithm: Algorithm) -> _Grid:
    """`[B, H, W, C]` -> arrays `[B * tiles, C]` float32, zeros beyond the edges."""
    b, h, w, c = x.shape
    step, reach = algorithm.step, algorithm.bt.shape[1]
    rows, columns = algorithm.tiles(h), algorithm.tiles(w)
    below, right = (
        (tiles - 1) * step + reach - 1 - n for tiles, n in ((rows, h), (columns, w))
    )

    def along_height(x: jax.Array) -> list[jax.Array]:
        x = jnp.pad(x.astype(jnp.float32), ((0, 0), (1, below), (1, right), (0, 0)))
        last = (rows - 1) * step + 1
        return _combine(algorithm.bt, [x[:, i : i + last : step] for i in range(reach)])

    last = (columns - 1) * step + 1
    return [
        [
            v.reshape(-1, c)
            for v in _combine(algorithm.bt, [row[:, :, j : j + last : step] for j in range(reach)])
        ]
        for row in (_apart(along_height) if algorithm.stored else along_height)(x)
    ]


def _interleave(tiles: _Grid) -> jax.Array:
    """Puts the q x q pixels of every tile, each `[B, rows, columns, C]`, in their places."""
    q = len(tiles)
    b, h, w, c = tiles[0][0].shape
    rows = [jnp.stack(row, axis=3).reshape(b, h, q * w, c) for row in tiles]
    return jnp.stack(rows, axis=2).reshape(b, q * h, q * w, c)


def convolve(
    x: jax.Array,
    filters: _Grid,
    algorithm: Algorithm,
    *,
    cin_last: bool = False,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """3 x 3 convolution with zero padding 1 (with `UP2`: of `x` enlarged by 2).

    Args:
      x: `[B, H, W, Cin]`, any size.
      filters: of `transform_kernel`; with `cin_last` each is `[Cout, Cin]`, the faster order.
      algorithm: that of `filters`.
      dtype: of the dots' operands; products and sums are float32 always.

    Returns:
      `[B, H', W', Cout]` float32.
    """
    b, h, w, _ = x.shape
    shape = (b, algorithm.tiles(h), algorithm.tiles(w), -1)
    products = _dots(
        _transform_input(x, algorithm), filters, (1, 1 if cin_last else 0), dtype
    )
    products = [[p.reshape(shape) for p in row] for row in products]
    y = _interleave(_sandwich(algorithm.at, products, algorithm.stored))
    scale = algorithm.at.shape[0] // algorithm.step
    return y[:, : h * scale, : w * scale]


def _transform_gradient(dy: jax.Array, algorithm: Algorithm) -> _Grid:
    """`[B, H', W', Cout]` -> arrays `[B * tiles, Cout]`: the output transform, transposed."""
    b, h, w, c = dy.shape
    q = algorithm.at.shape[0]
    rows, columns = -(-h // q), -(-w // q)
    dy = dy.astype(jnp.float32)
    if (rows * q, columns * q) != (h, w):
        dy = jnp.pad(dy, ((0, 0), (0, rows * q - h), (0, columns * q - w), (0, 0)))
    views = [
        [lax.slice(dy, (0, i, j, 0), dy.shape, (1, q, q, 1)) for j in range(q)] for i in range(q)
    ]
    grid = _sandwich(algorithm.at.T, views, algorithm.stored)
    return [[d.reshape(-1, c) for d in row] for row in grid]


def _overlap(parts: list[Any], step: int, axis: int) -> list[Any]:
    """Sums of overlapping tiles: entry r holds the pixels `r + step * k` along `axis`."""
    turns = -(-len(parts) // step)
    phases = []
    for phase in range(step):
        total = None
        for turn, part in enumerate(parts[phase::step]):
            widths = [(0, 0)] * part.ndim
            widths[axis] = (turn, turns - 1 - turn)
            part = jnp.pad(part, widths)
            total = part if total is None else total + part
        phases.append(total)
    return phases


def _untransform_input(grid: _Grid, algorithm: Algorithm, size: tuple[int, int]) -> jax.Array:
    """The input transform transposed: arrays `[B, rows, columns, Cin]` -> `[B, *size, Cin]`."""
    tiles = _sandwich(algorithm.bt.T, grid, algorithm.stored)
    columns = [_overlap(list(column), algorithm.step, 1) for column in zip(*tiles, strict=True)]
    phases = [_overlap(list(row), algorithm.step, 2) for row in zip(*columns, strict=True)]
    return _interleave(phases)[:, 1 : 1 + size[0], 1 : 1 + size[1]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def winograd(
    x: jax.Array, kernel: jax.Array, algorithm: Algorithm, dtype: Any = jnp.float32
) -> jax.Array:
    """`convolve` on a plain kernel, with gradients by the same algorithm.

    Args:
      x: `[B, H, W, Cin]`.
      kernel: `[3, 3, Cin, Cout]`.
      algorithm: `F2`, `F4` or `UP2`.
      dtype: of the dots' operands.

    Returns:
      `[B, H', W', Cout]` float32.
    """
    return convolve(x, transform_kernel(kernel, algorithm), algorithm, dtype=dtype)


def _winograd_fwd(x: jax.Array, kernel: jax.Array, algorithm: Algorithm, dtype: Any):
    return winograd(x, kernel, algorithm, dtype), (x, kernel)


def _winograd_bwd(
    algorithm: Algorithm, dtype: Any, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
):
    """Both gradients in the transformed domain."""
    x, kernel = residuals
    b, h, w, cin = x.shape
    d = _transform_gradient(dy, algorithm)
    dx = _dots(d, transform_kernel(kernel, algorithm), (1, 1), dtype)
    shape = (b, algorithm.tiles(h), algorithm.tiles(w), cin)
    dx = _untransform_input([[e.reshape(shape) for e in row] for row in dx], algorithm, (h, w))
    du = _dots(_transform_input(x, algorithm), d, (0, 0), dtype)
    dw = jnp.stack([jnp.stack(row) for row in _sandwich(algorithm.g.T, du)])
    return dx.astype(x.dtype), dw.astype(kernel.dtype)


winograd.defvjp(_winograd_fwd, _winograd_bwd)
