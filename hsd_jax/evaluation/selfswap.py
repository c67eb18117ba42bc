"""The offline benchmark with known truth: test people's own heads, put back on their own bodies.

    hsd eval selfswap --data DIR [--sources NAME ...] [--groups] [--sheet PNG]

The hole that another person's head leaves (`hsd_jax.evaluation.holes`) is painted by each method,
and what it painted is compared with the true pixels (`hsd_jax.evaluation.metrics`). `hsd` is the
code of a swap from the parsed layouts on: mix, inpaint the layout, fuse, decode, blend. Head and
body photo are both the picture with its hole made grey, so nothing of the truth can leak through
the encoder's receptive field; grey is stranger to it than the old head of a real photo would be.
The layouts are the data's, not the parser's: parsing errors are no part of the figures. The body's
neck is known by its shape, as it is in a swap.

Baselines: Telea's and the Navier-Stokes inpainting of OpenCV, radius 5; cut-and-paste (the paper,
section 4.1), which leaves the old head where it is, pastes the new one on it and keeps the neck of
the body photo; class-colour, the inpainted layout in each class's mean colour outside the hole.
Cut-and-paste is no more than a scale here: its neck is the truth itself, which no swap has, while
the margin around the old head shows a rim of the other picture's background, which no swap has
either.

A sheet shows pictures of the data set: do not publish one unless their licence and the people on
them allow it.
"""

import argparse
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import hsd_jax
from hsd_jax import weights
from hsd_jax.evaluation import metrics
from hsd_jax.evaluation.pairs import GROUPS, groups_of
from hsd_jax.imaging import files
from hsd_jax.imaging.colour import to_lab
from hsd_jax.labels import LabelSet
from hsd_jax.swapping.finish import Layers, blend, settle
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.runner import Runner
from hsd_jax.swapping.spec import Finish, Sampling, SwapSpec

if TYPE_CHECKING:  # they need the extras; the command says which when they are missing
    from hsd_jax.evaluation.holes import Case

BATCH = 8
SOLVER = "dpmpp"
METHODS = ("hsd", "telea", "navier-stokes", "cut-and-paste", "class-colour")
FIGURES = {"psnr": "PSNR dB", "pd_hsd": "PD-hsd", "ssim": "SSIM", "seam": "seam"}
HIGHER_IS_BETTER = ("psnr", "ssim")
_MIN_NECK = 100  # pixels in a hole: fewer have no reliable median
_SHEET_ROWS = 12


def padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """`[BATCH, ...]`: the arrays, and copies of the last."""
    return np.stack([*arrays, *[arrays[-1]] * (BATCH - len(arrays))])


