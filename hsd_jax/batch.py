"""Many swaps: a list of pairs, or photos each with each, to a folder of images; resumable.

One thread reads, parses and aligns pairs ahead of time; device batches of them are painted on all
devices; other threads write the results. A pair that fails becomes a row of errors.csv and does not
stop the run. Several processes take every n-th pair each and report into files of their own.
"""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from glob import glob
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

from hsd_jax.imaging import drawings, files
from hsd_jax.imaging.credentials import Credentials
from hsd_jax.parsing.faces import Face
from hsd_jax.parsing.tracking import follow
from hsd_jax.runtime.console import Progress, one_line
from hsd_jax.runtime.files import write_text
from hsd_jax.swapping.edits import Edit, Generated
from hsd_jax.swapping.mixing import Region
from hsd_jax.swapping.pair import Align

REPORT, ERRORS = "report{}.jsonl", "errors{}.csv"  # of several processes each with its number
_PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".avif")
_COLUMNS = ("head", "body", "output", "seed", "person", "head_person", "layout", "mask")
_AHEAD = 2  # batches that are parsed before they are painted


@dataclass(frozen=True)
class Job:
    """One pair; paths of a list are relative to its folder."""

    head: str
    body: str
    output: str
    seed: int
    person: int
    head_person: int
    layout: str = ""
    mask: str = ""


