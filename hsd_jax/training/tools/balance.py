"""Fits factors of a parser's class probabilities for the best mean IoU.

    python -m hsd_jax.training.tools.balance --weights DIR --data DIR [--sources NAME ...]

A network trained with class weights predicts classes of high weight too often, and the most
probable class does not maximise IoU anyway. One factor per class, found by coordinate ascent on
training images, is written to DIR/parser.json; `hsd_jax.parsing.segmenter` applies it.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import numpy as np

from hsd_jax import weights
from hsd_jax.parsing.iou import confusion, ious
from hsd_jax.parsing.photo_parser import PhotoParser
from hsd_jax.runtime import files
from hsd_jax.runtime.console import module_parser, status_of
from hsd_jax.training.input import load_source

_NAME = "hsd_jax.training.tools.balance"
_IMAGES = 100  # of the training split, evenly spread
_STEPS = (0.7, 0.85, 1.2, 1.4)
_ROUNDS = 2
_GAIN = 2e-4  # of the mean IoU; less is noise
_RARE = 0.03  # share of the pixels; the IoU of rarer classes is noise


def fit(probabilities: np.ndarray, layouts: np.ndarray) -> np.ndarray:
    """Fits the factors.

    Args:
      probabilities: float `[N, H, W, K]`.
      layouts: integer `[N, H, W]`, the truth.

    Returns:
      float `[K]`; all 1 if nothing was gained.
    """
    classes = probabilities.shape[-1]
    counts = np.bincount(layouts.ravel(), minlength=classes)
    counted = counts > _RARE * counts.sum()

    def score(factors: np.ndarray) -> float:
        matrix = confusion(layouts, (probabilities * factors).argmax(-1), classes)
        return float(ious(matrix)[counted].mean())

    factors = np.ones(classes, np.float32)
    best = score(factors)
    for _ in range(_ROUNDS):
        for index in range(classes):
            for step in _STEPS:
                while True:
                    trial = factors.copy()
                    trial[index] *= step
                    value = score(trial)
                    if value <= best + _GAIN:
                        break
                    best, factors = value, trial
    return factors


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 2 after one line on stderr."""
    parser = module_parser(_NAME, __doc__)
    add = parser.add_argument
    add("--weights", required=True, metavar="DIR", help="folder with parser.json")
    add("--data", required=True, metavar="DIR", help="folder of the built data set")
    add("--sources", nargs="+", metavar="NAME", help="only images of these")
    options = parser.parse_args(argv)
    return status_of(_NAME, lambda: _run(options), extras="train")


def _run(options: argparse.Namespace) -> None:
    folder = weights.find(options.weights)
    part = weights.load_part(folder, "parser")
    part.extra.pop("balance", None)
    parser, source = PhotoParser(part), load_source(options.data, "train")
    chosen = [
        i for i, name in enumerate(source.names) if not options.sources or name in options.sources
    ]
    if not chosen:
        raise ValueError(f"no images from {', '.join(options.sources)}")
    chosen = chosen[:: max(1, len(chosen) // _IMAGES)]
    seen = [source[i] for i in chosen]
    # Every second pixel suffices.
    found = np.stack([parser.probabilities(x["image"])[::2, ::2] for x in seen])
    factors = fit(found, np.stack([x["layout"][::2, ::2] for x in seen]))
    path = folder / "parser.json"
    record = json.loads(path.read_text())
    record["extra"]["balance"] = [round(float(x), 3) for x in factors]
    files.write_text(path, json.dumps(record, indent=2) + "\n")
    told = zip(parser.labels.classes, record["extra"]["balance"], strict=True)
    print(f"{len(seen)} images:", ", ".join(f"{name} {value}" for name, value in told))


if __name__ == "__main__":
    sys.exit(main())
