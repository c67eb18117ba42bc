"""Interpolates linearly between the parameters of two sets of weights.

    python -m hsd_jax.training.tools.interpolate FIRST SECOND -o DIR [--share 0.5]
        [--parts NAME ...]

If the second continue the training of the first with a discriminator, the share chooses between
smooth and sharp results (network interpolation; ESRGAN, Wang et al., arXiv 1809.00219, section
3.4).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from hsd_jax import weights
from hsd_jax.runtime.console import module_parser, status_of

_NAME = "hsd_jax.training.tools.interpolate"


def interpolate(
    first: Path, second: Path, output: Path, share: float, parts: Sequence[str]
) -> None:
    """Writes the parts, `share` of the way from `first` to `second`.

    Args:
      first, second: folders of weights (see `hsd_jax.weights`); facts are the second's.
      output: folder; other parts in it stay.
      share: 0 is `first`, 1 is `second`.
      parts: names of networks, the same module in both.

    Raises:
      ValueError: a share outside 0 to 1, a part that is missing, or another module in each.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}: use 0 to 1")
    for name in parts:
        a, b = weights.load_part(first, name), weights.load_part(second, name)
        if a.module != b.module:
            raise ValueError(
                f"{name} is another network in {first} than in {second}: "
                "give weights of which one was trained on from the other"
            )

        def between(x: jax.Array, y: jax.Array) -> np.ndarray:
            return np.asarray((1 - share) * x + share * y)

        params = jax.tree.map(between, a.params, b.params)
        weights.save_part(output, name, b.module, params, b.extra)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 2 after one line on stderr."""
    parser = module_parser(_NAME, __doc__)
    add = parser.add_argument
    add("first", type=Path, metavar="FIRST")
    add("second", type=Path, metavar="SECOND")
    add("-o", "--output", type=Path, required=True, metavar="DIR")
    add("--share", type=float, default=0.5, metavar="S", help="default: %(default)s")
    add("--parts", nargs="+", default=["unet", "condition"], metavar="NAME")
    options = parser.parse_args(argv)
    arguments = (options.first, options.second, options.output, options.share, options.parts)
    return status_of(_NAME, lambda: interpolate(*arguments), extras="train")


if __name__ == "__main__":
    sys.exit(main())
