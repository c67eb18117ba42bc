"""The arguments of `hsd eval`. What needs JAX or the extras is imported when a command runs."""

import argparse
import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

Add = Callable[..., Any]
"""`add_argument` of a command."""


def add_eval(subparsers: Any) -> None:
    """Adds `eval` and its own commands."""
    parser = subparsers.add_parser(
        "eval",
        help="measure head swaps, as papers do",
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
    """Runs MODULE.FUNCTION of this folder; a missing package is told as what to install."""
    module, function = target.split(".")
    try:
        from hsd_jax.evaluation import pairs

        options.labels = pairs.labels_of(getattr(options, "dataset", "halfbody"))
        getattr(importlib.import_module(f"hsd_jax.evaluation.{module}"), function)(options)
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is missing: pip install 'hsd-jax[eval,train]'") from error


def _number(low: float, high: float = float("inf"), whole: bool = True) -> Callable[[str], Any]:
    """An argument's type: a number in a range."""

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
        required=True, metavar="DIR", help="folder of the built data set; its test split counts"
    ),
    "dataset": dict(
        default="halfbody", metavar="NAME",
        help="%(default)s (the default), shhq/bg_white_256, ...",
    ),
    "sources": dict(nargs="+", metavar="NAME", help="only images of these"),
    "count": dict(type=_number(1), metavar="N", help="only the first N"),
    "seed": dict(
        type=_number(0), default=0, metavar="N",
        help="of all that is random (default: %(default)s)",
    ),
    "solver": dict(choices=("dpmpp", "ddim", "ddpm"), default="dpmpp"),
    "steps": dict(
        type=_number(2), metavar="N", help="calls of the UNet (default: what suits the weights)"
    ),
    "extractors": dict(
        nargs="+", default=["hsd"], metavar="NAME[=FILE]",
        help="hsd, inception, inception-torch-fidelity (default: hsd)",
    ),
    "groups": dict(action="store_true", help="also by skin tone and hair length"),
    "json": dict(type=Path, metavar="FILE", help="write metrics and versions"),
}  # fmt: skip


def _pairs(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(count=2000)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PAIRS.csv")


def _swap(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--methods", nargs="*", metavar="NAME", help="default: all but hsd-unaligned")
    add("--results", nargs="+", type=Path, default=[], metavar="DIR",
        help="also these folders of results, ID.png each, with neck alignment")  # fmt: skip
    add("--results-unaligned", nargs="+", type=Path, default=[], metavar="DIR",
        help="the same, without")  # fmt: skip
    _report(parser)


def _ablation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="configs/ablations.py")
    add("--weights", nargs="+", default=[], metavar="NAME=DIR",
        help="the weights that rows need; a row without its own is left out")  # fmt: skip
    _report(parser)


def _report(parser: argparse.ArgumentParser) -> None:
    """What `swap` and `ablation` have in common."""
    add = parser.add_argument
    add("--pairs", type=Path, required=True, metavar="PAIRS.csv", help="of hsd eval pairs")
    add("-o", "--output", type=Path, required=True, metavar="DIR",
        help="results and report; started again, it goes on")  # fmt: skip
    add("--lpips", type=Path, metavar="FILE", help="weights of LPIPS")
    add("--lpips-backbone", type=Path, metavar="FILE", help="torchvision's, if FILE has none")
    add("--arcface", type=Path, metavar="FILE.onnx", help="a face recognition network")
    add("--parse", action="store_true", help="layouts by the embedded parser, not the data's")
    add("--no-pictures", action="store_true", help="none in the report")
    add("--no-cache", action="store_true", help="keep no features of real images")
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
        help="how many, from --seed on (default: %(default)s)")  # fmt: skip
    add("--cover", choices=("paper", "fitted"), default="paper",
        help="other heads where they are, or brought to this face")  # fmt: skip


def _selfswap(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--window", action="store_true",
        help="paint only the window around each hole, as swaps with large networks do")  # fmt: skip
    add("--sheet", type=Path, metavar="PNG", help="write the first images")
    add("--split", choices=("validation", "test"), default="test",
        help="default: %(default)s, read once a version; choose by validation")  # fmt: skip
    add("--finish", nargs="+", metavar="KEY=VALUE", default=[],
        help="another finish than the weights', such as texture=0 (see hsd info)")  # fmt: skip


def _sheet(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(count=24)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("samples/sheet.png"), metavar="PNG",
        help="default: %(default)s; show it to nobody whom the data's terms exclude",
    )  # fmt: skip


def _landmarks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split", default="test", metavar="NAME", help="of landmarks.csv; default: %(default)s"
    )


def _identity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="HEAD BODY, once or more often")


_DATA = "data dataset sources count seed"
_COMMANDS: dict[str, tuple[str, str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "pairs": ("pairs.run", "a seeded list of pairs, as the paper's 2000", _DATA, _pairs),
    "swap": (
        "benchmark.run", "swap all pairs, and measure us and the baselines",
        f"weights {_DATA} solver steps extractors", _swap,
    ),
    "ablation": (
        "benchmark.run_ablation", "the rows of the paper's table 3",
        f"{_DATA} solver steps extractors", _ablation,
    ),
    "layout": (
        "layouts.run", "the layout generator over several seeds", f"weights {_DATA} json", _layout
    ),
    "parsing": (
        "layouts.run_parsing", "the parser's layouts of test images",
        "weights data sources groups", lambda _: None,
    ),
    "landmarks": (
        "landmarks.run", "places, turn and confidence of faces in labelled crops", "weights data",
        _landmarks,
    ),
    "severity": (
        "severity.run", "does a distance grow as images get worse?", f"{_DATA} extractors",
        lambda _: None,
    ),
    "selfswap": (
        "selfswap.run", "painted holes against their true pixels",
        "weights data sources count seed solver steps groups json", _selfswap,
    ),
    "sheet": (
        "sheet.run", "swaps of test images, 24 or --count, on one sheet to look at",
        f"weights {_DATA}", _sheet,
    ),
    "identity": (
        "identity.run",
        "whose face swaps of photos show, by dlib's recogniser", "weights", _identity,
    ),
}  # fmt: skip
