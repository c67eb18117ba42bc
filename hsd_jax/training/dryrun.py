"""Compiles a step for hardware that is not present and reports its memory and cost.

    python -m hsd_jax.train --config configs/FILE.py:ARG --plan v5e:4x4

The topology is "cpu:N" or a TPU's as libtpu names it: a generation and a shape of chips
("v4:2x2x2", "v5e:4x4", "v5p:2x2x2", "v6e:4x4"). TPUs need the `tpu` extra, but no TPU.
"""

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hsd_jax.models.conv import compiled_for
from hsd_jax.training.loop import DEFAULTS, Training
from hsd_jax.training.observe import Hardware, hardware_of, model_flops
from hsd_jax.training.parallel import make_parallel, numbered
from hsd_jax.training.tasks import make_task

_G, _T = 2.0**30, 1e12
COLLECTIVES = (
    "all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute",
)  # fmt: skip
_BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2,
          "s16": 2, "u16": 2, "s8": 1, "u8": 1, "pred": 1}  # fmt: skip
# libtpu queries and locks a machine's TPUs. With these answers it queries nothing, so that no TPU
# is needed and two dry runs may run at once. They do not restrict it to this kind of TPU.
_LIBTPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-16",
}  # fmt: skip
_NAMES = "|".join(COLLECTIVES)
# A definition such as `%x = (f32[2]{0}, f32[]) all-reduce-start(...)`; `-done` repeats its start.
_CALL = re.compile(rf"= (\(.*?\)|\S+) ({_NAMES})(?:-start)?\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


@dataclass(frozen=True)
class DryRun:
    """The compiler's report on one step; bytes are per device."""

    device_kind: str
    devices: int
    mesh: Mapping[str, int]
    batch_size: int
    state_bytes: float
    batch_bytes: float
    temporary_bytes: float
    flops: float | None
    """FLOPs of the whole step on all devices, by `observe.model_flops`."""
    collectives: Mapping[str, tuple[int, float]]
    """The count of each kind of collective, and the bytes of their results."""

    @property
    def total_bytes(self) -> float:
        """The memory of a step; the state is updated in place and counts once."""
        return self.state_bytes + self.batch_bytes + self.temporary_bytes

    def seconds(self, mfu: float) -> float | None:
        """The time of a step at this MFU; None if the hardware's peak is unknown."""
        known = hardware_of(self.device_kind)
        if known is None or self.flops is None:
            return None
        return self.flops / (self.devices * known.flops * mfu)


def dry_run(config: Mapping[str, Any], topology: str) -> DryRun:
    """Compiles the step of `config` for `topology`.

    The data need not exist: the shapes of a batch then come from blank images of `data.size` (256
    by default) or blank latents of `data.channels` (3).

    Raises:
      ValueError: unknown topology, no libtpu, a batch that does not divide, or a step that does not
        fit the device's memory.
    """
    data = {**config["data"], "cache": False}  # one example is enough
    config = {**DEFAULTS, **config, "data": data}
    devices, platform = topology_devices(topology)
    parallel = make_parallel(config, devices)
    if parallel.mode != "sharded":
        raise ValueError("only the sharded step can be planned: use --config.parallel=sharded")
    with tempfile.TemporaryDirectory() as folder, compiled_for(platform), little_effort():
        config = _with_latents(config, Path(folder))
        task = make_task(config)
        training = Training(config, task, parallel)
        state = parallel.abstract(training.create)
        batch = _abstract_batch(training)
        try:
            compiled = training.compile(state).lower(state, batch).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise ValueError(f"does not fit {topology}: {_first_line(error)}") from error
        flops = model_flops(training.step, state, batch)
    memory = compiled.memory_analysis()
    state_bytes = _bytes_on_a_device(state)
    return DryRun(
        device_kind=devices[0].device_kind,
        devices=parallel.size,
        mesh=dict(parallel.mesh.shape),
        batch_size=config["batch_size"],
        state_bytes=state_bytes,
        batch_bytes=memory.argument_size_in_bytes - state_bytes,
        temporary_bytes=memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        flops=flops,
        collectives=count_collectives(compiled.as_text()),
    )


@contextmanager
def little_effort() -> Iterator[None]:
    """Compiles without the search for the fastest or smallest program.

    For a TPU, that search takes most of the time (level O1 still does it). Without it, temporary
    memory is an upper bound.
    """
    names = ("jax_optimization_level", "jax_memory_fitting_level")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        for name in names:
            jax.config.update(name, "O0")
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def describe(run: DryRun, mfu: float) -> str:
    """Formats the result; the step time is for `mfu` in (0, 1]."""
    known: Hardware | None = hardware_of(run.device_kind)
    mesh = " x ".join(f"{name} {size}" for name, size in run.mesh.items())
    rows = [
        f"{run.devices} x {run.device_kind}, mesh {mesh}, batch {run.batch_size}",
        "memory of a device:",
        f"  state       {run.state_bytes / _G:8.3f} GiB",
        f"  batch       {run.batch_bytes / _G:8.3f} GiB",
        f"  temporary   {run.temporary_bytes / _G:8.3f} GiB",
        f"  together    {run.total_bytes / _G:8.3f} GiB"
        + (f" of {known.memory / _G:.0f}" if known else ""),
    ]
    if run.flops is not None:
        rows.append(f"model FLOPs of a step: {run.flops:.3e}")
    rows.append("collectives in the program:" if run.collectives else "collectives: none")
    for kind, (count, size) in run.collectives.items():
        rows.append(f"  {kind:<19}{count:>4}   {size / 2**20:10.3f} MiB")
    seconds = run.seconds(mfu)
    if seconds is not None:
        rows.append(
            f"step at {100 * mfu:.0f} % MFU: {seconds:.4f} s, "
            f"{run.batch_size / seconds:.0f} images/s"
        )
    return "\n".join(rows)


def topology_devices(topology: str) -> tuple[Sequence[Any], str]:
    """The devices to compile for, and their platform.

    Raises:
      ValueError: see `dry_run`.
    """
    kind, _, shape = topology.partition(":")
    if kind == "cpu" and shape.isdigit():
        present = jax.devices("cpu")
        if int(shape) > len(present):
            raise ValueError(
                f"{topology}: JAX was started with {len(present)} CPU devices; set "
                f"JAX_NUM_CPU_DEVICES={shape} and start again"
            )
        return present[: int(shape)], "cpu"
    if not re.fullmatch(r"v\d+\w*:\d+(x\d+)*", topology):
        raise ValueError(f"no topology {topology!r}: use cpu:8 or a TPU's such as v5e:4x4")
    from jax.experimental import topologies

    for name, value in _LIBTPU.items():
        os.environ.setdefault(name, value)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except RuntimeError as error:
        if "not installed" in str(error):
            raise ValueError(
                f"{topology}: planning for a TPU needs libtpu (no TPU): pip install 'hsd-jax[tpu]'"
            ) from error
        raise ValueError(f"libtpu knows no topology {topology!r}: {_first_line(error)}") from error
    return found.devices, "tpu"


def count_collectives(text: str) -> dict[str, tuple[int, float]]:
    """Kind -> (count, bytes of the results) in a compiled program's text."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for result, kind in _CALL.findall(text):
        counts[kind] += 1
        for dtype, shape in _ARRAY.findall(result):
            extent = [int(n) for n in shape.split(",") if n]
            sizes[kind] += int(np.prod(extent)) * _BYTES.get(dtype, 0)
    return {kind: (counts[kind], float(sizes[kind])) for kind in COLLECTIVES if counts[kind]}


def _bytes_on_a_device(tree: Any) -> float:
    return float(
        sum(
            np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
            for x in jax.tree.leaves(tree)
        )
    )


def _abstract_batch(training: Training) -> Any:
    """Shapes and shardings of a whole batch, from one example."""
    config, task = training.config, training.task
    try:
        example = task.source("train")[0]
    except ValueError:
        size = config["data"].get("size", 256)
        blank = np.zeros((size, size), np.uint8)
        example = {"image": blank[..., None].repeat(3, -1), "layout": blank, "source": ""}
    if task.partner:
        example["partner"] = example["layout"]
    example = task.transform(example, np.random.default_rng(0))
    one = numbered({name: np.asarray(value)[None] for name, value in example.items()})
    return {
        name: jax.ShapeDtypeStruct(
            (config["batch_size"], *value.shape[1:]),
            value.dtype,
            sharding=training.parallel.by_example
        )
        for name, value in one.items()
    }


def _with_latents(config: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The config, or if its latents do not exist yet, one with blank latents."""
    data = config["data"]
    if config["task"] != "diffusion" or (Path(data["latents"]) / "stats.json").exists():
        return config
    size, channels = data.get("size", 256), data.get("channels", 3)
    side = size // 2 ** config["condition"]["n_stages"]
    (folder / "train").mkdir()
    np.save(folder / "train" / "latents.npy", np.zeros((1, side, side, channels), np.float16))
    np.save(folder / "train" / "layouts.npy", np.zeros((1, size, size), np.uint8))
    (folder / "train" / "names.json").write_text('[""]')
    stats = {"mean": [0.0] * channels, "std": [1.0] * channels}
    (folder / "stats.json").write_text(json.dumps(stats))
    return {**config, "data": {**data, "latents": str(folder)}}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
