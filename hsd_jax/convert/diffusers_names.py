"""diffusers' tensor names for our parameters, and what of a config.json their shapes tell.

Its blocks are grouped by level where CompVis' are numbered through, and its attention has q, k and
v apart as dense layers where CompVis' UNet has them joint.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hsd_jax.convert.tensors import Leaf, Shape, Share, Table, count, make_table, shape_of
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.unet import UNet

RESNET_BLOCKS = "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"
_PARTS = {"emb_proj": "time_emb_proj", "skip_connection": "conv_shortcut"}
_VAE_PARTS = {"nin_shortcut": "conv_shortcut", "norm_out": "conv_norm_out"}
_ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0", "q": "to_q", "k": "to_k", "v": "to_v"}
_MIDDLE = ("resnets.0", "attentions.0", "resnets.1")
_TOPS = {
    "time_embed_0": "time_embedding.linear_1",
    "time_embed_2": "time_embedding.linear_2",
    "input_blocks_0_0": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
# The names of attention before diffusers 0.12, which it still reads.
_OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def heads_of(unet: UNet, channels: int) -> int:
    """How many heads attend at a level of so many channels."""
    if unet.num_head_channels > 0:
        return channels // unet.num_head_channels
    return unet.num_heads


def table(module: UNet | Autoencoder, shapes: Mapping[str, Shape]) -> Table:
    """Names of UNet2DModel, or of VQModel and AutoencoderKL, for a network of ours."""
    return _unet(module, shapes) if isinstance(module, UNet) else _autoencoder(module, shapes)


def _unet(unet: UNet, shapes: Mapping[str, Shape]) -> Table:
    """q, k and v are shares of our joint qkv."""

    def rename(path: str) -> str:
        block, *inner, leaf = path.split("/")
        prefix = _TOPS.get(block) or _unet_block(block, inner, unet.num_res_blocks)
        names = _ATTENTION if inner and inner[0] in ("norm", "proj_out") else _PARTS
        return "/".join([prefix, *(names.get(part, part) for part in inner), leaf])

    table = make_table(shapes, rename, {"qkv": "dense_as_conv", "proj_out": "dense_as_conv"})
    split: Table = {}
    for name, leaf in table.items():
        if "/qkv/" not in leaf.path:
            split[name] = leaf
            continue
        channels = shapes[leaf.path][-1] // 3
        blocks = heads_of(unet, channels) if unet.legacy_attention else 1
        for index, part in enumerate(("to_q", "to_k", "to_v")):
            share = Share(index, 3, blocks)
            split[name.replace(".qkv.", f".{part}.")] = Leaf(leaf.path, leaf.kind, share)
    return split


def _unet_block(block: str, inner: list[str], num_res_blocks: int) -> str:
    """`input_blocks_4_1` -> `down_blocks.1.attentions.0`, by what is inside it."""
    if block.startswith("middle_block_"):
        return f"mid_block.{_MIDDLE[int(block[-1])]}"
    way, number, place = re.fullmatch(r"(input|output)_blocks_(\d+)_(\d+)", block).groups()  # type: ignore[union-attr]
    if way == "input":
        level, index = divmod(int(number) - 1, num_res_blocks + 1)
        prefix, sampler, resamples = f"down_blocks.{level}", "down", index == num_res_blocks
    else:
        level, index = divmod(int(number), num_res_blocks + 1)
        prefix, sampler, resamples = f"up_blocks.{level}", "up", int(place) > 0
    if not inner:
        return f"{prefix}.{sampler}samplers.0.conv"
    if inner[0] in _ATTENTION or inner[0] == "qkv":
        return f"{prefix}.attentions.{index}"
    return f"{prefix}.{sampler}samplers.0" if resamples else f"{prefix}.resnets.{index}"


def _autoencoder(autoencoder: Autoencoder, shapes: Mapping[str, Shape]) -> Table:
    levels = len(autoencoder.ch_mult)

    def level_of(match: re.Match[str]) -> str:
        way, level, kind, index = match.groups()
        number = int(level) if way == "down" else levels - 1 - int(level)
        kinds = {"block": f"resnets.{index}", "attn": f"attentions.{index}"}
        return f"/{way}_blocks.{number}.{kinds.get(kind, f'{kind}rs.0.conv')}/"

    def rename(path: str) -> str:
        if path == "codebook":
            return "quantize/embedding/weight"
        name = re.sub(
            r"/(down|up)_(\d+)_(block|attn|downsample|upsample)(?:_(\d+))?/", level_of, path
        )
        for place, inner in (("block_1", 0), ("attn_1", 1), ("block_2", 2)):
            name = name.replace(f"/mid/{place}/", f"/mid_block.{_MIDDLE[inner]}/")
        *parents, leaf = name.split("/")
        names = _ATTENTION if "attentions" in name else _VAE_PARTS
        return "/".join([*(names.get(part, part) for part in parents), leaf])

    return make_table(shapes, rename, dict.fromkeys(("q", "k", "v", "proj_out"), "dense_as_conv"))


def as_saved(table: Table, names: Iterable[str]) -> Table:
    """The table under the old names of attention where the saved `names` are the old ones."""
    if not any(name.endswith(".query.weight") for name in names):
        return table
    renamed = {}
    for name, leaf in table.items():
        for new, old in _OLD.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = leaf
    return renamed


def unet_blocks(attends: list[bool], resnets: bool) -> dict[str, Any]:
    """The settings of a UNet2DModel's blocks: which levels attend, and whether resnets resample."""
    down, up = RESNET_BLOCKS if resnets else ("DownBlock2D", "UpBlock2D")
    sampling = "resnet" if resnets else "conv"
    return {
        "down_block_types": ["AttnDownBlock2D" if here else down for here in attends],
        "up_block_types": ["AttnUpBlock2D" if here else up for here in attends[::-1]],
        "downsample_type": sampling,
        "upsample_type": sampling,
    }


