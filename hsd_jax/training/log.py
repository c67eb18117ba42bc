"""What a run says: JSON lines, TensorBoard, sample images, lines or a bar on the terminal.

`metrics.jsonl` holds what the training computes, which is the same for a run that was killed and
started again as for one that was not, byte for byte; `timing.jsonl` holds what a clock says.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hsd_jax.runtime import files
from hsd_jax.runtime.console import Progress


class Log:
    """Writes everything about a run, on one process of it.

    The method names are those of clu's metric writers, whose import needs TensorFlow.
    """

    def __init__(self, workdir: Path, start_step: int, steps: int, active: bool = True):
        """Goes on in `workdir` after `start_step`: lines of later steps are dropped.

        Args:
          workdir: of the run.
          start_step: that of the checkpoint that the run goes on from.
          steps: of the whole run.
          active: False makes every method do nothing, for all processes but the first.
        """
        self._workdir, self._active = workdir, active
        self._bar, self._shown = Progress(steps, "step", start_step), start_step
        self.evaluated = False
        """Whether `start_step` has been evaluated already."""
        self._board: Any = None
        if active:
            kept = _drop_after(workdir / "metrics.jsonl", start_step)
            _drop_after(workdir / "timing.jsonl", start_step)
            last = [name for line in kept if line["step"] == start_step for name in line]
            # Metrics of a split are named SPLIT/NAME, those of a step have no slash.
            self.evaluated = any("/" in name for name in last)
            from tensorboardX import SummaryWriter  # slow to import

            self._board = SummaryWriter(
                str(workdir / "tensorboard"), purge_step=start_step + 1, flush_secs=30
            )

    def write_scalars(
        self, step: int, scalars: Mapping[str, Any], timing: Mapping[str, float] | None = None
    ) -> None:
        """A line of metrics.jsonl with `step` and the scalars, and one of timing.jsonl."""
        if not self._active:
            return
        values = {name: float(value) for name, value in scalars.items()}
        for name, written in (("metrics", values), ("timing", timing)):
            if written:
                with (self._workdir / f"{name}.jsonl").open("a") as file:
                    file.write(json.dumps({"step": step} | dict(written)) + "\n")
        prefixed = values | {f"timing/{name}": value for name, value in (timing or {}).items()}
        for name, value in prefixed.items():
            self._board.add_scalar(name, value, step)
        shown = [f"{name} {value:.4g}" for name, value in values.items()]
        self.write_line(f"step {step:>7}  " + "  ".join(shown + _spoken(timing or {})))

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Each uint8 `[H, W, 3]` image as `samples/NAME-STEP.png`."""
        if not self._active:
            return
        folder = self._workdir / "samples"
        folder.mkdir(exist_ok=True)
        for name, image in images.items():
            Image.fromarray(image).save(folder / f"{name}-{step:07d}.png")
            self._board.add_image(name, image, step, dataformats="HWC")

    def write_text(self, name: str, text: str) -> None:
        """Into the file `name`.txt and, indented, among TensorBoard's texts."""
        if not self._active:
            return
        (self._workdir / f"{name}.txt").write_text(text + "\n")
        self._board.add_text(name, "\n".join("    " + line for line in text.splitlines()), 0)

    def write_line(self, line: str) -> None:
        """A plain line on the terminal."""
        if self._active:
            self._bar.print(line)

    def progress(self, step: int) -> None:
        """A bar with rate and time left on a terminal; nothing where the output is a file."""
        if self._active:
            self._bar.update(step - self._shown)
            self._shown = step

    def flush(self) -> None:
        """Everything written is on the disk of this machine."""
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """After this nothing may be written."""
        self._bar.__exit__()
        if self._board is not None:
            self._board.close()


def _drop_after(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines up to `step`. The others go: a killed run logged what no checkpoint holds."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    kept = [record for record in map(_record, lines) if record and record["step"] <= step]
    if len(kept) < len(lines):
        files.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        return record if "step" in record else None
    except ValueError:
        return None  # a line cut off by the kill


def _spoken(timing: Mapping[str, float]) -> list[str]:
    """Timing in a person's units."""
    words = []
    if "seconds_per_step" in timing:
        words.append(f"| {timing['seconds_per_step']:.3g} s/step")
    if "images_per_second" in timing:
        words.append(f"{timing['images_per_second']:.3g} images/s")
    if "mfu" in timing:
        words.append(f"MFU {100 * timing['mfu']:.1f} %")
    if "seconds_left" in timing:
        words.append(f"{_clock(timing['seconds_left'])} left")
    return words


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
