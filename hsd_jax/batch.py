"""Many swaps: a list of pairs to a folder of images, in device batches, resumable.

One thread reads, parses and aligns pairs ahead of time; device batches of them are painted on all
devices; other threads write the results. A pair that fails becomes a row of errors.csv and does not
stop the run.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hsd_jax.imaging import files
from hsd_jax.runtime.console import Progress, one_line
from hsd_jax.runtime.files import write_text

REPORT, ERRORS = "report.jsonl", "errors.csv"
_COLUMNS = ("head", "body", "output", "seed", "person", "head_person")
_AHEAD = 2  # batches that are parsed before they are painted


@dataclass(frozen=True)
class Job:
    """One row of the list; paths are relative to the list's folder."""

    head: str
    body: str
    output: str
    seed: int
    person: int
    head_person: int


def read_jobs(path: Path, seed: int = 0) -> list[Job]:
    """Reads a CSV of head, body and, optionally, output, seed, person and head_person.

    A row without an output is written to HEAD_on_BODY.png, after the names of its photos.

    Args:
      path: the CSV file.
      seed: the seed of rows that give none.

    Raises:
      ValueError: if the file or a column is missing, a column is unknown, a value is invalid,
        there are no rows, two rows share an output, or an output names another folder.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file: give a CSV with the columns head and body")
    try:
        jobs = _read_rows(path, seed)
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV ({error}): save it as plain text") from error
    if not jobs:
        raise ValueError(f"{path} lists no pairs")
    outputs = [job.output for job in jobs]
    if len(set(outputs)) < len(outputs):
        twice = next(name for name in outputs if outputs.count(name) > 1)
        raise ValueError(f"{path}: two rows would write {twice}: give them the column output")
    return jobs


def _read_rows(path: Path, seed: int) -> list[Job]:
    # Names of files are any bytes, and so is a list of them.
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or ()
        if missing := [name for name in ("head", "body") if name not in columns]:
            raise ValueError(f"{path} has no column {missing[0]}: its first line must name it")
        if unknown := [name for name in columns if name not in _COLUMNS]:
            raise ValueError(f"{path}: unknown column {unknown[0]!r}: use {', '.join(_COLUMNS)}")
        return [_job(row, f"{path}, line {reader.line_num}", seed) for row in reader]


def _job(row: Mapping[str, Any], where: str, seed: int) -> Job:
    text = {name: (row.get(name) or "").strip() for name in _COLUMNS}
    if not text["head"] or not text["body"]:
        raise ValueError(f"{where}: head or body is empty: fill in both")
    output = text["output"] or f"{Path(text['head']).stem}_on_{Path(text['body']).stem}.png"
    if Path(output).name != output or output in (REPORT, ERRORS):
        raise ValueError(f"{where}: output is {output!r}: give the name of a file, without folders")
    files.check_ending(Path(output))
    numbers = {
        name: _number(text[name], default, low, f"{where}: {name}")
        for name, default, low in (("seed", seed, 0), ("person", 1, 1), ("head_person", 1, 1))
    }
    return Job(text["head"], text["body"], output, **numbers)


def _number(text: str, default: int, low: int, where: str) -> int:
    if not text:
        return default
    if not text.isdecimal() or not low <= int(text) < 2**32:
        raise ValueError(f"{where} is {text!r}: give a whole number from {low}")
    return int(text)


@dataclass(frozen=True)
class Settings:
    """Everything that the results of a run depend on, except the photos."""

    weights: str
    solver: str
    steps: int | None
    preserve: str
    skin_tone: str


class Batch:
    """A resumable run: it knows which results exist already and makes the others."""

    def __init__(self, jobs: Sequence[Job], folder: Path, base: Path, settings: Settings):
        """Reads the report of earlier runs.

        Args:
          jobs: the rows that `read_jobs` returns.
          folder: where results go; created if missing.
          base: the folder that the photos' paths are relative to.
          settings: those of this run; a result made under other settings is made again.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._base, self._settings = folder, base, settings
        self._rows = _report_of(folder)
        self.todo = [job for job in jobs if not self._done(job)]
        for job in self.todo:
            files.check_output(folder / job.output)
        self.skipped = len(jobs) - len(self.todo)
        self.errors: list[tuple[Job, str]] = []

    def _done(self, job: Job) -> bool:
        """Whether the report lists this result, with the same settings and photos."""
        found = self._rows.get(job.output)
        return (
            found is not None
            and (self._folder / job.output).is_file()
            and all(found.get(name) == value for name, value in self._facts(job).items())
        )

    def _facts(self, job: Job) -> dict[str, Any]:
        photos = {
            f"{name}_size": path.stat().st_size if os.path.isfile(path) else None
            for name, path in (("head", self._base / job.head), ("body", self._base / job.body))
        }
        return asdict(job) | asdict(self._settings) | photos

    def run(self, swapper: Any, sampling: Any, size: int, progress: Progress) -> None:
        """Makes all results that are missing.

        Args:
          swapper: a `hsd_jax.HeadSwapper` with the weights of `settings`.
          sampling: the solver and its steps.
          size: the number of pairs per device batch.
          progress: is updated after each pair.
        """
        progress.expect(len(self.todo))
        progress.stage("swapping")
        with ThreadPoolExecutor(1) as readers, ThreadPoolExecutor(2) as writers:
            pairs = _ahead(readers, self._paired, self.todo, _AHEAD * size, swapper)
            written: list[Future[None]] = []
            for part in _parts(self._readable(pairs, progress), size):
                results = swapper.paint(
                    [pair for _, pair in part], [job.seed for job, _ in part],
                    sampling=sampling, preserve=self._settings.preserve,
                )  # fmt: skip
                for (job, _), (result,) in zip(part, results, strict=True):
                    written.append(writers.submit(self._write, job, result, progress))
            for future in written:
                future.result()
        self._write_errors()

    def _paired(self, job: Job, swapper: Any) -> Any:
        body = files.read_photo(self._base / job.body)
        files.check_fits(body.pixels, Path(job.output))
        return swapper.pair(
            self._base / job.head, body,
            person=job.person, head_person=job.head_person, skin_tone=self._settings.skin_tone,
        )  # fmt: skip

    def _readable(
        self, pairs: Iterable[tuple[Job, Future[Any]]], progress: Progress
    ) -> Iterator[tuple[Job, Any]]:
        """Yields the pairs that could be read and parsed; records the others as errors."""
        for job, future in pairs:
            try:
                yield job, future.result()
            except (ValueError, OSError) as error:
                self._fail(job, one_line(error), progress)

    def _write(self, job: Job, result: Any, progress: Progress) -> None:
        path = self._folder / job.output
        try:
            files.save_image(result.image, path, srgb=result.srgb)
        except ValueError as error:
            return self._fail(job, one_line(error), progress)
        row = self._facts(job) | {
            "shift": result.shift, "faces": list(result.faces), "warnings": list(result.warnings),
        }  # fmt: skip
        with (self._folder / REPORT).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")  # one write: lines of several threads stay whole
        progress.update()

    def _fail(self, job: Job, reason: str, progress: Progress) -> None:
        self.errors.append((job, reason))
        progress.update()

    def _write_errors(self) -> None:
        path = self._folder / ERRORS
        if not self.errors:
            path.unlink(missing_ok=True)
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("head", "body", "output", "reason"))
        writer.writerows((job.head, job.body, job.output, reason) for job, reason in self.errors)
        write_text(path, text.getvalue())


def _report_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The last row for each output; incomplete lines are ignored."""
    path, rows = folder / REPORT, {}
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            try:
                row = json.loads(line)
                rows[row["output"]] = row
            except (ValueError, KeyError, TypeError):
                continue
    return rows


def _ahead(
    pool: ThreadPoolExecutor, function: Any, items: Sequence[Any], ahead: int, *args: Any
) -> Iterator[tuple[Any, Future[Any]]]:
    """Yields (item, future) in order, with up to `ahead` calls submitted in advance."""
    waiting: list[tuple[Any, Future[Any]]] = []
    for item in items:
        waiting.append((item, pool.submit(function, item, *args)))
        if len(waiting) > ahead:
            yield waiting.pop(0)
    yield from waiting


def _parts(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while part := list(islice(items, size)):
        yield part
