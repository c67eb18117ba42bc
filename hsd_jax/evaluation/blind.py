"""Which of two methods people prefer: `hsd eval sheet --blind` makes a page, `votes` counts.

The page shows two results of each pair side by side and says nowhere which is whose; the key does.
"""

import argparse
import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

from hsd_jax.evaluation.report import inlined, templates
from hsd_jax.imaging import files
from hsd_jax.runtime import cache
from hsd_jax.runtime.files import write_text

CHOICES = ("left", "right", "same")
_KEY = ("sheet", "pair", "id", "left", "right")


class Shown(NamedTuple):
    """A pair of results, in the order of the page: left and right are the names of folders."""

    id: str
    left: Path
    right: Path


def run(options: argparse.Namespace) -> None:
    """`hsd eval sheet --blind DIR_A DIR_B`.

    Raises:
      ValueError: the folders share no results, or are of one name.
    """
    page = options.output or Path("samples/blind.html")
    shown = arrange(options.blind[0], options.blind[1], options.count, options.seed)
    page.parent.mkdir(parents=True, exist_ok=True)
    key = page.with_suffix(".key.csv")
    sheet = cache.fingerprint(*(str(x) for pair in shown for x in pair))[:12]
    pictures = [
        [inlined(files.open_photo(side)) for side in (pair.left, pair.right)] for pair in shown
    ]
    template = templates().get_template("blind.html.j2")
    write_text(page, template.render(sheet=sheet, pairs=pictures))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_KEY)
    for number, pair in enumerate(shown, 1):
        writer.writerow([sheet, number, pair.id, pair.left.parent, pair.right.parent])
    write_text(key, text.getvalue())
    print(f"wrote {page}: {len(shown)} pairs; keep {key}, which tells whose they are, from voters")


def arrange(first: Path, second: Path, count: int, seed: int) -> list[Shown]:
    """`count` results that both folders have, in a seeded order and on seeded sides.

    Raises:
      ValueError: the folders are the same, or share no results.
    """
    if first.resolve() == second.resolve():
        raise ValueError(f"--blind compares two folders: {first} is given twice")
    names = sorted({x.name for x in first.glob("*.png")} & {x.name for x in second.glob("*.png")})
    if not names:
        raise ValueError(f"{first} and {second} share no results ID.png")
    rng = np.random.default_rng(seed)
    shown = []
    for name in rng.permutation(names)[:count]:
        sides = (first / name, second / name)
        left, right = sides if rng.random() < 0.5 else sides[::-1]
        shown.append(Shown(left.stem, left, right))
    return shown


def run_votes(options: argparse.Namespace) -> None:
    """`hsd eval votes`: prints how often each was preferred.

    Raises:
      ValueError: a file is no CSV of choices or of a key, or they do not belong together.
    """
    counted = count_votes(options.choices, options.key)
    first, second = sorted(set(counted) - {"same"})
    decided = counted[first] + counted[second]
    print(f"{counted.total()} choices: {counted['same']} same, {decided} prefer one")
    for name in (first, second):
        if decided:
            ends = binomtest(counted[name], decided).proportion_ci(0.95, "exact")
            share = f"{counted[name] / decided:.2f} [{ends.low:.2f}, {ends.high:.2f}]"
            print(f"{name}: {counted[name]}, {share} of those that prefer one")


def count_votes(choices: Path, key: Path) -> Counter[str]:
    """How often each folder was preferred, and "same".

    Raises:
      ValueError: as `run_votes`.
    """
    shown = {row["pair"]: row for row in _rows(key, _KEY)}
    counted = Counter({name: 0 for row in shown.values() for name in (row["left"], row["right"])})
    for row in _rows(choices, ("sheet", "pair", "choice")):
        pair = shown.get(row["pair"])
        if pair is None or pair["sheet"] != row["sheet"]:
            raise ValueError(f"{choices}: pair {row['pair']} is not in {key}: give its own key")
        if row["choice"] not in CHOICES:
            some = ", ".join(CHOICES)
            raise ValueError(f"{choices}: pair {row['pair']} is {row['choice']!r}: use {some}")
        counted[pair.get(row["choice"], "same")] += 1
    if not counted.total():
        raise ValueError(f"{choices} has no choices")
    return counted


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error
    if missing := [name for name in columns if not rows or name not in rows[0]]:
        raise ValueError(f"{path} has no column {missing[0]}, or no rows")
    return rows
