"""`hsd bench batch`: pairs per second over all devices, collectives, and memory by steps."""

import re
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hsd_jax import weights
from hsd_jax.batch import Batch, Job, Settings
from hsd_jax.bench.report import Report, Table
from hsd_jax.bench.timing import Budget, interleaved, medians
from hsd_jax.imaging.demo import find_photos
from hsd_jax.runtime.console import Progress
from hsd_jax.swap import HeadSwapper
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.runner import Runner
from hsd_jax.swapping.spec import Sampling
from hsd_jax.training.dryrun import count_collectives

_DEVICES = 8
_STEPS = (2, 8)
_AT_ONCE = 4


def prepare() -> None:
    """Sets up eight virtual devices if there is only a CPU, before JAX starts."""
    jax.config.update("jax_num_cpu_devices", _DEVICES)


def measure(vs: str | None, budget: Budget, quick: bool) -> Report:
    """Times `hsd batch`, and the networks with one pair per device; embedded weights."""
    del vs
    paces = ("stage", "pairs", "s", "pairs/s")
    tables = [Table("The demo's pair, from files to files", paces, _whole(budget, quick))]
    networks, devices = SwapNetworks.load(weights.find()), jax.devices()
    runner = Runner(networks, len(devices), devices)
    arguments = _pairs(len(devices), runner.spec.size)
    rows = []
    for steps in budget.cases(_STEPS[: 1 if quick else None], lambda n: f"networks, {n} steps"):
        sampling = Sampling(num_steps=steps)
        run = partial(runner.paint, **arguments, sampling=sampling)
        times = interleaved({"hsd": run}, rounds=3, seconds=5, tell=budget.tell)
        compiled = runner.compiled(sampling)
        text = str(compiled.as_text())
        analysis: Any = compiled.memory_analysis()
        memory = analysis.temp_size_in_bytes / 2**20
        pace = len(devices) / medians(times)["hsd"]
        rows.append([steps, len(devices), pace, _total(text), _total(_loops(text)), memory])
    columns = (
        "steps", "devices", "pairs/s", "collectives", "in the scan", "temporary MiB a device",
    )  # fmt: skip
    tables.append(Table("Swaps of crops on all devices", columns, rows))
    return Report("batch", tables)


def _whole(budget: Budget, quick: bool) -> list[list[Any]]:
    """Rows of swaps one by one and of `hsd batch`, on one device, and of its stages alone."""
    head, body = find_photos()
    count = _AT_ONCE * (1 if quick else 3)
    swapper = HeadSwapper(weights.find(), _AT_ONCE, jax.devices()[:1])
    single = HeadSwapper(weights.find())
    settings = Settings("")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def batch(pairs: int) -> None:
            jobs = [Job(str(head), str(body), f"{i}.png", i, 1, 1) for i in range(pairs)]
            run = Batch(jobs, Path(tempfile.mkdtemp(dir=folder)), Path(), settings)
            run.run(swapper, Sampling(), _AT_ONCE, Progress())
            assert not run.errors

        def one_by_one(pairs: int) -> None:
            for i in range(pairs):
                single(head, body, seed=i).save(folder / "one.png")

        pair = swapper.pair(head, body)
        stages = {
            "one by one": one_by_one,
            f"hsd batch --batch {_AT_ONCE}": batch,
            "parsing alone": lambda n: [swapper.pair(head, body) for _ in range(n)],
            "painting and finishing alone": lambda n: swapper.paint([pair] * n, [0] * n),
        }
        rows = []
        for stage in budget.cases(list(stages), str):
            stages[stage](_AT_ONCE)  # compiles
            seconds = _seconds(partial(stages[stage], count))
            budget.tell(f"  {count / seconds:.2f} pairs/s")
            rows.append([stage, count, seconds, count / seconds])
    return rows


def _seconds(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _pairs(count: int, size: int) -> dict[str, Any]:
    """Pairs of noise; the upper half is the head's, and a band below it is generated."""
    heads, bodies = np.random.default_rng(0).integers(0, 256, (2, count, size, size, 3), np.uint8)
    rows = np.broadcast_to(np.arange(size)[None, :, None], (count, size, size))
    layout, band = (rows >= size // 2).astype(np.int32), size // 16
    plan = Plan(layout, layout, rows < size // 2 - band, rows >= size // 2 + band)
    seeds = np.arange(count, dtype=np.uint32)
    return dict(heads=heads, bodies=bodies, plan=plan, seeds=seeds, numbers=0 * seeds[:, None])


def _total(text: str) -> int:
    return sum(count for count, _ in count_collectives(text).values())


def _loops(text: str) -> str:
    """The bodies of a compiled program's loops, with everything that they call."""
    computations = {}
    for block in re.split(r"\n(?=\S)", text):
        found = re.match(r"(?:ENTRY )?%?([\w.\-]+)", block)
        if found:
            computations[found.group(1)] = block
    wanted = re.findall(r"body=%?([\w.\-]+)", text)
    reached: dict[str, str] = {}
    while wanted:
        name = wanted.pop()
        if name in computations and name not in reached:
            reached[name] = computations[name]
            wanted += re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", reached[name])
    return "\n".join(reached.values())
