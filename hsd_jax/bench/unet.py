"""`hsd bench unet`: times a forward pass of the paper's UNet at 64 x 64 latents."""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.bench.report import Report, Table
from hsd_jax.bench.timing import Budget, interleaved, medians, pace, ratio
from hsd_jax.bench.weights import normal, random_params, relative_error
from hsd_jax.models import apply
from hsd_jax.models.conv import transform_kernels
from hsd_jax.models.unet import UNet
from hsd_jax.training.observe import hardware_of, model_flops

_SIDE, _CHANNELS = 64, 3


def measure(vs: str | None, budget: Budget, quick: bool) -> Report:
    """Times batches 1 and 4 on CPU, up to 256 on accelerators, in float32 and bfloat16."""
    on_cpu = jax.default_backend() == "cpu"
    batches = (1, 4) if on_cpu else (1, 4, 16, 64, 256)
    z = jax.ShapeDtypeStruct((1, _SIDE, _SIDE, _CHANNELS), jnp.float32)
    params = random_params(UNet(), z, jax.ShapeDtypeStruct((1,), jnp.int32), z)
    cases = list(product(("float32", "bfloat16"), batches))[: 1 if quick else None]
    rows = []
    for dtype, batch in budget.cases(cases, lambda case: f"{case[0]}, batch {case[1]}"):
        rows += _rows(dtype, batch, params, vs, budget, quick)
    columns = (
        "type", "batch", "form", "ms", "GFLOP/s", "MFU", "this / hsd", "relative error",
    )  # fmt: skip
    notes = ["hsd: filters transformed beforehand, as in a sampling loop; GFLOP/s are the direct"
             " convolution's"]  # fmt: skip
    return Report("unet", [Table("UNet, 215 M parameters, 64 x 64 latents", columns, rows)], notes)


def _rows(
    dtype: str, batch: int, params: Any, vs: str | None, budget: Budget, quick: bool
) -> list[list[Any]]:
    x = normal(batch, _SIDE, _SIDE, 2 * _CHANNELS)
    t = np.full((batch,), 500, np.int32)
    unet = UNet(dtype=jnp.dtype(dtype))
    z, s = jnp.asarray(x[..., :_CHANNELS]), jnp.asarray(x[..., _CHANNELS:])
    fixed = jax.jit(lambda p: transform_kernels(unet, p, z, t, s))(params)
    run = jax.jit(lambda p, z, s: apply(unet, p, z, t, s)).lower(fixed, z, s).compile()
    calls: dict[str, Callable[[], Any]] = {"hsd": lambda: jax.block_until_ready(run(fixed, z, s))}
    truth = None
    if vs:
        import torch  # pyright: ignore[reportMissingImports]

        from hsd_jax.bench import torch_peer as peer

        net = peer.unet_peer(UNet(), params, 2 * _CHANNELS)
        inputs = (peer.tensor(x), peer.tensor(t, torch.int32))
        with torch.no_grad():
            truth = peer.array(net(*inputs))
        calls |= peer.forms(net, inputs, getattr(torch, dtype), compiles=not quick)
    flops = model_flops(lambda p, z, s: apply(UNet(), p, z, t, s), params, z, s)
    times = interleaved(calls, **pace(quick), tell=budget.tell)
    error = {} if truth is None else {"hsd": relative_error(calls["hsd"](), truth)}
    return [[dtype, batch, *row] for row in table_rows(times, flops, error)]


def table_rows(
    times: Mapping[str, list[float]], flops: float | None, error: Mapping[str, float]
) -> list[list[Any]]:
    """Rows [form, ms, GFLOP/s, MFU, time relative to hsd, error] of all contenders."""
    hardware = hardware_of(jax.devices()[0].device_kind)
    rows = []
    for form, seconds in medians(times).items():
        speed = flops / seconds if flops else None
        mfu = speed / hardware.flops if speed and hardware else None
        rows.append(
            [form, 1e3 * seconds, speed and speed / 1e9, mfu, ratio(times, form, "hsd"),
             error.get(form)]
        )  # fmt: skip
    return rows
