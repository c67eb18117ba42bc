"""`hsd eval swap` and `hsd eval ablation`: the paper's protocol, from a list of pairs to a report.

The protocol is in sections 4.1 and 4.2 of the paper. The ablation measures the rows of table 3
whose weights are given. As in the paper, results are decoded from latents only; with pixels kept
from the photos the rows would differ less. The rows of table 3 keep the same regions
and differ only in the condition and the diffusion model.
"""

import argparse
import importlib.util
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

import hsd_jax
from hsd_jax import weights
from hsd_jax.diffusion.fusion import Draws, Mixed, Mixing
from hsd_jax.diffusion.solvers import SOLVERS
from hsd_jax.evaluation import features, identity, methods, metrics, report, sampling
from hsd_jax.evaluation.measure import Measured, Parse, RealImages, measure
from hsd_jax.evaluation.pairs import Pairing, People, read_pairs, source_fingerprint, usable
from hsd_jax.evaluation.regions import ALIGNMENTS, Alignment, Choices
from hsd_jax.labels import LabelSet, remap
from hsd_jax.parsing.photo_parser import PhotoParser
from hsd_jax.runtime import cache
from hsd_jax.runtime.console import Progress
from hsd_jax.training.input import load_source

PRESERVED = {"latents": "hsd-latents", "photo": "hsd"}  # by `preserve`, our method
EXTRACTOR_FACE = 128  # side of the embedded extractor's face crops


@dataclass(frozen=True)
class Setting:
    """The images, pairs and options of an evaluation."""

    people: People
    pairs: tuple[Pairing, ...]
    real: RealImages
    data: dict[str, Any]
    choices: Choices
    parse: Parse
    sampled_by: dict[str, Any]

    def of_results(self) -> dict[str, Any]:
        """What results depend on besides the weights."""
        return {
            "data": self.data["fingerprint"],
            "layouts": self.data["layouts"],
            "pairs": self.data["pairs_fingerprint"],
            "frame": self.choices.frame,
            "version": hsd_jax.__version__,
            **self.sampled_by,
        }


def setting(options: argparse.Namespace) -> Setting:
    """Reads the options that `hsd eval swap` and `hsd eval ablation` share.

    Raises:
      ValueError: if `load_source`, `read_pairs` or `Choices` do, or there are fewer than two pairs.
    """
    choices = Choices(**{name: getattr(options, name) for name in Choices.__dataclass_fields__})
    source, labels = load_source(options.data, "test", name=options.dataset), options.labels
    fingerprint = source_fingerprint(source)
    pairs = read_pairs(options.pairs, len(source), fingerprint)[: options.count]
    if len(pairs) < 2:
        raise ValueError(f"{len(pairs)} pair has no distance to a set: give two or more")
    parse = parser_of(weights.find(), labels)
    people = People(source, labels, remembering(parse) if options.parse else None)
    indices = usable(source, labels, options.sources)
    key = cache.fingerprint(fingerprint, "parsed" if options.parse else "layouts")
    folder = None if options.no_cache else cache.folder()
    data = {
        "name": options.dataset,
        "labels": labels.name,
        "fingerprint": fingerprint,
        "split": "test",
        "images": len(indices),
        "sources": options.sources,
        "layouts": "parsed" if options.parse else "of the data",
        "pairs": len(pairs),
        "pairs_fingerprint": cache.file_fingerprint(options.pairs)[:16],
    }
    real = RealImages(people, indices, key, folder and folder / "eval")
    sampled_by = {name: getattr(options, name) for name in ("seed", "solver", "steps")}
    return Setting(people, tuple(pairs), real, data, choices, parse, sampled_by)


def parser_of(folder: Path, labels: LabelSet) -> Parse:
    """A parser with layouts in `labels`, which loads its weights on the first call."""
    loaded: list[PhotoParser] = []

    def parse(image: np.ndarray) -> np.ndarray:
        if not loaded:
            loaded.append(PhotoParser(weights.load_part(folder, "parser")))
        return remap(loaded[0].parse(image)[0], loaded[0].labels, labels)

    return parse


def remembering(parse: Parse) -> Parse:
    """Caches the results of `parse` by image."""
    known: dict[str, np.ndarray] = {}

    def parse_once(image: np.ndarray) -> np.ndarray:
        key = cache.fingerprint(image.tobytes())
        if key not in known:
            known[key] = parse(image)
        return known[key]

    return parse_once


def make_extractors(specs: Sequence[str]) -> Sequence[features.Extractor]:
    """Makes the extractors of `--extractors`.

    Raises:
      ValueError: if one is unavailable, or two have the same name.
    """
    found = [features.make(spec) for spec in specs]
    names = [extractor.name for extractor in found]
    if len(set(names)) < len(names):
        raise ValueError(f"extractors {', '.join(names)}: give each once")
    return found


