"""Figures of a painted hole whose true pixels are known; each looks at one picture.

Pictures are uint8 `[H, W, 3]`, a hole is bool `[H, W]` and not empty. What lies outside the hole
is taken from the truth before anything is measured, so that a filter's window which reaches over
the hole's edge finds the same there for every method; only the seam looks further, on purpose.
At the end, what layouts are compared by: counts of pixels by true and found class, and their IoU.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import ndimage

from hsd_jax.weights import Loaded

# 8-bit rounding alone gives 58.9 dB; equal pictures would make a mean infinite.
MAX_PSNR = 60.0
# How far from the hole's edge a seam is looked for: a swap paints a few pixels more than the hole
# and fades over three, so its seam lies there.
SEAM_BAND = 6


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: np.ndarray, seed: int = 0, resamples: int = 2000) -> Interval:
    """Mean of `values` [n], with the percentile interval over resampled pictures.

    One seed and n give the same resamples for every method, so intervals can be compared.

    Raises:
      ValueError: no values.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"figures of shape {values.shape} have no mean: give at least one picture")
    chosen = np.random.default_rng(seed).integers(values.size, size=(resamples, values.size))
    low, high = np.percentile(values[chosen].mean(1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def inside(result: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """`result` in the hole, `truth` elsewhere."""
    return np.where(hole[..., None], result, truth)


def psnr(result: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    """Peak signal-to-noise ratio of the hole's pixels in dB, at most `MAX_PSNR`."""
    error = np.mean((result[hole].astype(np.float64) - truth[hole]) ** 2)
    if error == 0:
        return MAX_PSNR
    return min(MAX_PSNR, float(10 * np.log10(255**2 / error)))


def ssim(result: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004), the mean over the hole's pixels and channels.

    Gaussian window of 11 pixels (sigma 1.5), population covariances, K1 = 0.01, K2 = 0.03:
    their settings, and scikit-image's with `gaussian_weights=True`.
    """
    x = inside(result, truth, hole).astype(np.float64)
    y = truth.astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, (1.5, 1.5, 0), truncate=3.5)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    similarity = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(similarity[hole].mean())


def seam(result: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    """How visible the hole's edge is: new steps of brightness across it, in levels of 255.

    A step is the difference of two neighbouring pixels, one a pixel further from the hole than the
    other. For each of the contours 0 to `SEAM_BAND` - 1 pixels from the hole, the mean over its
    steps of what they exceed the true picture's steps by (0 where they do not); summed over the
    contours, so that spreading a seam over some pixels does not hide it. 0 for the truth.
    """
    away = np.asarray(ndimage.distance_transform_cdt(~hole, metric="taxicab"))
    sums, counts = np.zeros(SEAM_BAND), np.zeros(SEAM_BAND)
    for turn in ((0, 1), (1, 0)):
        distance = away.transpose(turn)
        new, old = (
            np.abs(np.diff(x.transpose(*turn, 2).astype(np.float64), axis=0)).mean(-1)
            for x in (result, truth)
        )
        contour = np.minimum(distance[:-1], distance[1:])
        across = (distance[:-1] != distance[1:]) & (contour < SEAM_BAND)
        excess = np.maximum(new - old, 0)[across]
        sums += np.bincount(contour[across], excess, minlength=SEAM_BAND)
        counts += np.bincount(contour[across], minlength=SEAM_BAND)
    return float((sums / np.maximum(counts, 1)).sum())


class PerceptualDistance:
    """PD-hsd: a distance between pictures in the features of the embedded parser's encoder.

    Built as LPIPS (Zhang et al. 2018) without its learnt weights: activations scaled to unit length
    over the channels, squared differences summed over them, averaged over the hole's cells (each
    weighted by the share of it that the hole covers), then over the encoder's levels.

    It is not LPIPS, and its values cannot be compared with any: the net is our own, small, trained
    to parse people. It knows little of textures and may favour methods that share its training
    pictures.
    """

    def __init__(self, parser: Loaded):
        """`parser`: the part "parser" of a folder of weights."""
        self._params = parser.params

        def features(params: Any, pictures: jax.Array) -> list[jax.Array]:
            x = pictures.astype(jnp.float32) / 127.5 - 1
            return parser.module.apply({"params": params}, x, features=True)[1]

        self._features = jax.jit(features)
        self._distance = jax.jit(feature_distance)

    def features(self, pictures: np.ndarray) -> list[jax.Array]:
        """Activations of uint8 `[B, H, W, 3]`; compiled once for each shape."""
        return self._features(self._params, pictures)

    def __call__(
        self, pictures: np.ndarray, truth: list[jax.Array], holes: np.ndarray
    ) -> np.ndarray:
        """Distances `[B]`, 0 for equal pictures and at most 4.

        Args:
          pictures: uint8 `[B, H, W, 3]`, the truth outside the holes (see `inside`).
          truth: `features` of the true pictures.
          holes: bool `[B, H, W]`.
        """
        return np.asarray(self._distance(self.features(pictures), truth, holes))


def feature_distance(
    first: list[jax.Array], second: list[jax.Array], holes: Array | np.ndarray
) -> Float[Array, " b"]:
    """The distance of `PerceptualDistance` between two lists of activations `[B, h, w, c]`."""
    levels = []
    for a, b in zip(first, second, strict=True):
        batch, height, width, _ = a.shape
        cells = (batch, height, holes.shape[1] // height, width, holes.shape[2] // width)
        weight = jnp.asarray(holes, jnp.float32).reshape(cells).mean((2, 4))
        squared = jnp.square(_unit(a) - _unit(b)).sum(-1)
        levels.append((squared * weight).sum((1, 2)) / weight.sum((1, 2)))
    return jnp.stack(levels).mean(0)


def _unit(x: jax.Array) -> jax.Array:
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)


def confusion(true: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """int64 `[K, K]`: pixels by true class (rows) and by found class."""
    index = true.astype(np.int64).ravel() * classes + found.ravel()
    return np.bincount(index, minlength=classes**2).reshape(classes, classes)


def ious(counts: np.ndarray) -> np.ndarray:
    """float64 `[K]` of a confusion matrix; NaN for classes that the true layouts lack."""
    both = np.diag(counts).astype(np.float64)
    union = counts.sum(0) + counts.sum(1) - both
    present = counts.sum(1) > 0
    return np.where(present, both / np.maximum(union, 1), np.nan)
