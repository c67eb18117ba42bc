"""`hsd eval swap`: the paper's protocol (sections 4.1 and 4.2) from a list of pairs to a report."""

import argparse
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import hsd_jax
from hsd_jax import weights
from hsd_jax.evaluation import cache, features, methods, report, sampling, similarity
from hsd_jax.evaluation.measure import Measured, Real, measure
from hsd_jax.evaluation.pairs import Pairing, People, read_pairs, usable
from hsd_jax.evaluation.regions import Choices
from hsd_jax.labels import LabelSet, remap
from hsd_jax.training.input import load_source

EXTRACTOR_FACE = 128  # side of the faces that the embedded extractor sees


@dataclass(frozen=True)
class Setting:
    """What every part of an evaluation needs: the pictures, the pairs, how they are measured."""

    people: People
    pairs: tuple[Pairing, ...]
    real: Real
    data: dict[str, Any]
    choices: Choices
    parse: Callable[[np.ndarray], np.ndarray]


def setting(options: argparse.Namespace) -> Setting:
    """From the options that `hsd eval swap` and `hsd eval ablation` share.

    Raises:
      ValueError: what `load_source`, `read_pairs` and `Choices` raise.
    """
    names = Choices.__dataclass_fields__
    choices = Choices(**{name: getattr(options, name) for name in names})
    source, labels = load_source(options.data, "test", name=options.dataset), options.labels
    fingerprint = cache.source_fingerprint(source)
    pairs = read_pairs(options.pairs, len(source), fingerprint)[: options.count]
    parse = parser_of(weights.find(), labels)
    people = People(source, labels, remembering(parse) if options.parse else None)
    indices = usable(source, labels, options.sources)
    key = cache.fingerprint(fingerprint, "parsed" if options.parse else "layouts")
    base = None if options.no_cache else cache.folder() / "eval"
    data = {
        "name": options.dataset,
        "labels": labels.name,
        "fingerprint": fingerprint,
        "split": "test",
        "pictures": len(indices),
        "sources": options.sources,
        "layouts": "parsed" if options.parse else "of the data",
        "pairs": len(pairs),
        "pairs_fingerprint": cache.file_fingerprint(options.pairs)[:16],
    }
    return Setting(people, tuple(pairs), Real(people, indices, key, base), data, choices, parse)


def parser_of(folder: Path, labels: LabelSet) -> Callable[[np.ndarray], np.ndarray]:
    """Picture -> layout of `labels` by the parser of some weights, loaded on its first call."""
    loaded: list[Any] = []

    def parse(picture: np.ndarray) -> np.ndarray:
        if not loaded:
            from hsd_jax.parsing.photo_parser import PhotoParser

            loaded.append(PhotoParser(weights.load_part(folder, "parser")))
        return remap(loaded[0].parse(picture)[0], loaded[0].labels, labels)

    return parse


def remembering(parse: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """`parse` that parses each picture once."""
    known: dict[str, np.ndarray] = {}

    def parse_once(picture: np.ndarray) -> np.ndarray:
        key = cache.fingerprint(picture.tobytes())
        if key not in known:
            known[key] = parse(picture)
        return known[key]

    return parse_once


def make_measures(options: argparse.Namespace, choices: Choices, embedded: Any) -> list[Any]:
    """SSIM, PD-hsd and IDs-hsd always; LPIPS and ArcFace when their weights are given."""
    found: list[Any] = [
        similarity.Ssim(choices),
        similarity.ParserDistance(),
        similarity.Identity(embedded, EXTRACTOR_FACE),
    ]
    if options.lpips:
        found.append(similarity.Lpips(options.lpips, choices, options.lpips_backbone))
    if options.arcface:
        faces = similarity.OnnxFaces(options.arcface)
        found.append(similarity.Identity(faces, faces.size))
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """`hsd eval swap`; returns the report that it has written."""
    state = setting(options)
    folder = options.output
    entries = methods.results_in(folder, options.methods)
    strangers = {
        path.name: methods.stranger(path, aligned, state.pairs)
        for paths, aligned in ((options.results, True), (options.results_unaligned, False))
        for path in paths
    }
    if twice := set(strangers) & set(entries):
        raise ValueError(f"{twice.pop()} is a method's name: give --results a folder named else")
    weights_folder = weights.find(options.weights)
    sampled_by = {
        "weights": sampling.fingerprint(weights_folder),
        "seed": options.seed,
        "solver": options.solver,
        "steps": options.steps,
    }
    settings = {
        "data": state.data["fingerprint"],
        "layouts": state.data["layouts"],
        "pairs": state.data["pairs_fingerprint"],
        "frame": state.choices.frame,
        "version": hsd_jax.__version__,
        **sampled_by,
    }
    methods.check_settings(folder, settings)
    progress = methods.Progress()
    extractors = make_extractors(options.extractors)

    def sampler() -> sampling.Sampler:
        return sampling.Sampler(
            weights_folder, seed=options.seed, solver=options.solver, steps=options.steps
        )

    methods.produce(state.pairs, state.people, entries, state.choices.frame, sampler, progress)
    embedded = next((e for e in extractors if e.name == "hsd"), None) or features.embedded()
    entries |= strangers
    measured = measure(
        state.pairs, state.real, entries, extractors,
        make_measures(options, state.choices, embedded), state.choices,
        seed=options.seed, parse=state.parse, progress=progress,
    )  # fmt: skip
    name = weights_folder.resolve().name
    facts = about(state, extractors) | {"benchmark": "swap", "name": name, **sampled_by}
    notes = {name: methods.METHODS.get(name, "results that were given") for name in entries}
    return finish(folder, facts, state, entries, measured, notes, options)


def make_extractors(specs: Sequence[str]) -> Sequence[features.Extractor]:
    """Of the option `--extractors`.

    Raises:
      ValueError: one that cannot be had, or two of one name.
    """
    found = [features.make(spec) for spec in specs]
    names = [extractor.name for extractor in found]
    if len(set(names)) < len(names):
        raise ValueError(f"extractors {', '.join(names)}: give each once")
    return found


def about(state: Setting, extractors: Sequence[features.Extractor]) -> dict[str, Any]:
    """What figures depend on beside the pictures."""
    return {
        "versions": {
            "hsd_jax": hsd_jax.__version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "data": state.data,
        "choices": asdict(state.choices),
        "extractors": {e.name: e.fingerprint for e in extractors},
    }


def finish(
    folder: Path,
    facts: dict[str, Any],
    state: Setting,
    entries: Mapping[str, methods.Results],
    measured: Mapping[str, Measured],
    notes: Mapping[str, str],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Writes the report and prints its table."""
    content = facts | {
        "methods": {
            name: {
                "aligned": entries[name].aligned,
                "note": notes[name],
                "figures": {key: asdict(figure) for key, figure in found.figures.items()},
            }
            for name, found in measured.items()
        },
        "per_pair": {
            "id": [pair.id for pair in state.pairs],
            **{
                name: {key: values.tolist() for key, values in found.per_pair.items()}
                for name, found in measured.items()
            },
        },
    }
    gallery = None
    if not options.no_pictures:
        gallery = report.Gallery(state.pairs, state.people, entries, state.choices.frame)
    report.write(content, folder, gallery)
    print(report.table(content))
    print(f"wrote {folder / 'report.json'}, report.md and report.html")
    return content
