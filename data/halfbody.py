"""Half-body photos with semantic layouts, as a TensorFlow Datasets builder without TensorFlow.

The source is a folder of anyone's making (see data/README.md):

    index.csv                  columns source, name, split (train or test); others are ignored
    SOURCE/image/NAME.jpg      RGB JPEG, square
    SOURCE/layout/NAME.png     8-bit, one halfbody9 class index a pixel, the image's size

One in twenty of the training rows becomes `validation`, see `split_of`.
"""

import csv
import io
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from data.pairs import Example, Pairs, check_classes, open_image, pair_features
from hsd_jax.labels import HALFBODY9

_EXIF_ORIENTATION = 0x0112
_HELD_OUT = 20


class Record(NamedTuple):
    """One row of index.csv."""

    source: str
    name: str
    split: str

    @property
    def key(self) -> str:
        """SOURCE/NAME."""
        return f"{self.source}/{self.name}"


def read_index(source_dir: str | Path) -> list[Record]:
    """The rows of `source_dir`/index.csv, in its order.

    Raises:
        ValueError: no index, a missing column, an unknown split, a pair listed twice, no rows.
    """
    index = Path(source_dir) / "index.csv"
    if not index.is_file():
        raise ValueError(f"{index}: no such file; the source folder needs an index.csv")
    records: dict[str, Record] = {}
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
            if record.split not in ("train", "test"):
                raise ValueError(f"{where}: split {record.split!r}; write train or test")
            if record.key in records:
                raise ValueError(f"{where}: {record.key} is listed twice")
            records[record.key] = record
    if not records:
        raise ValueError(f"{index}: no rows; list at least one pair")
    return list(records.values())


def split_of(record: Record) -> str:
    """The split that a row is built into: of the training rows one in twenty is validation.

    By a hash of source and name, so the same everywhere, and whatever other rows there are.
    """
    held_out = record.split == "train" and zlib.crc32(record.key.encode()) % _HELD_OUT == 0
    return "validation" if held_out else record.split


def read_record(source_dir: str | Path, record: Record) -> Example:
    """One pair as the bytes that are stored, checked.

    Returns:
        image: JPEG bytes, as in the file; layout: 8-bit greyscale PNG bytes; name; source.

    Raises:
        ValueError: naming the pair: a missing or broken file, a wrong mode or size, a layout value
            outside halfbody9.
    """
    pair = record.key
    folder = Path(source_dir) / record.source
    image_file = folder / "image" / f"{record.name}.jpg"
    layout_file = folder / "layout" / f"{record.name}.png"
    image, layout = open_image(image_file, pair), open_image(layout_file, pair)
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
    check_classes(indices, HALFBODY9.num_classes, HALFBODY9.name, pair)
    layout_bytes = layout_file.read_bytes()
    if layout.mode == "P":  # readers would decode a palette to colours
        buffer = io.BytesIO()
        Image.fromarray(indices).save(buffer, format="PNG")
        layout_bytes = buffer.getvalue()
    return {"image": image_file.read_bytes(), "layout": layout_bytes, "name": record.name,
            "source": record.source}  # fmt: skip


class Halfbody(Pairs):
    """Half-body photos with halfbody9 layouts; those of the three splits that have pairs."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"2.0.0": "A validation split is cut from train."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "A folder with index.csv and SOURCE/{image,layout}/."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Half-body photos with semantic layouts in the nine classes of halfbody9.",
            features=pair_features("jpeg"),
        )

    def list_records(self, source: Path) -> list[Record]:
        """The rows of index.csv, each in the split of `split_of`."""
        return [record._replace(split=split_of(record)) for record in read_index(source)]

    def reader(self, source: Path) -> Callable[[Record], Example]:
        """`read_record` of this folder."""
        return partial(read_record, source)
