"""The command `hsd`: its arguments, and how it fails."""

import argparse
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hsd_jax
from hsd_jax import commands
from hsd_jax.bench.cli import add_bench
from hsd_jax.evaluation.cli import add_eval
from hsd_jax.runtime import process
from hsd_jax.runtime.console import fail, one_line, settle_stdout, tell
from hsd_jax.swapping.stablehlo import add_export
from hsd_jax.web.cli import add_web


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `hsd`.

    Args:
      argv: the arguments after `hsd`. None means `sys.argv`; the process is then first prepared
        for JAX, which may restart it (see `process.prepare`).

    Returns:
      The exit status: 0 if everything was written; 1 if part of the work failed; 2 after one line
      on stderr that says what is wrong; 130 if interrupted, 143 if told to end. HSD_DEBUG=1 adds
      the traceback.
    """
    status = _status(argv)
    if argv is None:
        process.leave(status)
    return status


def _status(argv: Sequence[str] | None) -> int:
    name = "hsd"
    if argv is None:
        process.take_streams()
    try:
        args = build_parser().parse_args(argv)
        name = f"hsd {args.command}"
        if argv is None:
            process.prepare()
            if not sys.warnoptions:
                warnings.simplefilter("ignore")  # libraries' warnings are for developers
        status = args.run(args) or 0
        if lost := settle_stdout():
            # What was asked for as files is there: that counts, and what is said of it less.
            status = fail(name, f"its report cannot be printed: {lost}")
            return 0 if getattr(args, "output", None) else status
        return status
    except KeyboardInterrupt as stop:
        tell(f"{name}: stopped, nothing is left half-written")
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except (ValueError, OSError) as error:
        return fail(name, one_line(error))
    except Exception as error:
        return fail(name, _explained(error))


def _explained(error: Exception) -> str:
    """What else went wrong: the machine, the environment, or this program."""
    what = str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in what or any(
        sign in what for sign in ("new thread", "failed to map segment", "Cannot allocate memory")
    ):
        return "out of memory: ask for fewer --samples, or close other programs"
    if reason := process.backend_fault():
        return reason
    what = f"{type(error).__name__}: {what}"
    return f"{what}: a bug, please report what HSD_DEBUG=1 adds to this line"


class _Parser(argparse.ArgumentParser):
    """Reports usage errors in one line, like all other errors."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