def coder_blocks(attends: list[bool]) -> dict[str, Any]:
    """The settings of an autoencoder's blocks: which levels attend."""
    return {
        "down_block_types": [f"{'Attn' * here}DownEncoderBlock2D" for here in attends],
        "up_block_types": [f"{'Attn' * here}UpDecoderBlock2D" for here in attends[::-1]],
    }


def unet_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Settings of UNet2DModel but for `attention_head_dim`, which no shape tells.

    Of what else leaves no trace in the shapes (norm_eps, freq_shift, flip_sin_to_cos,
    downsample_padding, norm_num_groups) diffusers' defaults are taken.
    """
    config, attends = _common(shapes, "", "unet")
    resnets = "down_blocks.0.downsamplers.0.conv1.weight" in shapes
    emb = shape_of(shapes, "down_blocks.0.resnets.0.time_emb_proj.weight", "unet")[0]
    shift = "scale_shift" if emb == 2 * config["block_out_channels"][0] else "default"
    middle = "mid_block.attentions.0."
    normed = shift == "scale_shift" and f"{middle}group_norm.weight" in shapes
    return config | unet_blocks(attends, resnets) | {
        "attn_norm_num_groups": 32 if normed else None,
        "resnet_time_scale_shift": shift,
        "add_attention": f"{middle}to_out.0.weight" in shapes
        or f"{middle}proj_attn.weight" in shapes,
    }


def autoencoder_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Settings of VQModel, or of AutoencoderKL where there is no codebook."""
    config, attends = _common(shapes, "encoder.", "autoencoder")
    config["out_channels"] = shape_of(shapes, "decoder.conv_out.weight", "autoencoder")[0]
    after = shape_of(shapes, "post_quant_conv.weight", "autoencoder")
    config |= coder_blocks(attends) | {
        "mid_block_add_attention": "encoder.mid_block.attentions.0.group_norm.weight" in shapes,
        "latent_channels": after[0],
    }
    codebook = shapes.get("quantize.embedding.weight")
    if codebook:
        config |= {"num_vq_embeddings": codebook[0], "vq_embed_dim": after[1]}
    return config


def _common(
    shapes: Mapping[str, Shape], prefix: str, part: str
) -> tuple[dict[str, Any], list[bool]]:
    """The settings that UNet and autoencoder share, and which levels attend."""
    downs = [
        f"{prefix}down_blocks.{level}"
        for level in range(count(shapes, rf"{prefix}down_blocks\.(\d+)\."))
    ]
    config = {
        "in_channels": shape_of(shapes, f"{prefix}conv_in.weight", part)[1],
        "out_channels": shape_of(shapes, f"{prefix}conv_out.weight", part)[0],
        "block_out_channels": [
            shape_of(shapes, f"{down}.resnets.0.conv1.weight", part)[0] for down in downs
        ],
        "layers_per_block": count(shapes, rf"{prefix}down_blocks\.0\.resnets\.(\d+)\."),
    }
    return config, [f"{down}.attentions.0.group_norm.weight" in shapes for down in downs]
