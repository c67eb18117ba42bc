"""The arguments of `hsd eval`. What needs JAX or the extras is imported when a command runs."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WEIGHTS = "shipped weights or a folder of them (default: %(default)s)"
_EXTRACTORS = "hsd, inception, inception-torch-fidelity (default: hsd)"
_DATA = "folder of the built data set; its test split counts"


def add_eval(subparsers: Any) -> None:
    """Adds `eval` and its own commands."""
    parser = subparsers.add_parser(
        "eval",
        help="measure head swaps, as papers do",
        description="Benchmarks of head swapping: the paper's protocol, and an offline one.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK", required=True)
    _add_pairs(commands)
    _add_swap(commands)
    _add_layout(commands)
    _add_ablation(commands)
    _add_selfswap(commands)
    _add_severity(commands)
    _add_sheet(commands)


def _needing_extras(run: Callable[[argparse.Namespace], Any]) -> Callable[..., None]:
    """`run`, with a missing package told as what to install."""

    def checked(options: argparse.Namespace) -> None:
        try:
            from hsd_jax.evaluation import pairs

            options.labels = pairs.labels_of(getattr(options, "dataset", "halfbody"))
            run(options)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{error.name} is missing: pip install 'hsd-jax[eval,train]'"
            ) from error

    return checked


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


def _command(subparsers: Any, name: str, run: Callable[..., Any], help_: str) -> Any:
    parser = subparsers.add_parser(name, help=help_, description=help_ + ".", allow_abbrev=False)
    parser.set_defaults(run=_needing_extras(run))
    parser.add_argument("--data", required=True, metavar="DIR", help=_DATA)
    if name != "selfswap":
        parser.add_argument(
            "--dataset", default="halfbody", metavar="NAME", help="halfbody, shhq/bg_white_256, ..."
        )
    parser.add_argument("--sources", nargs="+", metavar="NAME", help="only pictures of these")
    return parser


def _add_pairs(subparsers: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from hsd_jax.evaluation import cache, pairs
        from hsd_jax.training.input import load_source

        source = load_source(options.data, "test", name=options.dataset)
        indices = pairs.usable(source, options.labels, options.sources)
        chosen = pairs.make_pairs(indices, options.count, options.seed)
        pairs.write_pairs(chosen, options.output, cache.source_fingerprint(source))
        print(f"wrote {options.output}: {len(chosen)} pairs of {len(indices)} pictures")

    parser = _command(subparsers, "pairs", run, "the seeded list of pairs, as the paper's")
    add = parser.add_argument
    add("--count", type=_number(1), default=2000, metavar="N", help="default: %(default)s")
    add("--seed", type=_number(0), default=0, metavar="N", help="default: %(default)s")
    add("-o", "--output", type=Path, required=True, metavar="PAIRS.csv")


def _add_swap(subparsers: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from hsd_jax.evaluation import benchmark, methods

        options.methods = options.methods or list(methods.DEFAULT)
        benchmark.run(options)

    parser = _command(subparsers, "swap", run, "swap all pairs, and measure us and the baselines")
    add = parser.add_argument
    add("--weights", default="embedded", metavar="NAME|DIR", help=_WEIGHTS)
    add("--methods", nargs="*", metavar="NAME", help="default: all but hsd-unaligned")
    add("--results", nargs="+", type=Path, default=[], metavar="DIR",
        help="also these folders of results, ID.png each, with neck alignment")  # fmt: skip
    add("--results-unaligned", nargs="+", type=Path, default=[], metavar="DIR",
        help="the same, without")  # fmt: skip
    _add_shared(parser)


def _add_ablation(subparsers: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from hsd_jax.evaluation import ablation

        ablation.run(options)

    parser = _command(subparsers, "ablation", run, "the rows of the paper's table 3")
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="configs/ablations.py")
    add("--weights", nargs="+", default=[], metavar="NAME=DIR",
        help="the weights that rows need; a row without its own is left out")  # fmt: skip
    _add_shared(parser)


def _add_shared(parser: Any) -> None:
    """What `swap` and `ablation` have in common."""
    add = parser.add_argument
    add("--pairs", type=Path, required=True, metavar="PAIRS.csv", help="of hsd eval pairs")
    add("-o", "--output", type=Path, required=True, metavar="DIR",
        help="results and report; started again, it goes on")  # fmt: skip
    add("--count", type=_number(2), metavar="N", help="only the first N pairs")
    add("--extractors", nargs="+", default=["hsd"], metavar="NAME[=FILE]", help=_EXTRACTORS)
    add("--lpips", type=Path, metavar="FILE", help="weights of LPIPS")
    add("--lpips-backbone", type=Path, metavar="FILE", help="torchvision's, if FILE has none")
    add("--arcface", type=Path, metavar="FILE.onnx", help="a face recognition net")
    add("--parse", action="store_true", help="layouts by the embedded parser, not the data's")
    add("--solver", choices=("dpmpp", "ddim", "ddpm"), default="dpmpp")
    add("--steps", type=_number(2), metavar="N", help="calls of the UNet")
    add("--seed", type=_number(0), default=0, metavar="N", help="default: %(default)s")
    add("--no-pictures", action="store_true", help="none in the report")
    add("--no-cache", action="store_true", help="keep no features of real pictures")
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


def _add_layout(subparsers: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from hsd_jax.evaluation import layouts

        layouts.run(options)

    parser = _command(subparsers, "layout", run, "the layout generator over several seeds")
    add = parser.add_argument
    add("--weights", default="embedded", metavar="NAME|DIR", help=_WEIGHTS)
    add("--seeds", type=_number(1), default=10, metavar="N", help="default: %(default)s")
    add("--seed", type=_number(0), default=0, metavar="N", help="the first of them")
    add("--count", type=_number(2), metavar="N", help="only the first N layouts")
    add("--cover", choices=("paper", "fitted"), default="paper",
        help="other heads where they are, or brought to this face")  # fmt: skip
    add("--json", type=Path, metavar="FILE")


def _add_severity(subparsers: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from hsd_jax.evaluation import severity

        severity.run(options)

    parser = _command(subparsers, "severity", run, "does a distance grow as pictures get worse?")
    add = parser.add_argument
    add("--extractors", nargs="+", default=["hsd"], metavar="NAME[=FILE]", help=_EXTRACTORS)
    add("--count", type=_number(2), metavar="N", help="only the first N pictures")
    add("--seed", type=_number(0), default=0, metavar="N", help="of noise and partners")


def _add_selfswap(subparsers: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from hsd_jax.evaluation import selfswap

        selfswap.run(options)

    parser = _command(subparsers, "selfswap", run, "painted holes against their true pixels")
    add = parser.add_argument
    add("--weights", default="embedded", metavar="NAME|DIR", help=_WEIGHTS)
    add("--count", type=_number(1), metavar="N", help="only the first N pictures")
    add("--seed", type=_number(0), default=0, metavar="N", help="of partners and samples")
    add("--groups", action="store_true", help="also by skin tone and hair length")
    add("--solver", choices=("dpmpp", "ddim", "ddpm"), default="dpmpp")
    add("--steps", type=_number(2), metavar="N", help="default: what suits the weights")
    add("--window", action="store_true",
        help="paint only the window around each hole, as swaps with large nets do")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write figures and versions")
    add("--sheet", type=Path, metavar="PNG", help="write the first pictures")


def _add_sheet(subparsers: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from hsd_jax.evaluation import sheet

        sheet.run(options)

    parser = _command(subparsers, "sheet", run, "swaps of test pictures on one sheet, to look at")
    add = parser.add_argument
    add("--weights", default="embedded", metavar="NAME|DIR", help=_WEIGHTS)
    add("--count", type=_number(1), default=24, metavar="N", help="default: %(default)s")
    add("--seed", type=_number(0), default=0, metavar="N", help="default: %(default)s")
    add("-o", "--output", type=Path, default=Path("samples/sheet.png"), metavar="PNG",
        help="default: %(default)s; show it to nobody whom the data's terms exclude")  # fmt: skip