class _Completion(argparse.Action):
    """Prints the script of a shell and exits."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        try:
            import shtab
        except ModuleNotFoundError:
            raise ValueError("--completion: pip install 'hsd-jax[completion]'") from None
        _complete_paths(parser, shtab.FILE)
        print(shtab.complete(parser, values))
        parser.exit()


def _complete_paths(parser: Any, files: Any) -> None:
    """Tells shtab which arguments are paths, in all commands."""
    for action in parser._actions:
        for command in action.choices.values() if isinstance(action.choices, dict) else ():
            _complete_paths(command, files)
        if action.type is Path:
            action.complete = files


def build_parser() -> argparse.ArgumentParser:
    """The parser of `hsd` with all its commands; mistakes raise ValueError."""
    parser = _Parser(
        prog="hsd",
        description="Put the head of one photo on the body of another (HS-Diffusion in JAX).",
        epilog="Exit status: 0 done; 2 not done, and one line on stderr says why.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hsd {hsd_jax.__version__}")
    parser.add_argument(
        "--completion",
        action=_Completion,
        choices=("bash", "zsh", "fish"),
        help="print a script that completes hsd in this shell (needs hsd-jax[completion])",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_swap(subparsers)
    _add_batch(subparsers)
    _add_explain(subparsers)
    _add_demo(subparsers)
    _add_info(subparsers)
    _add_parse(subparsers)
    _add_verify(subparsers)
    _add_convert(subparsers)
    add_eval(subparsers)
    add_bench(subparsers)
    add_export(subparsers)
    add_web(subparsers)
    return parser


def _add_swap(subparsers: Any) -> None:
    swap = subparsers.add_parser(
        "swap",
        parents=[_sampling()],
        help="put the head of one photo on the body of another",
        description="Write BODY with the head of HEAD as an image of BODY's size. If that fails, "
        "an existing file OUT is left unchanged.",
        allow_abbrev=False,
    )
    _add_photos(swap)
    swap.add_argument(
        "-o", "--output", type=Path, metavar="OUT", required=True, help=".png, .jpg or .webp"
    )
    swap.set_defaults(run=commands.swap)


def _add_photos(command: Any) -> None:
    """The two photos, and which persons of them."""
    command.add_argument("head", type=Path, metavar="HEAD", help="photo of the head to use")
    command.add_argument("body", type=Path, metavar="BODY", help="photo to put it into")
    command.add_argument(
        "--person", type=_whole(1), default=1, metavar="N", help="of BODY; 1 is the largest face"
    )
    command.add_argument(
        "--head-person", type=_whole(1), default=1, metavar="N", help="of HEAD, likewise"
    )


def _add_explain(subparsers: Any) -> None:
    explain = subparsers.add_parser(
        "explain",
        parents=[_sampler()],
        help="draw how a swap is made",
        description="Swap and draw the steps as one figure: what is kept of both photos, their "
        "layouts mixed and inpainted, what the network predicts at up to four timesteps (--steps 8 "
        "has more of them), the result.",
        allow_abbrev=False,
    )
    _add_photos(explain)
    explain.add_argument(
        "-o", "--output", type=Path, metavar="FIG", required=True, help=".png, .jpg or .webp"
    )
    explain.set_defaults(run=commands.explain)


def _add_batch(subparsers: Any) -> None:
    batch = subparsers.add_parser(
        "batch",
        parents=[_sampler()],
        help="swap many pairs from a list or from folders",
        usage="hsd batch PAIRS.csv -o DIR [options], or hsd batch HEADS BODIES -o DIR [options]",
        description="Swap all pairs of a CSV with the columns head and body (paths relative to "
        "the CSV) and, optionally, output, seed, person, head_person, layout and mask; or each of "
        "HEADS with each of BODIES, which are photos, folders or quoted patterns. A second run "
        "resumes: results with the same seed, weights and options are kept.",
        epilog="Exit status: 0 all done; 1 some pairs failed (see DIR/errors.csv); 2 not done.",
        allow_abbrev=False,
    )
    batch.add_argument("photos", nargs="*", metavar="PAIRS.csv|HEADS BODIES")
    batch.add_argument("-o", "--output", type=Path, metavar="DIR")
    batch.add_argument(
        "--plan",
        metavar="TOPOLOGY",
        help="swap nothing, but tell memory, FLOPs, bytes and time of a batch on hardware that is "
        "not here: v5e:4x4 (needs hsd-jax[tpu], no TPU) or cpu:8; swept over --batch pairs a "
        "device; --weights paper has the paper's sizes",
    )
    batch.add_argument(
        "--batch", type=_whole(1), default=8, metavar="N", help="pairs per batch (default: 8)"
    )
    batch.add_argument(
        "--zip", action="store_true", help="pair the n-th of HEADS with the n-th of BODIES only"
    )
    batch.add_argument(
        "--track",
        type=_whole(1),
        metavar="N",
        help="BODIES are the frames of a video: follow person N of the first one by place, instead "
        "of taking the largest face of each",
    )
    batch.add_argument(
        "--process",
        type=_slice,
        default=(1, 1),
        metavar="I/N",
        help="swap every N-th pair from the I-th on, and leave the others to other processes; "
        "auto: ask Slurm, MPI, the TPU pod or JAX_PROCESS_ID (default: 1/1)",
    )
    batch.set_defaults(run=commands.batch)


def _add_info(subparsers: Any) -> None:
    info = subparsers.add_parser(
        "info",
        help="describe a set of weights",
        description="Print what a set of weights is: sizes, labels, schedule and finish.",
        allow_abbrev=False,
    )
    info.add_argument("--weights", default="embedded", metavar="NAME|DIR", help=_WEIGHTS_HELP)
    info.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    info.set_defaults(run=commands.info)


def _add_demo(subparsers: Any) -> None:
    demo = subparsers.add_parser(
        "demo",
        parents=[_sampling()],
        help="swap two public-domain photos",
        description="Put Grace Hopper's head on an astronaut's suit, and write a strip of the "
        "stages beside OUT. Needs the extra hsd-jax[demo], whose packages ship the photos.",
        allow_abbrev=False,
    )
    demo.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        default=Path("demo/result.png"),
        help="default: %(default)s; its folder is created",
    )
    demo.set_defaults(run=commands.demo, person=1, head_person=1)


def _add_parse(subparsers: Any) -> None:
    parse = subparsers.add_parser(
        "parse",
        help="segment photos into hair, face, clothes, ...",
        description="Write a photo's layout: an 8-bit PNG of the photo's size whose palette "
        "indices are the classes (halfbody9: background, hair, face, neck, clothes, skin, hat, "
        "glasses, accessory). Stop at the first photo that cannot be read.",
        allow_abbrev=False,
    )
    parse.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    parse.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="LAYOUT.png|DIR",
        required=True,
        help="a folder (required for several photos) gets one layout per photo, of its name",
    )
    parse.add_argument(
        "--overlay", type=Path, metavar="PNG|DIR", help="also write the photo tinted by class"
    )
    parse.add_argument("--weights", default="embedded", metavar="NAME|DIR", help=_WEIGHTS_HELP)
    parse.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parse.set_defaults(run=commands.parse)


def _add_verify(subparsers: Any) -> None:
    verify = subparsers.add_parser(
        "verify",
        help="read the provenance mark of an image",
        description="Print which version and which weights made an image, and who signed it "
        "(signatures need the extra hsd-jax[c2pa]).",
        epilog="Exit status: 0 made by hsd_jax; 1 no such mark, which proves little; 2 unreadable.",
        allow_abbrev=False,
    )
    verify.add_argument("image", type=Path, metavar="FILE")
    verify.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    verify.set_defaults(run=commands.verify)


def _add_convert(subparsers: Any) -> None:
    convert = subparsers.add_parser(
        "convert",
        help="convert PyTorch checkpoints to our weights, and back",
        description="Convert the networks of a PyTorch checkpoint (CompVis, taming-transformers, "
        "diffusers, U-2-Net) to a folder of our weights, exactly; with --to, convert ours to "
        "theirs. Pickles are read without running code. Sizes come from the configuration beside "
        "SRC, or else from the tensors.",
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
        help="refuse SRC unless it is of this kind (default: %(default)s, by its tensor names)",
    )
    convert.add_argument(
        "--part",
        action="append",
        choices=(
            *("autoencoder", "unet", "condition"),
            *("layout_generator", "perceptual", "inception"),
        ),
        help="convert only this network (may be repeated; default: all in SRC)",
    )
    convert.add_argument(
        "--config", type=Path, metavar="FILE", help="CompVis' YAML or diffusers' config.json"
    )
    convert.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="a setting that SRC lacks (num_heads=8, n_stages=2, num_classes=20), or metadata "
        "for swaps (labels=cihp20, size=256)",
    )
    convert.add_argument(
        "--fill", metavar="NAME|DIR", help="copy other networks that a swap needs from here"
    )
    convert.add_argument("--to", choices=("compvis", "diffusers"), help="export our weights")
    convert.set_defaults(run=commands.convert)


_WEIGHTS_HELP = "shipped weights or a folder of them (default: %(default)s)"


def _sampler() -> argparse.ArgumentParser:
    """Options that all swaps share."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--weights", default="embedded", metavar="NAME|DIR", help=_WEIGHTS_HELP)
    shared.add_argument(
        "--solver", choices=("dpmpp", "ddim", "ddpm"), default="dpmpp", help="default: %(default)s"
    )
    shared.add_argument(
        "--steps", type=_whole(2), metavar="N", help="UNet calls (default: the weights' own)"
    )
    shared.add_argument(
        "--seed", type=_whole(0, 2**32 - 1), default=0, metavar="N", help="default: %(default)s"
    )
    shared.add_argument(
        "--preserve",
        choices=("photo", "latents"),
        default="photo",
        help="take what is not generated from the photos' own pixels, or decode it from latents "
        "as in the paper (default: %(default)s)",
    )
    shared.add_argument(
        "--skin-tone",
        choices=("auto", "keep", "match"),
        default="auto",
        help="whether the body's skin takes the tone of the new face (default: %(default)s, if "
        "the faces differ visibly)",
    )
    shared.add_argument(
        "--light",
        choices=("match", "keep"),
        default="match",
        help="show the head in the colour of the body photo's light, or as it is "
        "(default: %(default)s)",
    )
    shared.add_argument(
        "--align",
        choices=("shift", "similarity", "none"),
        default="shift",
        help="move the head sideways so that the necks meet; similarity: also turn it so that its "
        "eyes lie as those of BODY did; none: neither (default: %(default)s)",
    )
    shared.add_argument(
        "--region",
        action="append",
        choices=("head", "hair", "hat", "face", "clothes"),
        help="the part to take from HEAD; BODY keeps the rest (default: head; given several times: "
        "one after another)",
    )
    shared.add_argument(
        "--hair",
        choices=("source", "target"),
        default="source",
        help="whose hair to show: HEAD's, or BODY's around HEAD's face (default: %(default)s)",
    )
    shared.add_argument(
        "--generate",
        choices=("head", "hair", "clothes"),
        help="a part to sample anew in its place, different for each --seed",
    )
    shared.add_argument(
        "--label", action="store_true", help="print in a corner that the image is synthetic"
    )
    shared.add_argument(
        "--sign", type=Path, nargs=2, metavar=("CERT.pem", "KEY.pem"),
        help="sign the provenance mark with your certificate (C2PA; needs the extra hsd-jax[c2pa])",
    )  # fmt: skip
    shared.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return shared


