"""Writes the results as report.json, report.md and a self-contained report.html."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from hsd_jax.evaluation.measure import REGIONS
from hsd_jax.evaluation.methods import Results, staged_pair
from hsd_jax.evaluation.metrics import rank_correlations
from hsd_jax.evaluation.pairs import Pairing, People
from hsd_jax.imaging import files
from hsd_jax.runtime import console
from hsd_jax.runtime.files import write_text

ROWS_SHOWN = 6  # best pairs, and as many of the worst
_MOST = 8  # methods side by side
_QUALITY = 88
_BINS = 24

PAPER_COLUMNS = (
    *("IDs", "head SSIM", "head LPIPS", "body SSIM", "body LPIPS"),
    *("FID", "Mask-FID", "Focal-FID"),
)
_SAME = (None,) * 5
# HS-Diffusion, arXiv 2212.06458: half-body SHHQ, 2,000 pairs; LPIPS is AlexNet's. Other images,
# extractor weights and choices than ours: not comparable with other data.
PAPER: dict[str, dict[str, tuple[float | None, ...]]] = {
    "table 1, SHHQ256": {
        "Cut-and-Paste": (*_SAME, 26.22, None, 31.48),
        "Cut-and-Paste, aligned": (*_SAME, 26.17, None, 31.18),
        "PDGAN": (0.9826, 0.9906, 0.0095, 0.9702, 0.0413, 23.83, 56.68, 37.98),
        "PDGAN, aligned": (0.9885, 0.9941, 0.0081, 0.9697, 0.0422, 23.72, 57.15, 38.66),
        "MAT": (0.9883, 0.9968, 0.0008, 0.9719, 0.0372, 16.64, 35.05, 19.51),
        "MAT, aligned": (0.9899, 0.9979, 0.0007, 0.9713, 0.0383, 16.11, 33.28, 18.74),
        "StyleMapGAN": (0.7553, 0.8956, 0.0638, 0.8170, 0.1295, 32.25, 25.51, 32.88),
        "StyleMapGAN, aligned": (0.7567, 0.8992, 0.0606, 0.8166, 0.1278, 31.51, 24.44, 31.94),
        "InsetGAN": (0.8235, 0.8670, 0.0936, 0.8085, 0.1157, 28.18, 47.91, 25.58),
        "InsetGAN, aligned": (0.8227, 0.8673, 0.0962, 0.8097, 0.1144, 28.39, 48.46, 25.78),
        "HS-Diffusion": (0.9783, 0.9686, 0.0237, 0.9308, 0.0518, 11.45, 19.86, 12.34),
        "HS-Diffusion, aligned": (0.9812, 0.9689, 0.0233, 0.9310, 0.0517, 11.24, 18.57, 11.80),
    },
    "table 2, SHHQ512": {
        "Cut-and-Paste, aligned": (*_SAME, 26.22, None, 31.48),
        "PDGAN, aligned": (0.9828, 0.9957, 0.0236, 0.9546, 0.0605, 38.05, 77.43, 37.02),
        "MAT, aligned": (0.9917, 0.9959, 0.0006, 0.9710, 0.0299, 12.84, 33.96, 18.53),
        "StyleMapGAN, aligned": (0.8368, 0.9145, 0.0416, 0.8332, 0.1068, 30.38, 35.05, 35.71),
        "InsetGAN": (0.8247, 0.8712, 0.0963, 0.8096, 0.1153, 29.96, 49.88, 27.98),
        "HS-Diffusion, aligned": (0.9913, 0.9813, 0.0125, 0.9545, 0.0354, 10.73, 21.26, 11.42),
    },
}


@dataclass(frozen=True)
class Gallery:
    """The source of a report's images."""

    pairs: Sequence[Pairing]
    people: People
    entries: Mapping[str, Results]
    frame: str

    def row(self, place: int) -> dict[str, str]:
        """Data URIs of a pair's head, body and results, by caption."""
        pair = self.pairs[place]
        staged = staged_pair(pair, self.people, self.frame, True)
        shown = {"head": staged.head.image, "body": staged.body.image}
        for name, entry in list(self.entries.items())[:_MOST]:
            shown[name] = files.open_photo(entry.path(pair))
        return {caption: inlined(image) for caption, image in shown.items()}


