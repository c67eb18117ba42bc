"""The arguments of `hsd bench`, and what it writes."""

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

SUBJECTS = ("conv", "unet", "autoencoder", "swap", "train", "batch")
_WITH_PEERS = ("unet", "autoencoder", "swap", "train")


def add_bench(subparsers: Any) -> None:
    """Adds `bench` to `hsd`."""
    bench = subparsers.add_parser(
        "bench",
        help="measure speed on this machine",
        description="Time the networks, a swap, a training step or a batch: medians of rounds in "
        "which every contender runs once. Needs hsd-jax[train]; swap needs hsd-jax[demo].",
        allow_abbrev=False,
    )
    bench.add_argument("subject", choices=SUBJECTS)
    bench.add_argument(
        "--vs",
        choices=("torch",),
        help=f"also PyTorch, same network and weights ({', '.join(_WITH_PEERS)})",
    )
    bench.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    bench.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write it there as well; conv: put the fastest forms into this table "
        "(hsd_jax/models/conv_table.json)",
    )
    bench.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """`hsd bench`.

    Raises:
      ValueError: if a package is missing, or the subject has no PyTorch counterpart.
    """
    if args.vs and args.subject not in _WITH_PEERS:
        raise ValueError(f"{args.subject} has no peer in PyTorch: leave out --vs torch")
    if args.vs and importlib.util.find_spec("torch") is None:
        raise ValueError("--vs torch needs PyTorch: pip install torch")
    try:
        module = importlib.import_module(f"hsd_jax.bench.{args.subject}")
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is missing: pip install 'hsd-jax[train]'") from error
    if args.subject == "batch":
        module.prepare()
    result = module.measure(args.vs == "torch", _tell)
    report, entry = result if isinstance(result, tuple) else (result, None)
    text = report.json() if args.json else report.text()
    if args.output and entry is not None:
        module.update_table(args.output, entry)
    elif args.output:
        args.output.write_text(text + "\n", "utf-8")
    print(text)


def _tell(line: str) -> None:
    """Shows progress on a terminal."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)
