"""The arguments of `hsd eval`. What needs JAX or the extras is imported when a command runs."""

import argparse
import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def add_eval(subparsers: Any) -> None:
    """Adds `eval` and its own commands."""
    parser = subparsers.add_parser(
        "eval",
        help="measure head swaps",
        description="Benchmarks of head swapping: the paper's protocol, and an offline one.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK", required=True)
    for name, (run, text, flags, add_own) in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text + ".", allow_abbrev=False)
        command.set_defaults(run=partial(_run, run))
        for flag in flags.split():
            command.add_argument(f"--{flag}", **_SHARED[flag])
        add_own(command)


def _run(target: str, options: argparse.Namespace) -> None:
    """Runs MODULE.FUNCTION of this folder; names the extras if a package is missing."""
    module, function = target.split(".")
    try:
        from hsd_jax.evaluation import pairs

        options.labels = pairs.labels_of(getattr(options, "dataset", "halfbody"))
        getattr(importlib.import_module(f"hsd_jax.evaluation.{module}"), function)(options)
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is missing: pip install 'hsd-jax[eval,train]'") from error


def _number(low: float, high: float = float("inf"), whole: bool = True) -> Callable[[str], Any]:
    """An argument type: numbers in a range."""

    def read(text: str) -> float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            end = "" if high == float("inf") else f" to {high:g}"
            kind = "whole number" if whole else "number"
            raise argparse.ArgumentTypeError(f"{text!r}: give a {kind} from {low:g}{end}")
        return value

    return read


_SHARED: dict[str, dict[str, Any]] = {
    "weights": dict(
        default="embedded", metavar="NAME|DIR",
        help="shipped weights or a folder of them (default: %(default)s)",
    ),
    "data": dict(
        required=True, metavar="DIR", help="folder of the built data set, whose test split is used"
    ),
    "dataset": dict(
        default="halfbody", metavar="NAME",
        help="%(default)s (the default), shhq/bg_white_256, ...",
    ),
    "sources": dict(nargs="+", metavar="NAME", help="use only images of these sources"),
    "count": dict(type=_number(1), metavar="N", help="use only the first N"),
    "seed": dict(
        type=_number(0), default=0, metavar="N",
        help="random seed (default: %(default)s)",
    ),
    "solver": dict(choices=("dpmpp", "ddim", "ddpm"), default="dpmpp"),
    "steps": dict(
        type=_number(2), metavar="N", help="UNet calls (default: the weights' own)"
    ),
    "extractors": dict(
        nargs="+", default=["hsd"], metavar="NAME[=FILE]",
        help="hsd, inception, inception-torch-fidelity, vgg16=FILE, alexnet=FILE (default: hsd)",
    ),
    "groups": dict(action="store_true", help="also report by skin tone and hair length"),
    "json": dict(type=Path, metavar="FILE", help="write the metrics and versions as JSON"),
}  # fmt: skip


