"""`hsd eval layout`: the layout generator on test layouts, as the paper measures it (section 5.3).

Each test layout loses its neck and what a random other test head covers; the generator fills the
holes; its layout is compared with the true one. Ten seeds choose the other heads. The paper does
not say over what its IoU means; here the pixels of the whole split are counted together for each
class, and mIoU is the mean over the classes that the true layouts hold.
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
from hsd_jax.evaluation import cache, published
from hsd_jax.evaluation.methods import Progress, batches
from hsd_jax.evaluation.metrics import confusion, ious
from hsd_jax.evaluation.pairs import usable
from hsd_jax.labels import LabelSet, get_label_set, remap
from hsd_jax.swapping.mixing import group_mask, head_cover, remove_neck
from hsd_jax.swapping.plan import classes_without_head, layout_probs
from hsd_jax.swapping.spec import Finish
from hsd_jax.training.augment import fit_partner
from hsd_jax.training.input import load_source

BATCH = 16
VIEWS = {
    "input": "the layout with its holes, which a method must beat",
    "generator": "the generator's layout, mean of two views: straight and mirrored",
    "swap": "the generator's classes in the holes alone, the head's excepted, as in a swap",
}


class Interval(NamedTuple):
    """Mean and standard deviation over the seeds, and the 95 % interval of the mean."""

    mean: float
    std: float
    low: float
    high: float


def over_seeds(values: Sequence[float]) -> Interval:
    """Of one figure a seed; Student's t, as ten seeds are few."""
    from scipy import stats

    x = np.asarray(values, np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return Interval(mean, 0.0, mean, mean)
    std = float(x.std(ddof=1))
    half = float(stats.t.ppf(0.975, len(x) - 1)) * std / len(x) ** 0.5
    return Interval(mean, std, mean - half, mean + half)


def figures(counts: np.ndarray, labels: LabelSet) -> dict[str, float]:
    """mIoU, neck IoU and each class's."""
    values = ious(counts)
    neck = list(labels.neck)
    inside = counts[np.ix_(neck, neck)].sum()
    union = counts[neck].sum() + counts[:, neck].sum() - inside
    found = {"mIoU": float(np.nanmean(values)), "neck IoU": float(inside / max(union, 1))}
    return found | {
        f"IoU {name}": float(value)
        for name, value in zip(labels.classes, values, strict=True)
        if np.isfinite(value)
    }


class Filler:
    """The generator on batches of layouts, at the size that it was trained on."""

    def __init__(self, folder: Path):
        """Reads the part "layout_generator"."""
        part = weights.load_part(folder, "layout_generator")
        self.labels = labels = get_label_set(part.extra["labels"])
        size = part.extra["size"]
        unet = weights.read_record(folder, "unet")
        finish = Finish.read(unet["extra"].get("finish", {}))

        def fill(params: Any, layouts: jax.Array, others: jax.Array) -> dict[str, jax.Array]:
            holed = remove_neck(head_cover(layouts, others, labels), labels)
            side = holed.shape[1]
            if side % size:
                raise ValueError(f"layouts of {side} pixels: give a multiple of {size}")
            factor = side // size
            small = holed[:, factor // 2 :: factor, factor // 2 :: factor]
            probs = layout_probs(part.module, params, small, labels, finish)
            enlarged = jax.image.resize(probs, (*holed.shape, labels.num_classes), "bilinear")
            rest = ~group_mask(holed, (*labels.head, *labels.body))
            return {
                "input": holed,
                "generator": enlarged.argmax(-1),
                "swap": jnp.where(rest, classes_without_head(probs, side, labels, finish), holed),
            }

        self._fill, self._params = jax.jit(fill), part.params

    def __call__(self, layouts: np.ndarray, others: np.ndarray) -> dict[str, np.ndarray]:
        """int `[B, S, S]` layouts, and those whose heads cover them -> `VIEWS`, `[B, S, S]`."""
        lacking = BATCH - len(layouts)
        full = (np.concatenate([x, x[-1:].repeat(lacking, 0)]) for x in (layouts, others))
        found = self._fill(self._params, *full)
        return {name: np.asarray(x)[: len(layouts)] for name, x in found.items()}


def evaluate(
    layouts: Sequence[np.ndarray],
    fill: Filler,
    seeds: Sequence[int],
    fitted: bool,
    progress: Progress,
) -> dict[str, list[dict[str, float]]]:
    """For each view, the figures of each seed.

    Args:
      layouts: uint8 `[S, S]`, in the generator's label set.
      fill: the generator.
      seeds: each gives every layout one other layout.
      fitted: bring the other's face to the size and place of this one's first, as a swap's crops
        do; the paper covers unregistered.
      progress: told how far it is.

    Raises:
      ValueError: fewer than two layouts.
    """
    if len(layouts) < 2:
        raise ValueError(f"{len(layouts)} layouts: a head-cover needs two")
    labels = fill.labels
    found: dict[str, list[dict[str, float]]] = {view: [] for view in VIEWS}
    for seed in seeds:
        counts = {view: np.zeros((labels.num_classes,) * 2, np.int64) for view in VIEWS}
        for places in batches(range(len(layouts)), BATCH):
            progress(f"seed {seed}: {places[0]} of {len(layouts)} layouts")
            true = np.stack([layouts[i] for i in places])
            others = np.stack([_other(layouts, i, seed, fitted, labels) for i in places])
            for view, result in fill(true.astype(np.int32), others.astype(np.int32)).items():
                counts[view] += confusion(true, result, labels.num_classes)
        for view, count in counts.items():
            found[view].append(figures(count, labels))
    progress("")
    return found


def _other(
    layouts: Sequence[np.ndarray], place: int, seed: int, fitted: bool, labels: LabelSet
) -> np.ndarray:
    rng = np.random.default_rng((seed, place))
    other = int(rng.integers(len(layouts) - 1))
    partner = layouts[other + (other >= place)]  # any but this one
    if not fitted:
        return partner
    return fit_partner(partner, layouts[place], labels.face, rng, jitter=0.0)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """`hsd eval layout`; returns the report, and writes it where --json says."""
    if options.json and (options.json.is_dir() or not options.json.parent.is_dir()):
        raise ValueError(f"{options.json}: give a file in a folder that exists")
    source, labels = load_source(options.data, "test", name=options.dataset), options.labels
    fill = Filler(weights.find(options.weights))
    chosen = usable(source, labels, options.sources)[: options.count]
    layouts = [remap(np.asarray(source.layout(i)), labels, fill.labels) for i in chosen]
    seeds = range(options.seed, options.seed + options.seeds)
    measured = evaluate(layouts, fill, seeds, options.cover == "fitted", Progress())
    summary = {
        view: {name: over_seeds([row[name] for row in rows])._asdict() for name in rows[0]}
        for view, rows in measured.items()
    }
    content = {
        "benchmark": "layout",
        "weights": weights.find(options.weights).resolve().name,
        "data": cache.source_fingerprint(source),
        "layouts": len(layouts),
        "seeds": list(seeds),
        "cover": options.cover,
        "figures": summary,
        "paper": published.LAYOUT,
    }
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{len(layouts)} test layouts, {len(seeds)} seeds, head-cover {options.cover}: "
          "mean +- deviation [95 % interval of the mean]")  # fmt: skip
    print(table(summary))
    return content


def table(summary: dict[str, dict[str, dict[str, float]]]) -> str:
    """Views by mIoU and neck IoU, and the paper's row."""
    lines = [f"{'':12}  {'mIoU':38}neck IoU"]
    for view, row in summary.items():
        cells = [
            f"{x['mean']:.4f} +- {x['std']:.4f} [{x['low']:.4f}, {x['high']:.4f}]"
            for x in (row["mIoU"], row["neck IoU"])
        ]
        lines.append(f"{view:12}  {cells[0]:38}{cells[1]}")
    paper = [f"{mean:.4f} +- {std:.4f}" for mean, std in published.LAYOUT.values()]
    lines.append(f"{'the paper':12}  {paper[0]:38}{paper[1]}")
    return "\n".join(lines)
