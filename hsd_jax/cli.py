"""The command `hsd`: its arguments, and how it fails."""

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hsd_jax
from hsd_jax import commands
from hsd_jax.bench.cli import add_bench
from hsd_jax.evaluation.cli import add_eval
from hsd_jax.runtime import process
from hsd_jax.swapping.stablehlo import add_export


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `hsd`.

    Args:
      argv: the arguments, without the command's name. None for the process's own: then the process
        is prepared for JAX first, which may start it anew (see `process.prepare`).

    Returns:
      The exit status: 0 when everything is written; 2 after one line on stderr that says what is
      wrong; 130 when interrupted. HSD_DEBUG=1 adds the traceback.
    """
    name = "hsd"
    try:
        args = _parser().parse_args(argv)
        name = f"hsd {args.command}"
        if argv is None:
            process.prepare()
            if not sys.warnoptions:
                warnings.simplefilter("ignore")  # for developers; ours are printed by the commands
        return args.run(args) or 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        return _fail(name, str(error))
    except Exception as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            return _fail(name, "out of memory: ask for fewer --samples, or close other programs")
        what = f"{type(error).__name__}: {error}"
        return _fail(name, f"{what}: a bug, please report what HSD_DEBUG=1 adds to this line")


def _fail(name: str, message: str) -> int:
    if os.environ.get("HSD_DEBUG") == "1":
        traceback.print_exc()
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """Mistakes in one line, as all others."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser(
        prog="hsd",
        description="Put the head of one photo on the body of another (HS-Diffusion in JAX).",
        epilog="Exit status: 0 done; 2 not done, and one line on stderr says why.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hsd {hsd_jax.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_swap(subparsers)
    _add_batch(subparsers)
    _add_demo(subparsers)
    _add_info(subparsers)
    _add_parse(subparsers)
    _add_convert(subparsers)
    add_eval(subparsers)
    add_bench(subparsers)
    add_export(subparsers)
    return parser


def _add_swap(subparsers: Any) -> None:
    swap = subparsers.add_parser(
        "swap",
        parents=[_sampling()],
        help="the head of one photo on the body of another",
        description="Write BODY with the head of HEAD: a picture of BODY's size. When that fails, "
        "a file that OUT already names is left as it was.",
        allow_abbrev=False,
    )
    swap.add_argument("head", type=Path, metavar="HEAD", help="photo whose head is taken")
    swap.add_argument("body", type=Path, metavar="BODY", help="photo whose body and place are kept")
    swap.add_argument(
        "-o", "--output", type=Path, metavar="OUT", required=True, help=".png, .jpg or .webp"
    )
    swap.add_argument(
        "--person", type=_whole(1), default=1, metavar="N", help="of BODY, 1 for the largest face"
    )
    swap.add_argument(
        "--head-person", type=_whole(1), default=1, metavar="N", help="the same, of HEAD"
    )
    swap.set_defaults(run=commands.swap)


def _add_batch(subparsers: Any) -> None:
    batch = subparsers.add_parser(
        "batch",
        parents=[_sampler()],
        help="many swaps, from a list of pairs",
        description="Swap all pairs of a CSV with the columns head and body (paths from its own "
        "folder), and perhaps output, seed, person and head_person. Started again, it goes on: a "
        "result of the same seed, weights and options is left as it is.",
        epilog="Exit status: 0 all done; 1 some pairs failed, DIR/errors.csv says why; 2 not done.",
        allow_abbrev=False,
    )
    batch.add_argument("pairs", type=Path, metavar="PAIRS.csv")
    batch.add_argument("-o", "--output", type=Path, metavar="DIR", required=True)
    batch.add_argument(
        "--batch", type=_whole(1), default=8, metavar="N", help="pairs at once (default: 8)"
    )
    batch.set_defaults(run=commands.batch)


def _add_info(subparsers: Any) -> None:
    info = subparsers.add_parser(
        "info",
        help="what a set of weights is",
        description="Print the description of weights: sizes, labels, schedule, finish.",
        allow_abbrev=False,
    )
    info.add_argument("--weights", default="embedded", metavar="NAME|DIR", help=_WEIGHTS_HELP)
    info.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    info.set_defaults(run=commands.info)


def _add_demo(subparsers: Any) -> None:
    demo = subparsers.add_parser(
        "demo",
        parents=[_sampling()],
        help="a swap of two photos that dependencies ship",
        description="Put Grace Hopper's head on an astronaut's suit, and write a strip of the "
        "steps beside OUT. Needs the extra hsd-jax[demo], whose packages ship the photos.",
        allow_abbrev=False,
    )
    demo.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        default=Path("demo/result.png"),
        help="default: %(default)s; the folder is made",
    )
    demo.set_defaults(run=commands.demo, person=1, head_person=1)


