"""`hsd bench train`: times a training step of the UNet: loss, gradients, AdamW."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hsd_jax.bench.report import Report, Table
from hsd_jax.bench.timing import Budget, interleaved, pace
from hsd_jax.bench.unet import table_rows
from hsd_jax.bench.weights import normal, random_params
from hsd_jax.models import apply
from hsd_jax.models.unet import UNet
from hsd_jax.training.observe import model_flops

_SIDE, _CHANNELS, _RATE = 64, 3, 1e-4
_WARM = 4  # rounds in which the process still allocates memory


def measure(vs: str | None, budget: Budget, quick: bool) -> Report:
    """Times the paper's size: batch 2 on CPU (14 GB with PyTorch), 64 on accelerators."""
    batch = 2 if jax.default_backend() == "cpu" else 64
    dtypes = ("float32",) if quick else ("float32", "bfloat16")
    rows = []
    for dtype in budget.cases(dtypes, lambda dtype: f"{dtype}, batch {batch}"):
        rows += _rows(UNet(dtype=jnp.dtype(dtype)), batch, vs, budget, quick)
    columns = (
        "type", "batch", "form", "ms", "GFLOP/s", "MFU", "this / hsd", "loss, relative error",
    )  # fmt: skip
    return Report("train", [Table("Step of the UNet, 215 M parameters", columns, rows)])


def _rows(
    unet: UNet, batch: int, vs: str | None, budget: Budget, quick: bool
) -> list[list[Any]]:
    dtype = jnp.dtype(unet.dtype).name
    x, eps = normal(batch, _SIDE, _SIDE, 2 * _CHANNELS), normal(batch, _SIDE, _SIDE, _CHANNELS)
    t = np.full((batch,), 500, np.int32)
    z, s = jnp.asarray(x[..., :_CHANNELS]), jnp.asarray(x[..., _CHANNELS:])
    params = random_params(unet, z, t, s)
    optimizer = optax.adamw(_RATE)

    def loss(params: Any) -> jax.Array:
        return ((apply(unet, params, z, t, s) - eps) ** 2).mean()

    def step(params: Any, state: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    calls: dict[str, Callable[[], Any]] = {}
    wanted = None
    if vs:
        calls |= _peers(unet, params, x, t, eps, dtype)
        wanted = float(_first_loss(unet, params, x, t, eps))
    error = {} if wanted is None else {"hsd": abs(float(jax.jit(loss)(params)) / wanted - 1)}
    flops = model_flops(step, params, optimizer.init(params))
    compiled = jax.jit(step, donate_argnums=(0, 1))
    held = [params, optimizer.init(params)]

    def run() -> None:
        *held[:], value = compiled(*held)
        jax.block_until_ready(value)

    rounds = pace(quick) | ({} if quick else {"warm": _WARM})
    times = interleaved({"hsd": run, **calls}, **rounds, tell=budget.tell)
    return [[dtype, batch, *row] for row in table_rows(times, flops, error)]


def _first_loss(unet: UNet, params: Any, x: Any, t: Any, eps: Any) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    from hsd_jax.bench import torch_peer as peer

    net = peer.unet_peer(unet, params, x.shape[-1])
    with torch.no_grad():
        return ((net(peer.tensor(x), peer.tensor(t, torch.int32)) - peer.tensor(eps)) ** 2).mean()


def _peers(
    unet: UNet, params: Any, x: Any, t: Any, eps: Any, dtype: str
) -> dict[str, Callable[[], None]]:
    """PyTorch's steps: eager, and channels last with fused AdamW."""
    import torch  # pyright: ignore[reportMissingImports]

    from hsd_jax.bench import torch_peer as peer

    def one(memory_format: Any, fused: bool) -> Callable[[], None]:
        net: Any = peer.unet_peer(unet, params, x.shape[-1])
        net = net.to(memory_format=memory_format)
        inputs = peer.tensor(x).to(memory_format=memory_format)
        steps, target = peer.tensor(t, torch.int32), peer.tensor(eps)
        optimizer = torch.optim.AdamW(net.parameters(), _RATE, fused=fused)

        def run() -> None:
            optimizer.zero_grad()
            half = dtype == "bfloat16"
            with torch.autocast(peer.device(), torch.bfloat16, enabled=half):
                value = ((net(inputs, steps) - target) ** 2).mean()
            value.backward()
            optimizer.step()
            peer.wait()

        return run

    return {
        "eager": one(torch.contiguous_format, False),
        "channels_last, fused": one(torch.channels_last, True),
    }
