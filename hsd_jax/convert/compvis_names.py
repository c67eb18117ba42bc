"""CompVis' tensor names for our parameters (`model.py`, `openaimodel.py`, `encoders/modules.py`).

Ours follow theirs one for one, so a name is found from a path by rewriting its parts; whether a
tensor is a convolution or a dense layer is seen from the rank of its kernel.
"""

import re
from collections.abc import Mapping

from hsd_jax.convert.tensors import Leaf, Shape, Table

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}

# Rewritings of a path, each at most once, in this order.
_AUTOENCODER = (
    (r"^codebook$", "quantize/embedding/weight"),
    (r"/(down|up)_(\d+)_(block|attn)_(\d+)/", r"/\1/\2/\3/\4/"),
    (r"/(down|up)_(\d+)_((?:down|up)sample)/", r"/\1/\2/\3/conv/"),
)
_UNET = (
    (r"^time_embed_(\d)/", r"time_embed/\1/"),
    (r"^norm_out/", "out/0/"),
    (r"^conv_out/", "out/2/"),
    (r"^input_blocks_0_0/", "input_blocks/0/0/"),
    # What is left with parameters of its own resamples.
    (r"^input_blocks_(\d+)_(\d+)/(kernel|bias)$", r"input_blocks/\1/\2/op/\3"),
    (r"^output_blocks_(\d+)_(\d+)/(kernel|bias)$", r"output_blocks/\1/\2/conv/\3"),
    (r"^(input_blocks|output_blocks)_(\d+)_(\d+)/", r"\1/\2/\3/"),
    (r"^middle_block_(\d)/", r"middle_block/\1/"),
    (r"/norm1/", "/in_layers/0/"),
    (r"/conv1/", "/in_layers/2/"),
    (r"/emb_proj/", "/emb_layers/1/"),
    (r"/norm2/", "/out_layers/0/"),
    (r"/conv2/", "/out_layers/3/"),
)


def autoencoder_table(shapes: Mapping[str, Shape]) -> Table:
    """Names of VQModel, VQModelInterface and AutoencoderKL."""
    return _table(shapes, _AUTOENCODER)


def unet_table(shapes: Mapping[str, Shape]) -> Table:
    """Names of UNetModel."""
    return _table(shapes, _UNET, conv1d=("qkv", "proj_out"))


def condition_table(shapes: Mapping[str, Shape]) -> Table:
    """Names of SpatialRescaler."""
    return _table(shapes, ())


def _table(
    shapes: Mapping[str, Shape], rules: tuple[tuple[str, str], ...], conv1d: tuple[str, ...] = ()
) -> Table:
    table = {}
    for path, shape in shapes.items():
        name = path
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        *parents, last = name.split("/")
        name = ".".join([*parents, _LEAVES.get(last, last)])
        table[name] = Leaf(path, _kind(path, shape, conv1d))
    return table


def _kind(path: str, shape: Shape, conv1d: tuple[str, ...]) -> str:
    *parents, last = path.split("/")
    if last != "kernel":
        return "as_is"
    if len(shape) == 2:
        return "dense"
    return "conv1d" if parents[-1] in conv1d else "conv"
