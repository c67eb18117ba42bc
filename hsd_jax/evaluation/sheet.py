"""`hsd eval sheet`: shows swaps of test images side by side.

Each tile shows head, body and result. A sheet shows images of the data set: do not publish one
unless their licence and the people in them allow it. With --blind it is a page for voters.
"""

import argparse
import math
from pathlib import Path

import numpy as np

from hsd_jax import weights
from hsd_jax.evaluation import blind, pairs
from hsd_jax.evaluation.methods import batches
from hsd_jax.evaluation.regions import stage
from hsd_jax.evaluation.sampling import Sampler
from hsd_jax.imaging import files
from hsd_jax.runtime.console import Progress
from hsd_jax.training.input import load_source

COLUMNS = 4  # tiles in a row


def layout_tiles(tiles: list[np.ndarray], columns: int = COLUMNS) -> np.ndarray:
    """Arranges equal tiles uint8 `[h, w, 3]` in rows of `columns`, padded with white."""
    blank = np.full_like(tiles[0], 255)
    tiles = tiles + [blank] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows)


def run(options: argparse.Namespace) -> None:
    """`hsd eval sheet`.

    Raises:
      ValueError: if data, weights or folder are missing.
    """
    if options.blind:
        blind.run(options)
        return
    if options.data is None:
        raise ValueError("give --data DIR, the built data set, or --blind DIR_A DIR_B")
    output = options.output or Path("samples/sheet.png")
    output.parent.mkdir(parents=True, exist_ok=True)
    files.check_output(output)
    source = load_source(options.data, "test", name=options.dataset)
    people = pairs.People(source, options.labels)
    usable = pairs.usable(source, options.labels, options.sources)
    sampler = Sampler(weights.find(options.weights), seed=options.seed)
    tiles: list[np.ndarray] = []
    with Progress(options.count, "pair") as progress:
        for batch in batches(pairs.make_pairs(usable, options.count, options.seed), sampler.batch):
            staged = [
                stage(people[p.head], people[p.body], options.labels, "face", aligned=True)
                for p in batch
            ]
            results = sampler([p.id for p in batch], staged, options.labels)
            tiles += [
                np.concatenate([people[p.head].image, people[p.body].image, result.pixels], axis=1)
                for p, result in zip(batch, results, strict=True)
            ]
            progress.update(len(batch))
    files.save_image(layout_tiles(tiles), output)
    rows = math.ceil(len(tiles) / COLUMNS)
    print(f"{output}: {len(tiles)} swaps in {rows} rows; head, body, result")