def swapped(
    runner: Runner, cases: Sequence["Case"], seed: int, sampling: Sampling, in_window: bool | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each case's result, uint8 `[S, S, 3]`, and its inpainted layout, int32 `[S, S]`.

    The sample of a case depends on `seed` and its index alone.

    Args:
      runner: of `hsd swap`.
      cases: whose holes are painted.
      seed: of the samples.
      sampling: of the latents.
      in_window: see `Runner.paint`.

    Raises:
      ValueError: an image of another size, or a plan that keeps pixels of a hole.
    """
    size = runner.spec.size
    for case in cases:
        if case.truth.shape != (size, size, 3):
            raise ValueError(
                f"image {case.index} is {case.truth.shape}: these weights need data that is built "
                f"at {size} x {size}"
            )
    layouts = np.stack([case.layout for case in cases])
    plan = runner.plan(layouts, np.stack([case.body_layout for case in cases]))
    images = np.stack([case.destroyed for case in cases])
    painted = runner.paint(
        images, images, plan,
        seeds=np.full(len(cases), seed, np.uint32),
        numbers=np.array([[case.index] for case in cases], np.uint32),
        sampling=sampling,
        in_window=in_window,
    ).images[:, 0]  # fmt: skip
    plans = [Plan(*(x[i] for x in plan)) for i in range(len(cases))]
    return [
        (_blended(case, one, image, runner.spec), one.layout)
        for case, one, image in zip(cases, plans, painted, strict=True)
    ]


def _blended(case: "Case", plan: Plan, painted: np.ndarray, spec: SwapSpec) -> np.ndarray:
    """The painted image under the kept pixels, as a swap does it at the size of the crop."""
    if (case.hole & (plan.head | plan.body)).any():
        raise ValueError(
            "the swap keeps pixels that are destroyed here: its margins in swapping/plan.py are "
            "narrower than those of evaluation/holes.py; make these no wider"
        )
    layers = Layers.at_crop(case.destroyed, case.destroyed, plan.head, plan.body)
    settled = settle(painted, layers, plan.layout, spec, np.ones(plan.head.shape, bool))
    return blend(settled.at(layers.body, 0.0), layers)


def inpainted(case: "Case", navier_stokes: bool) -> np.ndarray:
    """OpenCV's inpainting of the hole: Telea (2004), or Bertalmio et al. (2001)."""
    from hsd_jax.evaluation.baselines import inpaint_hole  # which needs OpenCV

    return inpaint_hole(case.destroyed, case.hole, navier_stokes)


def cut_and_paste(case: "Case") -> np.ndarray:
    """The old head, with its margin, where it shows in the hole; the picture itself elsewhere."""
    return metrics.fill_hole(case.partner, case.truth, case.hole & case.old_head)


def class_colour(case: "Case", layout: np.ndarray, labels: LabelSet) -> np.ndarray:
    """The hole in the colours of `layout`: each class's mean outside the hole.

    A class that is not seen there gets the mean of all that is, the neck the face's.
    """
    result = case.destroyed
    for index in np.unique(layout[case.hole]):
        seen = np.isin(case.layout, [labels.face if index in labels.neck else index]) & ~case.hole
        mean = case.truth[seen if seen.any() else ~case.hole].mean(0)
        result[case.hole & (layout == index)] = np.round(mean)
    return result


def hue_between(picture: np.ndarray, neck: np.ndarray, face: np.ndarray) -> float:
    """Distance of two regions' median colours in CIE a*b*: of hue and chroma, not of light."""
    ours, theirs = (np.median(to_lab(picture[region]), axis=0)[1:] for region in (neck, face))
    return float(np.hypot(*(ours - theirs)))


@dataclass
class Figures:
    """What was measured: `values[method][figure]` holds one number a picture.

    `hues` has, for each picture with a neck in its hole, how far that is from the face in hue:
    the painted one and the true one.
    """

    indices: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    values: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: {method: {name: [] for name in FIGURES} for method in METHODS}
    )
    sheet: list[np.ndarray] = field(default_factory=list)
    groups: list[tuple[str, ...]] = field(default_factory=list)
    hues: list[tuple[float, float]] = field(default_factory=list)

    def of(self, group: str) -> "Figures":
        """Those of one of `pairs.GROUPS` alone."""
        places = [i for i, groups in enumerate(self.groups) if group in groups]

        def chosen(numbers: list[Any]) -> list[Any]:
            return [numbers[i] for i in places]

        values = {
            method: {name: chosen(numbers) for name, numbers in row.items()}
            for method, row in self.values.items()
        }
        return Figures(chosen(self.indices), chosen(self.shares), values)

    def intervals(self, seed: int) -> dict[str, dict[str, metrics.Interval]]:
        """Mean over the pictures, with its bootstrap interval."""
        return {
            method: {
                name: metrics.bootstrap(np.array(numbers), seed) for name, numbers in row.items()
            }
            for method, row in self.values.items()
        }


def evaluate(
    cases: Iterable["Case"],
    swap: Callable[[Sequence["Case"]], list[tuple[np.ndarray, np.ndarray]]],
    labels: LabelSet,
    distance: metrics.PerceptualDistance,
) -> Figures:
    """Every method on every case; ours is `swap`, see `swapped`."""
    figures = Figures()
    for batch in _batches(cases):
        results = []
        for case, (picture, layout) in zip(batch, swap(batch), strict=True):
            row = (
                picture,
                inpainted(case, navier_stokes=False),
                inpainted(case, navier_stokes=True),
                cut_and_paste(case),
                class_colour(case, layout, labels),
            )
            results.append(dict(zip(METHODS, row, strict=True)))
            figures.indices.append(case.index)
            figures.shares.append(float(case.hole.mean()))
            figures.groups.append(tuple(groups_of(case.truth, case.layout, labels)))
            neck = np.isin(case.layout, labels.neck) & case.hole
            if neck.sum() >= _MIN_NECK:
                face = case.layout == labels.face
                painted, true = (hue_between(x, neck, face) for x in (picture, case.truth))
                figures.hues.append((painted, true))
            if len(figures.sheet) < _SHEET_ROWS:
                figures.sheet.append(np.concatenate([case.truth, case.destroyed, *row], axis=1))
        _measure(figures, batch, results, distance)
    return figures


