"""`hsd eval ablation`: the rows of the paper's table 3, on whatever weights are given.

Pictures are decoded from latents altogether, as in the paper: with pixels kept from the photos the
rows would differ less. What is kept is the same in all rows; only the condition and the LDM differ.
"""

import argparse
import importlib.util
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import hsd_jax
from hsd_jax import weights
from hsd_jax.evaluation import benchmark, features, methods, sampling
from hsd_jax.evaluation.measure import measure


class Row(NamedTuple):
    """A row of the table.

    Attributes:
      name: as the report shows it.
      weights: which of the given weights it uses.
      inpaint: whether the layout generator fills the condition's holes.
      paper: FID, Mask-FID and Focal-FID there.
      needs: what these weights are, in words.
    """

    name: str
    weights: str
    inpaint: bool
    paper: tuple[float, ...]
    needs: str

    @property
    def folder(self) -> str:
        """A name for its results."""
        return re.sub(r"\W+", "-", self.name.lower()).strip("-")


def load_rows(path: Path) -> list[Row]:
    """The rows of a config file: those of `get_config().rows`.

    Raises:
      ValueError: no such file, or no rows in it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file: give configs/ablations.py of the repository")
    spec = importlib.util.spec_from_file_location("hsd_ablation_config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file: give configs/ablations.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        rows = [Row(**dict(row)) for row in module.get_config().rows]
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path} has no rows of {', '.join(Row._fields)}: {error}") from error
    return [row._replace(paper=tuple(row.paper)) for row in rows]


def given_weights(specs: Sequence[str]) -> dict[str, Path]:
    """NAME=DIR each; DIR may be a shipped name.

    Raises:
      ValueError: another form, or no such weights.
    """
    found = {}
    for spec in specs:
        name, equals, folder = spec.partition("=")
        if not equals:
            raise ValueError(f"--weights {spec}: give NAME=DIR, such as plain=runs/plain")
        found[name] = weights.find(folder)
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """`hsd eval ablation`; returns the report that it has written."""
    rows, given = load_rows(options.config), given_weights(options.weights)
    if unknown := set(given) - {row.weights for row in rows}:
        known = ", ".join(sorted({row.weights for row in rows}))
        raise ValueError(f"no row needs weights {unknown.pop()!r}: use {known}")
    chosen = [row for row in rows if row.weights in given]
    if not chosen:
        needs = "; ".join(f"{row.weights} is {row.needs}" for row in rows)
        raise ValueError(f"no row has its weights: {needs}")
    state = benchmark.setting(options)
    settings = {
        "data": state.data["fingerprint"],
        "layouts": state.data["layouts"],
        "pairs": state.data["pairs_fingerprint"],
        "frame": state.choices.frame,
        "version": hsd_jax.__version__,
        "seed": options.seed,
        "solver": options.solver,
        "steps": options.steps,
    }
    methods.check_settings(options.output, settings)
    progress = methods.Progress()
    entries = {}
    for row in chosen:
        base = options.output / "rows" / row.folder
        marks = {"weights": sampling.fingerprint(given[row.weights]), "inpaint": row.inpaint}
        methods.check_settings(base, marks)
        entries[row.name] = methods.Results(base / "results", aligned=True)
        sampler = partial(
            sampling.Sampler, given[row.weights], seed=options.seed, solver=options.solver,
            steps=options.steps, inpaint=row.inpaint,
        )  # fmt: skip
        result = {"hsd-latents": entries[row.name]}
        methods.produce(
            state.pairs, state.people, result, state.choices.frame, sampler, progress
        )
    extractors = benchmark.make_extractors(options.extractors)
    embedded = next((e for e in extractors if e.name == "hsd"), None) or features.embedded()
    measured = measure(
        state.pairs, state.real, entries, extractors,
        benchmark.make_measures(options, state.choices, embedded), state.choices,
        seed=options.seed, parse=state.parse, progress=progress,
    )  # fmt: skip
    facts = benchmark.about(state, extractors) | {
        "benchmark": "ablation",
        "weights": {name: sampling.fingerprint(folder) for name, folder in given.items()},
        **{name: settings[name] for name in ("seed", "solver", "steps")},
        "remarks": _remarks(rows, given),
    }
    notes = {row.name: _note(row) for row in chosen}
    return benchmark.finish(options.output, facts, state, entries, measured, notes, options)


def _note(row: Row) -> str:
    condition = "inpainted" if row.inpaint else "with its holes"
    figures = zip(("FID", "Mask-FID", "Focal-FID"), row.paper, strict=False)
    paper = ", ".join(f"{name} {value}" for name, value in figures)
    return f"weights {row.weights}, layout {condition}; the paper: {paper}"


def _remarks(rows: Sequence[Row], given: Mapping[str, Path]) -> list[str]:
    return [
        f"Not measured: {row.name}. It needs the weights {row.weights!r}, {row.needs}."
        for row in rows
        if row.weights not in given
    ]
