"""Models of diffusers: UNet2DModel, VQModel and AutoencoderKL, from their tensors and config.json.

What our networks cannot follow is refused by the name of the setting. Without a config.json the
sizes are read from the shapes (`diffusers_names`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn

from hsd_jax.convert import diffusers_names as names
from hsd_jax.convert.state import read_config
from hsd_jax.convert.tensors import (
    check_fields,
    latent_scale,
    multiples,
    param_shapes,
    refuse_others,
    to_params,
    whole,
)
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.unet import UNet

# By part, the name that tells that it is there.
FIRSTS = {
    "unet": "down_blocks.0.resnets.0.conv1.weight",
    "autoencoder": "encoder.down_blocks.0.resnets.0.conv1.weight",
}
_CLASSES = {"unet": ("UNet2DModel",), "autoencoder": ("VQModel", "AutoencoderKL")}
_RESNET_DOWN, _RESNET_UP = names.RESNET_BLOCKS
_ATTENDS = {
    **{"DownBlock2D": False, "AttnDownBlock2D": True, _RESNET_DOWN: False},
    **{"UpBlock2D": False, "AttnUpBlock2D": True, _RESNET_UP: False},
    **{"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True},
    **{"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True},
}
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
# Whole numbers that are fields of ours under other names, and their defaults.
_UNET_SAME: dict[str, tuple[str, int]] = {
    "out_channels": ("out_channels", 3),
    "num_res_blocks": ("layers_per_block", 2),
    "num_groups": ("norm_num_groups", 32),
    "freq_shift": ("freq_shift", 0),
    "down_padding": ("downsample_padding", 1),
}
_VAE_SAME: dict[str, tuple[str, int]] = {
    "out_ch": ("out_channels", 3),
    "num_res_blocks": ("layers_per_block", 1),
    "num_groups": ("norm_num_groups", 32),
}
_BOTH = ("in_channels", "block_out_channels", "down_block_types", "up_block_types")
KNOWN = {
    "unet": (
        *_BOTH, *(name for name, _ in _UNET_SAME.values()), "downsample_type", "upsample_type",
        "flip_sin_to_cos", "time_embedding_dim", "attention_head_dim", "attn_norm_num_groups",
        "norm_eps", "resnet_time_scale_shift", "add_attention",
    ),
    "autoencoder": (
        *_BOTH, *(name for name, _ in _VAE_SAME.values()), "latent_channels", "num_vq_embeddings",
        "vq_embed_dim", "mid_block_add_attention",
    ),
}  # fmt: skip
_UNET_FIXED = {
    **{"act_fn": "silu", "center_input_sample": False, "time_embedding_type": "positional"},
    **{"mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 1},
    **{"class_embed_type": None, "num_class_embeds": None},
}
_VAE_FIXED = {
    **{"act_fn": "silu", "norm_type": "group", "lookup_from_codebook": False},
    **{"use_quant_conv": True, "use_post_quant_conv": True},
}
_VAE_FREE = (
    *("sample_size", "scaling_factor", "shift_factor", "latents_mean", "latents_std"),
    "force_upcast",
)


def parts_in(tensors: Mapping[str, Any]) -> list[str]:
    """The networks that tensors of these names are."""
    return [part for part, marker in FIRSTS.items() if marker in tensors]


def load(
    tensors: Mapping[str, Any], part: str, config: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """A model of diffusers; what its config.json does not tell is read from the shapes."""
    if part not in FIRSTS:
        raise ValueError(f"diffusers has no {part}: give a checkpoint of CompVis, or of U-2-Net")
    model = config.get("_class_name")
    if model is not None and model not in _CLASSES[part]:
        raise ValueError(f"{part}: the model is a {model}, not a {' or '.join(_CLASSES[part])}")
    if "block_out_channels" not in config:
        if part == "unet" and "attention_head_dim" not in config:
            raise ValueError(
                "unet: its tensors do not tell how attention splits into heads: give "
                "attention_head_dim, or the model's config.json"
            )
        seen = {name: tuple(value.shape) for name, value in tensors.items()}
        read = names.unet_config if part == "unet" else names.autoencoder_config
        config = read(seen) | dict(config)
    side = 2 ** (len(config["block_out_channels"]) - 1)
    image = (1, side, side, whole(part, config, "in_channels", 3))
    if part == "unet":
        module: UNet | Autoencoder = unet(config)
        shapes = param_shapes(module, image, (1,), None)
    else:
        module = autoencoder(config)
        shapes = param_shapes(module, image)
    table = names.as_saved(names.table(module, shapes), tensors)
    return module, to_params(tensors, table, shapes, part)


def unet(config: Mapping[str, Any]) -> UNet:
    """The network of a UNet2DModel's settings, with diffusers' defaults; ValueError if we can't."""
    free = ("sample_size", "dropout", "num_train_timesteps")
    refuse_others("unet", config, KNOWN["unet"], free, _UNET_FIXED)
    channels = list(config["block_out_channels"])
    embedding = config.get("time_embedding_dim") or 4 * channels[0]
    same = _same("unet", config, _UNET_SAME)
    shift = config.get("resnet_time_scale_shift", "default")
    for name, value, ours in (
        ("time_embedding_dim", embedding, (4 * channels[0],)),
        ("downsample_padding", same["down_padding"], (0, 1)),
        ("resnet_time_scale_shift", shift, ("default", "scale_shift")),
    ):
        if value not in ours:
            raise ValueError(f"unet: {name} is {value!r}, and our network has {ours} only")
    attends, resnets = _levels(config, len(channels))
    one_head = "attention_head_dim" in config and config["attention_head_dim"] is None
    return UNet(
        model_channels=channels[0],
        channel_mult=multiples(channels, channels[0], "unet"),
        attention_factors=tuple(2**level for level, here in enumerate(attends) if here),
        mid_attention=config.get("add_attention", True),
        num_heads=1,
        num_head_channels=-1 if one_head else whole("unet", config, "attention_head_dim", 8),
        use_scale_shift_norm=shift == "scale_shift",
        resblock_updown=resnets,
        legacy_attention=False,
        norm_eps=float(config.get("norm_eps", 1e-5)),
        mid_attention_norm=_mid_norm(config, same["num_groups"], shift),
        sin_first=not config.get("flip_sin_to_cos", True),
        **same,
    )


