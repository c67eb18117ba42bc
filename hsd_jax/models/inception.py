"""The InceptionV3 of the Frechet Inception distance (Heusel et al. 2017, arXiv 1706.08500).

This is the TensorFlow network of 2015-12-05 as pytorch-fid and torch-fidelity run it, not
torchvision's: average pools do not count padding, and Mixed_7c uses a max pool. Modules are named
as there; the weights (`pt_inception-2015-12-05`) come through `hsd_jax.convert`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from hsd_jax.models.conv import conv2d

BN_EPS = 1e-3
NUM_CLASSES = 1008
INPUT_SIZE = 299
# The least side that leaves Mixed_7a a pixel.
MIN_SIZE = 75
PREPROCESSINGS = ("pytorch-fid", "torch-fidelity", "none")


class Cell(NamedTuple):
    """Convolution without bias, batch normalisation, ReLU; `kernel` is (height, width)."""

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True


class Fork(NamedTuple):
    """Cells side by side on the same input, their channels joined."""

    cells: tuple[Cell, ...]


class Mixed(NamedTuple):
    """Chains of steps side by side on the same input, their channels joined."""

    name: str
    chains: "tuple[Chain, ...]"


Step = Cell | Fork | Mixed | str
"""A string is a 3 x 3 pool: "average", "max" (stride 1, padded) or "shrink" (max, stride 2)."""
Chain = tuple[Step, ...]


def _block_a(pooled: int) -> tuple[Chain, ...]:
    return (
        (Cell("branch1x1", 64),),
        (Cell("branch5x5_1", 48), Cell("branch5x5_2", 64, (5, 5))),
        (
            Cell("branch3x3dbl_1", 64),
            Cell("branch3x3dbl_2", 96, (3, 3)),
            Cell("branch3x3dbl_3", 96, (3, 3)),
        ),
        ("average", Cell("branch_pool", pooled)),
    )


_BLOCK_B: tuple[Chain, ...] = (
    (Cell("branch3x3", 384, (3, 3), 2, padded=False),),
    (
        Cell("branch3x3dbl_1", 64),
        Cell("branch3x3dbl_2", 96, (3, 3)),
        Cell("branch3x3dbl_3", 96, (3, 3), 2, padded=False),
    ),
    ("shrink",),
)


def _block_c(width: int) -> tuple[Chain, ...]:
    return (
        (Cell("branch1x1", 192),),
        (
            Cell("branch7x7_1", width),
            Cell("branch7x7_2", width, (1, 7)),
            Cell("branch7x7_3", 192, (7, 1)),
        ),
        (
            Cell("branch7x7dbl_1", width),
            Cell("branch7x7dbl_2", width, (7, 1)),
            Cell("branch7x7dbl_3", width, (1, 7)),
            Cell("branch7x7dbl_4", width, (7, 1)),
            Cell("branch7x7dbl_5", 192, (1, 7)),
        ),
        ("average", Cell("branch_pool", 192)),
    )


_BLOCK_D: tuple[Chain, ...] = (
    (Cell("branch3x3_1", 192), Cell("branch3x3_2", 320, (3, 3), 2, padded=False)),
    (
        Cell("branch7x7x3_1", 192),
        Cell("branch7x7x3_2", 192, (1, 7)),
        Cell("branch7x7x3_3", 192, (7, 1)),
        Cell("branch7x7x3_4", 192, (3, 3), 2, padded=False),
    ),
    ("shrink",),
)


def _block_e(pool: str) -> tuple[Chain, ...]:
    def fork(name: str) -> Fork:
        return Fork((Cell(f"{name}a", 384, (1, 3)), Cell(f"{name}b", 384, (3, 1))))

    return (
        (Cell("branch1x1", 320),),
        (Cell("branch3x3_1", 384), fork("branch3x3_2")),
        (Cell("branch3x3dbl_1", 448), Cell("branch3x3dbl_2", 384, (3, 3)), fork("branch3x3dbl_3")),
        (pool, Cell("branch_pool", 192)),
    )


# What leads to each tap from the one before; "2048" is pool3, the features of the distance.
STAGES: dict[str, Chain] = {
    "64": (
        Cell("Conv2d_1a_3x3", 32, (3, 3), 2, padded=False),
        Cell("Conv2d_2a_3x3", 32, (3, 3), padded=False),
        Cell("Conv2d_2b_3x3", 64, (3, 3)),
        "shrink",
    ),
    "192": (
        Cell("Conv2d_3b_1x1", 80),
        Cell("Conv2d_4a_3x3", 192, (3, 3), padded=False),
        "shrink",
    ),
    "768": (
        Mixed("Mixed_5b", _block_a(32)),
        Mixed("Mixed_5c", _block_a(64)),
        Mixed("Mixed_5d", _block_a(64)),
        Mixed("Mixed_6a", _BLOCK_B),
        Mixed("Mixed_6b", _block_c(128)),
        Mixed("Mixed_6c", _block_c(160)),
        Mixed("Mixed_6d", _block_c(160)),
        Mixed("Mixed_6e", _block_c(192)),
    ),
    "2048": (
        Mixed("Mixed_7a", _BLOCK_D),
        Mixed("Mixed_7b", _block_e("average")),
        Mixed("Mixed_7c", _block_e("max")),
    ),
}
TAPS = (*STAGES, "logits")


class ConvNormRelu(nn.Module):
    """A `Cell`: normalised by stored statistics (epsilon 1e-3), which are parameters."""

    cell: Cell
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H', W', features]`."""
        _, features, kernel_size, stride, padded = self.cell
        dtype, ones, zeros = self.dtype or jnp.float32, nn.initializers.ones, nn.initializers.zeros
        shape = (*kernel_size, x.shape[-1], features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        scale = self.param("scale", ones, (features,), jnp.float32)
        bias = self.param("bias", zeros, (features,), jnp.float32)
        mean = self.param("mean", zeros, (features,), jnp.float32)
        var = self.param("var", ones, (features,), jnp.float32)
        rows, columns = (size // 2 if padded else 0 for size in kernel_size)
        padding = ((rows, rows), (columns, columns))
        y = conv2d(x.astype(dtype), kernel.astype(dtype), stride, padding).astype(jnp.float32)
        factor = scale * lax.rsqrt(var + BN_EPS)
        y = (y - mean[None, None, None]) * factor[None, None, None] + bias[None, None, None]
        return nn.relu(y).astype(dtype)


class InceptionBlock(nn.Module):
    """The chains of a `Mixed`."""

    chains: tuple[Chain, ...]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H', W', C']`."""
        return jnp.concatenate([_run(chain, x, self.dtype) for chain in self.chains], -1)


def _run(chain: Chain, x: jax.Array, dtype: Any) -> jax.Array:
    """One step after the other; modules made here belong to the calling module."""
    for step in chain:
        if isinstance(step, str):
            x = _pool(step, x)
        elif isinstance(step, Mixed):
            x = InceptionBlock(step.chains, dtype, name=step.name)(x)
        elif isinstance(step, Fork):
            x = jnp.concatenate([_run((cell,), x, dtype) for cell in step.cells], -1)
        else:
            x = ConvNormRelu(step, dtype, name=step.name)(x)
    return x


def _pool(kind: str, x: jax.Array) -> jax.Array:
    if kind == "shrink":
        return nn.max_pool(x, (3, 3), (2, 2))
    if kind == "max":
        return nn.max_pool(x, (3, 3), (1, 1), "SAME")
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


class InceptionV3(nn.Module):
    """Features of images for Frechet and kernel distances.

    Images are RGB, uint8 or floats in [-1, 1] (byte value / 127.5 - 1; not rounded to bytes).

    On TPU, and on GPU with TF32, float32 convolutions are rounded: measure for publication under
    `jax.default_matmul_precision("float32")`.

    Attributes:
      preprocessing: how images become 299 x 299 and what range they take; distances under
        different ones cannot be compared.
        "pytorch-fid": bilinear, pixels' centres aligned, no antialiasing; byte / 127.5 - 1.
        "torch-fidelity": bilinear as TensorFlow 1's, pixels' corners aligned, as in the code of
        Heusel et al.; (byte - 128) / 128.
        "none": floats, already of the size and range wanted; any size from 75 pixels.
      dtype: compute type of the convolutions, None for float32; features are float32 always.
    """

    preprocessing: str = "pytorch-fid"
    dtype: Any = None

    def __call__(self, images: Array) -> Float[Array, "b 2048"]:
        """Images `[B, H, W, 3]` -> the features of pool3."""
        return self.taps(images, ("2048",))["2048"]

    @nn.compact
    def taps(self, images: Array, names: Sequence[str] = TAPS) -> dict[str, Float[Array, "b c"]]:
        """Images `[B, H, W, 3]` -> features by name; no layer after the last one named is run.

        "64", "192", "768" and "2048" are means over positions of that many channels; "logits" are
        the 1008 of the classifier.

        Raises:
          ValueError: an unknown name, a preprocessing that does not fit, or images too small.
        """
        if not names or set(names) - set(TAPS):
            raise ValueError(f"features {list(names)}: name some of {', '.join(TAPS)}")
        last = max(TAPS.index(name) for name in (TAPS if self.is_initializing() else names))
        x, found = preprocess(images, self.preprocessing), {}
        for tap in TAPS[: last + 1]:
            if tap in STAGES:
                x = _run(STAGES[tap], x, self.dtype)
                found[tap] = x.astype(jnp.float32).mean((1, 2))
            else:
                found[tap] = nn.Dense(NUM_CLASSES, name="fc")(found["2048"])
        return {name: found[name] for name in names}


def preprocess(images: Array, kind: str) -> Float[Array, "b h w 3"]:
    """Images as the network takes them; for `kind` and errors see `InceptionV3`."""
    if kind not in PREPROCESSINGS:
        raise ValueError(f"unknown preprocessing {kind!r}: use {', '.join(PREPROCESSINGS)}")
    whole = images.dtype == jnp.uint8
    if not whole and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images of {images.dtype}: give uint8, or floats in [-1, 1]")
    if kind != "none":
        x = images.astype(jnp.float32)
        levels = x if whole else (x + 1) * 127.5
        levels = resize(levels, INPUT_SIZE, centred=kind == "pytorch-fid")
        return levels / 127.5 - 1 if kind == "pytorch-fid" else (levels - 128) / 128
    if whole:
        raise ValueError("uint8 images with preprocessing 'none': give floats in the net's range")
    if min(images.shape[1:3]) < MIN_SIZE:
        raise ValueError(
            f"{images.shape[2]} x {images.shape[1]} pixels are too few for InceptionV3: "
            f"give {MIN_SIZE} or more a side, or a preprocessing that enlarges"
        )
    return images


def resize(x: Float[Array, "b h w c"], size: int, centred: bool) -> Float[Array, "b n n c"]:
    """Bilinear resizing to a square without antialiasing.

    `centred` as torch's `F.interpolate(..., align_corners=False)`: pixels are squares, and their
    grids share the outer edges. Otherwise as TensorFlow 1's `resize_bilinear`: pixels are points,
    and the grids share the first one, which shifts an enlarged image towards it.
    """
    rows, columns = (_interpolation(side, size, centred) for side in x.shape[1:3])
    x = jnp.einsum("nw,bhwc->bhnc", columns, x, precision=lax.Precision.HIGHEST)
    return jnp.einsum("mh,bhnc->bmnc", rows, x, precision=lax.Precision.HIGHEST)


def _interpolation(given: int, size: int, centred: bool) -> np.ndarray:
    """The matrix `[size, given]` of linear interpolation; float32 steps, as in both references."""
    half = np.float32(0.5 if centred else 0)
    at = np.maximum((np.arange(size, dtype=np.float32) + half) * np.float32(given / size) - half, 0)
    low = np.minimum(at.astype(np.int32), given - 1)
    high, share = np.minimum(low + 1, given - 1), at - low
    matrix = np.zeros((size, given), np.float32)
    rows = np.arange(size)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, high), share)
    return matrix
