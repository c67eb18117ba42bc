"""`hsd bench input`: whether reading and augmenting keep up with training steps.

For each config, batches are read with nothing else running, then steps are run on one batch.
"""

import importlib.util
import itertools
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from hsd_jax.bench.report import Report, Table
from hsd_jax.bench.timing import Budget, interleaved, medians, pace
from hsd_jax.training.input import PREFETCH_BATCHES, READ_THREADS, make_dataset
from hsd_jax.training.loop import DEFAULTS, Training
from hsd_jax.training.parallel import make_parallel, numbered
from hsd_jax.training.tasks import make_task

_SECONDS = 10.0  # of reading


def measure(vs: str | None, budget: Budget, quick: bool, configs: Sequence[str] = ()) -> Report:
    """Times the input pipeline and the step of training configs, FILE:ARG as the trainer's.

    Raises:
      ValueError: no configs, or their data cannot be read.
    """
    del vs
    if not configs:
        raise ValueError("input needs training configs: give --config configs/FILE.py:ARG")
    rows = [_row(name, budget, quick) for name in budget.cases(configs, str)]
    columns = ("config", "batch", "Grain alone, samples/s", "step, s", "the step needs, samples/s",
               "Grain / need")  # fmt: skip
    notes = [f"Grain reads in {READ_THREADS} threads, {PREFETCH_BATCHES} batches ahead"]
    return Report("input", [Table("Training input", columns, rows)], notes)


def _row(name: str, budget: Budget, quick: bool) -> list[Any]:
    config = {**DEFAULTS, **_config(name)}
    task = make_task(config)
    size, source = config["batch_size"], task.source("train")
    batches: Any = make_dataset(
        source, seed=0, batch_size=size, transform=task.transform, partner=task.partner,
        sources=tuple(config["data"]["sources"]) or None,
    )  # fmt: skip
    with closing(batches):
        first = next(batches)
        read = _pace(itertools.islice(batches, PREFETCH_BATCHES, None), 1 if quick else _SECONDS)
    budget.tell(f"  Grain alone: {read * size:.1f} samples/s")
    training = Training(config, task, make_parallel(config, jax.devices()[:1]))
    held = [training.parallel.create(training.create)]
    step, batch = training.compile(held[0]), training.parallel.put(numbered(first))

    def run() -> None:
        held[0], metrics = step(held[0], batch)
        jax.block_until_ready(metrics)

    times = interleaved({"step": run}, **{"seconds": 10.0, **pace(quick)}, tell=budget.tell)
    need = size / medians(times)["step"]
    return [name, size, read * size, size / need, need, read * size / need]


def _pace(batches: Any, seconds: float) -> float:
    """Batches a second, from the first on, which ends what was read ahead."""
    next(batches)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        next(batches)
        count += 1
    return count / (time.perf_counter() - begun)


def _config(name: str) -> dict[str, Any]:
    """A training config by FILE:ARG."""
    path, _, argument = name.partition(":")
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file: give configs/FILE.py:ARG")
    spec = importlib.util.spec_from_file_location("hsd_bench_config", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*[argument] if argument else []).to_dict()
