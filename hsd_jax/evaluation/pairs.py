"""The people of a test split, and the pairs of heads and bodies to swap.

The paper halves its test split into heads and bodies and swaps 2,000 pairs (section 4.1), without a
pairing rule or a seed. Here a seeded shuffle is halved, and pair i is head i with body i. If the
split is too small for all pairs, the bodies then move by one place, and so on, so that no pair
repeats and a shorter list is the beginning of a longer one.

Skin tone is the individual typology angle of the face (Chardon, Cretois and Hourseau, "Skin colour
typology and suntanning pathways", 1991), arctan((L* - 50) / b*), of the median of its pixels. It is
measured in the light of the photo, so the dark group includes dark photos.
"""

import argparse
import csv
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from hsd_jax.imaging.colour import to_lab
from hsd_jax.labels import CIHP20, HALFBODY9, LabelSet, remap

COLUMNS = ("id", "head", "body", "data")
MIN_FACE = 30  # pixels of face and of body that an image must show
LIGHT, DARK = 41.0, 10.0
"""Typology angles in degrees: "very light" and "light" are above the first, "brown" and "dark"
below the second."""
GROUPS = ("light skin", "medium skin", "dark skin", "no face", "short hair", "long hair", "no hair")
_LONG = 0.25  # of the face's height; hair that reaches further below the face is long


class Pairing(NamedTuple):
    """The name of a pair's results, and the indices of its images in the test split."""

    id: str
    head: int
    body: int


class LabelledImage(NamedTuple):
    """An image and the class of each of its pixels."""

    image: UInt8[np.ndarray, "h w 3"]
    layout: Integer[np.ndarray, "h w"]


@dataclass(frozen=True)
class People:
    """The images of a test split.

    Attributes:
      source: a `hsd_jax.training.input.Source`.
      labels: the label set of its layouts.
      parse: image -> layout, used instead of the data's layouts; None for these.
    """

    source: Any
    labels: LabelSet
    parse: Callable[[np.ndarray], np.ndarray] | None = None

    def __getitem__(self, index: int) -> LabelledImage:
        example = self.source[index]
        image = example["image"]
        layout = self.parse(image) if self.parse else example["layout"]
        return LabelledImage(image, layout.astype(np.int32))


def labels_of(name: str) -> LabelSet:
    """The label set of the layouts of a data set that `python -m data.build` makes."""
    return CIHP20 if name.split("/")[0] == "shhq" else HALFBODY9


def source_fingerprint(source: Any) -> str:
    """16 hexadecimal digits of the images and layouts of a `Source`, independent of storage."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        example = source[index]
        for name in ("image", "layout"):
            values = np.ascontiguousarray(example[name])
            digest.update(f"{values.shape}".encode() + values.tobytes())
    return digest.hexdigest()[:16]


def from_sources(source: Any, sources: Sequence[str] | None = None) -> list[int]:
    """The indices of the images that come from `sources`, or of all.

    Raises:
      ValueError: a name that no image has.
    """
    known = sorted(set(source.names))
    if unknown := sorted(set(sources or ()) - set(known)):
        raise ValueError(f"no images from {', '.join(unknown)}: use {', '.join(known)}")
    return [i for i, name in enumerate(source.names) if not sources or name in sources]


def usable(source: Any, labels: LabelSet, sources: Sequence[str] | None = None) -> list[int]:
    """The indices of the images that show a face and a body, in order.

    Args:
      source, labels: as in `People`.
      sources: only images that come from these.

    Raises:
      ValueError: a name that no image has.
    """
    chosen = from_sources(source, sources)
    return [i for i in chosen if _shows_someone(source.layout(i), labels)]


def _shows_someone(layout: np.ndarray, labels: LabelSet) -> bool:
    body = np.isin(layout, labels.body)
    return bool(np.sum(layout == labels.face) >= MIN_FACE and body.sum() >= MIN_FACE)


def another(rng: np.random.Generator, place: int, count: int) -> int:
    """A random index below `count` other than `place`."""
    other = int(rng.integers(count - 1))
    return other + (other >= place)


def make_pairs(indices: Sequence[int], count: int, seed: int) -> list[Pairing]:
    """Makes `count` pairs; half of `indices` give heads, the others bodies.

    Raises:
      ValueError: fewer than two images, or more pairs than there are.
    """
    half = len(indices) // 2
    if half < 1:
        raise ValueError(f"{len(indices)} images show a person: a pair needs two")
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
    """Writes a list of pairs as CSV, with the fingerprint of the data that its indices refer to.

    Raises:
      ValueError: the folder does not exist.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{path}: give a file in a folder that exists")
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([*pair, fingerprint] for pair in pairs)


