"""`hsd eval collect`: the results of reports and training runs as one CSV and, if asked, a plot."""

import argparse
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hsd_jax.runtime.files import write_bytes, write_text

_INCHES = (6.4, 4.0)


@dataclass(frozen=True)
class Result:
    """A row of a report, or a training run.

    Attributes:
      source: the file or folder it was read from.
      name: of the row or run.
      settings: what it was made with.
      values: its metrics; NAME:low and NAME:high are the ends of NAME's 95 % interval, and
        NAME:difference is the difference from the report's first row, with ends of its own.
    """

    source: str
    name: str
    settings: Mapping[str, Any]
    values: Mapping[str, float]

    @property
    def facts(self) -> dict[str, Any]:
        """Settings and values together."""
        return {**self.settings, **self.values}


def run(options: argparse.Namespace) -> None:
    """`hsd eval collect`.

    Raises:
      ValueError: something given is no report or run, or has nothing to plot.
    """
    found = [result for path in options.sources for result in read(path)]
    # Before anything is written: a wrong --y changes nothing.
    figure = draw(found, options.x, options.y) if options.y else None
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "results.csv"
    write_text(path, as_csv(found))
    print(f"wrote {path}: {len(found)} results")
    if figure is not None:
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150)
        write_bytes(options.output / "results.png", file.getvalue())
        print(f"wrote {options.output / 'results.png'}: {options.y} against {options.x}")


def read(path: Path) -> list[Result]:
    """The results of a report.json, of a folder with one, or of a training's folder.

    Raises:
      ValueError: it is none of these, or damaged.
    """
    report = path / "report.json" if path.is_dir() else path
    try:
        if report.is_file():
            return _of_report(report, json.loads(report.read_text()))
        if (path / "config.json").is_file():
            return [_of_run(path)]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no report or training run: {error!r}") from error
    raise ValueError(f"{path}: give a report.json, its folder, or the folder of a training run")


def _of_report(path: Path, content: Mapping[str, Any]) -> list[Result]:
    shared = {key: content[key] for key in ("solver", "steps", "seed")}
    results = []
    for name, method in content["methods"].items():
        # A row is what its settings say; another method is known by its name alone.
        own = content.get("rows", {}).get(name, {"method": name})
        apart = content.get("differences", {}).get("methods", {}).get(name, {})
        values = _numbers(method["metrics"])
        values |= _numbers({f"{metric}:difference": value for metric, value in apart.items()})
        results.append(Result(str(path), name, shared | own, values))
    return results


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Values by name, and the ends of their intervals."""
    values = {}
    for metric, value in metrics.items():
        values[metric] = value["value"]
        if value["low"] is not None:
            values |= {f"{metric}:{end}": value[end] for end in ("low", "high")}
    return values


def _of_run(folder: Path) -> Result:
    """A training run, with the newest value of each metric of its evaluations."""
    config = json.loads((folder / "config.json").read_text())
    values: dict[str, float] = {}
    lines = folder / "metrics.jsonl"
    for line in lines.read_text().splitlines() if lines.is_file() else ():
        entry = json.loads(line)
        evaluated = {key: value for key, value in entry.items() if "/" in key}
        values |= evaluated and {"step": entry["step"], **evaluated}
    return Result(str(folder), folder.name, dict(_flat(config)), values)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def as_csv(results: Sequence[Result]) -> str:
    """One line a result; of the settings those come first that any results have."""
    names = dict.fromkeys(key for result in results for key in result.settings)
    names |= dict.fromkeys(key for result in results for key in result.values)
    file = io.StringIO()
    writer = csv.DictWriter(file, ["source", "name", *names], lineterminator="\n")
    writer.writeheader()
    for result in results:
        writer.writerow({"source": result.source, "name": result.name, **result.facts})
    return file.getvalue()


def draw(results: Sequence[Result], x: str, y: str) -> Figure:
    """Plots `y` with its intervals against `x`: results that differ in `x` alone are a line.

    Raises:
      ValueError: no result has numbers for both.
    """
    having = [r for r in results if _is_number(r.facts.get(x)) and _is_number(r.facts.get(y))]
    if not having:
        known = sorted({k for r in results for k, v in r.facts.items() if _is_number(v)})
        raise ValueError(f"no result has numbers for {x!r} and {y!r}: it has {', '.join(known)}")
    lines: dict[tuple[Any, ...], dict[float, Result]] = {}
    keys = sorted({key for result in having for key in result.settings} - {x, y})
    for result in having:
        same = tuple(str(result.settings.get(key)) for key in keys)
        lines.setdefault(same, {})[result.facts[x]] = result
    if longer := {same: line for same, line in lines.items() if len(line) > 1}:
        lines = longer
    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    differing = [i for i in range(len(keys)) if len({same[i] for same in lines}) > 1]
    for same, line in lines.items():
        # One key explains itself, as dpmpp does; values of several need their keys.
        named = len(differing) > 1
        label = ", ".join(f"{keys[i]} " * named + same[i] for i in differing)
        places = sorted(line)
        facts = [line[place].facts for place in places]
        (curve,) = axes.plot(places, [f[y] for f in facts], "o-", label=label)
        low, high = ([f.get(f"{y}:{end}", f[y]) for f in facts] for end in ("low", "high"))
        axes.vlines(places, low, high, colors=curve.get_color(), alpha=0.4)
    if differing:
        axes.legend()
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
