"""The offline benchmark with ground truth: puts test people's own heads back on their bodies.

    hsd eval selfswap --data DIR [--sources NAME ...] [--groups] [--sheet PNG]

Each method fills the hole that another person's head leaves (`hsd_jax.evaluation.holes`), and the
result is compared with the true pixels (`hsd_jax.evaluation.metrics`). `hsd` is the code of a swap
from the parsed layouts on: mix, inpaint the layout, fuse, decode, blend. Head and body photo are
both the image with a grey hole, so that the truth cannot leak through the encoder's receptive
field; grey is further from its training data than the old head of a real photo. The layouts are
the data set's, so that parsing errors do not count. The body's neck is known by its shape, as in a
swap.

The baselines are OpenCV's Telea and Navier-Stokes inpainting, radius 5; cut-and-paste (the paper,
section 4.1), which pastes the new head over the old one and keeps the body photo's neck; and
class-colour, which fills the inpainted layout with each class's mean colour outside the hole.
Cut-and-paste only gives a scale here: its neck is the truth itself, and around the old head it
shows a rim of the other image's background. No swap has either.

A sheet shows images of the data set: do not publish one unless their licence and the people in them
allow it.
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
from hsd_jax.runtime import console
from hsd_jax.swapping.finish import Layers, blend, settle
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.runner import Runner
from hsd_jax.swapping.spec import Finish, Sampling, SwapSpec

if TYPE_CHECKING:  # they need the extras; the command says which when they are missing
    from hsd_jax.evaluation.holes import Case

BATCH = 8
METHODS = ("hsd", "telea", "navier-stokes", "cut-and-paste", "class-colour")
METRICS = {"psnr": "PSNR dB", "pd_hsd": "PD-hsd", "ssim": "SSIM", "seam": "seam"}
HIGHER_IS_BETTER = ("psnr", "ssim")
_MIN_NECK = 100  # pixels in a hole: fewer have no reliable median
_SHEET_ROWS = 12


def padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks arrays to `[BATCH, ...]`, padded with copies of the last."""
    return np.stack([*arrays, *[arrays[-1]] * (BATCH - len(arrays))])


def swapped(
    runner: Runner, cases: Sequence["Case"], seed: int, sampling: Sampling, in_window: bool | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fills holes as `hsd swap` does: result uint8 `[S, S, 3]` and layout int32 `[S, S]` per case.

    The sample of a case depends only on `seed` and the case's index.

    Args:
      runner: the runner of `hsd swap`.
      cases: the cases whose holes are filled.
      seed: of the samples.
      sampling: the solver and its steps.
      in_window: see `Runner.paint`.

    Raises:
      ValueError: if an image has another size, or a plan keeps pixels of a hole.
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
    """Blends the painted image with the kept pixels, as a swap does at the size of the crop."""
    if (case.hole & (plan.head | plan.body)).any():
        raise ValueError(
            "the swap keeps pixels that are destroyed here: its margins in swapping/plan.py are "
            "narrower than those of evaluation/holes.py; make these no wider"
        )
    layers = Layers.at_crop(case.destroyed, case.destroyed, plan.head, plan.body)
    settled = settle(painted, layers, plan.layout, spec, np.ones(plan.head.shape, bool))
    side = len(layers.body)
    return blend(settled.at(side)((slice(0, side), slice(0, side))), layers)


def inpainted(case: "Case", navier_stokes: bool) -> np.ndarray:
    """Fills the hole with OpenCV: Telea (2004) or Bertalmio et al. (2001)."""
    from hsd_jax.evaluation.baselines import inpaint_hole  # which needs OpenCV

    return inpaint_hole(case.destroyed, case.hole, navier_stokes)


def old_head_kept(case: "Case") -> np.ndarray:
    """Cut-and-paste: shows the old head and its margin in the hole, the image elsewhere."""
    return metrics.fill_hole(case.partner, case.truth, case.hole & case.old_head)


def class_colour(case: "Case", layout: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Fills the hole with the mean colour outside the hole of each class of `layout`.

    A class that is not visible there gets the mean of the whole image; a neck gets the face's.
    """
    result = case.destroyed
    for index in np.unique(layout[case.hole]):
        seen = np.isin(case.layout, [labels.face if index in labels.neck else index]) & ~case.hole
        mean = case.truth[seen if seen.any() else ~case.hole].mean(0)
        result[case.hole & (layout == index)] = np.round(mean)
    return result


def hue_between(image: np.ndarray, neck: np.ndarray, face: np.ndarray) -> float:
    """Distance of two regions' median colours in CIE a*b*, which ignores lightness."""
    ours, theirs = (np.median(to_lab(image[region]), axis=0)[1:] for region in (neck, face))
    return float(np.hypot(*(ours - theirs)))


@dataclass
class Measurements:
    """The metrics of every image, `values[method][metric]`, in the order of `indices`.

    `hues` holds, for each image with a neck in its hole, the distance in hue between neck and face
    of the result and of the truth.
    """

    indices: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    values: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: {method: {name: [] for name in METRICS} for method in METHODS}
    )
    sheet: list[np.ndarray] = field(default_factory=list)
    groups: list[tuple[str, ...]] = field(default_factory=list)
    hues: list[tuple[float, float]] = field(default_factory=list)

    def of(self, group: str) -> "Measurements":
        """The subset of one of `pairs.GROUPS`."""
        places = [i for i, groups in enumerate(self.groups) if group in groups]

        def chosen(numbers: list[Any]) -> list[Any]:
            return [numbers[i] for i in places]

        values = {
            method: {name: chosen(numbers) for name, numbers in row.items()}
            for method, row in self.values.items()
        }
        return Measurements(chosen(self.indices), chosen(self.shares), values)

    def intervals(self, seed: int) -> dict[str, dict[str, metrics.Interval]]:
        """The mean of every metric over the images, with its bootstrap interval."""
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
) -> Measurements:
    """Runs and measures every method on every case; ours is `swap`, see `swapped`."""
    measured = Measurements()
    for batch in _batches(cases):
        results = []
        for case, (image, layout) in zip(batch, swap(batch), strict=True):
            row = (
                image,
                inpainted(case, navier_stokes=False),
                inpainted(case, navier_stokes=True),
                old_head_kept(case),
                class_colour(case, layout, labels),
            )
            results.append(dict(zip(METHODS, row, strict=True)))
            measured.indices.append(case.index)
            measured.shares.append(float(case.hole.mean()))
            measured.groups.append(tuple(groups_of(case.truth, case.layout, labels)))
            neck = np.isin(case.layout, labels.neck) & case.hole
            if neck.sum() >= _MIN_NECK:
                face = case.layout == labels.face
                painted, true = (hue_between(x, neck, face) for x in (image, case.truth))
                measured.hues.append((painted, true))
            if len(measured.sheet) < _SHEET_ROWS:
                measured.sheet.append(np.concatenate([case.truth, case.destroyed, *row], axis=1))
        _measure(measured, batch, results, distance)
    return measured


