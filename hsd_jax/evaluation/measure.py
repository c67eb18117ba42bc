"""Results of pairs to figures: distances to the real pictures, and what each pair keeps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from hsd_jax.evaluation import cache, metrics
from hsd_jax.evaluation.features import Extractor, distance_names, kernel_scale
from hsd_jax.evaluation.frechet import (
    Moments,
    frechet_distance,
    kernel_distance,
    strangeness,
)
from hsd_jax.evaluation.methods import Progress, Results, batches, staged_pair
from hsd_jax.evaluation.pairs import Pairing, People
from hsd_jax.evaluation.regions import (
    Choices,
    exposed,
    face_square,
    focal,
    own_masks,
    swap_masks,
)
from hsd_jax.evaluation.similarity import Kept, Measure
from hsd_jax.imaging import files

BATCH = 16
REGIONS = ("", "Mask-", "Focal-")


@dataclass(frozen=True)
class Figure:
    """One number of one method, with its 95 % interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = False


@dataclass
class Measured:
    """One method: `figures` by name, and `per_pair[name]`, a number for each pair."""

    figures: dict[str, Figure] = field(default_factory=dict)
    per_pair: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Real:
    """The real pictures that results are held against.

    Attributes:
      people: where they are.
      indices: which.
      key: tells them, their layouts' origin included, in the cache.
      folder: of the cache, None for none.
    """

    people: People
    indices: Sequence[int]
    key: str
    folder: Path | None = None

    def features(
        self, extractor: Extractor, region: str, choices: Choices, progress: Progress
    ) -> np.ndarray:
        """float32 `[n, D]`: read from the cache, or made."""

        def compute() -> np.ndarray:
            found = []
            for part in batches(self.indices, BATCH):
                progress(f"{extractor.name}: {len(found) * BATCH} of {len(self.indices)} real")
                pictures = [self.people[i] for i in part]
                layouts = np.stack([p.layout for p in pictures])
                hidden = own_masks(layouts, self.people.labels)
                images = np.stack([p.image for p in pictures])
                found.append(extractor(_view(images, hidden, region, choices)))
            return np.concatenate(found)

        facts = (extractor.name, extractor.fingerprint, *_view_facts(region, choices))
        key = cache.fingerprint(self.key, list(self.indices), *facts)
        return cache.cached(self.folder, key, compute)


def _view(images: np.ndarray, hidden: np.ndarray, region: str, choices: Choices) -> np.ndarray:
    if region == "Mask-":
        return exposed(images, hidden, choices)
    return focal(images, choices) if region == "Focal-" else images


def _view_facts(region: str, choices: Choices) -> tuple[Any, ...]:
    """The choices that the view of a real picture depends on."""
    if region == "Mask-":
        return (region, choices.fill)
    if region == "Focal-":
        return (
            region, choices.focal, choices.rounding, choices.focal_size, choices.focal_filter
        )  # fmt: skip
    return (region,)


def measure(
    pairs: Sequence[Pairing],
    real: Real,
    entries: Mapping[str, Results],
    extractors: Sequence[Extractor],
    measures: Sequence[Measure],
    choices: Choices,
    *,
    seed: int = 0,
    parse: Callable[[np.ndarray], np.ndarray] | None = None,
    progress: Progress | None = None,
) -> dict[str, Measured]:
    """Every figure of every method.

    Args:
      pairs: the list.
      real: what the distances are to.
      entries: methods by name, with all results there.
      extractors: of the distances' features.
      measures: of each pair.
      choices: what the paper leaves open.
      seed: of the bootstrap.
      parse: result -> layout, for `choices.masks` "parsed".
      progress: told how far it is.

    Raises:
      ValueError: a result that cannot be read or has another size, or too few pairs.
    """
    progress = progress or Progress()
    if len(pairs) < 2:
        raise ValueError(f"{len(pairs)} pair has no distance to a set: give two or more")
    features, numbers = _survey(
        pairs, real.people, entries, extractors, measures, choices, parse, progress
    )
    found = {name: Measured() for name in entries}
    for extractor in extractors:
        for region in REGIONS:
            truth = real.features(extractor, region, choices, progress)
            truth_moments = moments(truth)
            for name in entries:
                progress(f"{region}{distance_names(extractor)[0]} of {name} ...")
                own = np.concatenate(features.pop((name, extractor.name, region)))
                _add_distances(found[name], own, truth, truth_moments, extractor, region, seed)
    for name in entries:
        for measure_ in measures:
            for figure in measure_.names:
                values = np.concatenate(numbers[name, figure])
                found[name].per_pair[figure] = values
                interval = metrics.bootstrap(values[np.isfinite(values)], seed)
                found[name].figures[figure] = Figure(*interval, measure_.higher_is_better)
    progress("")
    return found