def _same(
    part: str, config: Mapping[str, Any], table: Mapping[str, tuple[str, int]]
) -> dict[str, Any]:
    return {field: whole(part, config, *theirs) for field, theirs in table.items()}


def _mid_norm(config: Mapping[str, Any], groups: int, shift: str) -> bool:
    """Whether the middle's attention has a norm: beside scale-shift only if its groups are told."""
    given = config.get("attn_norm_num_groups")
    if given not in (None, groups):
        raise ValueError(
            f"unet: attn_norm_num_groups is {given}, norm_num_groups {groups}: ours are equal"
        )
    return given is not None or shift == "default"


def _levels(config: Mapping[str, Any], levels: int) -> tuple[list[bool], bool]:
    """Which levels attend, and whether residual blocks resample."""
    down = list(config.get("down_block_types", ("DownBlock2D", *["AttnDownBlock2D"] * 3)))
    up = list(config.get("up_block_types", (*["AttnUpBlock2D"] * 3, "UpBlock2D")))[::-1]
    attends = _attending("unet", down, up, levels)
    # The last level does not resample, whatever its block could do.
    ways = {
        config.get(key, "conv") if attend else "resnet" if name == resnet else "conv"
        for blocks, resnet, key in (
            (down, _RESNET_DOWN, "downsample_type"), (up, _RESNET_UP, "upsample_type")
        )
        for name, attend in zip(blocks[:-1], attends[:-1], strict=True)
    }  # fmt: skip
    if len(ways) > 1 or ways - {"conv", "resnet"}:
        raise ValueError(
            f"unet: its levels resample by {sorted(map(str, ways))}: ours all in one of two ways, "
            "'conv' or 'resnet' (see down_block_types, downsample_type)"
        )
    return attends, ways == {"resnet"}