def _sampling() -> argparse.ArgumentParser:
    """Options that `swap` and `demo` share."""
    shared = argparse.ArgumentParser(add_help=False, parents=[_sampler()])
    shared.add_argument(
        "--samples",
        type=_whole(1, 100),
        default=1,
        metavar="K",
        help="number of results, up to 100; further ones are written to OUT-2, OUT-3, ...",
    )
    shared.add_argument(
        "--sheet", type=Path, metavar="FILE", help="write all samples on one contact sheet too"
    )
    shared.add_argument(
        "--layout",
        type=Path,
        metavar="PNG",
        help="use this inpainted layout: a corrected copy of what --save-layout wrote",
    )
    shared.add_argument(
        "--save-layout", type=Path, metavar="PNG", help="write the inpainted layout too"
    )
    shared.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="an image of BODY's size, white (or opaque) where BODY may change",
    )
    shared.add_argument(
        "--save-steps",
        type=Path,
        metavar="DIR",
        help="write the first sample's prediction at each step: step-01.png, ...",
    )
    return shared


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argument type: whole numbers in a range."""

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


def _slice(text: str) -> tuple[int, int] | None:
    """An argument's type: I/N, or None for "auto"."""
    if text == "auto":
        return None
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r}: give I/N such as 1/4, or auto")
    return int(number), int(count)


if __name__ == "__main__":
    sys.exit(main())
