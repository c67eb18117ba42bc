"""`hsd batch --plan TOPOLOGY`: a batch of swaps compiled for hardware that is not here.

The roofline time of a program is the longer of two: its FLOPs at the hardware's peak, and the bytes
that it reads and writes at the bandwidth of its memory, both as XLA counts them.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hsd_jax import weights
from hsd_jax.bench import sampler
from hsd_jax.bench.report import Report, Table
from hsd_jax.models import apply
from hsd_jax.models.conv import compiled_for
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.spec import PARTS, Sampling
from hsd_jax.training.dryrun import count_collectives, little_effort, topology_devices
from hsd_jax.training.observe import hardware_of, model_flops

PAPER = "paper"
"""The name, in place of a folder of weights, of networks of the paper's sizes."""


def plan(name: str, topology: str, pairs: Iterable[int], sampling: Sampling) -> Report:
    """Compiles encoder, sampler, one call of the UNet, and decoder, in bfloat16 on accelerators.

    Args:
      name: weights, or `PAPER`.
      topology: see `training.dryrun`.
      pairs: per device, swept.
      sampling: the solver and its steps.

    Raises:
      ValueError: unknown weights or topology, no libtpu, or a program does not fit the memory.
    """
    devices, platform = topology_devices(topology)
    networks = _networks(name, jnp.dtype("float32" if platform == "cpu" else "bfloat16"))
    rows = []
    with compiled_for(platform), little_effort():
        for count in pairs:
            rows += _rows(networks, devices, count, sampling)
    columns = (
        "pairs a device", "program", "calls", "parameters, GiB", "temporary, GiB", "TFLOP",
        "GB moved", "collectives", "roofline, ms", "bound by", "pairs/s",
    )  # fmt: skip
    title = f"{len(devices)} x {devices[0].device_kind}, {name} networks; figures are of one device"
    notes = ["pairs/s are of all devices, encoder, sampler and decoder at their rooflines"]
    return Report("plan", [Table(title, columns, rows)], notes)


def _networks(name: str, dtype: Any) -> SwapNetworks:
    folder = weights.find(weights.DEFAULT if name == PAPER else name)
    parts = {part: weights.load_part(folder, part) for part in PARTS}
    if name == PAPER:
        parts = sampler.paper_networks(parts, _shapes)
    for part in ("unet", "autoencoder"):
        parts[part] = replace(parts[part], module=parts[part].module.clone(dtype=dtype))
    return SwapNetworks(parts)


def _shapes(module: Any, *args: Any) -> Any:
    return jax.eval_shape(module.init, jax.random.key(0), *args)["params"]


def _rows(
    networks: SwapNetworks, devices: Any, count: int, sampling: Sampling
) -> list[list[Any]]:
    mesh = Mesh(np.array(devices), ("data",))
    whole = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), networks.params
    )
    split = NamedSharding(mesh, PartitionSpec("data"))
    rows, seconds = [], 0.0
    for name, times, (function, shapes) in _programs(networks, count * len(devices), sampling):
        given = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split), shapes
        )
        parts = {part: params[part] for part in _PARAMS[name]}
        try:
            compiled = jax.jit(function).lower(parts, *given).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            rows.append([count, f"{name}: does not fit", times, *[None] * 8])
            continue
        own = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(parts))
        memory: Any = compiled.memory_analysis()
        flops = None if name == "sampler" else model_flops(function, parts, *given)
        cost: Any = compiled.cost_analysis()
        moved = None if name == "sampler" else cost.get("bytes accessed")
        took, bound = _roofline(devices, flops, moved)
        seconds += times * (took or 0)
        share = flops and flops / len(devices) / 1e12
        found = count_collectives(str(compiled.as_text()))
        rows.append(
            [count, name, times, own / 2**30, memory.temp_size_in_bytes / 2**30, share,
             moved and moved / 1e9, sum(n for n, _ in found.values()), took and 1e3 * took, bound,
             None]
        )  # fmt: skip
    if seconds:
        rows.append([count, "together", *[None] * 8, count * len(devices) / seconds])
    return rows


_PARAMS = {
    "encoder": ("autoencoder",), "sampler": ("unet", "condition"), "UNet": ("unet",),
    "decoder": ("autoencoder",),
}  # fmt: skip


def _programs(
    networks: SwapNetworks, batch: int, sampling: Sampling
) -> list[tuple[str, int, tuple[Callable[..., Any], tuple[Any, ...]]]]:
    """(name, calls for a batch, (function of parameters and arguments, their shapes)).

    The sampler, whose loop XLA's counts of FLOPs and bytes take for one call, tells memory and
    collectives; its time is that of the UNet's calls.
    """
    spec = networks.spec
    shape = jax.ShapeDtypeStruct
    square = (batch, spec.size, spec.size)
    images = shape((2 * batch, spec.size, spec.size, 3), jnp.uint8)
    layout, mask = shape(square, jnp.int32), shape(square, jnp.bool_)
    z = shape((batch, *spec.latent_shape), jnp.float32)
    net = networks.module("unet")
    seen = networks.params["unet"]["input_blocks_0_0"]["kernel"].shape[2] - z.shape[-1]
    s, t = shape((*z.shape[:-1], seen), jnp.float32), shape((batch,), jnp.int32)
    keys = shape((batch,), jnp.uint32), shape((batch, 1), jnp.uint32)

    def sample(params: Any, *args: Any) -> Any:
        return networks.sample(params, *args, sampling=sampling)[0]

    def call(params: Any, z: Any, t: Any, s: Any) -> Any:
        return apply(net, params["unet"], z, t, s)

    calls = len(spec.times(sampling))
    return [
        ("encoder", 1, (networks.encode, (images,))),
        ("sampler", 0, (sample, (z, z, Plan(layout, layout, mask, mask), *keys))),
        ("UNet", calls, (call, (z, t, s))),
        ("decoder", 1, (networks.decode, (z,))),
    ]


def _roofline(
    devices: Any, flops: float | None, moved: float | None
) -> tuple[float | None, str | None]:
    """Seconds, and by what; `flops` of all devices, bytes `moved` of one."""
    hardware = hardware_of(devices[0].device_kind)
    if hardware is None or flops is None or moved is None:
        return None, None
    by = {"FLOPs": flops / len(devices) / hardware.flops, "memory": moved / hardware.bandwidth}
    bound = max(by, key=lambda name: by[name])
    return by[bound], bound
