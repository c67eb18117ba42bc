"""`hsd eval layout` and `hsd eval parsing`: IoU of generated and of parsed layouts with true ones.

The layout generator is measured as in the paper (section 5.3). Each test layout loses its neck and
what a random other test head covers, the generator fills the holes, and the result is compared with
the true layout. Ten seeds choose the other heads. The paper does not say how IoU is averaged; here
the pixels of the whole split are counted together for each class, and mIoU is the mean over the
classes that the true layouts contain.

The parser is measured on test images, as a swap uses it. For sources with automatic labels, metrics
only show how well the parser reproduces them; the labels of `ccp_gt` are hand-made.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax import weights
from hsd_jax.evaluation.methods import batches
from hsd_jax.evaluation.pairs import (
    GROUPS,
    another,
    from_sources,
    groups_of,
    source_fingerprint,
    usable,
)
from hsd_jax.labels import LabelSet, get_label_set, remap
from hsd_jax.parsing.iou import Confusion, confusion, group_iou, ious, named_ious
from hsd_jax.parsing.photo_parser import PhotoParser
from hsd_jax.runtime import console
from hsd_jax.runtime.files import write_text
from hsd_jax.swapping.mixing import group_mask
from hsd_jax.swapping.plan import classes_without_head, layout_probs
from hsd_jax.swapping.spec import Finish
from hsd_jax.training.augment import fit_partner
from hsd_jax.training.input import load_source
from hsd_jax.training.tasks.layout import holes

PAPER = {"mIoU": (0.9135, 0.0023), "neck IoU": (0.9319, 0.0016)}
"""The paper's mean and deviation over ten seeds (section 5.3), on SHHQ only."""

BATCH = 16
VIEWS = {
    "input": "the layout with its holes, the baseline",
    "generator": "the generator's layout, averaged over mirror images",
    "swap": "as in a swap: the generator's classes, except the head's, in the holes only",
    "visible": "the same, if the neck is known where the other head does not hide it",
}


class Interval(NamedTuple):
    """The mean and standard deviation over seeds, and the 95 % interval of the mean."""

    mean: float
    std: float
    low: float
    high: float


