"""Builds a data set: `python -m data.build NAME --source DIR --out DIR`.

Unlike `tfds build`, this needs no TensorFlow. An interrupted build leaves nothing behind (TFDS
writes to a temporary folder and renames it), so run it again; a finished build is not touched.
"""

import argparse
import contextlib
import io
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from data import halfbody, shhq
from data.pairs import SPLITS, Pairs, ahead, sweep
from hsd_jax.runtime import files
from hsd_jax.runtime.console import Progress

_LOG_EVERY = 1000


def _counter(progress: Progress) -> Callable[[], None]:
    """A function to call after each pair; shows a bar on a terminal, else a line now and then."""
    numbers = itertools.count(1)

    def count() -> None:
        progress.update()
        done = next(numbers)
        if done % _LOG_EVERY == 0 and not sys.stderr.isatty():
            progress.print(f"{done} pairs in {progress.seconds:.0f} s")

    return count


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.build", description=__doc__)
    commands = parser.add_subparsers(dest="dataset", required=True)
    command = commands.add_parser("halfbody", help="half-body photos with halfbody9 layouts")
    command.add_argument("--source", required=True, metavar="DIR",
                         help="folder with index.csv and SOURCE/{image,layout}/")  # fmt: skip
    _add_common(command)
    command = commands.add_parser("shhq", help="the paper's half-body SHHQ with cihp20 layouts")
    command.add_argument("--source", required=True, metavar="DIR",
                         help="SHHQ-1.0 with parsing/ and, optionally, faces.csv")  # fmt: skip
    command.add_argument("--variant", choices=shhq.VARIANTS, default="bg_white",
                         help="people on white, or the unchanged photos")  # fmt: skip
    command.add_argument("--size", type=int, choices=shhq.SIZES, default=256, help="side in pixels")
    command.add_argument("--labels", choices=shhq.LAYOUT_LABELS, default="cihp20",
                         help="the label set of parsing/")  # fmt: skip
    command.add_argument("--crops", action="store_true",
                         help="only write the squares to parse into --out")  # fmt: skip
    _add_common(command)
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", required=True, metavar="DIR",
                         help="data_dir; the data set goes to DIR/NAME/...")  # fmt: skip
    command.add_argument("--split", nargs="+", choices=SPLITS, default=SPLITS,
                         help="build only these")  # fmt: skip
    command.add_argument("--skip", metavar="FILE",
                         help="pairs to leave out, as --check prints them")  # fmt: skip
    command.add_argument("--check", action="store_true",
                         help="only print every pair that cannot be built")  # fmt: skip
    command.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="readers")
    command.add_argument("--beam", action="store_true",
                         help="build on Apache Beam; its options follow --")  # fmt: skip


def make_builder(args: argparse.Namespace, on_record: Callable[[], None]) -> Pairs:
    """The builder that the arguments name.

    Raises:
      ValueError: the skip list cannot be read.
    """
    common: dict[str, Any] = dict(
        data_dir=args.out, source=args.source, splits=tuple(args.split), threads=args.threads,
        beam=args.beam, on_record=on_record, skip=_read_skip(args.skip),
    )
    if args.dataset == "halfbody":
        return halfbody.Halfbody(**common)
    config = shhq.CONFIGS[args.variant, args.size]
    return shhq.Shhq(config=config, labels=args.labels, **common)


def _read_skip(path: str | None) -> frozenset[str]:
    """The first word of each line, up to a colon."""
    if path is None:
        return frozenset()
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return frozenset(line.split(":")[0].strip() for line in lines if line.strip())


def build(builder: Pairs, source: str, progress: Progress, config: Any = None) -> str:
    """Writes the data set unless it exists; returns the message.

    Raises:
        ValueError: naming the first bad pair; OUT is then left unchanged.
    """
    # is_prepared() warns when it is not.
    if epath.Path(builder.data_dir, "dataset_info.json").exists():
        return f"{builder.data_dir} is already built; remove that folder to build it again"
    for folder in sweep(builder):
        print(f"removed {folder}, left by a build that was cut off", file=sys.stderr)
    progress.expect(len(builder.records(source)))
    with tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(io.StringIO()):
        # Otherwise TFDS leaves OUT/downloads behind.
        builder.download_and_prepare(download_dir=unused, download_config=config)
    counts = ", ".join(
        f"{split.num_examples} {name}" for name, split in builder.info.splits.items()
    )
    return f"{builder.data_dir}: {counts}"


def check(builder: Pairs, source: str, progress: Progress) -> int:
    """Prints a line for each bad pair; returns their number."""
    total, count = len(builder.records(source)), 0
    progress.expect(total)
    for problem in builder.problems(source):
        print(problem, flush=True)
        count += 1
    progress.print(f"{total} pairs read, {count} cannot be built")
    return count


def write_crops(builder: shhq.Shhq, source: str, out: str, progress: Progress) -> str:
    """Writes missing half-body squares as OUT/NAME.png; returns the message."""
    folder, crop = Path(out), builder.cropper(Path(source))
    folder.mkdir(parents=True, exist_ok=True)
    missing = [r for r in builder.records(source) if not (folder / f"{r.name}.png").exists()]
    progress.expect(len(missing))

    def write(record: shhq.Record) -> None:
        image = shhq.encode_png(crop(record)[..., ::-1])
        files.write_bytes(folder / f"{record.name}.png", image)

    count = _counter(progress)
    for _ in ahead(write, missing, builder.threads):
        count()
    return f"{folder}: {len(missing)} squares written"


def beam_config(options: Sequence[str]) -> Any:
    """Makes TFDS's configuration for a build on Beam from Beam's command-line options.

    Raises:
      ValueError: Beam is not installed.
    """
    try:
        from apache_beam.options import (  # pyright: ignore[reportMissingImports]
            pipeline_options,
        )
    except ImportError as error:
        raise ValueError("--beam needs Apache Beam: pip install apache-beam") from error
    parsed = pipeline_options.PipelineOptions(list(options))
    return tfds.download.DownloadConfig(beam_options=parsed)


def _run(args: argparse.Namespace, beam_options: Sequence[str]) -> int:
    with Progress(unit="pair") as progress:
        builder = make_builder(args, _counter(progress))
        if args.check:
            return 2 if check(builder, args.source, progress) else 0
        if getattr(args, "crops", False):
            assert isinstance(builder, shhq.Shhq)
            done = write_crops(builder, args.source, args.out, progress)
        else:
            config = beam_config(beam_options) if args.beam else None
            done = build(builder, args.source, progress, config)
    print(done)
    return 0


def _reason(error: BaseException) -> str:
    """The error in one line; Beam wraps its workers' errors and repeats their traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = [line for line in lines if line.startswith("ValueError: ")] or lines[:1]
    return told[-1].removeprefix("ValueError: ").split(" [while running")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 2 after one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = _parser()
    args = parser.parse_args(arguments[:end])
    if arguments[end:] and not args.beam:
        parser.error("what follows -- is for --beam")
    tfds.disable_progress_bar()  # a dozen bars; ours is one line
    try:
        return _run(args, arguments[end + 1 :])
    except (ValueError, OSError) as error:
        print(f"data.build: error: {_reason(error)}", file=sys.stderr)
    except Exception as error:
        if not args.beam:
            raise
        print(f"data.build: error: {_reason(error)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
