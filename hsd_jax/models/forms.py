"""Chooses the algorithm of a 3 x 3 convolution: the fastest at the nearest measured shape.

`conv_table.json` is written by `hsd bench conv -o FILE` on the devices that it names. It holds, by
device, rows `[op, use, dtype, side, cin, cout, form]`: op is "conv", "down" (stride 2) or "up"
(nearest x 2 before it); use is "once" (forward with a kernel as it is), "fixed" (forward with
filters transformed beforehand) or "grad" (backward); side is the square root of the pixels of the
whole batch, which are the rows of the matmuls. The algorithms (forms) of an op give the same
results up to rounding, so a wrong choice only costs time.
"""

import functools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp

TABLE = "conv_table.json"
NATIVE = "native"
FORMS = {
    "conv": (NATIVE, "f2", "f4", "f2_bf16", "im2col", "col2im"),
    "down": (NATIVE, "im2col"),
    "up": (NATIVE, "up2", "up2_bf16"),
}

_platform: ContextVar[str | None] = ContextVar("platform", default=None)
_forced: ContextVar[tuple[str, ...]] = ContextVar("forced", default=())


@contextmanager
def compiled_for(platform: str) -> Iterator[None]:
    """Makes convolutions traced inside use the algorithm for `platform`: "cpu", "gpu" or "tpu".

    It is for programs that are compiled ahead of time for other hardware.
    """
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


@contextmanager
def always(*names: str) -> Iterator[None]:
    """Makes convolutions traced inside use the first possible of these forms, else "native".

    It is for measurements and tests.
    """
    token = _forced.set(names)
    try:
        yield
    finally:
        _forced.reset(token)


def natively(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with native convolutions, which compile two to nine times faster.

    It is for small networks that a process calls a few times, since the embedded ones run as fast
    within a tenth (two Xeon cores), and for counting the FLOPs of networks consistently.
    """

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with always(NATIVE):
            return function(*args)

    return traced


def device_name() -> str:
    """The device's name in the table: "cpu GenuineIntel", "gpu NVIDIA H100 80GB HBM3"."""
    platform = _platform.get()
    if platform is None or platform == jax.default_backend():
        platform = jax.default_backend()
        kind = _processor_vendor() if platform == "cpu" else jax.devices()[0].device_kind
        return f"{platform} {kind}".strip()
    return platform


def on_cpu() -> bool:
    """Whether the current trace is for a CPU."""
    return device_name().startswith("cpu")


@functools.cache
def _processor_vendor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            line = next((line for line in file if line.startswith("vendor_id")), "")
    except OSError:
        line = ""
    return line.partition(":")[2].strip()


@functools.cache
def _table() -> dict[str, list[list[Any]]]:
    text = resources.files("hsd_jax.models").joinpath(TABLE).read_text("utf-8")
    return {name: entry["rows"] for name, entry in json.loads(text).items()}


@functools.cache
def _rows(device: str, op: str, use: str, dtype: str) -> list[tuple[tuple[float, ...], str]]:
    """Logarithms of the measured shapes with the fastest forms; empty for unknown devices."""
    table = _table()
    platform = device.partition(" ")[0]
    names = [device, *(name for name in table if name.partition(" ")[0] == platform)]
    rows = next((table[name] for name in names if name in table), [])
    rows = [row for row in rows if row[:3] == [op, use, dtype]]
    return [(tuple(math.log2(n) for n in row[3:6]), row[6]) for row in rows]


def choose(op: str, use: str, side: float, cin: int, cout: int, dtype: Any) -> str:
    """Chooses the form of an op.

    Args:
      op, use: see the module.
      side: square root of the input's batch times height times width.
      cin, cout: channels.
      dtype: of the input.

    Returns:
      A name in `FORMS[op]`.
    """
    forced = _forced.get()
    if forced:
        return next((name for name in forced if name in FORMS[op]), NATIVE)
    device, name = device_name(), jnp.dtype(dtype).name
    rows = _rows(device, op, use, name) or _rows(device, op, use, "float32")
    if not rows:
        return NATIVE
    here = tuple(math.log2(n) for n in (side, cin, cout))
    return min(rows, key=lambda row: math.dist(row[0], here))[1]
