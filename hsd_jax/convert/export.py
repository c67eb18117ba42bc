"""Our networks as CompVis and diffusers have them: tensors and configurations.

What theirs cannot represent is refused by the field's name.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from hsd_jax.convert import compvis_names, diffusers_names, u2net
from hsd_jax.convert.tensors import Shape, Table, to_state
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.condition import SpatialRescaler
from hsd_jax.models.layout_generator import LayoutGenerator, U2Net
from hsd_jax.models.unet import UNet

STYLES = ("compvis", "diffusers")
# CompVis names attention of the autoencoder by resolution; the networks themselves have none.
_RESOLUTION = 256


def state_of(
    module: nn.Module, params: Mapping[str, Any], part: str, style: str
) -> dict[str, np.ndarray]:
    """See `convert.to_torch`."""
    flat: dict[str, Any] = dict(flatten_dict(params, sep="/"))
    shapes = {path: value.shape for path, value in flat.items()}
    return to_state(params, table_of(module, shapes, part, style))


def table_of(module: nn.Module, shapes: Mapping[str, Shape], part: str, style: str) -> Table:
    """Torch's names for a module whose parameters have these shapes; ValueError if it has none."""
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: use one of {', '.join(STYLES)}")
    if isinstance(module, UNet):
        _check_norms(shapes, module.num_groups, "unet")
        if style == "diffusers":
            diffusers_unet(module, 1)
            return diffusers_names.unet_table(module, shapes)
        compvis_unet(module, 1)
        return compvis_names.unet_table(shapes)
    if isinstance(module, Autoencoder):
        _check_norms(shapes, module.num_groups, "autoencoder")
        if style == "diffusers":
            diffusers_autoencoder(module, 1)
            return diffusers_names.autoencoder_table(module, shapes)
        compvis_autoencoder(module, 1)
        return compvis_names.autoencoder_table(shapes)
    if style == "diffusers":
        raise ValueError(f"diffusers has no {part}: write it with the style 'compvis'")
    if isinstance(module, SpatialRescaler):
        return compvis_names.condition_table(shapes)
    if isinstance(module, U2Net | LayoutGenerator):
        if module.norm != "batch":
            raise ValueError(f"{part}: norm is {module.norm!r}, U^2-Net has 'batch'")
        return u2net.names_table(shapes)
    return _other_table(module, shapes, part)


def _other_table(module: nn.Module, shapes: Mapping[str, Shape], part: str) -> Table:
    from hsd_jax.convert import inception, perceptual
    from hsd_jax.models.inception import InceptionV3
    from hsd_jax.models.perceptual import LPIPS

    if isinstance(module, InceptionV3):
        return inception.names_table(shapes)
    if isinstance(module, LPIPS):
        return perceptual.names_table(module, sliced=True)
    raise ValueError(f"{part}: a {type(module).__name__} has no names in PyTorch")


def compvis_unet(unet: UNet, in_channels: int) -> dict[str, Any]:
    """Settings of CompVis' UNetModel."""
    _check(
        unet, "unet", num_groups=32, norm_eps=1e-5, mid_attention=True, mid_attention_norm=True,
        freq_shift=0, sin_first=False, down_padding=1,
    )
    return {
        "image_size": 64,  # it is not read by their code
        "in_channels": in_channels,
        "out_channels": unet.out_channels,
        "model_channels": unet.model_channels,
        "attention_resolutions": list(unet.attention_factors),
        "num_res_blocks": unet.num_res_blocks,
        "channel_mult": list(unet.channel_mult),
        "num_heads": unet.num_heads,
        "num_head_channels": unet.num_head_channels,
        "use_scale_shift_norm": unet.use_scale_shift_norm,
        "resblock_updown": unet.resblock_updown,
        "use_new_attention_order": not unet.legacy_attention,
        "dropout": unet.dropout,
    }


