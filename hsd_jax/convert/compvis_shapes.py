"""The sizes of CompVis networks, read from the shapes of their tensors.

Everything but the number of heads and the order of the channels within them can be seen.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hsd_jax.convert.tensors import Shape

_Shapes = Mapping[str, Shape]


def unet_fields(shapes: _Shapes) -> dict[str, Any]:
    """Fields of `UNet` but for the heads; ValueError for the first tensor that is missing."""
    width = shape_of(shapes, "input_blocks.0.0.weight", "unet")[0]
    blocks = count(shapes, r"output_blocks\.(\d+)\.")
    period = _period(shapes, blocks)
    firsts = [f"input_blocks.{1 + start}.0" for start in range(0, blocks, period)]
    widths = [shape_of(shapes, f"{first}.in_layers.2.weight", "unet")[0] for first in firsts]
    emb = shape_of(shapes, f"{firsts[0]}.emb_layers.1.weight", "unet")[0]
    samplers = [f"output_blocks.{period - 1}.{place}.in_layers.0.weight" for place in (1, 2)]
    return {
        "out_channels": shape_of(shapes, "out.2.weight", "unet")[0],
        "model_channels": width,
        "channel_mult": multiples(widths, width, "unet"),
        "num_res_blocks": period - 1,
        "attention_factors": tuple(
            2**level
            for level, first in enumerate(firsts)
            if f"{first[:-2]}.1.qkv.weight" in shapes
        ),
        "mid_attention": "middle_block.1.qkv.weight" in shapes,
        "use_scale_shift_norm": emb == 2 * widths[0],
        "resblock_updown": any(name in shapes for name in samplers),
    }


def _period(shapes: _Shapes, blocks: int) -> int:
    """Output blocks a level: the first that also resamples ends the first level."""
    for index in range(blocks):
        for place in (1, 2):
            inside = f"output_blocks.{index}.{place}"
            if f"{inside}.conv.weight" in shapes or f"{inside}.in_layers.0.weight" in shapes:
                return index + 1
    return blocks


def autoencoder_fields(shapes: _Shapes) -> dict[str, Any]:
    """Fields of `Autoencoder`; ValueError for the first tensor that is missing."""
    part = "autoencoder"
    kind = "vq" if "quantize.embedding.weight" in shapes else "kl"
    width = shape_of(shapes, "encoder.conv_in.weight", part)[0]
    levels = count(shapes, r"encoder\.down\.(\d+)\.")
    widths = [
        shape_of(shapes, f"encoder.down.{level}.block.0.conv1.weight", part)[0]
        for level in range(levels)
    ]
    attends = (f"encoder.down.{level}.attn.0.q.weight" in shapes for level in range(levels))
    fields = {
        "kind": kind,
        "embed_dim": shape_of(shapes, "post_quant_conv.weight", part)[1],
        "z_channels": shape_of(shapes, "post_quant_conv.weight", part)[0],
        "ch": width,
        "ch_mult": multiples(widths, width, part),
        "num_res_blocks": count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "attn_levels": tuple(level for level, here in enumerate(attends) if here),
        "mid_attention": "encoder.mid.attn_1.q.weight" in shapes,
        "out_ch": shape_of(shapes, "decoder.conv_out.weight", part)[0],
    }
    if kind == "vq":
        fields["n_embed"] = shape_of(shapes, "quantize.embedding.weight", part)[0]
    return fields


def multiples(widths: Iterable[int], width: int, part: str) -> tuple[int, ...]:
    """Channels a level as multiples of the first convolution's."""
    widths = list(widths)
    odd = [other for other in widths if other % width]
    if odd or not widths:
        raise ValueError(
            f"{part}: its levels have {widths} channels, which are no multiples of the {width} "
            "that it begins with: this is no network that can be represented"
        )
    return tuple(other // width for other in widths)


def count(shapes: _Shapes, pattern: str) -> int:
    """1 + the largest number that names have at the pattern's group."""
    found = (re.match(pattern, name) for name in shapes)
    return 1 + max((int(match.group(1)) for match in found if match), default=-1)


def shape_of(shapes: _Shapes, name: str, part: str) -> Shape:
    """The shape of a tensor that must be there, with at least two axes."""
    if name not in shapes:
        raise ValueError(f"{part}: tensor {name!r} is missing")
    if len(shapes[name]) < 2:
        raise ValueError(f"{part}: tensor {name!r} is {list(shapes[name])}: no such network")
    return shapes[name]
