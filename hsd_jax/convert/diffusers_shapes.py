"""The config.json of diffusers' models, as far as the shapes of their tensors tell it."""

from collections.abc import Mapping
from typing import Any

from hsd_jax.convert.compvis_shapes import count, shape_of
from hsd_jax.convert.tensors import Shape

_Shapes = Mapping[str, Shape]


def unet_config(shapes: _Shapes) -> dict[str, Any]:
    """Settings of UNet2DModel but for `attention_head_dim`, which no shape tells.

    Of what else leaves no trace in the shapes (norm_eps, freq_shift, flip_sin_to_cos,
    downsample_padding, norm_num_groups) diffusers' defaults are taken.
    """
    config = _common(shapes, "", "unet")
    channels = config["block_out_channels"]
    attends = _attends(shapes, "")
    resnets = "down_blocks.0.downsamplers.0.conv1.weight" in shapes
    sampling = "resnet" if resnets else "conv"
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    plain = plain if resnets else ("DownBlock2D", "UpBlock2D")
    emb = shape_of(shapes, "down_blocks.0.resnets.0.time_emb_proj.weight", "unet")[0]
    shift = "scale_shift" if emb == 2 * channels[0] else "default"
    normed = shift == "scale_shift" and "mid_block.attentions.0.group_norm.weight" in shapes
    return config | {
        "attn_norm_num_groups": 32 if normed else None,
        "down_block_types": ["AttnDownBlock2D" if here else plain[0] for here in attends],
        "up_block_types": ["AttnUpBlock2D" if here else plain[1] for here in attends[::-1]],
        "downsample_type": sampling,
        "upsample_type": sampling,
        "resnet_time_scale_shift": shift,
        "add_attention": "mid_block.attentions.0.to_out.0.weight" in shapes
        or "mid_block.attentions.0.proj_attn.weight" in shapes,
    }


def autoencoder_config(shapes: _Shapes) -> dict[str, Any]:
    """Settings of VQModel, or of AutoencoderKL where there is no codebook."""
    config = _common(shapes, "encoder.", "autoencoder")
    config["out_channels"] = shape_of(shapes, "decoder.conv_out.weight", "autoencoder")[0]
    attends = _attends(shapes, "encoder.")
    middle = "encoder.mid_block.attentions.0.group_norm.weight" in shapes
    after = shape_of(shapes, "post_quant_conv.weight", "autoencoder")
    config |= {
        "down_block_types": [f"{'Attn' * here}DownEncoderBlock2D" for here in attends],
        "up_block_types": [f"{'Attn' * here}UpDecoderBlock2D" for here in attends[::-1]],
        "mid_block_add_attention": middle,
        "latent_channels": after[0],
    }
    codebook = shapes.get("quantize.embedding.weight")
    if codebook:
        config |= {"num_vq_embeddings": codebook[0], "vq_embed_dim": after[1]}
    return config


def _common(shapes: _Shapes, prefix: str, part: str) -> dict[str, Any]:
    levels = range(count(shapes, rf"{prefix}down_blocks\.(\d+)\."))
    first = shape_of(shapes, f"{prefix}conv_in.weight", part)
    return {
        "in_channels": first[1],
        "out_channels": shape_of(shapes, f"{prefix}conv_out.weight", part)[0],
        "block_out_channels": [
            shape_of(shapes, f"{prefix}down_blocks.{level}.resnets.0.conv1.weight", part)[0]
            for level in levels
        ],
        "layers_per_block": count(shapes, rf"{prefix}down_blocks\.0\.resnets\.(\d+)\."),
    }


def _attends(shapes: _Shapes, prefix: str) -> list[bool]:
    levels = count(shapes, rf"{prefix}down_blocks\.(\d+)\.")
    marker = "attentions.0.group_norm.weight"
    return [f"{prefix}down_blocks.{level}.{marker}" in shapes for level in range(levels)]
