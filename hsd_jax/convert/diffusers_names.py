"""diffusers' tensor names for our parameters: UNet2DModel, VQModel and AutoencoderKL.

Its blocks are grouped by level where CompVis' are numbered through, and its attention has q, k and
v apart as dense layers where CompVis' UNet has them joint.
"""

import re
from collections.abc import Iterable, Mapping

from hsd_jax.convert.tensors import Leaf, Shape, Share, Table
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.unet import UNet

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
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


def unet_table(unet: UNet, shapes: Mapping[str, Shape]) -> Table:
    """Names of UNet2DModel for a network of ours; q, k and v are shares of our joint qkv."""
    table: Table = {}
    for path, shape in shapes.items():
        block, *inner, leaf = path.split("/")
        prefix = _TOPS.get(block) or _unet_block(block, inner, unet.num_res_blocks)
        if inner == ["qkv"]:
            blocks = heads_of(unet, shape[-1] // 3) if unet.legacy_attention else 1
            kind = "dense_as_conv" if leaf == "kernel" else "as_is"
            for index, name in enumerate(("to_q", "to_k", "to_v")):
                share = Share(index, 3, blocks)
                table[f"{prefix}.{name}.{_LEAVES[leaf]}"] = Leaf(path, kind, share)
            continue
        names = _ATTENTION if inner and inner[0] in ("norm", "proj_out") else _PARTS
        parts = [names.get(part, part) for part in inner]
        table[".".join([prefix, *parts, _LEAVES[leaf]])] = Leaf(path, _kind(path, shape))
    return table


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


def autoencoder_table(autoencoder: Autoencoder, shapes: Mapping[str, Shape]) -> Table:
    """Names of VQModel and AutoencoderKL for a network of ours."""
    levels = len(autoencoder.ch_mult)

    def level_of(match: re.Match[str]) -> str:
        way, level, kind, index = match.groups()
        number = int(level) if way == "down" else levels - 1 - int(level)
        kinds = {"block": f"resnets.{index}", "attn": f"attentions.{index}"}
        return f"/{way}_blocks.{number}.{kinds.get(kind, f'{kind}rs.0.conv')}/"

    table: Table = {}
    for path, shape in shapes.items():
        name = "quantize/embedding/scale" if path == "codebook" else path
        name = re.sub(
            r"/(down|up)_(\d+)_(block|attn|downsample|upsample)(?:_(\d+))?/", level_of, name
        )
        name = name.replace("/mid/block_1/", "/mid_block.resnets.0/")
        name = name.replace("/mid/block_2/", "/mid_block.resnets.1/")
        name = name.replace("/mid/attn_1/", "/mid_block.attentions.0/")
        *parents, leaf = name.split("/")
        names = _ATTENTION if "attentions" in name else _VAE_PARTS
        parents = [names.get(part, part) for part in parents]
        table[".".join([*parents, _LEAVES[leaf]])] = Leaf(path, _kind(path, shape))
    return table


def _kind(path: str, shape: Shape) -> str:
    *parents, leaf = path.split("/")
    if leaf != "kernel":
        return "as_is"
    if len(shape) == 2:
        return "dense"
    return "dense_as_conv" if parents[-1] in ("q", "k", "v", "proj_out") else "conv"


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
