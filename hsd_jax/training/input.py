"""Batches from a built data set, with random access and the same for any number of processes.

Grain's `MapDataset` shuffles and repeats the indices, loads and transforms each example with its
own generator, batches, and only then takes this process's part. So batch k has the same examples
with the same augmentation on 1, 2 or 4 processes, and can be accessed by its number: the position
in the data is the training step, and no iterator state is stored.

    source = load_source(data_dir, "train", cache=True)
    batches = make_dataset(source, seed=0, batch_size=32, transform=transform, start_step=step)
    batch = next(batches)

Reading uses threads in this process. An example is a dict with `image` (uint8 H x W x 3), `layout`
(uint8 H x W), `source` (str) and, when asked for, `partner`: the layout of another image, drawn
uniformly, for head-cover (HS-Diffusion, arXiv 2212.06458, section 3.2).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import grain
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from hsd_jax.runtime.console import one_line

Example = dict[str, Any]
Batch = dict[str, np.ndarray]
Transform = Callable[[Example, np.random.Generator], dict[str, np.ndarray]]

EVAL_SPLIT = "validation"  # if `data.eval_split` of a config names none
READ_THREADS = 2
PREFETCH_BATCHES = 8


class Records(Protocol):
    """Random access to the examples of a split."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...

    def layout(self, index: int) -> np.ndarray:
        """The layout of an example alone, uint8 H x W."""
        ...

    @property
    def names(self) -> list[str]:
        """Where each example comes from, in order."""
        ...


