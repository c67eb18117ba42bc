"""`hsd eval faces`: which photos a swap takes, doubts or refuses, of faces and of what is none."""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from hsd_jax import weights
from hsd_jax.imaging.files import open_photo
from hsd_jax.parsing.faces import REFUSED, SURE, surest
from hsd_jax.parsing.photo_parser import PhotoParser
from hsd_jax.runtime import console

VERDICTS = ("refused", "doubted", "taken")
_ENDINGS = (".jpg", ".jpeg", ".png")


def verdict(parser: PhotoParser, image: np.ndarray) -> tuple[str, int]:
    """One of `VERDICTS`, and by how many quarter turns the photo was set upright."""
    turns, faces = parser.find(image)
    confidence = surest(faces)
    return VERDICTS[int(confidence >= REFUSED) + int(confidence >= SURE)], turns


def photos_in(folder: Path) -> list[Path]:
    """Photos of a folder and its folders, sorted.

    Raises:
      ValueError: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)
    if not found:
        raise ValueError(f"{folder} holds no photos: give a folder of {', '.join(_ENDINGS)}")
    return found


def run(options: argparse.Namespace) -> None:
    """`hsd eval faces`: a row for each folder of photos.

    Raises:
      ValueError: no photos, or one that cannot be read.
    """
    sets = [(kind, path, folder) for kind, folder in (("faces", options.faces),
            ("others", options.others)) for path in photos_in(folder)]  # fmt: skip
    parser, rows = PhotoParser.load(weights.find(options.weights)), {}
    with console.Progress(len(sets)) as progress:
        for kind, path, folder in sets:
            said, turns = verdict(parser, open_photo(path))
            group = path.parent.relative_to(folder).as_posix()
            for row in dict.fromkeys(((kind, "all"), (kind, "all" if group == "." else group))):
                rows.setdefault(row, Counter()).update([said, *(["turned"] if turns else [])])
            progress.update()
    cells = [
        [*row, str(sum(count[name] for name in VERDICTS)),
         *(str(count[name]) for name in (*VERDICTS, "turned"))]
        for row, count in sorted(rows.items(), key=lambda item: (item[0][0], item[0][1] != "all"))
    ]  # fmt: skip
    print(console.table(["", "folder", "photos", *VERDICTS, "turned"], cells))
