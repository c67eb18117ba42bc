"""`hsd eval severity`: tests whether an extractor's distance grows as images get worse.

The test images are degraded more and more, and each degraded set is compared with the original.
Untested extractors, such as our own, must show that they are sensitive to this. Beside each
distance stands its ratio to that of all images cut and pasted, by which extractors are compared.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from hsd_jax.evaluation import features
from hsd_jax.evaluation.baselines import cut_and_paste, paste
from hsd_jax.evaluation.features import Extractor, distance_names
from hsd_jax.evaluation.frechet import Moments, frechet_distance
from hsd_jax.evaluation.methods import batches
from hsd_jax.evaluation.metrics import rank_correlations
from hsd_jax.evaluation.pairs import People, another, usable
from hsd_jax.evaluation.regions import stage
from hsd_jax.runtime.console import Progress
from hsd_jax.training.input import load_source

BATCH = 16
BLUR = (0.5, 1, 2, 4)  # standard deviation in pixels
NOISE = (4, 8, 16, 32)  # standard deviation in levels
JPEG = (75, 50, 25, 10)  # quality
PASTED = (0.25, 0.5, 0.75, 1.0)  # share of the images with another's head


def blur(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian blur."""
    return cv2.GaussianBlur(image, (0, 0), sigma)


def noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise on each channel."""
    return np.clip(np.round(image + rng.normal(0, sigma, image.shape)), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    """JPEG with Pillow's settings."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=int(quality))
    return np.asarray(Image.open(file))


Spoil = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
SPOILT: dict[str, tuple[Spoil, Sequence[float]]] = {
    "blur": (blur, BLUR), "noise": (noise, NOISE), "jpeg": (jpeg, JPEG)
}  # fmt: skip


def pasted(people: People, indices: Sequence[int], seed: int) -> list[np.ndarray]:
    """Pastes another image's head, aligned, onto each image."""
    rng = np.random.default_rng(seed)
    result = []
    for place, index in enumerate(indices):
        head = people[indices[another(rng, place, len(indices))]]
        pair = stage(head, people[index], people.labels, "face", aligned=True)
        where = paste(
            pair.head.image, pair.body.image, pair.head.layout, pair.body.layout, people.labels
        )
        result.append(cut_and_paste(where, pair.body.layout, people.labels))
    return result


def evaluate(
    people: People, indices: Sequence[int], extractor: Extractor, seed: int
) -> dict[str, list[tuple[float, float]]]:
    """Returns (severity, Frechet distance) for each degradation.

    There is no kernel distance: its unbiased form needs disjoint sets of images.

    Raises:
      ValueError: fewer than two images.
    """
    if len(indices) < 2:
        raise ValueError(f"{len(indices)} images have no distance: give two or more")
    images = [people[i].image for i in indices]

    def extract(images: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([extractor(np.stack(part)) for part in batches(images, BATCH)])

    truth = extract(images)
    moments = Moments.streamed(truth)

    def distance(found: np.ndarray) -> float:
        return frechet_distance(Moments.streamed(found), moments)

    rows: dict[str, list[tuple[float, float]]] = {}
    with Progress() as progress:
        for name, (spoil, severities) in SPOILT.items():
            rows[name] = []
            for severity in severities:
                progress.stage(f"{name} {severity} ...")
                rng = np.random.default_rng(seed)
                spoilt = [spoil(image, severity, rng) for image in images]
                rows[name].append((severity, distance(extract(spoilt))))
        progress.stage("cut-and-paste ...")
        swapped = extract(pasted(people, indices, seed))
    order = np.random.default_rng(seed).permutation(len(indices))
    rows["cut-and-paste"] = []
    for share in PASTED:
        chosen = order[: round(share * len(indices))]
        mixed = truth.copy()
        mixed[chosen] = swapped[chosen]
        rows["cut-and-paste"].append((share, distance(mixed)))
    return rows


def grows(values: Sequence[float]) -> bool:
    """Whether each is larger than the one before."""
    return all(b > a for a, b in zip(values, values[1:], strict=False))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """`hsd eval severity`."""
    source, labels = load_source(options.data, "test", name=options.dataset), options.labels
    people = People(source, labels)
    indices = usable(source, labels, options.sources)[: options.count]
    found = {}
    for spec in options.extractors:
        extractor = features.make(spec)
        rows = evaluate(people, indices, extractor, options.seed)
        found[extractor.name] = rows
        scale = rows["cut-and-paste"][-1][1]  # what others are told as a share of, too
        print(f"{len(indices)} test images, {distance_names(extractor)[0]}")
        for name, values in rows.items():
            cells = (f"{at:g}: {value:.3f} ({value / scale:.3f})" for at, value in values)
            word = "grows" if grows([value for _, value in values]) else "does NOT grow strictly"
            print(f"{name:14} {'   '.join(cells)}   {word}")
    if len(found) > 1:
        ranked = {
            name: [value for row in rows.values() for _, value in row]
            for name, rows in found.items()
        }
        sets = len(next(iter(ranked.values())))
        print(f"rank correlation over the {sets} sets: {rank_correlations(ranked)}")
    return found
