"""Exports a run's folder as files of limited size, for machines without persistent storage.

    python -m hsd_jax.training.tools.pieces export WORKDIR PIECES [--mib 16]
    python -m hsd_jax.training.tools.pieces import PIECES WORKDIR

The pieces contain the config, the metrics and the newest checkpoint, which suffice to resume the
training. They are the parts of one tar archive, each with a checksum.
"""

import argparse
import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hsd_jax.runtime import files
from hsd_jax.runtime.console import module_parser, status_of

_NAME = "hsd_jax.training.tools.pieces"
_MANIFEST = "pieces.json"
_LEFT = ("tensorboard", "samples", "weights", "weights_best")  # not needed to resume
_MIB = 1 << 20


def cut(workdir: Path, pieces: Path, limit: int = 16 * _MIB) -> list[Path]:
    """Writes the pieces of a run and their list, pieces.json.

    Args:
      workdir: of `hsd_jax.train`; no training may be writing to it.
      pieces: the folder for the pieces, created anew.
      limit: the maximum size of a piece in bytes.

    Returns:
      The pieces, in order.

    Raises:
      ValueError: no run, no finished checkpoint, or a limit below 1 KiB.
    """
    if limit < 1024:
        raise ValueError(f"pieces of {limit} bytes: use 1024 or more")
    if pieces.exists() and not (pieces / _MANIFEST).is_file() and any(pieces.iterdir()):
        raise ValueError(f"{pieces} holds other files: give a new folder")
    carried = list(_files(workdir))
    shutil.rmtree(pieces, ignore_errors=True)
    pieces.mkdir(parents=True)
    with tempfile.TemporaryFile(dir=pieces) as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for path in carried:
                tar.add(path, path.relative_to(workdir).as_posix(), recursive=False)
        archive.seek(0)
        written, sums = [], []
        while part := archive.read(limit):
            written.append(pieces / f"{len(written):04}.piece")
            written[-1].write_bytes(part)
            sums.append(hashlib.sha256(part).hexdigest())
    files.write_text(pieces / _MANIFEST, json.dumps({"sha256": sums}, indent=2) + "\n")
    return written


def join(pieces: Path, workdir: Path) -> None:
    """Restores a run from the pieces of `cut` into a folder that must not exist yet.

    Raises:
      ValueError: a piece is missing or damaged, or `workdir` is there already.
    """
    if workdir.exists():
        raise ValueError(f"{workdir} is there already: give a new folder")
    try:
        sums = json.loads((pieces / _MANIFEST).read_text())["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{pieces} has no readable {_MANIFEST}: export the run again") from error
    archive = io.BytesIO()
    for number, wanted in enumerate(sums):
        path = pieces / f"{number:04}.piece"
        part = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(part).hexdigest() != wanted:
            state = "damaged" if part else "missing"
            raise ValueError(f"{path} is {state}: copy it again")
        archive.write(part)
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        tar.extractall(workdir, filter="data")


def _files(workdir: Path) -> Iterator[Path]:
    """The files of a run that are needed to resume it."""
    folder = workdir / "checkpoints"
    steps = [int(p.name) for p in folder.glob("*") if p.is_dir() and p.name.isdigit()]
    if not steps:
        raise ValueError(f"{workdir} has no checkpoint: train until the first is saved")
    newest = folder / str(max(steps))
    for path in sorted(workdir.rglob("*")):
        top = next(parent for parent in (path, *path.parents) if parent.parent == workdir)
        old = folder in path.parents and path != newest and newest not in path.parents
        if top.name not in _LEFT and not old:
            yield path


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 2 after one line on stderr."""
    parser = module_parser(_NAME, __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("export", help="a run to pieces")
    out.add_argument("workdir", type=Path, metavar="WORKDIR")
    out.add_argument("pieces", type=Path, metavar="PIECES")
    out.add_argument("--mib", type=int, default=16, help="of a piece, default: %(default)s")
    back = commands.add_parser("import", help="pieces to a run")
    back.add_argument("pieces", type=Path, metavar="PIECES")
    back.add_argument("workdir", type=Path, metavar="WORKDIR")
    options = parser.parse_args(argv)
    return status_of(_NAME, lambda: _run(options), extras="train")


def _run(options: argparse.Namespace) -> None:
    if options.command == "import":
        join(options.pieces, options.workdir)
        return
    written = cut(options.workdir, options.pieces, options.mib * _MIB)
    total = sum(path.stat().st_size for path in written) / _MIB
    print(f"{options.pieces}: {len(written)} pieces, {total:.1f} MiB")


if __name__ == "__main__":
    sys.exit(main())