def compvis_autoencoder(autoencoder: Autoencoder, in_channels: int) -> dict[str, Any]:
    """Settings of CompVis' VQModel and AutoencoderKL."""
    _check(autoencoder, "autoencoder", patch=1, num_groups=32)
    settings: dict[str, Any] = {
        "embed_dim": autoencoder.embed_dim,
        "ddconfig": {
            "double_z": autoencoder.kind == "kl",
            "z_channels": autoencoder.z_channels,
            "resolution": _RESOLUTION,
            "in_channels": in_channels,
            "out_ch": autoencoder.out_ch,
            "ch": autoencoder.ch,
            "ch_mult": list(autoencoder.ch_mult),
            "num_res_blocks": autoencoder.num_res_blocks,
            "attn_resolutions": [_RESOLUTION // 2**level for level in autoencoder.attn_levels],
            "dropout": autoencoder.dropout,
        },
        "lossconfig": {"target": "torch.nn.Identity"},
    }
    if not autoencoder.mid_attention:
        settings["ddconfig"]["attn_type"] = "none"
    if autoencoder.kind == "vq":
        settings["n_embed"] = autoencoder.n_embed
    return settings


def diffusers_unet(unet: UNet, in_channels: int) -> dict[str, Any]:
    """The config.json of diffusers' UNet2DModel."""
    _check_first_level(unet.channel_mult, "unet", "channel_mult")
    if not unet.mid_attention_norm and unet.mid_attention and not unet.use_scale_shift_norm:
        raise ValueError("unet: mid_attention_norm is False, which needs use_scale_shift_norm")
    levels = range(len(unet.channel_mult))
    attends = [2**level in unet.attention_factors for level in levels]
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    plain = plain if unet.resblock_updown else ("DownBlock2D", "UpBlock2D")
    sampling = "resnet" if unet.resblock_updown else "conv"
    told = unet.use_scale_shift_norm and unet.mid_attention_norm
    return {
        "_class_name": "UNet2DModel",
        "in_channels": in_channels,
        "out_channels": unet.out_channels,
        "block_out_channels": [unet.model_channels * mult for mult in unet.channel_mult],
        "layers_per_block": unet.num_res_blocks,
        "down_block_types": ["AttnDownBlock2D" if here else plain[0] for here in attends],
        "up_block_types": ["AttnUpBlock2D" if here else plain[1] for here in attends[::-1]],
        "downsample_type": sampling,
        "upsample_type": sampling,
        "downsample_padding": unet.down_padding,
        "attention_head_dim": _head_dim(unet, attends),
        "add_attention": unet.mid_attention,
        "attn_norm_num_groups": unet.num_groups if told else None,
        "norm_num_groups": unet.num_groups,
        "norm_eps": unet.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if unet.use_scale_shift_norm else "default",
        "freq_shift": unet.freq_shift,
        "flip_sin_to_cos": not unet.sin_first,
        "dropout": unet.dropout,
        "act_fn": "silu",
    }


def _head_dim(unet: UNet, attends: list[bool]) -> int | None:
    """Channels a head, the same at every level; None for one head."""
    mults = {mult for mult, here in zip(unet.channel_mult, attends, strict=True) if here}
    mults |= {unet.channel_mult[-1]} if unet.mid_attention else set()
    widths = [mult * unet.model_channels for mult in sorted(mults)]
    heads = [diffusers_names.heads_of(unet, width) for width in widths]
    dims = {width // count for width, count in zip(widths, heads, strict=True)}
    if len(dims) < 2:
        return next(iter(dims), 8)
    if set(heads) == {1}:
        return None
    raise ValueError(
        f"unet: num_heads is {unet.num_heads} at levels of {widths} channels; diffusers has the "
        "same attention_head_dim at all"
    )


def diffusers_autoencoder(autoencoder: Autoencoder, in_channels: int) -> dict[str, Any]:
    """The config.json of diffusers' VQModel and AutoencoderKL."""
    _check(autoencoder, "autoencoder", patch=1)
    _check_first_level(autoencoder.ch_mult, "autoencoder", "ch_mult")
    levels = range(len(autoencoder.ch_mult))
    attends = [level in autoencoder.attn_levels for level in levels]
    config = {
        "_class_name": "VQModel" if autoencoder.kind == "vq" else "AutoencoderKL",
        "in_channels": in_channels,
        "out_channels": autoencoder.out_ch,
        "block_out_channels": [autoencoder.ch * mult for mult in autoencoder.ch_mult],
        "layers_per_block": autoencoder.num_res_blocks,
        "down_block_types": [f"{'Attn' * here}DownEncoderBlock2D" for here in attends],
        "up_block_types": [f"{'Attn' * here}UpDecoderBlock2D" for here in attends[::-1]],
        "latent_channels": autoencoder.z_channels,
        "norm_num_groups": autoencoder.num_groups,
        "mid_block_add_attention": autoencoder.mid_attention,
        "act_fn": "silu",
    }
    if autoencoder.kind == "vq":
        return config | {
            "num_vq_embeddings": autoencoder.n_embed,
            "vq_embed_dim": autoencoder.embed_dim,
        }
    _check(autoencoder, "autoencoder", embed_dim=autoencoder.z_channels)
    return config


def _check(module: nn.Module, part: str, **fields: Any) -> None:
    """Raises ValueError for a field that has another value than the only one theirs has."""
    for name, theirs in fields.items():
        if getattr(module, name) != theirs:
            raise ValueError(
                f"{part}: {name} is {getattr(module, name)!r}; there it is always {theirs!r}"
            )


def _check_first_level(mult: tuple[int, ...], part: str, name: str) -> None:
    if mult[0] != 1:
        raise ValueError(f"{part}: {name} begins with {mult[0]}; diffusers' begin with 1")


def _check_norms(shapes: Mapping[str, Shape], num_groups: int, part: str) -> None:
    """Torch's GroupNorm takes only multiples of its groups; ours takes fewer groups then."""
    for path, shape in shapes.items():
        if path.endswith("/scale") and shape[0] % num_groups:
            raise ValueError(
                f"{part}: {path} normalises {shape[0]} channels, no multiple of {num_groups} "
                "groups as in PyTorch"
            )
