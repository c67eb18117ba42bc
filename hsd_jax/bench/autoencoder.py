"""`hsd bench autoencoder`: times encoder and decoder of the paper's `vq-f4` at 256 x 256."""

from collections.abc import Callable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.bench.report import Report, Table
from hsd_jax.bench.timing import Budget, interleaved, pace
from hsd_jax.bench.unet import table_rows
from hsd_jax.bench.weights import normal, random_params, relative_error
from hsd_jax.models import apply
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.training.observe import model_flops

_SIZE = 256


def measure(vs: str | None, budget: Budget, quick: bool) -> Report:
    """Times batch 1 on CPU, 1 and 16 on accelerators, in float32 and bfloat16."""
    batches = (1,) if jax.default_backend() == "cpu" else (1, 16)
    shape = jax.ShapeDtypeStruct((1, _SIZE, _SIZE, 3), jnp.float32)
    params = random_params(Autoencoder(), shape)
    dtypes = ("float32",) if quick else ("float32", "bfloat16")
    cases = list(product(dtypes, batches, ("encoder", "decoder")))
    rows = []
    for dtype, batch, part in budget.cases(cases, lambda case: "{2}, {0}, batch {1}".format(*case)):
        rows += _rows(part, dtype, batch, params, vs, budget, quick)
    columns = (
        "part", "type", "batch", "form", "ms", "GFLOP/s", "MFU", "this / hsd", "relative error",
    )  # fmt: skip
    return Report("autoencoder", [Table("vq-f4, 55 M parameters, 256 x 256", columns, rows)])


def _rows(
    part: str, dtype: str, batch: int, params: Any, vs: str | None, budget: Budget, quick: bool
) -> list[list[Any]]:
    decodes = part == "decoder"
    side = _SIZE // 4 if decodes else _SIZE
    x = normal(batch, side, side, 3)

    def call(net: Autoencoder) -> Callable[[Any, jax.Array], jax.Array]:
        # Without quantisation: rounding could change the nearest entries of a random codebook.
        bound = Autoencoder.decode if decodes else Autoencoder.encode
        options = {"force_not_quantize": True} if decodes else {}
        return lambda p, x: apply(net, p, x, method=bound, **options)

    run = jax.jit(call(Autoencoder(dtype=jnp.dtype(dtype)))).lower(params, x).compile()
    own = jnp.asarray(x)
    calls: dict[str, Callable[[], Any]] = {"hsd": lambda: jax.block_until_ready(run(params, own))}
    truth = None
    if vs:
        import torch  # pyright: ignore[reportMissingImports]

        from hsd_jax.bench import torch_peer as peer

        net = peer.autoencoder_peers(Autoencoder(), params)[decodes]
        with torch.no_grad():
            truth = peer.array(net(peer.tensor(x)))
        calls |= peer.forms(net, (peer.tensor(x),), getattr(torch, dtype), compiles=not quick)
    flops = model_flops(call(Autoencoder()), params, own)
    times = interleaved(calls, **pace(quick), tell=budget.tell)
    error = {} if truth is None else {"hsd": relative_error(np.asarray(calls["hsd"]()), truth)}
    return [[part, dtype, batch, *row] for row in table_rows(times, flops, error)]