def _add_parse(subparsers: Any) -> None:
    parse = subparsers.add_parser(
        "parse",
        help="which class each pixel of a photo is",
        description="Write a photo's layout: an 8-bit PNG of the photo's size whose palette "
        "indices are the classes (halfbody9: background, hair, face, neck, clothes, skin, hat, "
        "glasses, accessory). Stops at the first photo that cannot be read.",
        allow_abbrev=False,
    )
    parse.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    parse.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="LAYOUT.png|DIR",
        required=True,
        help="in a folder each layout has its photo's name; several photos need a folder",
    )
    parse.add_argument(
        "--overlay", type=Path, metavar="PNG|DIR", help="also the photo under the classes' colours"
    )
    parse.add_argument("--weights", default="embedded", metavar="NAME|DIR", help=_WEIGHTS_HELP)
    parse.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parse.set_defaults(run=commands.parse)


def _add_convert(subparsers: Any) -> None:
    convert = subparsers.add_parser(
        "convert",
        help="PyTorch checkpoints to our weights, and back",
        description="Write the networks of a PyTorch checkpoint (CompVis, taming-transformers, "
        "diffusers, U-2-Net) as a folder of our weights, exactly; with --to, ours as theirs. "
        "Pickles are read without running them. Sizes come from the configuration beside SRC, or "
        "else from the tensors.",
        allow_abbrev=False,
    )
    convert.add_argument(
        "src", type=Path, metavar="SRC", help="a checkpoint or its folder; with --to, our weights"
    )
    convert.add_argument("-o", "--output", type=Path, metavar="DIR", required=True)
    convert.add_argument(
        "--kind",
        choices=("auto", "compvis", "diffusers", "u2net", "taming"),
        default="auto",
        help="refuse SRC unless it is of this kind (default: %(default)s, told by its names)",
    )
    convert.add_argument(
        "--part",
        action="append",
        choices=(
            *("autoencoder", "unet", "condition"),
            *("layout_generator", "perceptual", "inception"),
        ),
        help="only this network (may be repeated; default: all that SRC holds)",
    )
    convert.add_argument(
        "--config", type=Path, metavar="FILE", help="CompVis' YAML or diffusers' config.json"
    )
    convert.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="a setting that SRC does not tell (num_heads=8, n_stages=2, num_classes=20), or a "
        "fact for swaps (labels=cihp20, size=256)",
    )
    convert.add_argument(
        "--fill", metavar="NAME|DIR", help="copy the nets that a swap needs beside from these"
    )
    convert.add_argument("--to", choices=("compvis", "diffusers"), help="write ours as theirs")
    convert.set_defaults(run=commands.convert)


_WEIGHTS_HELP = "shipped weights or a folder of them (default: %(default)s)"


def _sampler() -> argparse.ArgumentParser:
    """The options that all swaps share."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--weights", default="embedded", metavar="NAME|DIR", help=_WEIGHTS_HELP)
    shared.add_argument(
        "--solver", choices=("dpmpp", "ddim", "ddpm"), default="dpmpp", help="default: %(default)s"
    )
    shared.add_argument(
        "--steps", type=_whole(2), metavar="N", help="calls of the UNet (default: the solver's)"
    )
    shared.add_argument(
        "--seed", type=_whole(0, 2**32 - 1), default=0, metavar="N", help="default: %(default)s"
    )
    shared.add_argument(
        "--preserve",
        choices=("photo", "latents"),
        default="photo",
        help="what is not generated is the photos' own pixels, or decoded from latents as in the "
        "paper (default: %(default)s)",
    )
    shared.add_argument(
        "--skin-tone",
        choices=("auto", "keep", "match"),
        default="auto",
        help="whether skin that stays follows the new face (default: %(default)s, where they "
        "differ)",
    )
    shared.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return shared


def _sampling() -> argparse.ArgumentParser:
    """The options that `swap` and `demo` share."""
    shared = argparse.ArgumentParser(add_help=False, parents=[_sampler()])
    shared.add_argument(
        "--samples",
        type=_whole(1),
        default=1,
        metavar="K",
        help="how many; the others are named OUT-2, OUT-3, ...",
    )
    shared.add_argument(
        "--save-steps",
        type=Path,
        metavar="DIR",
        help="write what each step predicts of the first sample: step-01.png, ...",
    )
    return shared


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argument's type: a whole number in a range."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            end = "" if high is None else f" to {high}"
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {low}{end}")
        return value

    return read


if __name__ == "__main__":
    sys.exit(main())
