"""The HTML of a report: one file, no scripts, nothing fetched."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hsd_jax.evaluation.report import Gallery

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 78em; padding: 0 1em;
       color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
td.best { font-weight: 700 } td small { color: #777; display: block }
.wide { overflow-x: auto } .pair { display: flex; gap: 4px; margin: 0 0 10px; overflow-x: auto }
figure { margin: 0 } figure img { width: 150px; height: 150px; display: block }
figcaption { font-size: 11px; color: #555 } .plots { display: flex; flex-wrap: wrap; gap: 1em }
"""
_COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#66518c", "#7f5539", "#3a9ea5", "#888888")
_BINS = 24
_WIDTH, _HEIGHT = 340, 150


def html(content: Mapping[str, Any], gallery: "Gallery | None") -> str:
    """The page; `content` as in `report.write`."""
    from hsd_jax.evaluation import report

    title = f"hsd eval {content['benchmark']}"
    parts = [f"<h1>{escape(title)}</h1>"]
    parts += [f"<p>{escape(line)}</p>" for line in report.legend(content)]
    for heading, names in report.groups(report.columns(content)):
        parts.append(f"<h2>{escape(heading)}</h2>" + _figures(content, names))
    notes = "".join(
        f"<li><b>{escape(name)}</b>: {escape(row['note'])}</li>"
        for name, row in content["methods"].items()
    )
    parts.append(f"<ul>{notes}</ul><h2>The paper's rows</h2>")
    parts.append("<p>Of its own data and FID's features: no baseline for ours.</p>")
    tables = (("Table 1, SHHQ256", report.TABLE_1), ("Table 2, SHHQ512", report.TABLE_2))
    parts += [_published(name, rows, report.COLUMNS) for name, rows in tables]
    parts.append("<h2>Pair by pair</h2>" + _histograms(content))
    if gallery is not None:
        parts.append(_pairs(content, gallery, report.ROWS_SHOWN))
    style, body = f"<style>{_STYLE}</style>", "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title>{style}'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _figures(content: Mapping[str, Any], names: Sequence[str]) -> str:
    from hsd_jax.evaluation import report

    rows = []
    for method, row in content["methods"].items():
        cells = []
        for name in names:
            figure = row["figures"][name]
            value, _, interval = report.cell(name, figure).partition(" ")
            top = figure["value"] == report.best(content, name) and method != "body-photo"
            small = f"<small>{interval}</small>" if interval else ""
            cells.append(f'<td{" class=best" if top else ""}>{value}{small}</td>')
        rows.append(f"<tr><td>{escape(method)}</td>{''.join(cells)}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in ("method", *names))
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _published(
    title: str, rows: Mapping[str, Sequence[float | None]], columns: Sequence[str]
) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in (title, *columns))
    body = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{'' if value is None else value}</td>" for value in row)
        + "</tr>"
        for name, row in rows.items()
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _histograms(content: Mapping[str, Any]) -> str:
    """One plot a figure, one line a method."""
    rows = {name: row for name, row in content["per_pair"].items() if name != "id"}
    figures = list(next(iter(rows.values())))
    plots = [
        histogram(name, {method: np.array(row[name], float) for method, row in rows.items()})
        for name in figures
    ]
    return f'<div class="plots">{"".join(plots)}</div>'


def histogram(title: str, values: Mapping[str, np.ndarray]) -> str:
    """Step lines as inline SVG: how many pairs have which value."""
    finite = {name: x[np.isfinite(x)] for name, x in values.items()}
    every = np.concatenate([x for x in finite.values() if x.size] or [np.zeros(1)])
    low, high = (float(x) for x in np.percentile(every, [0.5, 99.5]))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    counts = {name: np.histogram(np.clip(x, low, high), edges)[0] for name, x in finite.items()}
    most = max(1, *(int(c.max()) for c in counts.values()))
    lines, keys = [], []
    for i, (name, count) in enumerate(counts.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        xs = np.repeat(np.linspace(0, _WIDTH, _BINS + 1), 2)[1:-1]
        ys = np.repeat(_HEIGHT * (1 - count / most), 2)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        keys.append(f'<span style="color:{colour}">{escape(name)}</span>')
    axis = (
        f'<line x1="0" y1="{_HEIGHT}" x2="{_WIDTH}" y2="{_HEIGHT}" stroke="#999"/>'
        f'<text x="0" y="{_HEIGHT + 14}" font-size="11">{low:.3g}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 14}" font-size="11" text-anchor="end">{high:.3g}</text>'
    )
    svg = (
        f'<svg width="{_WIDTH}" height="{_HEIGHT + 18}" viewBox="0 0 {_WIDTH} {_HEIGHT + 18}" '
        f'role="img">{"".join(lines)}{axis}</svg>'
    )
    return f"<div><h4>{escape(title)}</h4>{svg}<div><small>{' '.join(keys)}</small></div></div>"


def ranking(content: Mapping[str, Any]) -> tuple[str, str, np.ndarray]:
    """The method and figure that order the pairs, and their order, best first."""
    method = next(iter(content["methods"]))
    numbers = content["per_pair"][method]
    figure = next((name for name in numbers if name.startswith("Focal-NN-")), list(numbers)[0])
    return method, figure, np.argsort(np.array(numbers[figure], float), kind="stable")


def _pairs(content: Mapping[str, Any], gallery: "Gallery", count: int) -> str:
    method, figure, order = ranking(content)
    count = min(count, len(order) // 2)
    parts = [
        f"<p>Ordered by {escape(figure)} of {escape(method)}, the mean distance of a result's "
        "features to the five nearest real pictures'. The pictures are of the data set: publish "
        "this page only if their licence and the people on them allow it.</p>"
    ]
    for title, places in (("Best", order[:count]), ("Worst", order[::-1][:count])):
        parts.append(f"<h3>{title}</h3>")
        for place in places:
            shown = "".join(
                f'<figure><img src="{uri}" alt="{escape(caption)}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
                for caption, uri in gallery.row(int(place))
            )
            name = escape(gallery.pairs[place].id)
            parts.append(f'<p>Pair {name}</p><div class="pair">{shown}</div>')
    return "\n".join(parts)
