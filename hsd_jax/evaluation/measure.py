"""Measures results: distances to the real images, and the preservation of each pair."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from hsd_jax.evaluation.features import Extractor, cached, distance_names, kernel_scale
from hsd_jax.evaluation.frechet import (
    Moments,
    kernel_distance,
    nearest_distance,
    resampled_frechet,
)
from hsd_jax.evaluation.methods import Results, batches, staged_pair
from hsd_jax.evaluation.metrics import PairMetric, Reference, Resampled, bootstrap
from hsd_jax.evaluation.pairs import Pairing, People
from hsd_jax.evaluation.regions import (
    ALIGNMENTS,
    Alignment,
    Choices,
    Images,
    Masks,
    exposed,
    face_square,
    focal,
    own_masks,
    swap_masks,
)
from hsd_jax.imaging import files
from hsd_jax.runtime.cache import fingerprint
from hsd_jax.runtime.console import Progress

BATCH = 16
REGIONS: dict[str, tuple[str, ...]] = {
    "": (),
    "Mask-": ("fill",),
    "Focal-": ("focal", "rounding", "focal_size", "focal_filter"),
}
"""Prefixes of distances, with the choices that the features of real images depend on."""

Parse = Callable[[np.ndarray], np.ndarray]
"""uint8 `[H, W, 3]` -> layout, integers `[H, W]`."""


@dataclass(frozen=True)
class MetricValue:
    """A metric of a method, with its 95 % interval if it has one."""

    value: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = False


@dataclass
class Measured:
    """The metrics of a method by name, the values of each pair, and distances with resamples."""

    metrics: dict[str, MetricValue] = field(default_factory=dict)
    per_pair: dict[str, np.ndarray] = field(default_factory=dict)
    distances: dict[str, Resampled] = field(default_factory=dict)

    def minus(self, other: "Measured", seed: int = 0) -> dict[str, MetricValue]:
        """The differences from another method's metrics, with intervals of the same pairs.

        Both are resampled alike, so that what a pair does to both, which makes their own intervals
        wide, cancels.
        """
        found = {}
        for name, value in self.metrics.items():
            if name in self.distances:
                apart = self.distances[name] - other.distances[name]
                middle, (low, high) = apart.value, apart.interval
            else:
                values = self.per_pair[name] - other.per_pair[name]
                middle, low, high = bootstrap(values[np.isfinite(values)], seed)
            found[name] = MetricValue(middle, low, high, value.higher_is_better)
        return found


@dataclass(frozen=True)
class RealImages:
    """The real images that results are compared with.

    Attributes:
      people: the images of the split.
      indices: which of them to use.
      key: their cache key, which includes the origin of their layouts.
      folder: the cache folder; None to disable the cache.
    """

    people: People
    indices: Sequence[int]
    key: str
    folder: Path | None = None

    def features(
        self, extractor: Extractor, region: str, choices: Choices
    ) -> Float[np.ndarray, "n d"]:
        """The features of one of `REGIONS`, from the cache or computed."""

        def compute() -> np.ndarray:
            found = []
            with Progress(len(self.indices)) as progress:
                progress.stage(f"{extractor.name}, real")
                for part in batches(self.indices, BATCH):
                    shown = [self.people[i] for i in part]
                    hidden = own_masks(np.stack([x.layout for x in shown]), self.people.labels)
                    images = np.stack([x.image for x in shown])
                    found.append(extractor(_view(images, hidden, region, choices)))
                    progress.update(len(part))
            return np.concatenate(found)

        chosen = (getattr(choices, name) for name in REGIONS[region])
        facts = (extractor.name, extractor.fingerprint, region, *chosen)
        return cached(self.folder, fingerprint(self.key, list(self.indices), *facts), compute)


def _view(
    images: Images, hidden: Masks, region: str, choices: Choices
) -> UInt8[np.ndarray, "b n m 3"]:
    if region == "Mask-":
        return exposed(images, hidden, choices)
    return focal(images, choices) if region == "Focal-" else images


def measure(
    pairs: Sequence[Pairing],
    real: RealImages,
    entries: Mapping[str, Results],
    extractors: Sequence[Extractor],
    metrics: Sequence[PairMetric],
    choices: Choices,
    *,
    seed: int = 0,
    parse: Parse | None = None,
) -> dict[str, Measured]:
    """Computes every metric of every method.

    Args:
      pairs: the list of pairs.
      real: the images that distances are measured to.
      entries: methods by name; all of their results must exist.
      extractors: the feature extractors of the distances.
      metrics: the metrics of each pair.
      choices: what the paper leaves open.
      seed: of the bootstrap.
      parse: the parser; needed if `choices.masks` is "parsed".

    Raises:
      ValueError: if a result cannot be read or has another size, or there are fewer than two pairs.
    """
    features: dict[Any, list[np.ndarray]] = {}
    numbers: dict[Any, list[np.ndarray]] = {}
    parse = parse if choices.masks == "parsed" else None
    for name, images, hidden, reference in _read(pairs, real.people, entries, choices, parse):
        for extractor in extractors:
            for region in REGIONS:
                found = extractor(_view(images, hidden, region, choices))
                features.setdefault((name, extractor.name, region), []).append(found)
        for metric in metrics:
            for key, values in metric(images, reference).items():
                numbers.setdefault((name, key), []).append(np.asarray(values, np.float64))
    measured = {name: Measured() for name in entries}
    for extractor in extractors:
        for region in REGIONS:
            truth = real.features(extractor, region, choices)
            moments = Moments.streamed(truth)
            with Progress() as progress:
                for name in entries:
                    progress.stage(f"{region}{distance_names(extractor)[0]} of {name} ...")
                    own = np.concatenate(features.pop((name, extractor.name, region)))
                    _add_distances(measured[name], own, truth, moments, extractor, region, seed)
    for name in entries:
        for metric in metrics:
            for key in metric.names:
                values = np.concatenate(numbers[name, key])
                interval = bootstrap(values[np.isfinite(values)], seed)
                measured[name].per_pair[key] = values
                measured[name].metrics[key] = MetricValue(*interval, metric.higher_is_better)
    return measured


def _add_distances(
    measured: Measured,
    own: np.ndarray,
    truth: np.ndarray,
    truth_moments: Moments,
    extractor: Extractor,
    region: str,
    seed: int,
) -> None:
    frechet, kernel = (region + name for name in distance_names(extractor))
    measured.distances[frechet] = resampled_frechet(own, truth_moments, seed=seed)
    scale = kernel_scale(extractor)
    measured.distances[kernel] = kernel_distance(own, truth, seed=seed) * scale
    for name in (frechet, kernel):
        found = measured.distances[name]
        measured.metrics[name] = MetricValue(found.value, *found.interval)
    measured.per_pair[f"{region}NN-{extractor.name}"] = nearest_distance(own, truth)


def _read(
    pairs: Sequence[Pairing],
    people: People,
    entries: Mapping[str, Results],
    choices: Choices,
    parse: Parse | None,
) -> Iterator[tuple[str, Images, Masks, Reference]]:
    """Yields batches by method: name, results, masks of head and body, references."""
    with Progress(len(pairs), "pair") as progress:
        progress.stage("measuring")
        for batch in batches(pairs, BATCH):
            references = {
                aligned: _reference(batch, people, aligned, choices)
                for aligned in ALIGNMENTS
                if any(entry.aligned == aligned for entry in entries.values())
            }
            for name, entry in entries.items():
                reference = references[entry.aligned]
                images = _results(batch, entry, reference.body.shape[1:])
                hidden = reference.head_mask | reference.body_mask
                if parse is not None:
                    hidden = own_masks(np.stack([parse(x) for x in images]), people.labels)
                yield name, images, hidden, reference
            progress.update(len(batch))


def _reference(
    batch: Sequence[Pairing], people: People, aligned: Alignment, choices: Choices
) -> Reference:
    staged = [staged_pair(pair, people, choices.frame, aligned) for pair in batch]
    head_layouts = np.stack([s.head.layout for s in staged])
    masks = swap_masks(head_layouts, np.stack([s.body.layout for s in staged]), people.labels)
    return Reference(
        head=np.stack([s.head.image for s in staged]),
        body=np.stack([s.body.image for s in staged]),
        head_mask=masks[0],
        body_mask=masks[1],
        faces=tuple(face_square(layout, people.labels, choices) for layout in head_layouts),
    )


def _results(batch: Sequence[Pairing], entry: Results, shape: tuple[int, ...]) -> Images:
    images = []
    for pair in batch:
        image = files.open_photo(entry.path(pair))
        if image.shape != shape:
            raise ValueError(
                f"{entry.path(pair)} is {image.shape[1]} x {image.shape[0]}, its body's image "
                f"{shape[1]} x {shape[0]}: measure results at the data's size"
            )
        images.append(image)
    return np.stack(images)
