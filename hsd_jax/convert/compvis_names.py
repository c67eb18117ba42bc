"""CompVis' tensor names for our parameters, and the sizes of networks that their shapes tell.

Ours follow theirs (`model.py`, `openaimodel.py`, `encoders/modules.py`) one for one, so a name is
found from a path by rewriting its parts. Everything but the number of heads and the order of the
channels within them can be seen from the shapes.
"""

import re
from collections.abc import Mapping
from typing import Any

from hsd_jax.convert.tensors import Shape, Table, count, make_table, multiples, shape_of
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.condition import SpatialRescaler
from hsd_jax.models.unet import UNet

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
    return make_table(shapes, lambda path: _rewrite(path, _AUTOENCODER))


def unet_table(shapes: Mapping[str, Shape]) -> Table:
    """Names of UNetModel."""
    kinds = {"qkv": "conv1d", "proj_out": "conv1d"}
    return make_table(shapes, lambda path: _rewrite(path, _UNET), kinds)


def table(module: UNet | Autoencoder | SpatialRescaler, shapes: Mapping[str, Shape]) -> Table:
    """Names for a network of ours."""
    if isinstance(module, UNet):
        return unet_table(shapes)
    return autoencoder_table(shapes) if isinstance(module, Autoencoder) else make_table(shapes, str)


def _rewrite(path: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        path = re.sub(pattern, replacement, path)
    return path


def unet_fields(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Fields of `UNet` but for the heads; ValueError for the first tensor that is missing."""
    width = shape_of(shapes, "input_blocks.0.0.weight", "unet")[0]
    blocks = count(shapes, r"output_blocks\.(\d+)\.")
    period = _period(shapes, blocks)
    firsts = [f"input_blocks.{1 + start}" for start in range(0, blocks, period)]
    widths = [shape_of(shapes, f"{first}.0.in_layers.2.weight", "unet")[0] for first in firsts]
    emb = shape_of(shapes, f"{firsts[0]}.0.emb_layers.1.weight", "unet")[0]
    samplers = [f"output_blocks.{period - 1}.{place}.in_layers.0.weight" for place in (1, 2)]
    attends = [f"{first}.1.qkv.weight" in shapes for first in firsts]
    return {
        "out_channels": shape_of(shapes, "out.2.weight", "unet")[0],
        "model_channels": width,
        "channel_mult": multiples(widths, width, "unet"),
        "num_res_blocks": period - 1,
        "attention_factors": tuple(2**level for level, here in enumerate(attends) if here),
        "mid_attention": "middle_block.1.qkv.weight" in shapes,
        "use_scale_shift_norm": emb == 2 * widths[0],
        "resblock_updown": any(name in shapes for name in samplers),
    }


def _period(shapes: Mapping[str, Shape], blocks: int) -> int:
    """Output blocks a level: the first that also resamples ends the first level."""
    for index in range(blocks):
        for place in (1, 2):
            inside = f"output_blocks.{index}.{place}"
            if f"{inside}.conv.weight" in shapes or f"{inside}.in_layers.0.weight" in shapes:
                return index + 1
    return blocks


def autoencoder_fields(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Fields of `Autoencoder`; ValueError for the first tensor that is missing."""

    def of(name: str) -> Shape:
        return shape_of(shapes, name, "autoencoder")

    codebook = "quantize.embedding.weight"
    width = of("encoder.conv_in.weight")[0]
    levels = range(count(shapes, r"encoder\.down\.(\d+)\."))
    widths = [of(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in levels]
    fields = {
        "kind": "vq" if codebook in shapes else "kl",
        "embed_dim": of("post_quant_conv.weight")[1],
        "z_channels": of("post_quant_conv.weight")[0],
        "ch": width,
        "ch_mult": multiples(widths, width, "autoencoder"),
        "num_res_blocks": count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "attn_levels": tuple(n for n in levels if f"encoder.down.{n}.attn.0.q.weight" in shapes),
        "mid_attention": "encoder.mid.attn_1.q.weight" in shapes,
        "out_ch": of("decoder.conv_out.weight")[0],
    }
    return fields | ({"n_embed": of(codebook)[0]} if codebook in shapes else {})
