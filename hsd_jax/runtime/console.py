"""Output of commands: progress, tables, and errors of one line."""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Self, TextIO


class Progress:
    """Shows progress in one line of a terminal's stderr; shows nothing without a terminal.

        with Progress(total=len(pairs), unit="pair") as progress:
            progress.stage("loading the weights ...")
            for pair in pairs:
                ...
                progress.update()

    With a total, the line is a bar with the remaining time; `done` units are already finished.
    """

    def __init__(self, total: int | None = None, unit: str = "image", done: int = 0):
        self._start = self._entered = time.perf_counter()
        self._stage = ""
        self._timings: dict[str, float] = {}
        self._total, self._unit, self._done = total, unit, done
        self._bar: Any = None
        self._shown = sys.stderr is not None and sys.stderr.isatty()

    @property
    def seconds(self) -> float:
        """Seconds since the start, to two decimals."""
        return round(time.perf_counter() - self._start, 2)

    @property
    def timings(self) -> dict[str, float]:
        """Seconds of each stage so far, to three decimals, by the first word of its text."""
        self._leave()
        return {stage: round(seconds, 3) for stage, seconds in self._timings.items()}

    def stage(self, text: str) -> None:
        """Replaces the text of the line."""
        self._leave()
        self._stage = text.partition(" ")[0]
        if self._shown:
            self._opened().set_description_str(text)

    def expect(self, total: int) -> None:
        """Sets the number of units if it was not known at the start."""
        self._total = total
        if self._shown:
            self._opened().reset(total)

    def update(self, count: int = 1) -> None:
        """Adds `count` finished units."""
        if self._shown:
            self._opened().update(count)

    def print(self, line: str) -> None:
        """Prints a permanent line to stderr, above the bar; also without a terminal."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            tell(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _leave(self) -> None:
        now = time.perf_counter()
        if self._stage:
            self._timings[self._stage] = self._timings.get(self._stage, 0) + now - self._entered
        self._entered = now

    def _opened(self) -> Any:
        if self._bar is None:
            from tqdm import tqdm  # here: it slows start-up, and few have a terminal

            plain = "{desc}" if self._total is None else None
            self._bar = tqdm(
                total=self._total, unit=self._unit, initial=self._done, leave=False,
                dynamic_ncols=True, bar_format=plain, file=sys.stderr,
            )  # fmt: skip
        return self._bar


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], style: str = "simple", digits: int = 3
) -> str:
    """Formats a table with aligned numbers.

    Args:
      columns: the names of the columns.
      rows: one cell per column; None is left empty. Columns that contain text are not formatted.
      style: tabulate's format: "simple" for a terminal, "github" for Markdown, "html".
      digits: decimals of floats.
    """
    from tabulate import tabulate

    cells = enumerate(zip(*rows, strict=True))
    texts = [i for i, column in cells if any(isinstance(cell, str) for cell in column)]
    return tabulate(
        rows, list(columns), tablefmt=style, floatfmt=f".{digits}f", missingval="",
        disable_numparse=texts,
    )  # fmt: skip


def one_line(error: BaseException) -> str:
    """The message of an error, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def tell(line: str) -> None:
    """A line on stderr; one that is closed or full does not spoil the work."""
    stream = sys.stderr
    if stream is None:
        return
    try:
        print(line, file=stream, flush=True)
    except OSError:
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """Drops what could not be written: at its end Python would try again, and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fail(name: str, message: str) -> int:
    """Prints an error of a command in one line on stderr; returns its exit status, 2.

    HSD_DEBUG=1 adds the traceback of the current exception.
    """
    if os.environ.get("HSD_DEBUG") == "1":
        tell(traceback.format_exc())
    tell(f"{name}: {' '.join(message.split())}")
    return 2


def settle_stdout() -> str | None:
    """Writes out what was printed. Where it cannot be, it is dropped, and the reason returned.

    A reader that went away ("| head") wanted no more: that is no reason.
    """
    if sys.stdout is None:
        return None
    try:
        sys.stdout.flush()
    except OSError as error:
        _silence(sys.stdout)
        return None if isinstance(error, BrokenPipeError) else error.strerror
    return None


def module_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """An argument parser for `python -m name`, whose help is the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def status_of(name: str, run: Callable[[], object], extras: str = "") -> int:
    """Runs a command; returns 0, or 2 after one line on stderr.

    Args:
      name: the name of the module.
      run: the command; it raises ValueError or OSError for bad arguments or files.
      extras: the extras to name if a package is missing, such as "eval,train".
    """
    try:
        run()
        return 0
    except ModuleNotFoundError as error:
        if not extras:
            raise
        return fail(name, f"error: {error.name} is missing: pip install 'hsd-jax[{extras}]'")
    except (ValueError, OSError) as error:
        return fail(name, f"error: {one_line(error)}")