def make_metrics(options: argparse.Namespace, choices: Choices, embedded: Any) -> list[Any]:
    """Makes the metrics: SSIM, PD-hsd and IDs-hsd, and LPIPS and ArcFace if weights are given."""
    found: list[Any] = [
        metrics.Ssim(choices),
        metrics.ParserDistance(),
        identity.Identity(embedded, EXTRACTOR_FACE),
    ]
    if options.lpips:
        found.append(metrics.Lpips(options.lpips, choices, options.lpips_backbone))
    if options.arcface:
        faces = identity.OnnxFaces(options.arcface)
        found.append(identity.Identity(faces, faces.size))
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """`hsd eval swap`; returns the report that it wrote."""
    options.methods = options.methods or list(methods.DEFAULT)
    state, folder = setting(options), weights.find(options.weights)
    entries = methods.results_in(options.output, options.methods)
    given = {
        path.name: methods.given_results(path, aligned, state.pairs)
        for paths, aligned in ((options.results, True), (options.results_unaligned, False))
        for path in paths
    }
    if twice := set(given) & set(entries):
        raise ValueError(f"{twice.pop()} is a method's name: rename the folder of --results")
    sampled_by = {"weights": sampling.fingerprint(folder), **state.sampled_by}
    methods.check_settings(options.output, state.of_results() | sampled_by)
    extractors = make_extractors(options.extractors)
    sampler = partial(sampling.Sampler, folder, **state.sampled_by)
    with Progress() as progress:
        methods.produce(
            state.pairs, state.people, entries, state.choices.frame, sampler, progress
        )
    notes = {name: methods.METHODS[name] for name in entries}
    notes |= {name: "results from a given folder" for name in given}
    facts = {"benchmark": "swap", "name": folder.resolve().name, **sampled_by}
    return _measured(options, state, entries | given, extractors, notes, facts)


@dataclass(frozen=True)
class Row:
    """A row of an ablation: one set of weights, swapped with under some settings.

    Attributes:
      name: the name in the report.
      weights: the name of the weights it uses.
      inpaint: whether the layout generator fills the condition's holes.
      paper: the paper's FID, Mask-FID and Focal-FID, if it has the row.
      needs: a description of the weights.
      solver, steps: as for `hsd swap`; None for the command's options.
      mixing, mixed, draws: see `fusion.fuse`.
      aligned: see `regions.stage`.
      margin: pixels at 256 by which what is generated grows on all sides.
      preserve: whether kept regions are decoded from "latents", as the paper's, or the "photo"'s.

    Raises:
      ValueError: a value that its field does not have.
    """

    name: str
    weights: str
    inpaint: bool = True
    paper: tuple[float, ...] = ()
    needs: str = "weights of a swap"
    solver: str | None = None
    steps: int | None = None
    mixing: str = "every"
    mixed: str = "both"
    draws: str = "fresh"
    aligned: Alignment = True
    margin: int = 0
    preserve: str = "latents"

    def __post_init__(self) -> None:
        for name, known in _ROW_VALUES.items():
            if (value := getattr(self, name)) not in known:
                some = ", ".join(map(repr, known))
                raise ValueError(f"row {self.name!r}: {name} is {value!r}: use one of {some}")
        for name, low in (("margin", 0), ("steps", 2)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= low):
                raise ValueError(f"row {self.name!r}: {name} is {value!r}: give {low} or more")

    @property
    def folder(self) -> str:
        """The name of the folder of its results."""
        return re.sub(r"\W+", "-", self.name.lower()).strip("-")

    @property
    def note(self) -> str:
        """Its note in the report."""
        condition = "inpainted" if self.inpaint else "with its holes"
        facts = [f"weights {self.weights}", f"layout {condition}"]
        facts += [
            f"{field.name} {getattr(self, field.name)}"
            for field in fields(self)
            if field.name not in _NOTED and getattr(self, field.name) != field.default
        ]
        values = zip(("FID", "Mask-FID", "Focal-FID"), self.paper, strict=False)
        paper = ", ".join(f"{name} {value}" for name, value in values)
        return ", ".join(facts) + f"; the paper: {paper}" * bool(paper)

    def settings(self, sampled_by: Mapping[str, Any]) -> dict[str, Any]:
        """What the row's results depend on besides the pairs and the weights' contents."""
        own = {key: value for key, value in asdict(self).items() if key not in _SAID}
        return own | {key: own[key] or sampled_by[key] for key in ("solver", "steps")}


_SAID = ("name", "paper", "needs")
_NOTED = (*_SAID, "weights", "inpaint")
_ROW_VALUES: dict[str, tuple[Any, ...]] = {
    "solver": (None, *SOLVERS),
    "mixing": get_args(Mixing),
    "mixed": get_args(Mixed),
    "draws": get_args(Draws),
    "aligned": ALIGNMENTS,
    "preserve": tuple(PRESERVED),
}


