"""What was measured, as report.json, report.md and one HTML file that needs no other."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hsd_jax.evaluation import page
from hsd_jax.evaluation.methods import Results, staged_pair
from hsd_jax.evaluation.pairs import Pairing, People
from hsd_jax.evaluation.published import COLUMNS, TABLE_1, TABLE_2
from hsd_jax.imaging import files

ROWS_SHOWN = 6  # best pairs, and as many of the worst
_MOST = 8  # methods beside each other
_QUALITY = 88


@dataclass(frozen=True)
class Gallery:
    """Where the pictures of a report come from."""

    pairs: Sequence[Pairing]
    people: People
    entries: Mapping[str, Results]
    frame: str

    def row(self, place: int) -> list[tuple[str, str]]:
        """(caption, data URI) of head, body and each method's result of a pair."""
        pair = self.pairs[place]
        staged = staged_pair(pair, self.people, self.frame, True)
        shown = [("head", staged.head.image), ("body", staged.body.image)]
        for name, entry in list(self.entries.items())[:_MOST]:
            shown.append((name, files.open_photo(entry.path(pair))))
        return [(caption, inlined(picture)) for caption, picture in shown]


def inlined(picture: np.ndarray) -> str:
    """A picture as a JPEG in a data URI."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def digits(name: str) -> int:
    """Decimal places of a figure."""
    return 4 if any(part in name for part in ("SSIM", "PD-", "LPIPS", "IDs", "IoU")) else 2


def cell(name: str, figure: Mapping[str, Any]) -> str:
    """`1.23 [1.20, 1.26]`, or the value alone."""
    places = digits(name)
    text = f"{figure['value']:.{places}f}"
    if figure.get("low") is None:
        return text
    return f"{text} [{figure['low']:.{places}f}, {figure['high']:.{places}f}]"


def columns(content: Mapping[str, Any]) -> list[str]:
    """Figures' names in the order in which they were measured."""
    return list(next(iter(content["methods"].values()))["figures"])


def best(content: Mapping[str, Any], name: str) -> float:
    """The best value of a figure over all methods; `body-photo`, which swaps nothing, is none."""
    rows = {key: row for key, row in content["methods"].items() if key != "body-photo"}
    figures = [row["figures"][name] for row in (rows or content["methods"]).values()]
    choose = max if figures[0]["higher_is_better"] else min
    return choose(figure["value"] for figure in figures)


def table(content: Mapping[str, Any]) -> str:
    """Figures by methods in plain text, `*` at the best of each row: there are more figures."""
    methods = list(content["methods"])
    lines = [["", *methods]]
    for name in columns(content):
        top = best(content, name)
        row = [name]
        for method in methods:
            value = content["methods"][method]["figures"][name]["value"]
            mark = "*" if value == top and method != "body-photo" else " "
            row.append(f"{value:.{digits(name)}f}{mark}")
        lines.append(row)
    widths = [max(len(line[i]) for line in lines) for i in range(len(methods) + 1)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def groups(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Figures for one table each: the distances to the real pictures, and what pairs keep."""
    paired = [n for n in names if n.startswith(("head-", "body-", "IDs-"))]
    sets = [n for n in names if n not in paired]
    parts = [("Distances to the real pictures", sets), ("Kept of head and body", paired)]
    return [(title, part) for title, part in parts if part]


def legend(content: Mapping[str, Any]) -> list[str]:
    """What a reader must know, a sentence a line."""
    data = content["data"]
    names = ", ".join(f"{name} ({mark[:8]})" for name, mark in content["extractors"].items())
    lines = [
        f"{data['pairs']} pairs, held against {data['pictures']} pictures of the {data['split']} "
        f"split; layouts {data['layouts']}; data {data['fingerprint']}.",
        f"Features: {names}. Distances of different features, or of other data, cannot be "
        "compared; FD-hsd and KD-hsd are of this project's own parser and are no FID or KID.",
        "KID is times 1000. [ ] are 95 % bootstrap intervals over pictures; where heads and "
        "bodies come in several pairs the true ones are wider. A Frechet distance of few pictures "
        "is biased upwards, alike for all methods of a table; it has no interval. Results share "
        "heads and bodies with the real pictures, which lets both come out too small.",
        "Distances, PD and LPIPS: the lower, the better; SSIM and IDs: the higher.",
    ]
    choices = ", ".join(f"{name} {value}" for name, value in content["choices"].items())
    return [*lines, f"Choices: {choices}.", *content.get("remarks", ())]


def markdown(content: Mapping[str, Any]) -> str:
    """The report as Markdown, without pictures."""
    parts = [f"# hsd eval {content['benchmark']}", *legend(content)]
    methods = content["methods"]
    for title, names in groups(columns(content)):
        lines = [f"| {title} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for method, row in methods.items():
            cells = []
            for name in names:
                figure, text = row["figures"][name], cell(name, row["figures"][name])
                top = figure["value"] == best(content, name) and method != "body-photo"
                cells.append(f"**{text}**" if top else text)
            lines.append(f"| {method} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    parts.append("\n".join(f"- {name}: {row['note']}" for name, row in methods.items()))
    for title, rows in (("table 1, SHHQ256", TABLE_1), ("table 2, SHHQ512", TABLE_2)):
        lines = [f"| The paper, {title} | {' | '.join(COLUMNS)} |", "|---" * 9 + "|"]
        for name, row in rows.items():
            lines.append(f"| {name} | {' | '.join('' if x is None else str(x) for x in row)} |")
        parts.append("\n".join(lines))
    parts.append("The paper's rows are of its own data and FID's features: no baseline for ours.")
    return "\n\n".join(parts) + "\n"


def write(content: Mapping[str, Any], folder: Path, gallery: Gallery | None = None) -> None:
    """Writes report.json, report.md and report.html into `folder`, which exists.

    Args:
      content: of `benchmark.finish`.
      folder: where to.
      gallery: for the best and worst pairs in the HTML; None for no pictures.
    """
    # NaN is no JSON: a figure that does not exist is null.
    clean = _without_nan(content)
    (folder / "report.json").write_text(json.dumps(clean, indent=1, allow_nan=False) + "\n")
    (folder / "report.md").write_text(markdown(content))
    (folder / "report.html").write_text(page.html(content, gallery))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
