"""Half-body photos with semantic layouts, as a TensorFlow Datasets builder without TensorFlow.

The source is a folder of anyone's making (see data/README.md):

    index.csv                  columns source, name, split (train or test); others are ignored
    SOURCE/image/NAME.jpg      RGB JPEG, square
    SOURCE/layout/NAME.png     8-bit, one halfbody9 class index a pixel, the image's size
"""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from hsd_jax.labels import HALFBODY9

SPLITS = ("train", "test")
_EXIF_ORIENTATION = 0x0112


class Record(NamedTuple):
    """One row of index.csv."""

    source: str
    name: str
    split: str


def read_index(source_dir: str | Path) -> list[Record]:
    """The rows of `source_dir`/index.csv, in its order.

    Raises:
        ValueError: no index, a missing column, an unknown split, a pair listed twice, no rows.
    """
    index = Path(source_dir) / "index.csv"
    if not index.is_file():
        raise ValueError(f"{index}: no such file; the source folder needs an index.csv")
    records: dict[tuple[str, str], Record] = {}
    with index.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        missing = set(Record._fields) - set(rows.fieldnames or ())
        if missing:
            raise ValueError(
                f"{index}: no column {', '.join(sorted(missing))}; "
                f"the first line must name {', '.join(Record._fields)}"
            )
        for row in rows:
            record = Record(*(row[field] or "" for field in Record._fields))
            where = f"{index}, line {rows.line_num}"
            if not record.source or not record.name:
                raise ValueError(f"{where}: source or name is empty; fill in both")
            if record.split not in SPLITS:
                raise ValueError(f"{where}: split {record.split!r}; write train or test")
            if record[:2] in records:
                raise ValueError(f"{where}: {record.source}/{record.name} is listed twice")
            records[record[:2]] = record
    if not records:
        raise ValueError(f"{index}: no rows; list at least one pair")
    return list(records.values())


def read_record(source_dir: str | Path, record: Record) -> dict[str, Any]:
    """One pair as the bytes that are stored, checked.

    Returns:
        image: JPEG bytes, as in the file; layout: 8-bit greyscale PNG bytes; name; source.

    Raises:
        ValueError: naming the pair: a missing or broken file, a wrong mode or size, a layout value
            outside halfbody9.
    """
    pair = f"{record.source}/{record.name}"
    folder = Path(source_dir) / record.source
    image_bytes, image = _open(folder / "image" / f"{record.name}.jpg", pair)
    layout_bytes, layout = _open(folder / "layout" / f"{record.name}.png", pair)
    if image.format != "JPEG" or image.mode != "RGB":
        raise ValueError(f"{pair}: image is {image.format} {image.mode}; save it as an RGB JPEG")
    if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        raise ValueError(f"{pair}: image is turned by an EXIF tag; save its pixels upright")
    if layout.format != "PNG" or layout.mode not in ("L", "P"):
        raise ValueError(
            f"{pair}: layout is {layout.format} {layout.mode}; "
            "save it as an 8-bit PNG with one class index a pixel"
        )
    if image.size != layout.size or image.width != image.height:
        raise ValueError(
            f"{pair}: image is {image.width}x{image.height}, layout is "
            f"{layout.width}x{layout.height}; both must be one square size"
        )
    indices = np.asarray(layout)
    if indices.max() >= HALFBODY9.num_classes:
        raise ValueError(
            f"{pair}: layout holds class {indices.max()}; "
            f"{HALFBODY9.name} has 0 to {HALFBODY9.num_classes - 1}"
        )
    if layout.mode == "P":  # readers would decode a palette to colours
        buffer = io.BytesIO()
        Image.fromarray(indices).save(buffer, format="PNG")
        layout_bytes = buffer.getvalue()
    return {"image": image_bytes, "layout": layout_bytes, "name": record.name,
            "source": record.source}  # fmt: skip


def _open(path: Path, pair: str) -> tuple[bytes, Image.Image]:
    if not path.is_file():
        raise ValueError(f"{pair}: {path} does not exist; add it or take the row out of index.csv")
    content = path.read_bytes()
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{pair}: cannot read {path}: {error}; save it again") from error
    return content, image


class Halfbody(tfds.core.GeneratorBasedBuilder):
    """Half-body photos with halfbody9 layouts; splits train and test, those that have pairs.

    Image features are handed over as bytes: given arrays, TFDS encodes them with TensorFlow.

    Args:
        source: the folder to read; needed to prepare the data set, not to open it.
        on_record: called after each pair that was read (for progress).
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        source: str | Path | None = None,
        on_record: Callable[[], None] = lambda: None,
        **kwargs: Any,
    ):
        self._source = source
        self._on_record = on_record
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Half-body photos with semantic layouts in the nine classes of halfbody9.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "layout": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "name": tfds.features.Text(),
                    "source": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict]]]:
        if self._source is None:
            raise ValueError("no source folder; pass Halfbody(source=DIR)")
        records = read_index(self._source)
        by_split = {split: [r for r in records if r.split == split] for split in SPLITS}
        return {split: self._generate_examples(some) for split, some in by_split.items() if some}

    def _generate_examples(self, records: list[Record]) -> Iterator[tuple[str, dict]]:
        assert self._source is not None
        for record in records:
            yield f"{record.source}/{record.name}", read_record(self._source, record)
            self._on_record()