def load_rows(path: Path) -> list[Row]:
    """Reads `get_config().rows` of a config file.

    Raises:
      ValueError: if there is no such file, or it has no rows.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file: give configs/ablations.py of the repository")
    spec = importlib.util.spec_from_file_location("hsd_ablation_config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file: give configs/ablations.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        rows = [Row(**dict(row)) for row in module.get_config().rows]
    except (AttributeError, TypeError) as error:
        known = ", ".join(field.name for field in fields(Row))
        raise ValueError(f"{path} has no rows of {known}: {error}") from error
    folders = [row.folder for row in rows]
    if twice := [name for name in folders if folders.count(name) > 1]:
        raise ValueError(f"{path}: two rows would share the folder {twice[0]}: rename one")
    return [replace(row, paper=tuple(row.paper)) for row in rows]


def given_weights(specs: Sequence[str]) -> dict[str, Path]:
    """Parses texts NAME=DIR, where DIR may be the name of shipped weights.

    Raises:
      ValueError: if a text has another form, or there are no such weights.
    """
    found = {}
    for spec in specs:
        name, equals, folder = spec.partition("=")
        if not equals:
            raise ValueError(f"--weights {spec}: give NAME=DIR, such as plain=runs/plain")
        found[name] = weights.find(folder)
    return found


def run_ablation(options: argparse.Namespace) -> dict[str, Any]:
    """`hsd eval ablation`; returns the report that it wrote."""
    rows, given = load_rows(options.config), given_weights(options.weights)
    if unknown := set(given) - {row.weights for row in rows}:
        known = ", ".join(sorted({row.weights for row in rows}))
        raise ValueError(f"no row needs weights {unknown.pop()!r}: use {known}")
    chosen = [row for row in rows if row.weights in given]
    if not chosen:
        needs = "; ".join(f"{row.weights} is {row.needs}" for row in rows)
        raise ValueError(f"no row has its weights: {needs}")
    state = setting(options)
    marks = {name: sampling.fingerprint(folder) for name, folder in given.items()}
    methods.check_settings(options.output, state.of_results())
    entries = {row.name: _row_results(row, given, marks, state, options.output) for row in chosen}
    remarks = [
        f"Not measured: {row.name}. It needs the weights {row.weights!r}, {row.needs}."
        for row in rows
        if row.weights not in given
    ]
    facts = {
        "benchmark": "ablation",
        "weights": marks,
        **state.sampled_by,
        "rows": {row.name: row.settings(state.sampled_by) for row in chosen},
        "remarks": remarks,
    }
    notes = {row.name: row.note for row in chosen}
    extractors = make_extractors(options.extractors)
    return _measured(options, state, entries, extractors, notes, facts)


def _row_results(
    row: Row, given: Mapping[str, Path], marks: Mapping[str, str], state: Setting, output: Path
) -> methods.Results:
    """Makes a row's missing results."""
    folder, settings = output / "rows" / row.folder, row.settings(state.sampled_by)
    methods.check_settings(folder, settings | {"weights": marks[row.weights]})
    entry = methods.Results(folder / "results", row.aligned)
    for name in ("weights", "aligned", "preserve"):
        settings.pop(name)
    make = partial(
        sampling.Sampler, given[row.weights], seed=state.sampled_by["seed"], **settings
    )
    frame, named = state.choices.frame, {PRESERVED[row.preserve]: entry}
    with Progress() as progress:
        methods.produce(state.pairs, state.people, named, frame, make, progress)
    return entry


def _measured(
    options: argparse.Namespace,
    state: Setting,
    entries: Mapping[str, methods.Results],
    extractors: Sequence[features.Extractor],
    notes: Mapping[str, str],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Measures all methods, writes the report and prints its table."""
    embedded = next((e for e in extractors if e.name == "hsd"), None) or features.embedded()
    measured = measure(
        state.pairs, state.real, entries, extractors,
        make_metrics(options, state.choices, embedded), state.choices,
        seed=options.seed, parse=state.parse,
    )  # fmt: skip
    content = {
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
        **facts,
        "methods": {
            name: _method(found, entries[name].aligned, notes[name])
            for name, found in measured.items()
        },
        "differences": _differences(measured, options.seed),
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
    report.write(content, options.output, gallery)
    print(report.table(content))
    print(f"wrote {options.output / 'report.json'}, report.md and report.html")
    return content


def _differences(measured: Mapping[str, Measured], seed: int) -> dict[str, Any]:
    """What each method's metrics lie above the first one's."""
    (first, base), *others = measured.items()
    rows = {
        name: {key: asdict(value) for key, value in found.minus(base, seed).items()}
        for name, found in others
    }
    return {"from": first, "methods": rows}


def _method(measured: Measured, aligned: Alignment, note: str) -> dict[str, Any]:
    values = {name: asdict(value) for name, value in measured.metrics.items()}
    return {"aligned": aligned, "note": note, "metrics": values}
