"""`hsd bench batch`: pairs per second over all devices, collectives, and memory by steps."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from hsd_jax import weights
from hsd_jax.bench.report import Report, Table
from hsd_jax.bench.timing import interleaved, medians
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.runner import Runner
from hsd_jax.swapping.spec import Sampling
from hsd_jax.training.dryrun import count_collectives

_DEVICES = 8
_STEPS = (2, 8)


def prepare() -> None:
    """Sets up eight virtual devices if there is only a CPU, before JAX starts."""
    jax.config.update("jax_num_cpu_devices", _DEVICES)


def measure(vs_torch: bool, tell: Callable[[str], None]) -> Report:
    """Times one pair per device: both crops encoded, fused and decoded, embedded weights."""
    del vs_torch
    networks, devices = SwapNetworks.load(weights.find()), jax.devices()
    runner = Runner(networks, len(devices), devices)
    arguments = _pairs(len(devices), runner.spec.size)
    rows = []
    for steps in _STEPS:
        tell(f"{steps} steps: compiling")
        sampling = Sampling(num_steps=steps)
        run = partial(runner.paint, **arguments, sampling=sampling)
        seconds = medians(interleaved({"hsd": run}, rounds=3, seconds=5))["hsd"]
        compiled = runner.compiled(sampling)
        text = str(compiled.as_text())
        analysis: Any = compiled.memory_analysis()
        memory = analysis.temp_size_in_bytes / 2**20
        pace = len(devices) / seconds
        rows.append([steps, len(devices), pace, _total(text), _total(_loops(text)), memory])
    columns = (
        "steps", "devices", "pairs/s", "collectives", "in the scan", "temporary MiB a device",
    )  # fmt: skip
    return Report("batch", [Table("Swaps of crops, embedded weights", columns, rows)])


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