def over_seeds(values: Sequence[float]) -> Interval:
    """The interval of one value per seed, by Student's t."""
    from scipy import stats

    x = np.asarray(values, np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return Interval(mean, 0.0, mean, mean)
    std = float(x.std(ddof=1))
    half = float(stats.t.ppf(0.975, len(x) - 1)) * std / len(x) ** 0.5
    return Interval(mean, std, mean - half, mean + half)


def generator_metrics(counts: Confusion, labels: LabelSet) -> dict[str, float]:
    """mIoU, neck IoU and the IoU of each class."""
    found = {
        "mIoU": float(np.nanmean(ious(counts))),
        "neck IoU": group_iou(counts, list(labels.neck)),
    }
    return found | {f"IoU {name}": value for name, value in named_ious(counts, labels).items()}


class Filler:
    """Runs the layout generator on batches of layouts, at its training size."""

    def __init__(self, folder: Path):
        """Reads the part "layout_generator"."""
        part = weights.load_part(folder, "layout_generator")
        self.labels = labels = get_label_set(part.extra["labels"])
        size = part.extra["size"]
        unet = weights.read_record(folder, "unet")
        finish = Finish.read(unet["extra"].get("finish", {}))

        def inpaint(params: Any, holed: jax.Array) -> jax.Array:
            side = holed.shape[1]
            if side % size:
                raise ValueError(f"layouts of {side} pixels: give a multiple of {size}")
            factor = side // size
            small = holed[:, factor // 2 :: factor, factor // 2 :: factor]
            return layout_probs(part.module, params, small, labels, finish)

        def filled(known: jax.Array, probs: jax.Array) -> jax.Array:
            found = classes_without_head(probs, known.shape[1], labels, finish)
            unknown = ~group_mask(known, (*labels.head, *labels.body, *labels.neck))
            return jnp.where(unknown, found, known)

        def fill(params: Any, layouts: jax.Array, others: jax.Array) -> dict[str, jax.Array]:
            pair = {"layout": layouts, "partner": others}
            holed = holes(pair, labels)
            probs = inpaint(params, holed)
            enlarged = jax.image.resize(probs, (*holed.shape, labels.num_classes), "bilinear")
            visible = holes(pair | {"visible_neck": jnp.ones(len(layouts))}, labels)
            shown = visible if part.extra.get("visible_neck") else holed
            return {
                "input": holed,
                "generator": enlarged.argmax(-1),
                "swap": filled(holed, probs),
                "visible": filled(visible, inpaint(params, shown)),
            }

        self._fill, self._params = jax.jit(fill), part.params

    def __call__(self, layouts: np.ndarray, others: np.ndarray) -> dict[str, np.ndarray]:
        """Covers layouts int `[B, S, S]` by the heads of others; returns `VIEWS`, `[B, S, S]`."""
        lacking = BATCH - len(layouts)
        full = (np.concatenate([x, x[-1:].repeat(lacking, 0)]) for x in (layouts, others))
        found = self._fill(self._params, *full)
        return {name: np.asarray(x)[: len(layouts)] for name, x in found.items()}


def evaluate(
    layouts: Sequence[np.ndarray], fill: Filler, seeds: Sequence[int], fitted: bool
) -> dict[str, list[dict[str, float]]]:
    """Computes the metrics of each seed for each of `VIEWS`.

    Args:
      layouts: uint8 `[S, S]`, in the generator's label set.
      fill: the generator.
      seeds: each assigns another layout to every layout.
      fitted: whether to move the other's face to the size and place of this one's first, like a
        swap's crops; the paper does not.

    Raises:
      ValueError: fewer than two layouts.
    """
    if len(layouts) < 2:
        raise ValueError(f"{len(layouts)} layouts: a head-cover needs two")
    labels = fill.labels
    found: dict[str, list[dict[str, float]]] = {view: [] for view in VIEWS}
    with console.Progress(len(seeds) * len(layouts), "layout") as progress:
        for seed in seeds:
            counts = {view: np.zeros((labels.num_classes,) * 2, np.int64) for view in VIEWS}
            for places in batches(range(len(layouts)), BATCH):
                true = np.stack([layouts[i] for i in places])
                others = np.stack([_other(layouts, i, seed, fitted, labels) for i in places])
                for view, result in fill(true.astype(np.int32), others.astype(np.int32)).items():
                    counts[view] += confusion(true, result, labels.num_classes)
                progress.update(len(places))
            for view, count in counts.items():
                found[view].append(generator_metrics(count, labels))
    return found


def _other(
    layouts: Sequence[np.ndarray], place: int, seed: int, fitted: bool, labels: LabelSet
) -> np.ndarray:
    rng = np.random.default_rng((seed, place))
    partner = layouts[another(rng, place, len(layouts))]
    if not fitted:
        return partner
    return fit_partner(partner, layouts[place], labels.face, rng, jitter=0.0)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """`hsd eval layout`; returns the report and writes it to the file of --json."""
    if options.json and (options.json.is_dir() or not options.json.parent.is_dir()):
        raise ValueError(f"{options.json}: give a file in a folder that exists")
    source, labels = load_source(options.data, options.split, name=options.dataset), options.labels
    fill = Filler(weights.find(options.weights))
    chosen = usable(source, labels, options.sources)[: options.count]
    layouts = [remap(np.asarray(source.layout(i)), labels, fill.labels) for i in chosen]
    seeds = range(options.seed, options.seed + options.seeds)
    measured = evaluate(layouts, fill, seeds, options.cover == "fitted")
    summary = {
        view: {name: over_seeds([row[name] for row in rows])._asdict() for name in rows[0]}
        for view, rows in measured.items()
    }
    content = {
        "benchmark": "layout",
        "weights": weights.find(options.weights).resolve().name,
        "data": source_fingerprint(source),
        "layouts": len(layouts),
        "seeds": list(seeds),
        "cover": options.cover,
        "metrics": summary,
        "paper": PAPER,
    }
    if options.json:
        write_text(options.json, json.dumps(content, indent=1) + "\n")
    print(f"{len(layouts)} {options.split} layouts, {len(seeds)} seeds, cover {options.cover}: "
          "mean +- deviation [95 % interval of the mean]")  # fmt: skip
    print(table(summary))
    return content


def table(summary: dict[str, dict[str, dict[str, float]]]) -> str:
    """A text table of views by mIoU and neck IoU, with the paper's row."""
    rows = [
        [
            view,
            *(
                f"{x['mean']:.4f} +- {x['std']:.4f} [{x['low']:.4f}, {x['high']:.4f}]"
                for x in (metrics[name] for name in PAPER)
            ),
        ]
        for view, metrics in summary.items()
    ]
    rows.append(["the paper", *(f"{mean:.4f} +- {std:.4f}" for mean, std in PAPER.values())])
    return console.table(["", *PAPER], rows)


def parser_metrics(counts: Confusion, labels: LabelSet) -> dict[str, float]:
    """The IoU of every class that occurs, and of `person`, everything but background."""
    person = [i for i in range(labels.num_classes) if i != labels.background]
    return named_ious(counts, labels) | {"person": group_iou(counts, person)}


def run_parsing(options: argparse.Namespace) -> None:
    """`hsd eval parsing`.

    Raises:
      ValueError: no such data, weights or sources.
    """
    part = weights.load_part(weights.find(options.weights), "parser")
    source, parser = load_source(options.data, "test"), PhotoParser(part)
    labels, chosen = parser.labels, from_sources(source, options.sources)
    counts: dict[str, list[Confusion]] = {}
    with console.Progress(len(chosen)) as progress:
        for example in (source[i] for i in chosen):
            image, layout = example["image"], example["layout"]
            seen = parser.probabilities(image).argmax(-1)
            for group in ("all", *(groups_of(image, layout, labels) if options.groups else ())):
                matrix = confusion(layout, seen, labels.num_classes)
                counts.setdefault(group, []).append(matrix)
            progress.update()
    columns = [group for group in ("all", *GROUPS) if group in counts]
    found = {group: parser_metrics(np.sum(counts[group], 0), labels) for group in columns}
    rows = [[name, *(found[group].get(name) for group in columns)] for name in found["all"]]
    print(f"{len(chosen)} test images, weights {options.weights}")
    print(console.table(["IoU", *(f"{group} ({len(counts[group])})" for group in columns)], rows))