def moments(features: np.ndarray, part: int = 1024) -> Moments:
    """Of all features, streamed in parts."""
    parts = (features[i : i + part] for i in range(0, len(features), part))
    return reduce(Moments.merge, map(Moments.of, parts))


def _add_distances(
    found: Measured,
    own: np.ndarray,
    truth: np.ndarray,
    truth_moments: Moments,
    extractor: Extractor,
    region: str,
    seed: int,
) -> None:
    frechet, kernel = (region + name for name in distance_names(extractor))
    found.figures[frechet] = Figure(frechet_distance(moments(own), truth_moments))
    scale = kernel_scale(extractor)
    value, low, high = (scale * x for x in kernel_distance(own, truth, seed=seed))
    found.figures[kernel] = Figure(value, low, high)
    found.per_pair[f"{region}NN-{extractor.name}"] = strangeness(own, truth)


Lists = dict[Any, list[np.ndarray]]


def _survey(
    pairs: Sequence[Pairing],
    people: People,
    entries: Mapping[str, Results],
    extractors: Sequence[Extractor],
    measures: Sequence[Measure],
    choices: Choices,
    parse: Callable[[np.ndarray], np.ndarray] | None,
    progress: Progress,
) -> tuple[Lists, Lists]:
    """One walk over the pairs: features by method, extractor, region; numbers by method, figure."""
    features: Lists = {
        (name, e.name, r): [] for name in entries for e in extractors for r in REGIONS
    }
    numbers: Lists = {(name, f): [] for name in entries for m in measures for f in m.names}
    done = 0
    for batch in batches(pairs, BATCH):
        progress(f"measuring: {done} of {len(pairs)} pairs")
        kept = {
            aligned: _kept(batch, people, aligned, choices)
            for aligned in {entry.aligned for entry in entries.values()}
        }
        for name, entry in entries.items():
            truth = kept[entry.aligned]
            images = _read(batch, entry, truth.body.shape[1:])
            hidden = truth.head_mask | truth.body_mask
            if choices.masks == "parsed" and parse is not None:
                hidden = own_masks(np.stack([parse(x) for x in images]), people.labels)
            for extractor in extractors:
                for region in REGIONS:
                    view = _view(images, hidden, region, choices)
                    features[name, extractor.name, region].append(extractor(view))
            for measure_ in measures:
                for figure, values in measure_(images, truth).items():
                    numbers[name, figure].append(np.asarray(values, np.float64))
        done += len(batch)
    return features, numbers


def _kept(batch: Sequence[Pairing], people: People, aligned: bool, choices: Choices) -> Kept:
    staged = [staged_pair(pair, people, choices.frame, aligned) for pair in batch]
    head_layouts = np.stack([s.head.layout for s in staged])
    masks = swap_masks(head_layouts, np.stack([s.body.layout for s in staged]), people.labels)
    return Kept(
        head=np.stack([s.head.image for s in staged]),
        body=np.stack([s.body.image for s in staged]),
        head_mask=masks[0],
        body_mask=masks[1],
        faces=tuple(face_square(layout, people.labels, choices) for layout in head_layouts),
    )


def _read(batch: Sequence[Pairing], entry: Results, shape: tuple[int, ...]) -> np.ndarray:
    images = []
    for pair in batch:
        image = files.open_photo(entry.path(pair))
        if image.shape != shape:
            raise ValueError(
                f"{entry.path(pair)} is {image.shape[1]} x {image.shape[0]}, its body's picture "
                f"{shape[1]} x {shape[0]}: measure results at the data's size"
            )
        images.append(image)
    return np.stack(images)
