"""`hsd bench swap`: times a compiled swap with released weights, stage by stage."""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from hsd_jax.bench import sampler
from hsd_jax.bench.report import Report, Table
from hsd_jax.bench.timing import ROUNDS, Budget
from hsd_jax.imaging import png
from hsd_jax.imaging.demo import find_photos
from hsd_jax.imaging.files import read_photo
from hsd_jax.runtime.programs import Program
from hsd_jax.runtime.threads import spread
from hsd_jax.swap import HeadSwapper, SwapResult
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.runner import Runner

# The names of the programs of `hsd_jax.swapping.runner` and `hsd_jax.parsing.photo_parser`.
_PROGRAMS = {
    "parser": "parser", "parser-enlarged": "parser, enlarged", "refined": "edges of layouts",
    "align": "neck alignment", "plan": "layout generator", "encode": "encoder", "sample": "UNet",
    "decode": "decoder", "membrane": "colours along borders",
}  # fmt: skip


def measure(vs: str | None, budget: Budget, quick: bool) -> Report:
    """Times swaps of the demo's photos after the first; with PyTorch, also the networks alone."""
    head, body = find_photos()
    swapper = HeadSwapper.from_pretrained()
    budget.tell("the first swap, which compiles")
    last = swapper(head, body)
    runs: list[dict[str, float]] = []
    programs: dict[str, list[float]] = defaultdict(list)
    for index in range(2 if quick else ROUNDS):
        with _watched() as seen:
            runs.append(_stages(swapper, head, body))
        budget.tell(f"  swap {index + 1}: {sum(runs[-1].values()):.2f} s")
        for name in dict.fromkeys(name for name, _ in seen):
            programs[name].append(sum(seconds for called, seconds in seen if called == name))
    stages = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    total = statistics.median(sum(run.values()) for run in runs)
    rows = [[name, seconds, 1 / seconds] for name, seconds in stages.items()]
    rows.append(["together", total, 1 / total])
    networks = [
        [_PROGRAMS.get(name, name), 1e3 * statistics.median(times)]
        for name, times in programs.items()
    ]
    tables = [
        Table("A swap of the demo's photos, by stages", ("stage", "s", "pairs/s"), rows),
        Table("Of it the compiled programs", ("program", "ms"), networks),
    ]
    notes = []
    if vs:
        networks = sampler.embedded_networks()
        rows = sampler.rows(_pair(last, networks), networks, vs, budget, quick)
        tables.append(Table("Both crops encoded, fused, decoded", sampler.COLUMNS, rows))
        eager = sampler.EAGER if vs == "torch" else sampler.DIFFUSERS[0]
        took = {row[3]: row[5] for row in rows[::-1]}  # the embedded networks' come first
        whole = total - took[sampler.OURS] + took[eager]
        notes.append(
            f"The whole swap above takes {total:.1f} s; with {eager}, of {sampler.DDIM_STEPS} "
            f"steps in its place, all else as it is, {whole:.1f} s: {whole / total:.1f} times as "
            "long"
        )
    return Report("swap", tables, notes)


def _stages(swapper: HeadSwapper, head: Path, body: Path) -> dict[str, float]:
    """Seconds of each stage of one swap, from files to a PNG."""
    marks = [("reading", time.perf_counter())]

    def enter(stage: str) -> None:
        marks.append((stage, time.perf_counter()))

    photos = spread(read_photo, (head, body))
    result = swapper(*photos, progress=enter)
    enter("writing")
    png.encode(result.image)
    enter("")
    pairs = zip(marks, marks[1:], strict=False)
    return {stage: end - begun for (stage, begun), (_, end) in pairs}


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
