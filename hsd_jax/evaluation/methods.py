"""The methods of the benchmark and the folders of their results."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hsd_jax.evaluation import baselines
from hsd_jax.evaluation.pairs import Pairing, People
from hsd_jax.evaluation.regions import ALIGNMENTS, Alignment, Staged, stage
from hsd_jax.imaging import files
from hsd_jax.imaging.provenance import Mark
from hsd_jax.labels import LabelSet
from hsd_jax.runtime.console import Progress

UNALIGNED = "-unaligned"
METHODS: dict[str, str] = {
    "hsd": "ours, as `hsd swap` writes it: kept regions are the photos' own pixels",
    "hsd-latents": "ours, everything decoded from latents, as in the paper",
    "hsd-necks": "ours with the necks of turned heads aligned too, as `hsd swap` does",
    "hsd-unaligned": "ours without neck alignment",
    "telea": "the gap (old head and neck) by OpenCV's Telea inpainting, radius 5",
    "navier-stokes": "the gap by OpenCV's Navier-Stokes inpainting, radius 5",
    "poisson": "the head cloned seamlessly by OpenCV onto the body, whose own head Telea removed",
    "cut-and-paste": "the head on the body with its neck, on a white canvas",
    "cut-and-paste-unaligned": "the same without neck alignment",
    "body-photo": "no swap: the body's photo as it is, for a scale",
}
OWN = ("hsd", "hsd-latents", "hsd-necks", "hsd-unaligned")
DEFAULT = tuple(name for name in METHODS if name != "hsd-unaligned")


@dataclass(frozen=True)
class Results:
    """A method's folder of `ID.png`, and whether its heads are neck-aligned."""

    folder: Path
    aligned: Alignment

    def path(self, pair: Pairing) -> Path:
        """The result of a pair."""
        return self.folder / f"{pair.id}.png"


def results_in(folder: Path, methods: Sequence[str]) -> dict[str, Results]:
    """The folders where `produce` puts the methods' results.

    Raises:
      ValueError: if a method is unknown.
    """
    if unknown := [name for name in methods if name not in METHODS]:
        raise ValueError(f"no method {unknown[0]!r}: use some of {', '.join(METHODS)}")
    return {
        name: Results(folder / "results" / name, _alignment(name)) for name in methods
    }


def _alignment(method: str) -> Alignment:
    if method == "hsd-necks":
        return "necks"
    return not method.endswith(UNALIGNED)


def given_results(folder: Path, aligned: Alignment, pairs: Sequence[Pairing]) -> Results:
    """Another method's folder of results.

    Raises:
      ValueError: if there is no such folder, or it lacks the result of a pair.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of results")
    results = Results(folder, aligned)
    if missing := [pair for pair in pairs if not results.path(pair).is_file()]:
        raise ValueError(
            f"{folder} lacks {len(missing)} results, the first {missing[0].id}.png: name each by "
            "its pair's id"
        )
    return results


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Reserves `folder` for results made under these settings.

    Raises:
      ValueError: if it holds results of other settings.
    """
    path = folder / "settings.json"
    if path.is_file():
        try:
            found = json.loads(path.read_text())
        except ValueError:
            found = {}
        changed = [name for name in settings if found.get(name) != settings[name]]
        if changed:
            name = changed[0]
            raise ValueError(
                f"{folder} holds results of another {name} ({found.get(name)}, not "
                f"{settings[name]}): give another folder, or delete it"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(settings), indent=2) + "\n")


def produce(
    pairs: Sequence[Pairing],
    people: People,
    results: Mapping[str, Results],
    frame: str,
    make_sampler: Callable[[], Any],
    progress: Progress,
) -> int:
    """Makes missing results; returns how many pairs were sampled.

    Args:
      pairs: the list of pairs.
      people: the images that it refers to.
      results: the folders of `results_in`.
      frame: see `regions.Choices`.
      make_sampler: returns a `sampling.Sampler`; called if one of our own results is missing.
      progress: shows the progress.
    """
    for entry in results.values():
        entry.folder.mkdir(parents=True, exist_ok=True)
    sampled = 0
    sampler: Any = None
    for aligned in ALIGNMENTS:
        entries = {name: entry for name, entry in results.items() if entry.aligned == aligned}
        own = [name for name in entries if name in OWN]
        other = [name for name in entries if name not in OWN]
        missing = [p for p in pairs if any(not entries[name].path(p).is_file() for name in own)]
        if missing and sampler is None:
            progress.stage("loading the weights ...")
            sampler = make_sampler()
        if missing:
            for batch in batches(missing, sampler.batch):
                progress.stage(f"sampling: {sampled} of {len(missing)} pairs")
                staged = [staged_pair(p, people, frame, aligned) for p in batch]
                swaps = sampler([p.id for p in batch], staged, people.labels)
                for pair, swapped in zip(batch, swaps, strict=True):
                    for name in own:
                        image = swapped.latents if name == "hsd-latents" else swapped.pixels
                        files.save_image(image, entries[name].path(pair))
                sampled += len(batch)
        _make_baselines(pairs, people, {name: entries[name] for name in other}, frame, progress)
    return sampled


def _make_baselines(
    pairs: Sequence[Pairing],
    people: People,
    entries: Mapping[str, Results],
    frame: str,
    progress: Progress,
) -> None:
    for number, pair in enumerate(pairs):
        missing = [name for name, entry in entries.items() if not entry.path(pair).is_file()]
        if not missing:
            continue
        progress.stage(f"baselines: {number} of {len(pairs)} pairs")
        staged = staged_pair(pair, people, frame, entries[missing[0]].aligned)
        for name in missing:
            image = baseline(name, staged, people.labels)
            mark = None if name == "body-photo" else Mark()
            files.save_image(image, entries[name].path(pair), mark)


def staged_pair(pair: Pairing, people: People, frame: str, aligned: Alignment) -> Staged:
    """`stage` for a pair; errors name the pair."""
    try:
        return stage(people[pair.head], people[pair.body], people.labels, frame, aligned)
    except ValueError as error:
        raise ValueError(f"pair {pair.id}: {error}") from error


def baseline(name: str, pair: Staged, labels: LabelSet) -> np.ndarray:
    """The result of a method without networks, uint8 `[S, S, 3]`."""
    head, body = pair.head, pair.body
    if name == "body-photo":
        return body.image
    pasted = baselines.paste(head.image, body.image, head.layout, body.layout, labels)
    if name == "poisson":
        return baselines.poisson(pasted, head.image, body.image)
    if name in ("telea", "navier-stokes"):
        return baselines.inpaint(pasted, name == "navier-stokes")
    return baselines.cut_and_paste(pasted, body.layout, labels)


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Splits `items` into parts of `size`; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
