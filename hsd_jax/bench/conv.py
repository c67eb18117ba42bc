"""`hsd bench conv`: times every form of a convolution at the shapes of our networks."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hsd_jax.bench.report import Report, Table, machine
from hsd_jax.bench.timing import Budget, interleaved, medians
from hsd_jax.bench.weights import normal, relative_error
from hsd_jax.models import conv, forms

# (side, cin, cout): levels of UNets and autoencoders, then stems and last layers. Odd sides stand
# for two images.
_WIDE = tuple(
    (side, channels, channels)
    for side, several in {
        8: (128, 256, 512), 16: (64, 128, 256, 512, 1024), 23: (256, 512, 1024),
        32: (64, 128, 256, 512, 1024), 45: (128, 256, 512), 64: (64, 128, 256, 512),
        91: (64, 128, 256), 128: (64, 128, 256), 256: (64, 128),
    }.items()
    for channels in several
)  # fmt: skip
_THIN = ((64, 4, 128), (64, 128, 4), (256, 4, 128), (256, 128, 4), (64, 16, 64), (64, 64, 16))
_DOWN = ((32, 128, 128), (64, 128, 128), (32, 512, 512), (128, 256, 256))
_UP = ((16, 64, 64), (16, 256, 256), (32, 512, 512), (16, 1024, 1024), (64, 512, 512))
# The advantage that a form must have over the native convolution, which compiles fastest.
_MARGIN = 1.1


class Case(NamedTuple):
    """One row of the table, without its form."""

    op: str
    use: str
    dtype: str
    side: int
    cin: int
    cout: int


def cases() -> Iterator[Case]:
    """All cases to measure."""
    shapes = {"conv": _WIDE + _THIN, "down": _DOWN, "up": _UP}
    for dtype, (op, sizes) in itertools.product(("float32", "bfloat16"), shapes.items()):
        for size in sizes:
            for use in ("once", "fixed", "grad"):
                thin = min(size[1:]) < 64
                if dtype == "bfloat16" and (use == "grad" or thin):
                    continue
                if use == "fixed" and (op == "down" or thin):
                    continue
                if use == "grad" and op != "conv":
                    continue
                yield Case(op, use, dtype, *size)


def candidates(case: Case) -> list[str]:
    """The possible forms of a case."""
    names = list(forms.FORMS[case.op])
    if case.dtype == "float32":
        names = [name for name in names if not name.endswith("bf16")]
    if case.op != "conv":
        return names
    if min(case.cin, case.cout) < 64:
        return ["native", "im2col" if case.cin < case.cout else "col2im"]
    return [name for name in names if name not in ("im2col", "col2im")]


def runs(case: Case) -> dict[str, Callable[[], Any]]:
    """A compiled call of each form."""
    dtype = jnp.dtype(case.dtype)
    batch, side = (2, round(case.side / 2**0.5)) if case.side % 2 else (1, case.side)
    x = jnp.asarray(normal(batch, side, side, case.cin), dtype)
    kernel = jnp.asarray(normal(3, 3, case.cin, case.cout) / (9 * case.cin) ** 0.5)
    layer: Any = conv.UpsampleConv(case.cout, dtype)
    if case.op != "up":
        layer = conv.Conv(case.cout, stride=2 if case.op == "down" else 1, dtype=dtype)
    params = {"kernel": kernel, "bias": jnp.zeros(case.cout)}

    def one(form: str) -> Callable[[], Any]:
        def apply(params: Any, x: jax.Array) -> jax.Array:  # new: JAX caches traces
            return layer.apply({"params": params}, x)

        with forms.always(form):
            given, call = params, apply
            if case.use == "fixed":
                given = jax.jit(lambda p: conv.transform_kernels(layer, p, x))(params)
            if case.use == "grad":
                call = jax.grad(lambda p, x: (apply(p, x) ** 2).sum(), (0, 1))
            compiled = jax.jit(call).lower(given, x).compile()
        return lambda: jax.block_until_ready(compiled(given, x))

    return {form: one(form) for form in candidates(case)}


def measure(
    vs: str | None, budget: Budget, quick: bool
) -> tuple[Report, dict[str, Any]]:
    """Times all cases.

    Returns:
      The report, and this device's entry of `conv_table.json`.
    """
    del vs, quick  # whole networks are compared, not convolutions
    rows, chosen = [], []
    for case in budget.cases(list(cases()), lambda case: " ".join(map(str, case))):
        calls = runs(case)
        times = medians(interleaved(calls, seconds=0.5))
        best = min(times, key=lambda form: times[form])
        if times["native"] < _MARGIN * times[best]:
            best = "native"
        error = None
        if case.use != "grad" and best != "native":
            error = relative_error(*(jnp.float32(calls[form]()) for form in (best, "native")))
        shown = ", ".join(f"{form} {1e3 * t:.2f}" for form, t in times.items())
        rows.append([*case, shown, best, times["native"] / times[best], error])
        chosen.append([*case, best])
    columns = (*Case._fields, "ms", "chosen", "times faster than native", "relative difference")
    report = Report("conv", [Table("3 x 3 convolutions", columns, rows)])
    return report, {"measured": machine(), "rows": chosen}


def update_table(path: Path, entry: dict[str, Any]) -> None:
    """Writes this device's entry to a table file and keeps those of other devices."""
    table = json.loads(path.read_text("utf-8")) if path.exists() else {}
    table[forms.device_name()] = entry
    parts = []
    for name, value in sorted(table.items()):
        rows = ",\n".join(f"   {json.dumps(row)}" for row in value["rows"])
        head = f'  "measured": {json.dumps(value.get("measured", {}))},\n  "rows": [\n'
        parts.append(f" {json.dumps(name)}: {{\n{head}{rows}\n  ]\n }}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")