def _attending(part: str, down: list[str], up: list[str], levels: int) -> list[bool]:
    """Which levels attend; `up` from the finest level on, as `down`."""
    for name in (*down, *up):
        if name not in _ATTENDS:
            raise ValueError(f"{part}: there is no block {name!r} in our networks")
    attends = [_ATTENDS[name] for name in down]
    if attends != [_ATTENDS[name] for name in up] or len(attends) != levels:
        raise ValueError(
            f"{part}: down_block_types {down} and up_block_types {up[::-1]} do not mirror each "
            f"other over {levels} levels"
        )
    return attends


def autoencoder(config: Mapping[str, Any]) -> Autoencoder:
    """The network of a VQModel's or AutoencoderKL's settings; ValueError if we have none such."""
    part = "autoencoder"
    refuse_others(part, config, KNOWN[part], _VAE_FREE, _VAE_FIXED)
    kind = {"VQModel": "vq", "AutoencoderKL": "kl"}.get(config.get("_class_name", ""))
    kind = kind or ("vq" if "num_vq_embeddings" in config else "kl")
    channels = list(config["block_out_channels"])
    down = list(config.get("down_block_types", ("DownEncoderBlock2D",)))
    up = list(config.get("up_block_types", ("UpDecoderBlock2D",)))[::-1]
    attends = _attending(part, down, up, len(channels))
    latents = whole(part, config, "latent_channels", 3 if kind == "vq" else 4)
    return Autoencoder(
        kind=kind,
        embed_dim=whole(part, config, "vq_embed_dim", latents) if kind == "vq" else latents,
        n_embed=whole(part, config, "num_vq_embeddings", 256) if kind == "vq" else 8192,
        z_channels=latents,
        ch=channels[0],
        ch_mult=multiples(channels, channels[0], part),
        attn_levels=tuple(level for level, here in enumerate(attends) if here),
        mid_attention=bool(config.get("mid_block_add_attention", True)),
        **_same(part, config, _VAE_SAME),
    )


def config_from(module: UNet | Autoencoder, in_channels: int) -> dict[str, Any]:
    """The config.json of the model that a network of ours is; ValueError if it is none."""
    if isinstance(module, Autoencoder):
        return _config_from_autoencoder(module, in_channels)
    _check_first_level(module.channel_mult, "unet", "channel_mult")
    if not module.mid_attention_norm and module.mid_attention and not module.use_scale_shift_norm:
        raise ValueError("unet: mid_attention_norm is False, which needs use_scale_shift_norm")
    attends = [2**level in module.attention_factors for level in range(len(module.channel_mult))]
    told = module.use_scale_shift_norm and module.mid_attention_norm
    return {
        "_class_name": "UNet2DModel",
        "in_channels": in_channels,
        "block_out_channels": [module.model_channels * mult for mult in module.channel_mult],
        **{theirs: getattr(module, field) for field, (theirs, _) in _UNET_SAME.items()},
        **names.unet_blocks(attends, module.resblock_updown),
        "attention_head_dim": _head_dim(module, attends),
        "add_attention": module.mid_attention,
        "attn_norm_num_groups": module.num_groups if told else None,
        "norm_eps": module.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if module.use_scale_shift_norm else "default",
        "flip_sin_to_cos": not module.sin_first,
        "dropout": module.dropout,
        "act_fn": "silu",
    }


