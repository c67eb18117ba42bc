"""The parser on test pictures, as a swap uses it: IoU of each class.

    python -m hsd_jax.evaluation.parsing --data DIR [--weights NAME|DIR] [--sources NAME ...]
        [--groups]

Pixels of all pictures are counted together. Figures of sources whose labels a program drew say how
well the parser repeats that program; `ccp_gt` was drawn by hand.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hsd_jax import weights
from hsd_jax.evaluation.groups import ORDER, groups_of
from hsd_jax.evaluation.metrics import confusion, ious
from hsd_jax.labels import LabelSet, get_label_set
from hsd_jax.parsing.photo_parser import PhotoParser
from hsd_jax.runtime.console import module_parser, status_of


def each(
    source: Any, parser: PhotoParser, sources: Sequence[str] | None = None
) -> Iterator[tuple[Mapping[str, Any], np.ndarray]]:
    """Every picture's example, and its confusion matrix (see `metrics.confusion`).

    Args:
      source: a `hsd_jax.training.input.Source` in the parser's label set.
      parser: with its mirror and its edges.
      sources: only pictures of these.

    Raises:
      ValueError: an unknown source.
    """
    if unknown := sorted(set(sources or ()) - set(source.names)):
        raise ValueError(f"no pictures from {', '.join(unknown)}: use {set(source.names)}")
    for index, name in enumerate(source.names):
        if sources and name not in sources:
            continue
        example = source[index]
        seen = parser.probabilities(example["image"]).argmax(-1)
        yield example, confusion(example["layout"], seen, parser.labels.num_classes)


def figures(counts: np.ndarray, labels: LabelSet) -> dict[str, float]:
    """IoU of every class that occurs, and of `person`, all that is not background."""
    values = zip(labels.classes, ious(counts), strict=True)
    found = {name: float(value) for name, value in values if not np.isnan(value)}
    person = np.arange(labels.num_classes) != labels.background
    union = counts.sum() - counts[labels.background, labels.background]
    return found | {"person": float(counts[person][:, person].sum() / union)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one line on stderr."""
    name = "hsd_jax.evaluation.parsing"
    arguments = module_parser(name, __doc__)
    add = arguments.add_argument
    add("--data", required=True, metavar="DIR", help="folder of the built data set")
    add("--weights", default=weights.DEFAULT, metavar="NAME|DIR", help="default: %(default)s")
    add("--sources", nargs="+", metavar="NAME", help="only pictures of these")
    add("--groups", action="store_true", help="also by skin tone and hair length")
    options = arguments.parse_args(argv)
    return status_of(name, lambda: _run(options), extras="train")


def _run(options: argparse.Namespace) -> None:
    from hsd_jax.training.input import load_source

    part = weights.load_part(weights.find(options.weights), "parser")
    source = load_source(options.data, "test")
    labels = get_label_set(part.extra["labels"])
    counts: dict[str, list[np.ndarray]] = {"all": []}
    for example, seen in each(source, PhotoParser(part), options.sources):
        groups = groups_of(example["image"], example["layout"], labels) if options.groups else ()
        for group in ("all", *groups):
            counts.setdefault(group, []).append(seen)
    print(f"{len(counts['all'])} test pictures, weights {options.weights}")
    columns = [group for group in ("all", *ORDER) if counts.get(group)]
    found = {group: figures(np.sum(counts[group], 0), labels) for group in columns}
    if options.groups:
        heads = [f"{group} ({len(counts[group])})" for group in columns]
        print(" " * 12, *(f"{head:>17s}" for head in heads))
    for label in found["all"]:
        cells = (f"{found[group].get(label, np.nan):.3f}" for group in columns)
        print(f"{label:12s}", *(f"{cell:>17s}" if options.groups else cell for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
