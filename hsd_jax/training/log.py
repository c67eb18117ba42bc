"""What a run says: JSON lines, TensorBoard, sample images, lines or a bar on the terminal.

`metrics.jsonl` holds what the training computes, which is the same for a run that was killed and
started again as for one that was not, byte for byte; `timing.jsonl` holds what a clock says.

What a run is continued by must be written: a fault there ends it. TensorBoard's file and the sample
images need not be: training goes on without, and says so.
"""

import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hsd_jax.runtime import files
from hsd_jax.runtime.console import Progress

_SILENCE = 60.0  # seconds after which it is said how far a run is, where there is no bar
_FIRST = 3  # steps of a start that are told one by one


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
        self._workdir, self._active, self._first, self._steps = workdir, active, start_step, steps
        self._bar, self._shown = Progress(steps, "step", start_step), start_step
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._began = self._spoke = time.monotonic()
        self._told = start_step
        self._without: set[str] = set()
        self.evaluated = False
        """Whether `start_step` has been evaluated already."""
        self._board: _Board | None = None
        if active:
            kept = _drop_after(workdir / "metrics.jsonl", start_step)
            _drop_after(workdir / "timing.jsonl", start_step)
            last = [name for line in kept if line["step"] == start_step for name in line]
            # Metrics of a split are named SPLIT/NAME, those of a step have no slash.
            self.evaluated = any("/" in name for name in last)
            with self._dispensable("tensorboard"):
                self._board = _Board(workdir / "tensorboard", start_step + 1)

    def write_scalars(
        self, step: int, scalars: Mapping[str, Any], timing: Mapping[str, float] | None = None
    ) -> None:
        """A line of metrics.jsonl with `step` and the scalars, and one of timing.jsonl.

        Raises:
          OSError: they cannot be written.
        """
        if not self._active:
            return
        values = {name: float(value) for name, value in scalars.items()}
        for name, written in (("metrics", values), ("timing", timing)):
            if written:
                line = json.dumps({"step": step} | dict(written))
                _append(self._workdir / f"{name}.jsonl", line)
        prefixed = values | {f"timing/{name}": value for name, value in (timing or {}).items()}
        with self._dispensable("tensorboard"):
            if self._board:
                self._board.add_scalars(prefixed, step)
        shown = [f"{name} {value:.4g}" for name, value in values.items()]
        self._told = step
        self.write_line(f"step {step:>7}  " + "  ".join(shown + _spoken(timing or {})))

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Each uint8 `[H, W, 3]` image as `samples/NAME-STEP.png`."""
        if not self._active:
            return
        with self._dispensable("samples"):
            folder = self._workdir / "samples"
            folder.mkdir(exist_ok=True)
            for name, image in images.items():
                with files.atomic(folder / f"{name}-{step:07d}.png") as path:
                    Image.fromarray(image).save(path, "PNG")
        with self._dispensable("tensorboard"):
            if self._board:
                self._board.add_images(images, step)

    def write_text(self, name: str, text: str) -> None:
        """Into the file `name`.txt and, indented, among TensorBoard's texts."""
        if not self._active:
            return
        files.write_text(self._workdir / f"{name}.txt", text + "\n")
        with self._dispensable("tensorboard"):
            if self._board:
                self._board.add_text(name, "\n".join("    " + line for line in text.splitlines()))

    def write_line(self, line: str) -> None:
        """A plain line on the terminal."""
        if self._active:
            self._spoke = time.monotonic()
            with suppress(OSError):  # stderr may be a file on a full disk
                self._bar.print(line)

    def progress(self, step: int) -> None:
        """A bar with rate and time left on a terminal.

        Elsewhere a line after each of the first steps, and whenever nothing was said for a minute.
        """
        if not self._active:
            return
        self._bar.update(step - self._shown)
        self._shown = step
        new = step - self._first <= _FIRST and self._told < step
        self.remark(f"step {step:>7} of {self._steps}", now=new)

    def remark(self, line: str, now: bool = False) -> None:
        """What goes on, where there is no bar to see it and a minute has passed; or `now`."""
        silent = time.monotonic() - self._spoke
        if self._active and not self._terminal and (now or silent > _SILENCE):
            minutes, seconds = divmod(time.monotonic() - self._began, 60)
            self.write_line(f"{line}, {minutes:.0f} min {seconds:.1f} s after the start")

    def close(self) -> None:
        """After this nothing may be written."""
        self._bar.__exit__()
        with self._dispensable("tensorboard"):
            if self._board is not None:
                self._board.close()

    @contextmanager
    def _dispensable(self, name: str) -> Iterator[None]:
        """What fails to be written in the block is told once, and is no reason to stop."""
        try:
            yield
        except OSError as error:
            if name == "tensorboard":
                board, self._board = self._board, None
                with suppress(OSError):
                    if board is not None:
                        board.close()
            if name not in self._without:
                self.write_line(
                    f"cannot write {self._workdir / name} ({error.strerror or error}): "
                    "training goes on without"
                )
            self._without.add(name)


class _Board:
    """TensorBoard's event file.

    Written at once: the writers of tensorboardX do so in a thread, and when that has died, on a
    full disk, they wait for ever for room in its queue.
    """

    def __init__(self, folder: Path, purge_step: int):
        """A new file in `folder`; what older ones hold from `purge_step` on is not shown."""
        from tensorboardX import summary
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._summary, self._event = summary, event_pb2.Event  # type: ignore
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self._file = RecordWriter(str(folder / name))
        self._add(file_version="brain.Event:2")
        start = event_pb2.SessionLog(status=1)  # START  # type: ignore
        self._add(step=purge_step, session_log=start)

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self._add(step=step, summary=self._summary.scalar(name, value))
        self._file.flush()

    def add_images(self, images: Mapping[str, np.ndarray], step: int) -> None:
        for name, image in images.items():
            summary = self._summary.image(name, image, dataformats="HWC")
            self._add(step=step, summary=summary)

    def add_text(self, name: str, text: str) -> None:
        self._add(step=0, summary=self._summary.text(name, text))

    def close(self) -> None:
        self._file.close()

    def _add(self, **event: Any) -> None:
        self._file.write(self._event(wall_time=time.time(), **event).SerializeToString())


def _append(path: Path, line: str) -> None:
    try:
        with path.open("a") as file:
            file.write(line + "\n")
    except OSError as error:
        raise OSError(
            f"cannot write {path} ({error.strerror}); the last checkpoint is untouched: make room "
            "and start again, the run goes on"
        ) from error


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
