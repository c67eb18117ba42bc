"""`hsd bench swap`: times a compiled swap with released weights, stage by stage."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from hsd_jax.bench import sampler
from hsd_jax.bench.report import Report, Table
from hsd_jax.bench.timing import ROUNDS
from hsd_jax.imaging.demo import find_photos
from hsd_jax.runtime.programs import Program
from hsd_jax.swap import HeadSwapper, SwapResult
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.runner import Runner

# The names of the programs of `hsd_jax.swapping.runner` and `hsd_jax.parsing.photo_parser`.
_STAGES = {
    "parser": "parser", "parser-enlarged": "parser, enlarged", "refined": "edges of layouts",
    "align": "neck alignment", "plan": "layout generator", "encode": "encoder", "sample": "UNet",
    "decode": "decoder", "membrane": "colours along borders",
}  # fmt: skip


def measure(vs_torch: bool, tell: Callable[[str], None]) -> Report:
    """Times swaps of the demo's photos after the first; with PyTorch, also the networks alone."""
    head, body = find_photos()
    swapper = HeadSwapper.from_pretrained()
    tell("compiling")
    last = swapper(head, body)
    stages: dict[str, list[float]] = defaultdict(list)
    totals = []
    for index in range(ROUNDS):
        tell(f"swap {index + 1} of {ROUNDS}")
        with _watched() as seen:
            start = time.perf_counter()
            last = swapper(head, body)
            totals.append(time.perf_counter() - start)
        for stage in dict.fromkeys(name for name, _ in seen):
            stages[stage].append(sum(seconds for name, seconds in seen if name == stage))
    rows = [
        [_STAGES.get(name, name), 1e3 * statistics.median(times)] for name, times in stages.items()
    ]
    networks = sum(row[1] for row in rows)
    total = 1e3 * statistics.median(totals)
    rows += [["networks together", networks], ["all else: crops, edges, pasting", total - networks]]
    tables = [Table("A swap of the demo's photos", ("stage", "ms"), rows)]
    notes = []
    if vs_torch:
        networks = sampler.embedded_networks()
        rows = sampler.rows(_pair(last, networks), networks, tell)
        tables.append(Table("Both crops encoded, fused, decoded", sampler.COLUMNS, rows))
        took = {row[3]: row[5] for row in rows[::-1]}  # the embedded networks' come first
        whole = total / 1e3 - took[sampler.OURS] + took[sampler.EAGER]
        notes.append(
            f"The whole swap above takes {total / 1e3:.1f} s; with {sampler.EAGER}, of "
            f"{sampler.DDIM_STEPS} steps in its place, all else as it is, {whole:.1f} s: "
            f"{whole / total * 1e3:.1f} times as long"
        )
    return Report("swap", tables, notes)


def _pair(swapped: SwapResult, networks: sampler.Networks) -> sampler.Pair:
    seen = swapped.stages
    head, body = (seen[name][None] for name in ("head_layout", "body_layout"))
    plan = Runner(SwapNetworks(networks)).plan(head, body)
    return sampler.Pair(seen["head"], seen["body"], Plan(*(x[0] for x in plan)))


@contextmanager
def _watched() -> Iterator[list[tuple[str, float]]]:
    """Records (name, seconds) of every call of a program inside the context."""
    seen: list[tuple[str, float]] = []
    call = Program.__call__

    def timed(self: Program, *args: Any) -> Any:
        start = time.perf_counter()
        result = jax.block_until_ready(call(self, *args))
        seen.append((self.name, time.perf_counter() - start))
        return result

    Program.__call__ = timed
    try:
        yield seen
    finally:
        Program.__call__ = call
