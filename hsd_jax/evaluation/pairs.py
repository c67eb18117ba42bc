"""Which head goes on which body: the benchmark's list of pairs, and the pictures it names.

The paper halves its test split into heads and bodies and swaps 2,000 pairs (section 4.1); it gives
neither pairing rule nor seed. Here a seeded shuffle is halved, and pair i is head i with body i. A
split too small for so many pairs goes on with the bodies moved by one place, and so on, so that
no pair comes twice and a shorter list is the longer one's beginning.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hsd_jax.labels import CIHP20, HALFBODY9, LabelSet, remap

COLUMNS = ("id", "head", "body", "data")
MIN_FACE = 30  # pixels of face, and of body: fewer show nobody


class Pairing(NamedTuple):
    """One pair: a name for its results, and the places of two pictures in the test split."""

    id: str
    head: int
    body: int


class Picture(NamedTuple):
    """A picture uint8 `[H, W, 3]` and its layout, integers `[H, W]`."""

    image: np.ndarray
    layout: np.ndarray


@dataclass(frozen=True)
class People:
    """The pictures of a test split.

    Attributes:
      source: a `hsd_jax.training.input.Source`.
      labels: the label set of its layouts.
      parse: picture -> layout, to be used for the data's layouts; None for these.
    """

    source: Any
    labels: LabelSet
    parse: Callable[[np.ndarray], np.ndarray] | None = None

    def __getitem__(self, index: int) -> Picture:
        example = self.source[index]
        if self.parse is None:
            return Picture(example["image"], example["layout"].astype(np.int32))
        return Picture(example["image"], self.parse(example["image"]).astype(np.int32))


def labels_of(name: str) -> LabelSet:
    """The label set of the layouts of a data set that `python -m data.build` makes."""
    return CIHP20 if name.split("/")[0] == "shhq" else HALFBODY9


def usable(source: Any, labels: LabelSet, sources: Sequence[str] | None = None) -> list[int]:
    """Places of the pictures that show a face and a body, in order.

    Args:
      source, labels: as in `People`.
      sources: only pictures with these `source` names.

    Raises:
      ValueError: a name that no picture has.
    """
    known = sorted(set(source.names))
    if unknown := sorted(set(sources or ()) - set(known)):
        raise ValueError(f"no pictures from {', '.join(unknown)}: use {', '.join(known)}")
    return [
        i
        for i, name in enumerate(source.names)
        if (not sources or name in sources) and _shows_someone(source.layout(i), labels)
    ]


def _shows_someone(layout: np.ndarray, labels: LabelSet) -> bool:
    body = np.isin(layout, labels.body)
    return bool(np.sum(layout == labels.face) >= MIN_FACE and body.sum() >= MIN_FACE)


def make_pairs(indices: Sequence[int], count: int, seed: int) -> list[Pairing]:
    """`count` pairs of the pictures at `indices`; half of these give heads, the others bodies.

    Raises:
      ValueError: fewer than two pictures, or more pairs than there are.
    """
    half = len(indices) // 2
    if half < 1:
        raise ValueError(f"{len(indices)} pictures show a person: a pair needs two")
    if not 1 <= count <= half * half:
        raise ValueError(
            f"{count} pairs of {half} heads and {half} bodies: ask for 1 to {half * half}"
        )
    shuffled = np.random.default_rng(seed).permutation(np.asarray(indices))
    heads, bodies = shuffled[:half], shuffled[half : 2 * half]
    width = len(str(count - 1))
    return [
        Pairing(f"{i:0{width}}", int(heads[i % half]), int(bodies[(i + i // half) % half]))
        for i in range(count)
    ]


def write_pairs(pairs: Sequence[Pairing], path: Path, fingerprint: str) -> None:
    """Writes the list as CSV, with the fingerprint of the data that its numbers count in.

    Raises:
      ValueError: the folder does not exist.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{path}: give a file in a folder that exists")
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([*pair, fingerprint] for pair in pairs)


def read_pairs(path: Path, pictures: int, fingerprint: str | None = None) -> list[Pairing]:
    """Reads a list.

    Args:
      path: CSV with columns id, head, body and perhaps data; more are ignored.
      pictures: how many the split holds.
      fingerprint: of the data at hand; compared with the column data where that is filled.

    Raises:
      ValueError: no such file, a missing column, a place that is none, an id that comes twice or
        cannot name a file, no pairs, or a list of other data.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file: make it with hsd eval pairs")
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if missing := [c for c in COLUMNS[:3] if c not in (reader.fieldnames or ())]:
            raise ValueError(f"{path} has no column {missing[0]}: give id, head and body")
        rows = list(reader)
    pairs = [_pairing(row, f"{path}, pair {i}", pictures) for i, row in enumerate(rows, 1)]
    if not pairs:
        raise ValueError(f"{path} lists no pairs")
    ids = [pair.id for pair in pairs]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"{path}: the id {twice!r} comes twice: give each pair its own")
    made_for = [row["data"] for row in rows if row.get("data") not in (None, "", fingerprint)]
    if fingerprint and made_for:
        raise ValueError(
            f"{path} was made for data {made_for[0]}, these are {fingerprint}: "
            "make the list anew with hsd eval pairs"
        )
    return pairs


def _pairing(row: dict[str, Any], where: str, pictures: int) -> Pairing:
    name = (row["id"] or "").strip()
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError(f"{where}: the id {name!r} names no file: use letters and digits")
    places = []
    for column in ("head", "body"):
        text = (row[column] or "").strip()
        if not text.isdecimal() or int(text) >= pictures:
            raise ValueError(
                f"{where}: {column} is {text!r}: give the place of a test picture, "
                f"0 to {pictures - 1}"
            )
        places.append(int(text))
    return Pairing(name, *places)


def in_labels(picture: Picture, given: LabelSet, wanted: LabelSet) -> Picture:
    """The picture with its layout in the classes of `wanted`."""
    return Picture(picture.image, remap(picture.layout, given, wanted))
