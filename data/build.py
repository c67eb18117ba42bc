"""Build a data set: `python -m data.build halfbody --source DIR --out DIR`.

The `tfds build` command needs TensorFlow; this one does not. A build that was cut off left nothing
that counts (TFDS writes to a temporary folder and renames it), so run it again; a finished one is
left alone.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from data import halfbody

_PROGRESS_EVERY = 50


class _Progress:
    """Counts pairs on one line of a terminal; silent elsewhere."""

    def __init__(self, total: int):
        self.total, self.done = total, 0
        self.shown = sys.stderr.isatty()

    def __call__(self) -> None:
        self.done += 1
        last = self.done == self.total
        if self.shown and (last or self.done % _PROGRESS_EVERY == 0):
            end = "\n" if last else "\r"  # an error's line overwrites the count
            print(f"{self.done}/{self.total} pairs", end=end, file=sys.stderr, flush=True)


def build_halfbody(source: str, out: str) -> str:
    """Write OUT/halfbody/VERSION from the folder `source`, unless it is there; returns what to say.

    Raises:
        ValueError: naming the first bad pair; nothing is left in OUT then.
    """
    progress = _Progress(0)
    builder = halfbody.Halfbody(data_dir=out, source=source, on_record=progress)
    if Path(builder.data_dir, "dataset_info.json").is_file():  # is_prepared() warns when it is not
        return f"{builder.data_dir} is already built; remove that folder to build it again"
    progress.total = len(halfbody.read_index(source))
    with tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=unused)  # else TFDS leaves OUT/downloads behind
    counts = ", ".join(
        f"{split.num_examples} {name}" for name, split in builder.info.splits.items()
    )
    return f"{builder.data_dir}: {counts}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m data.build", description=__doc__)
    commands = parser.add_subparsers(dest="dataset", required=True)
    command = commands.add_parser("halfbody", help="half-body photos with halfbody9 layouts")
    command.add_argument("--source", required=True, metavar="DIR",
                         help="folder with index.csv and SOURCE/{image,layout}/")  # fmt: skip
    command.add_argument("--out", required=True, metavar="DIR",
                         help="data_dir; the data set goes to DIR/halfbody/VERSION")  # fmt: skip
    args = parser.parse_args(argv)
    tfds.disable_progress_bar()  # a dozen bars; ours is one line
    try:
        print(build_halfbody(args.source, args.out))
    except (ValueError, OSError) as error:
        print(f"data.build: error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
