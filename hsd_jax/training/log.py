"""What a run says: metrics.jsonl, sample pictures, lines on the terminal."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class Log:
    """Writes scalars as JSON lines, pictures as PNG, and both as plain lines for a person.

    The method names are those of clu's metric writers, whose import needs TensorFlow.
    """

    def __init__(self, workdir: Path, start_step: int):
        """Appends to `workdir`/metrics.jsonl, dropping lines of steps after `start_step`."""
        self._workdir = workdir
        self._path = workdir / "metrics.jsonl"
        self._last = (time.perf_counter(), start_step)
        if self._path.exists():
            # A killed run logged steps that its last checkpoint does not hold: they come again.
            lines = self._path.read_text().splitlines(keepends=True)
            kept = [line for line in lines if _step_of(line) <= start_step]
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text("".join(kept))
            temporary.replace(self._path)

    def write_scalars(self, step: int, scalars: dict[str, Any]) -> None:
        """One JSON object a line: `step` and the scalars."""
        values = {name: float(value) for name, value in scalars.items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step} | values) + "\n")
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"step {step:>7}  {shown}", file=sys.stderr, flush=True)

    def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Each uint8 `[H, W, 3]` picture as `samples/NAME-STEP.png`."""
        folder = self._workdir / "samples"
        folder.mkdir(exist_ok=True)
        for name, image in images.items():
            Image.fromarray(image).save(folder / f"{name}-{step:07d}.png")

    def seconds_per_step(self, step: int) -> float:
        """Since the last call."""
        now = time.perf_counter()
        then, last_step = self._last
        self._last = (now, step)
        return (now - then) / max(1, step - last_step)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # a line cut off by the kill