def inlined(image: np.ndarray) -> str:
    """Encodes an image as a JPEG data URI."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


class Cell(NamedTuple):
    """A metric of a method as text: its value, its interval or "", whether it is in bold."""

    value: str
    interval: str
    bold: bool


def columns(content: Mapping[str, Any]) -> list[str]:
    """The metrics' names in the order in which they were measured."""
    return list(next(iter(content["methods"].values()))["metrics"])


def best(content: Mapping[str, Any], name: str) -> float:
    """The best value of a metric over all methods except `body-photo`, which swaps nothing."""
    rows = {key: row for key, row in content["methods"].items() if key != "body-photo"}
    values = [row["metrics"][name] for row in (rows or content["methods"]).values()]
    choose = max if values[0]["higher_is_better"] else min
    return choose(value["value"] for value in values)


def cell(content: Mapping[str, Any], method: str, name: str) -> Cell:
    """Formats a metric of a method; the best is bold."""
    value = content["methods"][method]["metrics"][name]
    top = value["value"] == best(content, name) and method != "body-photo"
    return _cell(name, value, "", top)


def difference(content: Mapping[str, Any], method: str, name: str) -> Cell:
    """Formats a metric's difference from the first method's; bold if its interval is without 0."""
    value = content["differences"]["methods"][method][name]
    low, high = value["low"], value["high"]
    return _cell(name, value, "+", low is not None and not low <= 0 <= high)


def _cell(name: str, value: Mapping[str, Any], sign: str, bold: bool) -> Cell:
    places = 4 if any(part in name for part in ("SSIM", "PD-", "LPIPS", "IDs", "IoU")) else 2
    form = f"{sign}.{places}f"
    interval = ""
    if value.get("low") is not None:
        interval = f"[{value['low']:{form}}, {value['high']:{form}}]"
    return Cell(f"{value['value']:{form}}", interval, bold)


def table(content: Mapping[str, Any]) -> str:
    """A text table of metrics (rows) by methods, with `*` at the best of each row."""
    methods = list(content["methods"])
    rows = []
    for name in columns(content):
        cells = (cell(content, method, name) for method in methods)
        rows.append([name, *(x.value + ("*" if x.bold else "") for x in cells)])
    return console.table(["", *methods], rows, "plain")