def read_jobs(path: Path, seed: int = 0) -> list[Job]:
    """Reads a CSV of head, body and, optionally, output, seed, person, head_person, layout, mask.

    A row without an output is written to HEAD_on_BODY.png, after the names of its photos. Layout
    and mask are images that somebody drew, as of `hsd swap`.

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
    if twice := _repeated(job.output for job in jobs):
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


def pair_photos(heads: str, bodies: str, zipped: bool = False, seed: int = 0) -> list[Job]:
    """Pairs each head with each body, but no photo with itself.

    Args:
      heads, bodies: a photo, a folder of photos, or a pattern such as "frames/*.png". Photos are
        taken in the order of their names.
      zipped: whether to pair only the n-th head with the n-th body.
      seed: the seed of all pairs.

    Raises:
      ValueError: if there are no photos, not as many heads as bodies (`zipped`), or two pairs would
        have one output.
    """
    first, second = _photos(heads), _photos(bodies)
    if zipped and len(first) != len(second):
        raise ValueError(
            f"{heads} has {len(first)} photos and {bodies} {len(second)}: --zip needs as many"
        )
    pairs = zip(first, second, strict=True) if zipped else product(first, second)
    jobs = [
        Job(str(head), str(body), f"{head.stem}_on_{body.stem}.png", seed, 1, 1)
        for head, body in pairs
        if head != body
    ]
    if not jobs:
        raise ValueError(f"{heads} and {bodies} are one photo: give another")
    if twice := _repeated(job.output for job in jobs):
        raise ValueError(f"two pairs would write {twice}: rename a photo, or give a list as CSV")
    return jobs


def track(jobs: Sequence[Job], base: Path, swapper: Any, number: int) -> list[Job]:
    """Takes the bodies for frames of a video and follows one person, see `tracking.follow`.

    All frames are looked at each time, so a run that goes on finds whom the first one found.

    Args:
      jobs: in the order of the frames.
      base: the folder that the photos' paths are relative to.
      swapper: a `hsd_jax.HeadSwapper`.
      number: who of the first frame.

    Returns:
      The jobs with their `person`, which is 0 where nobody is found.

    Raises:
      ValueError: if the first frame cannot be read, or has no such person.
    """
    first, *later = dict.fromkeys(job.body for job in jobs)

    def seen(body: str) -> tuple[int, Sequence[Face]]:
        try:
            return swapper.persons(base / body)
        except (ValueError, OSError):
            return 0, ()  # the swap will say why

    with ThreadPoolExecutor(2) as pool:
        frames = chain([swapper.persons(base / first)], pool.map(seen, later))
        persons = dict(zip((first, *later), follow(frames, number), strict=True))
    return [replace(job, person=persons[job.body]) for job in jobs]


def _photos(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in _PHOTOS)
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(name) for name in glob(source, recursive=True) if Path(name).is_file())
    if not found:
        raise ValueError(f"{source} is no photo, no folder with photos, and matches none")
    return found


def _repeated(names: Iterable[str]) -> str:
    counts = Counter(names)
    return next((name for name, count in counts.items() if count > 1), "")


def _job(row: Mapping[str, Any], where: str, seed: int) -> Job:
    text = {name: (row.get(name) or "").strip() for name in _COLUMNS}
    if not text["head"] or not text["body"]:
        raise ValueError(f"{where}: head or body is empty: fill in both")
    output = text["output"] or f"{Path(text['head']).stem}_on_{Path(text['body']).stem}.png"
    if Path(output).name != output or output.endswith((".jsonl", ".csv")):
        raise ValueError(f"{where}: output is {output!r}: give the name of a file, without folders")
    try:
        files.check_ending(Path(output))
    except ValueError as error:
        raise ValueError(f"{where}: output {error}") from error
    seed, person, head_person = (
        _number(text[name], default, low, f"{where}: {name}")
        for name, default, low in (("seed", seed, 0), ("person", 1, 1), ("head_person", 1, 1))
    )
    return Job(
        text["head"], text["body"], output, seed, person, head_person, text["layout"], text["mask"]
    )


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
    solver: str = "dpmpp"
    steps: int | None = None
    preserve: str = "photo"
    skin_tone: str = "auto"
    light: str = "match"
    align: Align = "shift"
    regions: list[Region] = field(default_factory=lambda: ["head"])
    generate: Generated | None = None
    label: bool = False


class Batch:
    """A resumable run: it knows which results exist already and makes the others."""

    def __init__(
        self,
        jobs: Sequence[Job],
        folder: Path,
        base: Path,
        settings: Settings,
        credentials: Credentials | None = None,
        process: tuple[int, int] = (1, 1),
        part: str = "",
    ):
        """Reads the report of earlier runs.

        Args:
          jobs: the pairs that `read_jobs` or `pair_photos` returns.
          folder: where results go; created if missing.
          base: the folder that the photos' paths are relative to.
          settings: those of this run; a result made under other settings is made again.
          credentials: who signs the results; None for nobody.
          process: the number of this process, from 1, and how many share the pairs.
          part: what tells its report from that of others, where others share the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._base, self._settings = folder, base, settings
        self._credentials = credentials
        self._rows = _report_of(folder)
        number, count = process
        own = jobs[number - 1 :: count]
        self.todo = [job for job in own if not self._done(job)]
        for job in self.todo:
            files.check_output(folder / job.output)
        self._check_not_read(jobs)
        self.skipped = len(own) - len(self.todo)
        if not part and count > 1:
            part = f"-{number}-of-{count}"
        self._report, self.errors_path = (folder / name.format(part) for name in (REPORT, ERRORS))
        self.errors: list[tuple[Job, str]] = []

    def _check_not_read(self, jobs: Sequence[Job]) -> None:
        """A result may not replace a photo, of its own pair or of another."""
        names = (name for job in jobs for name in (job.head, job.body))
        photos = {os.path.realpath(self._base / name) for name in names}
        for job in jobs:
            if os.path.realpath(self._folder / job.output) in photos:
                raise ValueError(
                    f"{self._folder / job.output} is also an input: give -o another folder"
                )

    def _done(self, job: Job) -> bool:
        """Whether the report lists this result, with the same settings and photos."""
        found = self._rows.get(job.output)
        return (
            found is not None
            and (self._folder / job.output).is_file()
            and found == found | self._facts(job)
        )

    def _facts(self, job: Job) -> dict[str, Any]:
        names = [name for name in ("head", "body", "layout", "mask") if getattr(job, name)]
        paths = {name: self._base / getattr(job, name) for name in names}
        sizes = {
            f"{name}_size": path.stat().st_size if os.path.isfile(path) else None
            for name, path in paths.items()
        }
        return asdict(job) | asdict(self._settings) | sizes

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
        if not job.person:
            raise ValueError(f"{job.body}: nobody is where the person followed was last seen")
        return swapper.pair(
            self._base / job.head, body,
            person=job.person, head_person=job.head_person, skin_tone=self._settings.skin_tone,
            light=self._settings.light, align=self._settings.align,
            edit=self._edits(job, swapper.spec.labels.palette),
        )  # fmt: skip

    def _edits(self, job: Job, palette: Sequence[tuple[int, int, int]]) -> list[Edit]:
        layout = drawings.open_layout(self._base / job.layout, palette) if job.layout else None
        mask = drawings.open_mask(self._base / job.mask) if job.mask else None
        generate = self._settings.generate
        return Edit.in_turn(self._settings.regions, generate=generate, layout=layout, mask=mask)

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
            result.save(path, label=self._settings.label, credentials=self._credentials)
        except ValueError as error:
            return self._fail(job, one_line(error), progress)
        row = self._facts(job) | {
            "shift": result.shift, "faces": list(result.faces), "warnings": list(result.warnings),
        }  # fmt: skip
        with self._report.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")  # one write: lines of several threads stay whole
        progress.update()

    def _fail(self, job: Job, reason: str, progress: Progress) -> None:
        self.errors.append((job, reason))
        progress.update()

    def _write_errors(self) -> None:
        path = self.errors_path
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
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob(REPORT.format("*")), key=lambda path: path.stat().st_mtime):
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
