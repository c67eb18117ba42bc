"""How fast a training's examples come, without the training.

    python -m data.measure configs/FILE.py:ARG [--data DIR] [--latents DIR] [--batch N] [--step MS]

Reads, augments and batches as `hsd_jax.train` does, for one process, and prints batches a second,
and whether a training step of MS milliseconds would wait for its data. On a machine that is busy
with other things, the processor time an example says what it would be on an idle one.
"""

import argparse
import os
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hsd_jax.runtime.console import status_of
from hsd_jax.training.input import PREFETCH_BATCHES, READ_THREADS, make_dataset
from hsd_jax.training.tasks import make_task


class Rate(NamedTuple):
    """What was measured."""

    examples: int
    seconds: float
    processor_seconds: float
    batch_size: int

    @property
    def batch_ms(self) -> float:
        """Milliseconds a batch."""
        return 1000 * self.seconds * self.batch_size / self.examples

    def told(self, step_ms: float) -> str:
        """The numbers for a person to read, beside a training step of so many milliseconds."""
        late = self.batch_ms - step_ms
        wait = "never waits for them" if late <= 0 else f"waits {late:.1f} ms for each"
        return (
            f"{1000 / self.batch_ms:.1f} batches/s of {self.batch_size} "
            f"({self.examples / self.seconds:.0f} examples/s) with {READ_THREADS} threads on "
            f"{os.cpu_count()} cores; a batch of {self.batch_size} takes {self.batch_ms:.1f} ms: "
            f"a step of {step_ms:g} ms {wait}; "
            f"{1000 * self.processor_seconds / self.examples:.2f} ms of processor time an example"
        )


def load_config(name: str) -> Any:
    """The ConfigDict of FILE.py:ARG.

    Raises:
      ValueError: it is not of that form, or there is no such file or part.
    """
    path, _, part = name.partition(":")
    if not os.path.isfile(path) or not part:
        raise ValueError(f"no config {name!r}: write FILE.py:ARG, as configs/shhq256.py:diffusion")
    return runpy.run_path(path)["get_config"](part)


def measure(config: Mapping[str, Any], batches: int) -> Rate:
    """Times `batches` batches of the config's training examples, after those that were read ahead.

    Args:
      config: plain nested dict; `data` and `batch_size` as for training.
      batches: how many to time.

    Raises:
      ValueError: the data are not there.
    """
    task = make_task(config)
    iterator: Any = make_dataset(
        task.source("train"),
        seed=config["seed"],
        batch_size=config["batch_size"],
        transform=task.transform,
        partner=task.partner,
        sources=tuple(config["data"]["sources"]) or None,
    )
    try:
        for _ in range(PREFETCH_BATCHES + 1):
            next(iterator)
        start, busy = time.perf_counter(), time.process_time()
        for _ in range(batches):
            next(iterator)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    finally:
        iterator.close()
    return Rate(batches * config["batch_size"], seconds, busy, config["batch_size"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m data.measure", description=__doc__)
    parser.add_argument("config", metavar="FILE.py:ARG")
    parser.add_argument("--data", metavar="DIR", help="instead of the config's data.dir")
    parser.add_argument("--latents", metavar="DIR", help="instead of the config's data.latents")
    parser.add_argument("--batch", type=int, help="examples a batch of this process")
    parser.add_argument("--batches", type=int, default=100, help="how many to time")
    parser.add_argument("--step", type=float, default=50.0, metavar="MS", help="a step's time")
    args = parser.parse_args(argv)
    return status_of("data.measure", lambda: _run(args), extras="train")


def _run(args: argparse.Namespace) -> None:
    config = load_config(args.config)
    if args.data:
        config.data.dir = args.data
    if args.latents:
        config.data.latents = args.latents
    if args.batch:
        config.batch_size = args.batch
    print(measure(config.to_dict(), args.batches).told(args.step))


if __name__ == "__main__":
    sys.exit(main())
