"""Monitors a run: speed, hardware utilisation, NaN and infinite metrics, traces."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hsd_jax.models import forms
from hsd_jax.training.state import Metrics


@dataclass(frozen=True)
class Hardware:
    """One JAX device: dense bfloat16 (V100 and T4: float16) FLOP/s, memory, and its bandwidth."""

    flops: float
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes a second."""


_T, _G, _B = 1e12, 2.0**30, 1e9
# From the makers' data sheets (cloud.google.com/tpu/docs, nvidia.com). The first name contained in
# `device_kind` is used. TPU v2 and v3 chips are two JAX devices.
_HARDWARE = {
    "TPU v6 lite": Hardware(918 * _T, 32 * _G, 1640 * _B),
    "TPU v5 lite": Hardware(197 * _T, 16 * _G, 819 * _B),
    "TPU v5": Hardware(459 * _T, 95 * _G, 2765 * _B),
    "TPU v4": Hardware(275 * _T, 32 * _G, 1228 * _B),
    "TPU v3": Hardware(61.5 * _T, 16 * _G, 450 * _B),
    "TPU v2": Hardware(22.5 * _T, 8 * _G, 350 * _B),
    "B200": Hardware(2250 * _T, 180 * _G, 8000 * _B),
    "H200": Hardware(989 * _T, 141 * _G, 4800 * _B),
    "H100 PCIe": Hardware(756 * _T, 80 * _G, 2000 * _B),
    "H100": Hardware(989 * _T, 80 * _G, 3350 * _B),
    "A100-SXM4-40GB": Hardware(312 * _T, 40 * _G, 1555 * _B),
    "A100-PCIE-40GB": Hardware(312 * _T, 40 * _G, 1555 * _B),
    "A100": Hardware(312 * _T, 80 * _G, 2039 * _B),
    "L40S": Hardware(362 * _T, 48 * _G, 864 * _B),
    "L4": Hardware(121 * _T, 24 * _G, 300 * _B),
    "A10G": Hardware(70 * _T, 24 * _G, 600 * _B),
    "V100": Hardware(125 * _T, 16 * _G, 900 * _B),
    "T4": Hardware(65 * _T, 16 * _G, 320 * _B),
    "RTX 4090": Hardware(165 * _T, 24 * _G, 1008 * _B),
    "RTX 3090": Hardware(71 * _T, 24 * _G, 936 * _B),
}


def hardware_of(device_kind: str) -> Hardware | None:
    """Looks a device up by its `device_kind`; None for CPUs and unknown devices."""
    return next((known for name, known in _HARDWARE.items() if name in device_kind), None)


def model_flops(run: Callable[..., Any], *arguments: Any) -> float | None:
    """The FLOPs of a call, counted by XLA before it optimises or partitions the program.

    A multiply-add counts as two, and convolutions count as direct ones whatever their algorithm.
    Recomputation (remat) is included, other inefficiencies are not.

    Args:
      run: a pure function.
      arguments: arrays or their shapes; shardings are ignored.

    Returns:
      The FLOPs, or None if the backend does not count them.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    analysis = jax.jit(forms.natively(run)).lower(*shapes).cost_analysis()
    return analysis.get("flops") if isinstance(analysis, dict) else None


class Pace:
    """Measures the speed of training steps."""

    flops: float | None = None
    """FLOPs of a step, for the MFU."""

    def __init__(self, step: int, steps: int, batch_size: int):
        """Starts the clock at `step` of `steps`, each of `batch_size` images over all processes."""
        self._step, self._steps, self._batch_size = step, steps, batch_size
        self._then = time.perf_counter()

    def report(self, step: int) -> dict[str, float]:
        """Speed since the last `report` or `restart`; `mfu` against the bfloat16 peak if known."""
        seconds = (time.perf_counter() - self._then) / max(1, step - self._step)
        self.restart(step)
        report = {
            "seconds_per_step": seconds,
            "images_per_second": self._batch_size / seconds,
            "seconds_left": seconds * (self._steps - step),
        }
        if self.flops:
            report["model_tflops_per_second"] = self.flops / seconds / _T
            hardware = hardware_of(jax.devices()[0].device_kind)
            if hardware:
                peak = hardware.flops * jax.device_count()
                report["mfu"] = self.flops / seconds / peak
        return report

    def restart(self, step: int) -> None:
        """Excludes the time since the last report, for example of an evaluation."""
        self._step, self._then = step, time.perf_counter()


class Watch:
    """Keeps the metrics of recent steps, to name the first with NaN or infinity."""

    def __init__(self) -> None:
        self._window: list[tuple[int, Metrics]] = []

    def add(self, step: int, metrics: Metrics) -> None:
        """Adds a step's metrics; waits for the step before last, so as not to run far ahead."""
        self._window.append((step, metrics))
        if len(self._window) > 2:
            jax.block_until_ready(self._window[-3][1])

    def look(self) -> dict[str, float]:
        """The last step's metrics.

        Raises:
          FloatingPointError: one is NaN or infinite; names the first bad step of the window and its
            metrics.
        """
        first, last = self._window[0][0], self._window[-1][0]
        values = _fetch(self._window[-1][1])
        if not _bad(values):
            self._window.clear()
            return values
        # NaN persists, so the first step that has one is where it started.
        step, bad = next((n, _bad(v)) for n, m in self._window if _bad(v := _fetch(m)))
        shown = ", ".join(f"{name} is {value}" for name, value in bad.items())
        raise FloatingPointError(
            f"{shown} at step {step}: lower the learning rate or clip gradients "
            f"(looked at steps {first} to {last}; the last checkpoint is untouched)"
        )


def _fetch(metrics: Metrics) -> dict[str, float]:
    return {name: float(value) for name, value in jax.device_get(metrics).items()}


def _bad(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not np.isfinite(value)}


class Trace:
    """An XProf trace of a few steps, in `folder`: open it with XProf or ui.perfetto.dev."""

    def __init__(self, folder: Path, first: int, steps: int):
        """Records steps `first` + 1 to `first` + `steps`; nothing when `steps` is 0."""
        self._folder, self._first, self._last = folder, first, first + steps
        self._running = False

    def before(self, step: int) -> None:
        """To be called before step `step` + 1 starts."""
        if step == self._first < self._last:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, metrics: Metrics) -> None:
        """To be called after step `step` was started."""
        if self._running and step == self._last:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Writes the trace."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False


def overview(params: Any) -> str:
    """A table of every parameter: name, shape, type, size; then the total."""
    from clu import parameter_overview

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    return parameter_overview.get_parameter_overview(shapes, include_stats=False)