def _measure(
    figures: Figures,
    batch: list["Case"],
    results: list[dict[str, np.ndarray]],
    distance: metrics.PerceptualDistance,
) -> None:
    truth = distance.features(padded([case.truth for case in batch]))
    holes = padded([case.hole for case in batch])
    for method in METHODS:
        row = figures.values[method]
        triples = [(r[method], c.truth, c.hole) for c, r in zip(batch, results, strict=True)]
        filled = padded([metrics.fill_hole(*triple) for triple in triples])
        row["pd_hsd"] += distance(filled, truth, holes)[: len(batch)].tolist()
        row["psnr"] += [metrics.psnr(*triple) for triple in triples]
        row["ssim"] += [metrics.ssim(*triple) for triple in triples]
        row["seam"] += [metrics.seam(*triple) for triple in triples]


def _batches(cases: Iterable["Case"]) -> Iterator[list["Case"]]:
    iterator = iter(cases)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def table(intervals: dict[str, dict[str, metrics.Interval]]) -> str:
    """Methods by figures, with `*` at the best mean of each column."""
    lines = [["", *FIGURES.values()]]
    best = {}
    for name in FIGURES:
        means = [row[name].mean for row in intervals.values()]
        best[name] = max(means) if name in HIGHER_IS_BETTER else min(means)
    for method, row in intervals.items():
        cells = [method]
        for name in FIGURES:
            mean, low, high = row[name]
            digits = 2 if name in ("psnr", "seam") else 4
            mark = "*" if mean == best[name] else " "
            cells.append(f"{mean:.{digits}f}{mark} [{low:.{digits}f}, {high:.{digits}f}]")
        lines.append(cells)
    widths = [max(len(cells[i]) for cells in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in lines
    )


def _report(options: argparse.Namespace, folder: Path, figures: Figures) -> dict[str, Any]:
    import cv2

    intervals = figures.intervals(options.seed)
    return {
        "benchmark": "selfswap",
        "versions": {
            "hsd_jax": hsd_jax.__version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "python": platform.python_version(),
        },
        "device": jax.devices()[0].device_kind,
        "weights": folder.resolve().name,
        "seed": options.seed,
        "solver": options.solver,
        "steps": options.steps,
        "window": options.window,
        "sources": options.sources,
        "pictures": len(figures.indices),
        "hole_share": float(np.mean(figures.shares)),
        "figures": {
            method: {name: interval._asdict() for name, interval in row.items()}
            for method, row in intervals.items()
        },
        "hues": figures.hues,
        "per_picture": {"index": figures.indices, "groups": figures.groups, **figures.values},
    }


def run(options: argparse.Namespace) -> None:
    """`hsd eval selfswap`.

    Raises:
      ValueError: options that do not fit the data or the disk.
    """
    from hsd_jax.evaluation import holes
    from hsd_jax.training.input import load_source

    if options.sheet:
        files.check_output(options.sheet)
    if options.json and (options.json.is_dir() or not options.json.parent.is_dir()):
        raise ValueError(f"{options.json}: give a file in a folder that exists")
    source = load_source(options.data, options.split)
    folder = weights.find(options.weights)
    # The true neck is in the hole: no method may keep it.
    changes = Finish.parse(options.finish) | {"keep_neck": False}
    networks = SwapNetworks.load(folder).with_finish(**changes)
    runner = Runner(networks, 1 if options.window else BATCH)
    labels, sampling = networks.spec.labels, Sampling(options.solver, options.steps)
    cases = holes.cases(
        source, labels, seed=options.seed, sources=options.sources, count=options.count
    )
    swap = partial(
        swapped, runner, seed=options.seed, sampling=sampling, in_window=options.window
    )
    distance = metrics.PerceptualDistance(weights.load_part(folder, "parser"))
    figures = evaluate(cases, swap, labels, distance)
    if not figures.indices:
        raise ValueError("no picture has a hole worth painting: use other --sources or --seed")
    report = _report(options, folder, figures)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.sheet:
        files.save_image(np.concatenate(figures.sheet), options.sheet)
    share = 100 * report["hole_share"]
    print(f"{report['pictures']} {options.split} pictures, holes of {share:.1f} % on average, "
          f"weights {folder.name}; mean [95 % interval], * best")  # fmt: skip
    print(table(figures.intervals(options.seed)))
    if figures.hues:
        painted, true = np.mean(figures.hues, axis=0)
        print(f"hue of neck and face, apart in a*b*: painted {painted:.1f}, in truth {true:.1f}; "
              f"{len(figures.hues)} pictures")  # fmt: skip
    if options.groups:
        for group in GROUPS:
            some = figures.of(group)
            if some.indices:
                print(f"\n{group}, {len(some.indices)} pictures")
                print(table(some.intervals(options.seed)))
    if options.sheet:
        print(f"{options.sheet}: truth, hole, {', '.join(METHODS)}")