def _pairs(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(count=2000)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PAIRS.csv")


def _swap(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--methods", nargs="*", metavar="NAME", help="default: all but hsd-unaligned")
    add("--results", nargs="+", type=Path, default=[], metavar="DIR",
        help="also measure these folders of ID.png, made with neck alignment")  # fmt: skip
    add("--results-unaligned", nargs="+", type=Path, default=[], metavar="DIR",
        help="the same, made without it")  # fmt: skip
    _report(parser)


def _ablation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="configs/ablations.py, say")
    add("--weights", nargs="+", default=[], metavar="NAME=DIR",
        help="weights of the rows; rows without theirs are left out")  # fmt: skip
    _report(parser)


def _report(parser: argparse.ArgumentParser) -> None:
    """Options of `swap` and `ablation`."""
    add = parser.add_argument
    add("--pairs", type=Path, required=True, metavar="PAIRS.csv", help="of hsd eval pairs")
    add("-o", "--output", type=Path, required=True, metavar="DIR",
        help="for results and report; a second run resumes")  # fmt: skip
    add("--lpips", type=Path, metavar="FILE", help="weights of LPIPS")
    add("--lpips-backbone", type=Path, metavar="FILE", help="torchvision's, if FILE has none")
    add("--arcface", type=Path, metavar="FILE.onnx", help="a face recognition network")
    add("--parse", action="store_true", help="use the embedded parser's layouts, not the data's")
    add("--no-pictures", action="store_true", help="leave images out of the report")
    add("--no-cache", action="store_true", help="do not cache features of real images")
    choices = parser.add_argument_group("what the paper leaves open (see docs/evaluation.md)")
    add = choices.add_argument
    add("--frame", choices=("face", "data"), default="face")
    add("--fill", type=_number(0, 255), default=0, metavar="LEVEL", help="of masked pixels")
    add("--masks", choices=("layouts", "parsed"), default="layouts", help="of the results")
    add("--focal", type=_number(0.05, 1, False), default=0.5, metavar="SHARE")
    add("--rounding", choices=("floor", "ceil"), default="floor")
    add("--focal-size", type=_number(0), default=0, metavar="PIXELS")
    add("--focal-filter", choices=("bilinear", "bicubic", "lanczos"), default="bicubic")
    add("--similarity", choices=("whole", "inside"), default="whole")
    add("--face-margin", type=_number(0, 2, False), default=0.1, metavar="SHARE")


def _layout(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seeds", type=_number(1), default=10, metavar="N",
        help="number of seeds, from --seed on (default: %(default)s)")  # fmt: skip
    add("--cover", choices=("paper", "fitted"), default="paper",
        help="leave the other head where it is, or fit it to this face")  # fmt: skip
    add("--split", choices=("validation", "test"), default="test", help="default: %(default)s")


def _selfswap(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--window", action="store_true",
        help="paint only the window around each hole, as swaps with large networks do")  # fmt: skip
    add("--sheet", type=Path, metavar="PNG", help="write the first results as one image")
    add("--split", choices=("validation", "test"), default="test",
        help="default: %(default)s, for final numbers only; choose by validation")  # fmt: skip
    add("--finish", nargs="+", metavar="KEY=VALUE", default=[],
        help="override the finish of the weights, e.g. texture=0 (see hsd info)")  # fmt: skip


def _sheet(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(count=24)
    add = parser.add_argument
    add("--data", metavar="DIR", help="folder of the built data set, whose test split is used")
    add("--blind", nargs=2, type=Path, metavar=("DIR_A", "DIR_B"),
        help="instead a page on which people choose between two folders of ID.png")  # fmt: skip
    add("-o", "--output", type=Path, metavar="FILE",
        help="default: samples/sheet.png or blind.html; mind the data's terms before you share it",
    )  # fmt: skip


def _votes(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("choices", type=Path, metavar="CHOICES.csv", help="as the page of sheet --blind saved it")
    add("key", type=Path, metavar="KEY.csv", help="written beside the page")


def _collect(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("sources", nargs="+", type=Path, metavar="REPORT.json|RUN_DIR",
        help="of swap or ablation, or folders of training runs")  # fmt: skip
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="for results.csv")
    add("--y", metavar="METRIC", help="also plot it: results.png")
    add("--x", default="steps", metavar="KEY", help="against this setting (default: %(default)s)")


def _landmarks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split", default="test", metavar="NAME", help="of landmarks.csv; default: %(default)s"
    )


def _london(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--lpips", type=Path, metavar="FILE", help="weights of LPIPS, for distances of boxes")
    add("-o", "--output", type=Path, metavar="DIR", help="keep the results here")


def _flicker(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("head", type=Path, metavar="HEAD", help="a photo of the head")
    add("body", type=Path, metavar="BODY", help="a photo of the body, of which frames are made")


def _faces(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--faces", type=Path, required=True, metavar="DIR", help="photos that show a face each")
    add("--others", type=Path, required=True, metavar="DIR", help="photos that show none")


def _light(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--one", type=Path, required=True, metavar="DIR", help="portraits in one light")
    add("--any", type=Path, required=True, metavar="DIR", help="portraits in any light")


def _identity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="HEAD BODY [HEAD BODY ...]")


_DATA = "data dataset sources count seed"
_COMMANDS: dict[str, tuple[str, str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "pairs": ("pairs.run", "make a seeded list of pairs, like the paper's 2000", _DATA, _pairs),
    "swap": (
        "benchmark.run", "swap all pairs; measure ours and the baselines",
        f"weights {_DATA} solver steps extractors", _swap,
    ),
    "ablation": (
        "benchmark.run_ablation", "measure rows of other weights or settings: table 3, or your own",
        f"{_DATA} solver steps extractors", _ablation,
    ),
    "layout": (
        "layouts.run", "measure the layout generator over several seeds",
        f"weights {_DATA} json", _layout,
    ),
    "parsing": (
        "layouts.run_parsing", "measure the parser on test images",
        "weights data sources groups", lambda _: None,
    ),
    "landmarks": (
        "landmarks.run", "measure facial landmarks on labelled crops", "weights data",
        _landmarks,
    ),
    "faces": (
        "faces.run", "which photos are taken, doubted or refused", "weights", _faces,
    ),
    "light": (
        "light.run", "how much of a difference in hue between two faces is light", "weights",
        _light,
    ),
    "severity": (
        "severity.run", "test whether a distance grows as images get worse", f"{_DATA} extractors",
        lambda _: None,
    ),
    "selfswap": (
        "selfswap.run", "compare filled holes with the true pixels",
        "weights data sources count seed solver steps groups json", _selfswap,
    ),
    "sheet": (
        "sheet.run", "show swaps of test images (24 or --count) on one sheet",
        "weights dataset sources count seed", _sheet,
    ),
    "votes": ("blind.run_votes", "count the choices made on a blind sheet", "", _votes),
    "collect": (
        "collect.run", "gather reports and training runs in one CSV, and plot a metric", "",
        _collect,
    ),
    "london": (
        "portraits.run", "swap portraits whose result is nearly known: neck, hair, strays",
        "weights data count", _london,
    ),
    "flicker": (
        "flicker.run", "how much results flicker between frames (8 or --count) of a video",
        "weights count", _flicker,
    ),
    "identity": (
        "identity.run",
        "check with dlib whose face swaps show", "weights", _identity,
    ),
}  # fmt: skip