def _sections(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Distances to the real images and what pairs keep: their values, and the differences."""
    names = columns(content)
    paired = [n for n in names if n.startswith(("head-", "body-", "IDs-"))]
    sets = [n for n in names if n not in paired]
    parts = {"Distances to the real images": sets, "Kept of head and body": paired}
    tables = {"": (content["methods"], cell)}
    if rows := content["differences"]["methods"]:
        tables[f": difference from {content['differences']['from']}"] = (rows, difference)
    return [
        {
            "title": title + what,
            "columns": part,
            "rows": {row: [make(content, row, name) for name in part] for row in rows},
        }
        for what, (rows, make) in tables.items()
        for title, part in parts.items()
        if part
    ]


def agreement(content: Mapping[str, Any]) -> list[str]:
    """How alike extractors rank the methods: Spearman's correlation, a line for each region."""
    methods = [row["metrics"] for name, row in content["methods"].items() if name != "body-photo"]
    lines = []
    for region in REGIONS:
        names = [n for n in columns(content) if n.startswith((f"{region}FD-", f"{region}FID"))]
        values = {name: [row[name]["value"] for row in methods] for name in names}
        if len(names) > 1 and len(methods) > 2:
            lines.append(f"Rank correlation over the methods: {rank_correlations(values)}.")
    return lines


def legend(content: Mapping[str, Any]) -> list[str]:
    """What readers of the report must know."""
    data = content["data"]
    names = ", ".join(f"{name} ({mark[:8]})" for name, mark in content["extractors"].items())
    lines = [
        f"{data['pairs']} pairs, compared with {data['images']} images of the {data['split']} "
        f"split; layouts {data['layouts']}; data {data['fingerprint']}.",
        f"Features: {names}. Distances of different features, or of other data, cannot be "
        "compared; FD-hsd and KD-hsd use this project's own parser and are not FID or KID.",
        "KID is multiplied by 1000. [ ] are 95 % bootstrap intervals over images; if heads and "
        "bodies occur in several pairs, the true intervals are wider. A Frechet distance of few "
        "images is biased upwards, equally for all methods of a table; its interval is about the "
        "biased value. Results share heads and bodies with the real images, which makes both too "
        "small.",
        "Distances, PD and LPIPS: lower is better; SSIM and IDs: higher is better.",
        "Differences are of the same pairs, resampled alike, and bold where their interval is "
        "without 0; of many, one in twenty is so by chance.",
        *agreement(content),
    ]
    choices = ", ".join(f"{name} {value}" for name, value in content["choices"].items())
    return [*lines, f"Choices: {choices}.", *content.get("remarks", ())]


def histograms(content: Mapping[str, Any]) -> list[str]:
    """One plot per metric, with one line per method."""
    rows = {name: row for name, row in content["per_pair"].items() if name != "id"}
    return [
        histogram(name, {method: np.array(row[name], float) for method, row in rows.items()})
        for name in next(iter(rows.values()))
    ]


def histogram(title: str, values: Mapping[str, np.ndarray]) -> str:
    """A histogram of the pairs' values, as an SVG element."""
    finite = {name: x[np.isfinite(x)] for name, x in values.items()}
    every = np.concatenate([x for x in finite.values() if x.size] or [np.zeros(1)])
    low, high = (float(x) for x in np.percentile(every, [0.5, 99.5]))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    figure = Figure(figsize=(4.4, 2.4), layout="constrained")
    axes = figure.add_subplot(title=title, ylabel="pairs")
    for name, x in finite.items():
        axes.hist(
            np.clip(x, low, high), _BINS, range=(low, high), histtype="step", label=name
        )
    axes.legend(fontsize="x-small")
    file = io.StringIO()
    # Text stays text, and nothing depends on the time or the process.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def ranking(content: Mapping[str, Any]) -> tuple[str, str, np.ndarray]:
    """The method and metric that order the pairs, and their order, best first."""
    method = next(iter(content["methods"]))
    numbers = content["per_pair"][method]
    metric = next((name for name in numbers if name.startswith("Focal-NN-")), list(numbers)[0])
    return method, metric, np.argsort(np.array(numbers[metric], float), kind="stable")


def _shown_pairs(content: Mapping[str, Any], gallery: Gallery) -> dict[str, Any]:
    method, metric, order = ranking(content)
    count = min(ROWS_SHOWN, len(order) // 2)
    return {
        "method": method,
        "metric": metric,
        "parts": {
            title: {gallery.pairs[i].id: gallery.row(int(i)) for i in places}
            for title, places in (("Best", order[:count]), ("Worst", order[::-1][:count]))
        },
    }


def templates() -> Environment:
    """The templates of this folder; what is put into HTML is escaped."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def write(content: Mapping[str, Any], folder: Path, gallery: Gallery | None = None) -> None:
    """Writes report.json, report.md and report.html into `folder`, which exists.

    Args:
      content: see `benchmark`.
      folder: where to.
      gallery: for the best and worst pairs in the HTML; None for no images.
    """
    # JSON has no NaN: missing values are null.
    clean = _without_nan(content)
    write_text(folder / "report.json", json.dumps(clean, indent=1, allow_nan=False) + "\n")
    shown = {
        "title": f"hsd eval {content['benchmark']}",
        "legend": legend(content),
        "sections": _sections(content),
        "notes": {name: row["note"] for name, row in content["methods"].items()},
        "paper_columns": PAPER_COLUMNS,
        "paper": PAPER,
    }
    write_text(folder / "report.md", templates().get_template("report.md.j2").render(shown))
    shown["histograms"] = histograms(content)
    shown["pairs"] = None if gallery is None else _shown_pairs(content, gallery)
    write_text(folder / "report.html", templates().get_template("report.html.j2").render(shown))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