def _measure(
    measured: Measurements,
    batch: list["Case"],
    results: list[dict[str, np.ndarray]],
    distance: metrics.PerceptualDistance,
) -> None:
    truth = distance.features(padded([case.truth for case in batch]))
    holes = padded([case.hole for case in batch])
    for method in METHODS:
        row = measured.values[method]
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
    """A text table of methods by metrics, with `*` at the best mean of each column."""
    lines, best = [], {}
    for name in METRICS:
        means = [row[name].mean for row in intervals.values()]
        best[name] = max(means) if name in HIGHER_IS_BETTER else min(means)
    for method, row in intervals.items():
        cells = [method]
        for name in METRICS:
            mean, low, high = row[name]
            digits = 2 if name in ("psnr", "seam") else 4
            mark = "*" if mean == best[name] else " "
            cells.append(f"{mean:.{digits}f}{mark} [{low:.{digits}f}, {high:.{digits}f}]")
        lines.append(cells)
    return console.table(["", *METRICS.values()], lines)


def _report(options: argparse.Namespace, folder: Path, measured: Measurements) -> dict[str, Any]:
    import cv2

    intervals = measured.intervals(options.seed)
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
        "images": len(measured.indices),
        "hole_share": float(np.mean(measured.shares)),
        "metrics": {
            method: {name: interval._asdict() for name, interval in row.items()}
            for method, row in intervals.items()
        },
        "hues": measured.hues,
        "per_image": {"index": measured.indices, "groups": measured.groups, **measured.values},
    }


def run(options: argparse.Namespace) -> None:
    """`hsd eval selfswap`.

    Raises:
      ValueError: if options do not fit the data or the disk.
    """
    from hsd_jax.evaluation import holes
    from hsd_jax.training.input import load_source

    if options.sheet:
        files.check_output(options.sheet)
    if options.json and (options.json.is_dir() or not options.json.parent.is_dir()):
        raise ValueError(f"{options.json}: give a file in a folder that exists")
    source = load_source(options.data, options.split)
    folder = weights.find(options.weights)
    # The true neck is in the hole, and so is a margin in which a swap looks for strands of hair.
    unseen = {"keep_neck": False, "hair": 0.0, "old_hair": 0.0}
    changes = Finish.parse(options.finish) | unseen
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
    measured = evaluate(cases, swap, labels, distance)
    if not measured.indices:
        raise ValueError("no image has a hole worth painting: use other --sources or --seed")
    report = _report(options, folder, measured)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.sheet:
        files.save_image(np.concatenate(measured.sheet), options.sheet)
    share = 100 * report["hole_share"]
    print(f"{report['images']} {options.split} images, holes of {share:.1f} % on average, "
          f"weights {folder.name}; mean [95 % interval], * best")  # fmt: skip
    print(table(measured.intervals(options.seed)))
    if measured.hues:
        painted, true = np.mean(measured.hues, axis=0)
        print(f"distance of neck and face in a*b*: painted {painted:.1f}, true {true:.1f}; "
              f"{len(measured.hues)} images")  # fmt: skip
    if options.groups:
        for group in GROUPS:
            some = measured.of(group)
            if some.indices:
                print(f"\n{group}, {len(some.indices)} images")
                print(table(some.intervals(options.seed)))
    if options.sheet:
        print(f"{options.sheet}: truth, hole, {', '.join(METHODS)}")
