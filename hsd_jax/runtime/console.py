"""What a command says: its progress, its tables, and one line of what is wrong."""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Self


class Progress:
    """What is going on: one line on a terminal's stderr, and nothing anywhere else.

        with Progress(total=len(pairs), unit="pair") as progress:
            progress.stage("loading the weights ...")
            for pair in pairs:
                ...
                progress.update()

    With a total the line is a bar with the time that is left; `done` units of it were there before.
    """

    def __init__(self, total: int | None = None, unit: str = "image", done: int = 0):
        self._start = time.perf_counter()
        self._total, self._unit, self._done = total, unit, done
        self._bar: Any = None
        self._shown = sys.stderr is not None and sys.stderr.isatty()

    @property
    def seconds(self) -> float:
        """Since it was made, to two digits."""
        return round(time.perf_counter() - self._start, 2)

    def stage(self, text: str) -> None:
        """`text` in the place of the last one."""
        if self._shown:
            self._opened().set_description_str(text)

    def expect(self, total: int) -> None:
        """The number of units, where it was not known at the start."""
        self._total = total
        if self._shown:
            self._opened().reset(total)

    def update(self, count: int = 1) -> None:
        """`count` more units are done."""
        if self._shown:
            self._opened().update(count)

    def print(self, line: str) -> None:
        """A line that stays, on stderr, above the bar; also where there is no terminal."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _opened(self) -> Any:
        if self._bar is None:
            from tqdm import tqdm  # here: most processes have no terminal, and start-up counts

            plain = "{desc}" if self._total is None else None
            self._bar = tqdm(
                total=self._total, unit=self._unit, initial=self._done, leave=False,
                dynamic_ncols=True, bar_format=plain, file=sys.stderr,
            )  # fmt: skip
        return self._bar


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], style: str = "simple", digits: int = 3
) -> str:
    """Rows under their columns' names, numbers aligned.

    Args:
      columns: the names.
      rows: one cell a column; None is left empty. A column with text keeps it as it is, numbers
        in it too.
      style: of tabulate: "simple" for a terminal, "github" for Markdown, "html".
      digits: behind the point of floats.
    """
    from tabulate import tabulate

    cells = enumerate(zip(*rows, strict=True))
    texts = [i for i, column in cells if any(isinstance(cell, str) for cell in column)]
    return tabulate(
        rows, list(columns), tablefmt=style, floatfmt=f".{digits}f", missingval="",
        disable_numparse=texts,
    )  # fmt: skip


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def fail(name: str, message: str) -> int:
    """Says on one line of stderr what is wrong with a command; returns its exit status, 2.

    HSD_DEBUG=1 adds the traceback of the error that is being handled.
    """
    if os.environ.get("HSD_DEBUG") == "1":
        traceback.print_exc()
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
    return 2


def module_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """For the arguments of `python -m name`; its help is the module's docstring as it stands."""
    return argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def status_of(name: str, run: Callable[[], object], extras: str = "") -> int:
    """Runs a command; returns 0, or 2 after one line on stderr.

    Args:
      name: of the module, as it was started.
      run: the command; what is wrong with its arguments or files it raises as ValueError or
        OSError.
      extras: of the installation ("eval,train", say), told where a package is missing.
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