def read_pairs(path: Path, images: int, fingerprint: str | None = None) -> list[Pairing]:
    """Reads a list of pairs.

    Args:
      path: a CSV with the columns id, head, body and, optionally, data; others are ignored.
      images: the number of images in the split.
      fingerprint: the fingerprint of the data, compared with the column data if that is filled in.

    Raises:
      ValueError: if the file or a column is missing, an index is invalid, an id repeats or cannot
        name a file, there are no pairs, or the list was made for other data.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file: make it with hsd eval pairs")
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if missing := [c for c in COLUMNS[:3] if c not in (reader.fieldnames or ())]:
            raise ValueError(f"{path} has no column {missing[0]}: give id, head and body")
        rows = list(reader)
    pairs = [_pairing(row, f"{path}, pair {i}", images) for i, row in enumerate(rows, 1)]
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


def _pairing(row: dict[str, Any], where: str, images: int) -> Pairing:
    name = (row["id"] or "").strip()
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError(f"{where}: the id {name!r} names no file: use letters and digits")
    places = []
    for column in ("head", "body"):
        text = (row[column] or "").strip()
        if not text.isdecimal() or int(text) >= images:
            raise ValueError(
                f"{where}: {column} is {text!r}: give the place of a test image, "
                f"0 to {images - 1}"
            )
        places.append(int(text))
    return Pairing(name, *places)


def in_labels(image: LabelledImage, given: LabelSet, wanted: LabelSet) -> LabelledImage:
    """Remaps the image's layout to `wanted`."""
    return LabelledImage(image.image, remap(image.layout, given, wanted))


def skin_tone(
    image: UInt8[np.ndarray, "h w 3"], layout: Integer[np.ndarray, "h w"], labels: LabelSet
) -> str:
    """Returns "light skin", "medium skin", "dark skin" or "no face"."""
    face = layout == labels.face
    if not face.any():
        return "no face"
    lightness, _, b = np.median(to_lab(image[face]), axis=0)
    angle = math.degrees(math.atan2(lightness - 50, max(b, 1e-3)))
    return "light skin" if angle > LIGHT else "medium skin" if angle > DARK else "dark skin"


def hair_length(layout: Integer[np.ndarray, "h w"], labels: LabelSet) -> str:
    """Returns "long hair" (well below the chin), "short hair" or "no hair" (or no face)."""
    rows, face_rows = (
        np.flatnonzero((layout == index).any(1)) for index in (labels.index("hair"), labels.face)
    )
    if not len(rows) or not len(face_rows):
        return "no hair"
    height = face_rows[-1] - face_rows[0] + 1
    return "long hair" if rows[-1] > face_rows[-1] + _LONG * height else "short hair"


def groups_of(
    image: UInt8[np.ndarray, "h w 3"], layout: Integer[np.ndarray, "h w"], labels: LabelSet
) -> Iterator[str]:
    """Which of `GROUPS` an image belongs to."""
    yield skin_tone(image, layout, labels)
    yield hair_length(layout, labels)


def run(options: argparse.Namespace) -> None:
    """`hsd eval pairs`."""
    from hsd_jax.training.input import load_source

    source = load_source(options.data, "test", name=options.dataset)
    indices = usable(source, options.labels, options.sources)
    chosen = make_pairs(indices, options.count, options.seed)
    write_pairs(chosen, options.output, source_fingerprint(source))
    print(f"wrote {options.output}: {len(chosen)} pairs of {len(indices)} images")
