"""What the builders share: records of an image and its layout, read ahead, checked and stored.

TFDS alone writes shards, into a folder that it renames at the end. So a build that was cut off
leaves nothing that counts; `sweep` removes what it did leave.
"""

import io
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

SPLITS = ("train", "validation", "test")
Example = dict[str, Any]
_T = TypeVar("_T")
_R = TypeVar("_R")


class Record(Protocol):
    """One pair that a source folder lists."""

    @property
    def split(self) -> str:
        """One of `SPLITS`."""
        ...

    @property
    def key(self) -> str:
        """Its name in messages and in skip lists, unique."""
        ...


class Pairs(tfds.core.GeneratorBasedBuilder):
    """A data set of pairs; a subclass lists them and reads one.

    Image features are handed over as bytes: given arrays, TFDS encodes them with TensorFlow.

    Args:
      source: the folder to read; needed to prepare the data set, not to open it. Without it,
        TFDS's `manual_dir`.
      splits: build only these, those that have pairs.
      skip: keys of records to leave out.
      threads: records read at a time (without Beam).
      beam: yield Beam transforms, for TFDS to run with `DownloadConfig(beam_runner, beam_options)`.
      on_record: called after each pair that was read (for progress; without Beam).
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        source: str | Path | None = None,
        splits: tuple[str, ...] = SPLITS,
        skip: frozenset[str] = frozenset(),
        threads: int = 1,
        beam: bool = False,
        on_record: Callable[[], None] = lambda: None,
        **kwargs: Any,
    ):
        self._source, self._splits, self._skip = source, splits, skip
        self.threads, self._beam, self._on_record = threads, beam, on_record
        super().__init__(file_format="array_record", **kwargs)

    @abstractmethod
    def list_records(self, source: Path) -> list[Any]:
        """Every record of the folder; ValueError when it is not laid out as it must be."""

    @abstractmethod
    def reader(self, source: Path) -> Callable[[Any], Example]:
        """Record -> example of bytes, checked: ValueError that names the record. It can be pickled,
        for Beam's workers."""

    def records(self, source: str | Path) -> list[Any]:
        """The records to build, skipped ones and other splits left out."""
        listed = self.list_records(Path(source))
        unknown = self._skip - {record.key for record in listed}
        if unknown:
            raise ValueError(f"skip list: no pair {min(unknown)!r} in {source}; take it out")
        return [r for r in listed if r.split in self._splits and r.key not in self._skip]

    def problems(self, source: str | Path) -> Iterator[str]:
        """What is wrong with each record that cannot be built; reads them all, stores nothing."""
        read = self.reader(Path(source))

        def check(record: Record) -> str | None:
            try:
                read(record)
            except ValueError as error:
                return str(error).splitlines()[0]
            return None

        for problem in ahead(check, self.records(source), self.threads):
            self._on_record()
            if problem:
                yield problem

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        source = Path(self._source or dl_manager.manual_dir)
        records, read = self.records(source), self.reader(source)
        by_split = {split: [r for r in records if r.split == split] for split in self._splits}
        if not records:
            raise ValueError(f"{source}: no pairs for {', '.join(self._splits)}; add some")
        return {
            split: self._generate_examples(some, read) for split, some in by_split.items() if some
        }

    def _generate_examples(self, records: list[Any], read: Callable[[Any], Example]) -> Any:
        keyed = _Keyed(read)
        if self._beam:
            import apache_beam as beam  # pyright: ignore[reportMissingImports]

            return beam.Create(records) | "Read" >> beam.Map(keyed)
        return self._examples(records, keyed)

    def _examples(self, records: list[Any], keyed: "_Keyed") -> Iterator[tuple[str, Example]]:
        for example in ahead(keyed, records, self.threads):
            yield example
            self._on_record()


class _Keyed:
    """Record -> (key, example); a class, because Beam pickles it."""

    def __init__(self, read: Callable[[Any], Example]):
        self.read = read

    def __call__(self, record: Record) -> tuple[str, Example]:
        return record.key, self.read(record)


def pair_features(encoding: str) -> Any:
    """Features of a pair: `image` (as "jpeg" or "png"), `layout` (png), `name` and `source`."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format=encoding),
            "layout": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            "name": tfds.features.Text(),
            "source": tfds.features.Text(),
        }
    )


def open_image(path: Path, pair: str) -> Image.Image:
    """The decoded image of a file.

    Raises:
      ValueError: naming the pair: no such file, or it cannot be decoded.
    """
    if not path.is_file():
        raise ValueError(f"{pair}: {path} does not exist; add it or leave the pair out")
    try:
        image = Image.open(io.BytesIO(path.read_bytes()))  # keeps no file open
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{pair}: cannot read {path}: {error}; save it again") from error
    return image


def check_classes(indices: np.ndarray, num_classes: int, name: str, pair: str) -> None:
    """ValueError naming the pair when a layout holds a class that its label set has not."""
    if indices.max() >= num_classes:
        raise ValueError(
            f"{pair}: layout holds class {indices.max()}; {name} has 0 to {num_classes - 1}"
        )


def ahead(function: Callable[[_T], _R], items: Iterable[_T], threads: int) -> Iterator[_R]:
    """`map` in order that works ahead in threads; decoding and warping let them run together."""
    waiting: deque[Future[_R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def sweep(builder: Any) -> list[str]:
    """Removes what builds of this data set that were killed left behind; returns the folders."""
    left = sorted(epath.Path(builder.data_dir).parent.glob("incomplete.*"))
    for folder in left:
        folder.rmtree()
    return [str(folder) for folder in left]