class Source(Sequence[Example]):
    """Random access to the decoded examples of one split.

    Args:
        builder: TFDS builder of a data set with features image, layout and source.
        split: "train", "validation", "test" or a slice of one, such as "train[:10%]".
        cache: decode everything now and keep it as uint8 arrays (H * W * 4 bytes an example).

    Raises:
        ValueError: a record file is missing or damaged; also when an example is read.
    """

    def __init__(self, builder: Any, split: str, cache: bool = False):
        skip = {name: tfds.decode.SkipDecoding() for name in ("image", "layout")}
        self._files = [str(path) for path in builder.info.splits[split].filepaths]
        with self._readable("the examples"):
            self._records = builder.as_data_source(split, decoders=skip)
            if len(self._records):
                self._records[0]  # opens the files
        self._features = builder.info.features
        self._decoded: list[Example] | None = None
        self._names: list[str] | None = None
        if cache:
            with ThreadPoolExecutor(READ_THREADS) as pool:
                self._decoded = list(pool.map(self._decode, range(len(self))))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Example:
        """Example `index`, 0 <= index < len: a fresh dict of read-only arrays."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return dict(self._decoded[index]) if self._decoded else self._decode(index)

    def layout(self, index: int) -> np.ndarray:
        """The layout of example `index` alone, uint8 H x W; its image is not decoded."""
        if self._decoded:
            return self._decoded[index]["layout"]
        with self._readable(f"example {index}"):
            return self._decode_layout(self._records[index])

    @property
    def names(self) -> list[str]:
        """Where each example comes from: its `source` field, in order."""
        if self._names is None:
            with self._readable("the sources"):
                self._names = (
                    [example["source"] for example in self._decoded]
                    if self._decoded
                    else [self._records[i]["source"].decode() for i in range(len(self))]
                )
        return self._names

    @contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        """Errors of TFDS, array_record and the decoders, which name no file, as one that does."""
        try:
            yield
        except Exception as error:
            names = ", ".join(self._files[:3]) + ", ..." * (len(self._files) > 3)
            raise ValueError(
                f"cannot read {what} of {names} ({one_line(error)[:200]}): put back a copy, or "
                "build it again with python -m data.build"
            ) from error

    def _decode(self, index: int) -> Example:
        with self._readable(f"example {index}"):
            record = self._records[index]
            image = self._features["image"].decode_example_np(record["image"])
            image.setflags(write=False)
            layout = self._decode_layout(record)
            return {"image": image, "layout": layout, "source": record["source"].decode()}

    def _decode_layout(self, record: dict[str, bytes]) -> np.ndarray:
        layout = self._features["layout"].decode_example_np(record["layout"])[..., 0]
        layout.setflags(write=False)  # a transform that writes would spoil the cache
        return layout


def load_source(
    data_dir: str, split: str, *, name: str = "halfbody", cache: bool = False
) -> Source:
    """Open data set `name` under `data_dir` (where `python -m data.build` put it).

    Opens the newest version. `split` and `cache` are those of `Source`; for small data sets and
    many epochs, `cache` saves the decoding (0.6 GB for 2,400 images of 256 x 256).

    Raises:
        ValueError: no such data set, or no such split.
    """
    found = epath.Path(data_dir).glob(f"{name}/*/dataset_info.json")
    # An interrupted build leaves a folder incomplete.*.
    built = [path for path in found if tfds.core.Version.is_valid(path.parent.name)]
    versions = sorted(built, key=lambda path: tfds.core.Version(path.parent.name))
    if not versions:
        raise ValueError(
            f"no data set {name!r} in {data_dir}; "
            f"build it: python -m data.build {name} --source DIR --out {data_dir}"
        )
    try:
        builder = tfds.builder_from_directory(versions[-1].parent)
    except Exception as error:  # of JSON, protocol buffers, TFDS
        raise ValueError(
            f"cannot read dataset_info.json or features.json in {versions[-1].parent} "
            f"({one_line(error)[:200]}): put back copies, or build it again: python -m data.build "
            f"{name} --source DIR --out {data_dir}"
        ) from error
    if split.split("[")[0] not in builder.info.splits:
        known = f"no split {split!r} in {builder.data_dir}; use {sorted(builder.info.splits)}"
        if split.startswith("validation"):
            known += (
                f", or build it again, if it is older than that split: python -m data.build {name} "
                f"--source DIR --out {data_dir}"
            )
        raise ValueError(known)
    return Source(builder, split, cache)


class LatentSource:
    """Random access to the latents of `training.tools.latents`, like `Source`."""

    def __init__(self, folder: str, split: str):
        """Opens FOLDER/SPLIT without reading it.

        Raises:
          ValueError: nothing encoded there, or it is damaged.
        """
        path = Path(folder) / split
        self.names: list[str] = _of_latents(path / "names.json")
        self._latents, self._layouts = (_mapped(path / f"{x}.npy") for x in ("latents", "layouts"))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        """`latents` float16 [h, w, c], `layout` uint8 [H, W], `source`."""
        return {
            "latents": np.asarray(self._latents[index]),
            "layout": self.layout(index),
            "source": self.names[index],
        }

    def layout(self, index: int) -> np.ndarray:
        """The layout alone, uint8 [H, W]."""
        return np.asarray(self._layouts[index])


def latent_statistics(folder: str) -> dict[str, list[float]]:
    """`mean` and `std` of each channel of the latents in a folder; ValueError without them."""
    return _of_latents(Path(folder) / "stats.json")


_MAKE_LATENTS = "make them with python -m hsd_jax.training.tools.latents"


def _of_latents(path: Path) -> Any:
    if not path.exists():
        raise ValueError(f"no latents in {path.parent}: {_MAKE_LATENTS}")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"cannot read {path} ({error}): {_MAKE_LATENTS}") from error


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read {path} ({one_line(error)}): {_MAKE_LATENTS}") from error


def make_dataset(
    source: Records,
    *,
    seed: int,
    batch_size: int,
    transform: Transform,
    partner: bool = False,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    sources: tuple[str, ...] | None = None,
) -> Iterator[Batch]:
    """Infinite shuffled batches of this process, from batch `start_step` on.

    Args:
        source: the examples; each epoch visits every one once, in a new order.
        seed: of the order, the partners and the generators passed to `transform`.
        batch_size: over all processes; each gets batch_size // process_count examples.
        transform: maps an example and its generator to a dict of arrays of fixed shapes. It runs in
            several threads; the example's arrays are read-only.
        partner: whether `transform` gets the layout of another image as example["partner"].
        start_step: the index of the first batch.
        process_index: this process, 0 <= process_index < process_count.
        process_count: the number of processes that share each batch.
        sources: use only examples (and partners) with these `source` names.

    Returns:
        An iterator of dicts of numpy arrays [batch_size // process_count, ...]. It reads ahead in
        threads, which its `close()` stops.

    Raises:
        ValueError: batch_size not divisible by process_count, nothing to read, unknown source.
    """
    local = _local_size(batch_size, process_index, process_count)
    load = _Loader(source, _choose(source, sources), transform, partner)
    dataset = grain.MapDataset.range(len(load.indices)).seed(seed).shuffle().repeat(None)
    # In blocks, so that the concatenated parts of the processes are the batch in order.
    dataset = dataset.random_map(load).batch(local, drop_remainder=True)
    dataset = dataset[process_index::process_count][start_step:]
    return iter(dataset.to_iter_dataset(grain.ReadOptions(READ_THREADS, PREFETCH_BATCHES)))


def eval_batches(
    source: Records,
    batch_size: int,
    transform: Transform,
    *,
    seed: int = 0,
    partner: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    sources: tuple[str, ...] | None = None,
) -> Iterator[Batch]:
    """Every example once, in order, in batches of one size for one compiled step.

    The last batch is padded with copies of the last example. Each batch has an additional entry
    `mask`, float32 [local batch], 1 for an example and 0 for a copy, by which metrics must be
    weighted. An example's generator only depends on `seed` and its index in `source`, so
    `transform` and `partner` do not depend on batch_size, processes or earlier calls.

    Takes and raises what `make_dataset` does.
    """
    _local_size(batch_size, process_index, process_count)
    load = _Loader(source, _choose(source, sources), transform, partner)
    return _eval_batches(load, batch_size, seed, process_index, process_count)


def _eval_batches(load: "_Loader", batch_size: int, seed: int, p: int, n: int) -> Iterator[Batch]:
    total = len(load.indices)
    for start in range(0, total, batch_size):
        first = start + p * (batch_size // n)
        places = range(first, first + batch_size // n)
        examples = []
        for place in (min(place, total - 1) for place in places):
            rng = np.random.default_rng((seed, int(load.indices[place])))
            examples.append(load(place, rng))
        batch = {key: np.stack([example[key] for example in examples]) for key in examples[0]}
        yield batch | {"mask": np.array([place < total for place in places], np.float32)}


class _Loader:
    """Maps the position among the chosen examples to the transformed example."""

    def __init__(self, source: Records, indices: np.ndarray, transform: Transform, partner: bool):
        if partner and len(indices) < 2:
            raise ValueError(
                f"partner needs two images or more, got {len(indices)}; add images"
            )
        self.source, self.indices = source, indices
        self.transform, self.partner = transform, partner

    def __call__(self, place: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        example = self.source[int(self.indices[place])]
        if self.partner:
            other = int(rng.integers(len(self.indices) - 1))
            other += other >= place  # any image but this one
            example["partner"] = self.source.layout(int(self.indices[other]))
        return self.transform(example, rng)


def _choose(source: Records, sources: tuple[str, ...] | None) -> np.ndarray:
    if len(source) == 0:
        raise ValueError("the split holds no examples; use another or add images to it")
    if sources is None:
        return np.arange(len(source))
    unknown = set(sources) - set(source.names)
    if unknown or not sources:
        raise ValueError(f"no examples from {sorted(unknown)}; use {sorted(set(source.names))}")
    return np.flatnonzero(np.isin(source.names, sources))


def _local_size(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} over {process_count} processes; "
            "use a positive multiple of the number of processes"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index}; use 0 to {process_count - 1}")
    return batch_size // process_count
