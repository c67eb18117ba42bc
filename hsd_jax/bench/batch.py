"""`hsd bench batch`: pairs a second over all devices, collectives, and memory against steps."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hsd_jax import weights
from hsd_jax.bench.report import Report, Table
from hsd_jax.bench.timing import interleaved, medians
from hsd_jax.parsing.photo_parser import SIZE
from hsd_jax.swapping.networks import PARTS, Painter, Plan
from hsd_jax.training.plan import count_collectives

_DEVICES = 8
_STEPS = (2, 8)


def prepare() -> None:
    """Eight virtual devices where there is only a CPU; before JAX has started."""
    jax.config.update("jax_num_cpu_devices", _DEVICES)


def measure(vs_torch: bool, tell: Callable[[str], None]) -> Report:
    """One pair a device: both crops encoded, fused, decoded, with the embedded weights."""
    del vs_torch
    parts = {name: weights.load_part(weights.find(), name) for name in PARTS}
    painter = Painter(parts)
    devices = jax.devices()
    mesh = Mesh(np.array(devices), ("data",))
    params = {name: part.params for name, part in parts.items()}
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    split = NamedSharding(mesh, PartitionSpec("data"))
    arguments = jax.device_put(_pairs(len(devices)), split)
    rows = []
    for steps in _STEPS:
        tell(f"{steps} steps: compiling")
        paint = partial(painter.paint, solver="dpmpp", num_steps=steps, keep=False)
        compiled = jax.jit(jax.vmap(paint, (None, 0, 0, 0, 0))).lower(params, *arguments).compile()
        tell(f"{steps} steps")
        run = partial(_wait, compiled, params, *arguments)
        seconds = medians(interleaved({"hsd": run}, rounds=3, seconds=5))["hsd"]
        text = str(compiled.as_text())
        analysis: Any = compiled.memory_analysis()
        memory = analysis.temp_size_in_bytes / 2**20
        pace = len(devices) / seconds
        rows.append([steps, len(devices), pace, _total(text), _total(_loops(text)), memory])
    columns = (
        "steps", "devices", "pairs/s", "collectives", "in the scan", "temporary MiB a device",
    )  # fmt: skip
    return Report("batch", [Table("Swaps of 256 x 256 crops, embedded weights", columns, rows)])


def _wait(compiled: Any, *args: Any) -> Any:
    return jax.block_until_ready(compiled(*args))


def _pairs(count: int) -> tuple[Any, ...]:
    """Pictures of noise; the upper half is the head's, a band below it is painted."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, count, SIZE, SIZE, 3), np.uint8)
    rows = np.broadcast_to(np.arange(SIZE)[None, :, None], (count, SIZE, SIZE))
    layout = (rows >= SIZE // 2).astype(np.int32)
    plan = Plan(layout, layout, rows < SIZE // 2 - 16, rows >= SIZE // 2 + 16)
    keys = jax.vmap(jax.random.key)(jnp.arange(count, dtype=jnp.uint32))[:, None]
    return *pictures, plan, keys


def _total(text: str) -> int:
    return sum(count for count, _ in count_collectives(text).values())


def _loops(text: str) -> str:
    """The bodies of a compiled program's loops, and all that they call."""
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
