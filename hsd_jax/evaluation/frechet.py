"""Frechet and kernel distances between two sets of features.

Frechet: Dowson and Landau 1982, on image features Heusel et al. 2017 (arXiv 1706.08500). Kernel:
the unbiased squared MMD of Gretton et al. 2012 with the cubic kernel of Binkowski et al. 2018
(arXiv 1801.01401). Both are computed in float64.
"""

from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from jaxtyping import Float

from hsd_jax.evaluation.metrics import Resampled

MOST_RESAMPLED = 500


@dataclass(frozen=True)
class Moments:
    """The mean and covariance of features that may come in parts.

    Attributes:
      count: the number of features, n.
      mean: float64 `[D]`.
      scatter: float64 `[D, D]`, the sum of the outer products of the deviations from the mean.
      deviations: float64 `[n, D]`, kept if they are few (n <= D) and came in one part.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray
    deviations: np.ndarray | None = None

    @classmethod
    def of(cls, features: Float[np.ndarray, "n d"]) -> "Moments":
        """The moments of one part.

        Raises:
          ValueError: not two axes, no rows, or a value that is not finite.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or not len(features):
            raise ValueError(f"features of shape {features.shape}: give [n, D] with n of 1 or more")
        if not np.isfinite(features).all():
            raise ValueError("features that are not finite: look at the extractor's weights")
        mean = features.mean(0)
        deviations = features - mean[None]
        few = len(features) <= features.shape[1]
        kept = deviations if few else None
        return cls(len(features), mean, deviations.T @ deviations, kept)

    @staticmethod
    def streamed(features: Float[np.ndarray, "n d"], part: int = 1024) -> "Moments":
        """The moments of many features, in parts of `part` to save memory."""
        parts = (features[i : i + part] for i in range(0, len(features), part))
        return reduce(Moments.merge, map(Moments.of, parts))

    def merge(self, other: "Moments") -> "Moments":
        """The exact moments of both parts together (Chan, Golub and LeVeque 1979).

        Raises:
          ValueError: features of two widths.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"features of {self.mean.size} and of {other.mean.size} numbers: "
                "use one extractor for both"
            )
        count = self.count + other.count
        delta = other.mean - self.mean
        between = np.outer(delta, delta) * (self.count * other.count / count)
        mean = self.mean + delta * (other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """float64 `[D, D]`, normalised by n - 1.

        Raises:
          ValueError: of fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} image has no covariance: measure two or more")
        return self.scatter / (self.count - 1)

    @cached_property
    def root(self) -> np.ndarray:
        """float64 `[D, r]`, A with A A^T the covariance.

        The scaled deviations are such a root. Otherwise it comes from the eigenvectors, without
        those whose eigenvalue is a rounding error: with fewer images than features these are most,
        and the root of each would add 1e-8 of the largest to the distance.
        """
        if self.deviations is not None and self.count > 1:
            return self.deviations.T / np.sqrt(self.count - 1)
        values, vectors = np.linalg.eigh(self.covariance)
        keep = values > max(values.max(), 0) * len(values) * np.finfo(np.float64).eps
        return vectors[:, keep] * np.sqrt(values[keep])[None]


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + trace(C_a + C_b - 2 (C_a C_b)^(1/2)); 0 or more.

    The trace of the root is the sum of the singular values of A^T B for any A A^T = C_a and
    B B^T = C_b. This avoids the root of C_a C_b, which is not symmetric and for which scipy's
    `sqrtm` has complex rounding errors.

    Raises:
      ValueError: features of two widths, or fewer than two of either.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"features of {a.mean.size} and of {b.mean.size} numbers: use one extractor for both"
        )
    shift = float(np.sum((a.mean - b.mean) ** 2))
    spread = float(np.trace(a.covariance) + np.trace(b.covariance))
    cross = np.linalg.svd(a.root.T @ b.root, compute_uv=False).sum()
    return max(0.0, shift + spread - 2 * float(cross))


def resampled_frechet(
    features: Float[np.ndarray, "n d"],
    truth: Moments,
    seed: int = 0,
    resamples: int = 100,
) -> Resampled:
    """The Frechet distance of `features` to `truth`, and those of bootstrap resamples.

    Images that are drawn twice make every resample's distance larger than that of all images, so
    the resamples' are moved by a constant until their mean is the distance itself. The bias of a
    distance of few images remains. The same seed and n give the same resamples for each method.

    Args:
      features: of the results, one row per pair.
      truth: of the real images, taken as they are.
      seed: of the resamples.
      resamples: their number; none for more than `MOST_RESAMPLED` rows, for which they would take
        hours.
    """
    value, n = frechet_distance(Moments.streamed(features), truth), len(features)
    if n > MOST_RESAMPLED:
        return Resampled(value)
    rng = np.random.default_rng(seed)
    parts = (features[rng.integers(n, size=n)] for _ in range(resamples))
    found = np.array([frechet_distance(Moments.of(part), truth) for part in parts])
    return Resampled(value, found - found.mean() + value)


def kernel_distance(
    a: Float[np.ndarray, "n d"],
    b: Float[np.ndarray, "m d"],
    *,
    seed: int = 0,
    resamples: int = 500,
    block: int = 512,
) -> Resampled:
    """The unbiased squared MMD of `a` and `b` under k(x, y) = (x.y / D + 1)^3.

    All pairs are used, in blocks of rows, rather than 100 subsets of 1,000, so that the result does
    not depend on how subsets are drawn. It may be negative if the two sets are alike. Resamples
    are of the images of both sets; an image that is drawn twice is not paired with itself. The same
    seed, n and m give the same resamples for each method.

    Args:
      a, b: features, two or more each.
      seed: of the resampling.
      resamples: the number of bootstrap samples.
      block: the number of kernel rows in memory.

    Raises:
      ValueError: features of two widths, or fewer than two.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"features of shapes {a.shape} and {b.shape}: give two or more of one width each"
        )
    rng = np.random.default_rng(seed)
    # The first row weighs every image once: the estimate itself.
    weights_a, weights_b = (
        np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), resamples)])
        for n in (len(a), len(b))
    )
    values = (
        _mean_kernel(a, a, weights_a, weights_a, block, same=True)
        + _mean_kernel(b, b, weights_b, weights_b, block, same=True)
        - 2 * _mean_kernel(a, b, weights_a, weights_b, block, same=False)
    )
    return Resampled(float(values[0]), values[1:])


def _mean_kernel(
    x: np.ndarray, y: np.ndarray, wx: np.ndarray, wy: np.ndarray, block: int, *, same: bool
) -> np.ndarray:
    """Weighted means of the kernel, one per row of weights; `same` leaves out the diagonal."""
    sums = np.zeros(len(wx))
    for start in range(0, len(x), block):
        part = slice(start, min(start + block, len(x)))
        kernel = (x[part] @ y.T / x.shape[1] + 1) ** 3
        if same:
            kernel[np.arange(len(kernel)), np.arange(part.start, part.stop)] = 0
        sums += np.einsum("rj,rj->r", wx[:, part] @ kernel, wy)
    norm = wx.sum(1) * wy.sum(1)
    if same:
        norm = norm - (wx * wx).sum(1)
    return sums / norm


def nearest_distance(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], nearest: int = 5
) -> Float[np.ndarray, " n"]:
    """The mean Euclidean distance of each of `a` to its `nearest` neighbours in `b`.

    It ranks results by their similarity to real images; it compares images, not methods.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
    count = min(nearest, len(b))
    found = np.partition(np.maximum(squares, 0), count - 1, axis=1)[:, :count]
    return np.sqrt(found).mean(1)