def _head_dim(unet: UNet, attends: list[bool]) -> int | None:
    """Channels a head, the same at every level; None for one head."""
    mults = {mult for mult, here in zip(unet.channel_mult, attends, strict=True) if here}
    mults |= {unet.channel_mult[-1]} if unet.mid_attention else set()
    widths = [mult * unet.model_channels for mult in sorted(mults)]
    heads = [names.heads_of(unet, width) for width in widths]
    dims = {width // count for width, count in zip(widths, heads, strict=True)}
    if len(dims) < 2:
        return next(iter(dims), 8)
    if set(heads) == {1}:
        return None
    raise ValueError(
        f"unet: num_heads is {unet.num_heads} at levels of {widths} channels; diffusers has the "
        "same attention_head_dim at all"
    )


def _config_from_autoencoder(module: Autoencoder, in_channels: int) -> dict[str, Any]:
    check_fields(module, "autoencoder", patch=1)
    _check_first_level(module.ch_mult, "autoencoder", "ch_mult")
    config = {
        "_class_name": "VQModel" if module.kind == "vq" else "AutoencoderKL",
        "in_channels": in_channels,
        "block_out_channels": [module.ch * mult for mult in module.ch_mult],
        **{theirs: getattr(module, field) for field, (theirs, _) in _VAE_SAME.items()},
        **names.coder_blocks([n in module.attn_levels for n in range(len(module.ch_mult))]),
        "latent_channels": module.z_channels,
        "mid_block_add_attention": module.mid_attention,
        "act_fn": "silu",
    }
    if module.kind == "vq":
        return config | {"num_vq_embeddings": module.n_embed, "vq_embed_dim": module.embed_dim}
    check_fields(module, "autoencoder", embed_dim=module.z_channels)
    return config


def _check_first_level(mult: tuple[int, ...], part: str, name: str) -> None:
    if mult[0] != 1:
        raise ValueError(f"{part}: {name} begins with {mult[0]}; diffusers' begin with 1")


def facts(source: Path, channels: int) -> dict[str, Any]:
    """What goes with the UNet of a pipeline: from its scheduler's and autoencoder's settings.

    Args:
      source: the pipeline's folder, or the UNet's within it.
      channels: of the latents.

    Returns:
      Of prediction, schedule, latent_mean and latent_std what is told; nothing is guessed.
    """
    root = source if (source / "model_index.json").is_file() else source.parent
    files = [root / name / "config.json" for name in ("vqvae", "vae")]
    files.append(root / "scheduler" / "scheduler_config.json")
    *autoencoders, scheduler = [read_config(path) if path.is_file() else {} for path in files]
    autoencoder = autoencoders[0] or autoencoders[1]
    found: dict[str, Any] = {}
    if scheduler:
        given = scheduler.get("prediction_type", "epsilon")
        ours = {theirs: ours for ours, theirs in PREDICTIONS.items()}
        found["prediction"] = ours.get(given, "eps")
    # What they call scaled_linear is linear in the roots, as ours; their linear we have not.
    if scheduler.get("beta_schedule") == "scaled_linear":
        found["schedule"] = {
            "kind": "linear",
            "num_timesteps": int(scheduler.get("num_train_timesteps", 1000)),
            "start": float(scheduler["beta_start"]),
            "end": float(scheduler["beta_end"]),
        }
    if autoencoder:
        shift = float(autoencoder.get("shift_factor") or 0.0)
        found |= latent_scale(float(autoencoder.get("scaling_factor") or 1.0), channels, shift)
    return found


def scheduler_from(extra: Mapping[str, Any]) -> dict[str, Any] | None:
    """DDIM's settings for a UNet's facts; None where its schedule is none of theirs."""
    schedule = {"kind": "linear", "num_timesteps": 1000, "start": 0.0015, "end": 0.0205}
    schedule |= extra["schedule"]
    if schedule["kind"] != "linear":
        return None
    return {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": schedule["start"],
        "beta_end": schedule["end"],
        "num_train_timesteps": schedule["num_timesteps"],
        "prediction_type": PREDICTIONS[extra.get("prediction", "eps")],
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
