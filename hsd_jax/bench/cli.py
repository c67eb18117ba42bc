"""The arguments of `hsd bench`, and what it writes."""

import argparse
import importlib
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

from hsd_jax.bench.timing import Budget

SUBJECTS = ("conv", "unet", "autoencoder", "swap", "train", "input", "batch")
_PEERS = {"torch": ("unet", "autoencoder", "swap", "train"), "diffusers": ("swap",)}


def add_bench(subparsers: Any) -> None:
    """Adds `bench` to `hsd`."""
    bench = subparsers.add_parser(
        "bench",
        help="measure speed on this machine",
        description="Time the networks, a swap, a training step or a batch: medians of rounds in "
        "which every contender runs once, told on stderr as it runs. Needs hsd-jax[train]; swap "
        "and batch need hsd-jax[demo].",
        allow_abbrev=False,
    )
    bench.add_argument("subject", choices=SUBJECTS)
    bench.add_argument(
        "--vs",
        choices=tuple(_PEERS),
        help="also PyTorch, same networks and weights: ours, after CompVis (torch: "
        f"{', '.join(_PEERS['torch'])}), or diffusers', with its pipeline and schedulers "
        f"(diffusers: {', '.join(_PEERS['diffusers'])})",
    )
    bench.add_argument(
        "--minutes",
        type=float,
        default=5.0,
        metavar="N",
        help="begin no case that would end later, the first apart (default: %(default)g)",
    )
    bench.add_argument(
        "--quick", action="store_true", help="one minute: float32 at batch 1, fewer rounds"
    )
    bench.add_argument(
        "--config",
        action="append",
        metavar="FILE:ARG",
        help="input: a training config, such as configs/embedded.py:layout (may be repeated)",
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
    if args.vs and args.subject not in _PEERS[args.vs]:
        raise ValueError(f"{args.subject} has no peer in {args.vs}: leave out --vs {args.vs}")
    for package in {args.vs, "torch"} if args.vs else ():
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"--vs {args.vs} needs {package}: pip install {package}")
    if args.minutes <= 0:
        raise ValueError(f"--minutes is {args.minutes:g}: give more than 0")
    try:
        module = importlib.import_module(f"hsd_jax.bench.{args.subject}")
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is missing: pip install 'hsd-jax[train]'") from error
    if args.subject == "batch":
        module.prepare()
    budget = Budget(60.0 * (1 if args.quick else args.minutes))
    more = {"configs": args.config or []} if args.subject == "input" else {}
    result = module.measure(args.vs, budget, args.quick, **more)
    report, entry = result if isinstance(result, tuple) else (result, None)
    report = replace(report, notes=(*report.notes, *budget.notes()))
    text = report.json() if args.json else report.text()
    if args.output and entry is not None and budget.left_out:
        raise ValueError(f"{args.output} needs all cases: give more --minutes, without --quick")
    if args.output and entry is not None:
        module.update_table(args.output, entry)
    elif args.output:
        args.output.write_text(text + "\n", "utf-8")
    print(text)

