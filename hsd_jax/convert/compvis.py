"""Checkpoints of CompVis' latent-diffusion and taming-transformers.

A latent diffusion model is one file with three networks under the prefixes of `_PREFIXES`, and
beside it a YAML. First stages come alone too, without a prefix. `attention_resolutions` of their
UNet are downsampling factors; `attn_resolutions` of their autoencoder are resolutions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen as nn

from hsd_jax.convert import compvis_names
from hsd_jax.convert.state import State, under
from hsd_jax.convert.tensors import (
    check_fields,
    latent_scale,
    param_shapes,
    refuse_others,
    to_params,
    whole,
)
from hsd_jax.diffusion.schedule import Schedule
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.condition import SpatialRescaler
from hsd_jax.models.unet import UNet

# Where each network's names begin, and a tensor that it has always.
_PREFIXES = {
    "unet": ("model.diffusion_model.", "diffusion_model.", ""),
    "autoencoder": ("first_stage_model.", ""),
    "condition": ("cond_stage_model.", ""),
}
_MARKERS = {
    "unet": "input_blocks.0.0.weight",
    "autoencoder": "encoder.conv_in.weight",
    "condition": "channel_mapper.weight",
}
FIRSTS = {part: [p + _MARKERS[part] for p in prefixes] for part, prefixes in _PREFIXES.items()}
"""By part, the names that tell that it is there."""
# Where a latent diffusion model's YAML has their settings.
_SECTIONS = {
    "unet": "unet_config",
    "autoencoder": "first_stage_config",
    "condition": "cond_stage_config",
}
# The losses (with their discriminator and perceptual network) and averages beside a first stage: a
# latent diffusion model is trained on the first stage's own weights, not on their averages.
_IGNORE = {"autoencoder": (r"loss\..*", r"model_ema\..*", r"colorize")}

# CompVis names attention of the autoencoder by resolution; the networks themselves have none.
_RESOLUTION = 256

# Settings that are read here, that change nothing at inference, and the only value of others.
KNOWN = {
    "unet": (
        *("in_channels", "out_channels", "model_channels", "channel_mult", "num_res_blocks"),
        *("attention_resolutions", "num_heads", "num_head_channels", "num_heads_upsample"),
        *("use_scale_shift_norm", "resblock_updown", "use_new_attention_order"),
    ),
    "autoencoder": (
        *("embed_dim", "n_embed", "z_channels", "out_ch", "ch", "ch_mult", "num_res_blocks"),
        *("attn_resolutions", "attn_type"),
    ),
    "condition": ("n_stages", "out_channels", "bias", "method"),
}
_FREE = {
    "unet": (
        *("image_size", "use_checkpoint", "use_fp16", "legacy", "transformer_depth"),
        *("dropout", "context_dim"),
    ),
    "autoencoder": (
        *("lossconfig", "monitor", "ckpt_path", "ignore_keys", "image_key", "use_ema", "dropout"),
        *("batch_resize_range", "scheduler_config", "lr_g_factor", "remap", "sane_index_shape"),
        *("colorize_nlabels", "learning_rate", "double_z", "in_channels", "resolution"),
    ),
    "condition": ("in_channels", "interpolation"),
}
_FIXED = {
    "unet": {
        **{"dims": 2, "conv_resample": True, "num_classes": None, "n_embed": None},
        **{"use_spatial_transformer": False, "disable_self_attentions": None},
    },
    "autoencoder": {
        **{"resamp_with_conv": True, "tanh_out": False, "give_pre_end": False},
        "use_linear_attn": False,
    },
    "condition": {"multiplier": 0.5, "remap_output": True},
}


def parts_in(names: Mapping[str, Any]) -> list[str]:
    """The networks that a checkpoint with tensors of these names holds."""
    return [part for part in _PREFIXES if _prefix(names, part) is not None]


def load(
    tensors: Mapping[str, Any], part: str, settings: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """One network of a checkpoint; `settings` are its own, see `settings_of`."""
    prefix = _prefix(tensors, part)
    if prefix is None:
        marker = _PREFIXES[part][0] + _MARKERS[part]
        raise ValueError(f"no {part} is in it: the tensor {marker!r} is missing")
    state = under(tensors, prefix)
    if part == "unet":
        state = _averages(tensors, state) or state
    refuse_others(part, settings, KNOWN[part], _FREE[part], _FIXED[part])
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    make = {"unet": _unet, "autoencoder": _autoencoder, "condition": _condition}[part]
    module, inputs = make(shapes, settings)
    needed = param_shapes(module, *inputs)
    table = compvis_names.table(module, needed)
    return module, to_params(state, table, needed, part, _IGNORE.get(part, ()))


def settings_of(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """A network's own settings from a YAML of CompVis, or any part of one, or as they are.

    The autoencoder's `ddconfig` is merged into the rest.
    """
    settings = dict(config)
    if set(_SECTIONS.values()) & set(settings):
        inner = settings.get(_SECTIONS[part])
        # Unconditional models have a word in this place.
        settings = {"params": {}, **inner} if isinstance(inner, Mapping) else {}
        if settings and part == "condition":
            settings["params"] = {"n_stages": 1, **settings["params"]}  # SpatialRescaler's default
    for section in ("model", "params"):
        if isinstance(settings.get(section), Mapping):
            return settings_of(settings[section], part)
    if isinstance(settings.get("ddconfig"), Mapping):
        settings |= settings.pop("ddconfig")
    return settings


def _prefix(names: Mapping[str, Any], part: str) -> str | None:
    found = (prefix for prefix in _PREFIXES[part] if prefix + _MARKERS[part] in names)
    return next(found, None)


def _averages(tensors: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any] | None:
    """The exponential moving averages of the UNet's tensors, or None where none were kept.

    Their names (`LitEma`, ema.py) are the tensors' without dots, "diffusion_modelout2bias".
    """
    kept = under(tensors, "model_ema.diffusion_model")
    if not kept:
        return None
    kept = {short.replace("_orig_mod", ""): value for short, value in kept.items()}
    names = {name.replace(".", ""): name for name in state}
    extra = next((short for short in kept if short not in names), None)
    if extra:
        raise ValueError(f"unet: tensor 'model_ema.diffusion_model{extra}' has no place")
    missing = next((short for short in names if short not in kept), None)
    if missing:
        raise ValueError(f"unet: tensor 'model_ema.diffusion_model{missing}' is missing")
    return {names[short]: value for short, value in kept.items()}


def _unet(shapes: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[UNet, Sequence[Any]]:
    fields = compvis_names.unet_fields(shapes)
    told = dict(settings)
    if isinstance(resolutions := settings.get("attention_resolutions"), list | tuple):
        factors = [2**level for level in range(len(fields["channel_mult"]))]
        # Factors that no level reaches change nothing.
        told["attention_factors"] = [f for f in factors if f in resolutions]
    _check_told("unet", told, fields)
    channels = whole("unet", settings, "in_channels", shapes[_MARKERS["unet"]][1])
    module = UNet(**fields, **_heads(settings))
    side = 2 ** (len(module.channel_mult) - 1)
    return module, ((1, side, side, channels), (1,), None)


def _check_told(part: str, settings: Mapping[str, Any], seen: Mapping[str, Any]) -> None:
    """Raises ValueError where settings have another size than the shapes of the tensors."""
    for name, size in seen.items():
        told = settings.get(name)
        if isinstance(told, list | tuple):
            each = all(item == size for item in told)  # num_res_blocks, level by level
            told = size if each and told else tuple(told)
        if told not in (None, size):
            raise ValueError(
                f"{part}: {name} is {told!r}, its tensors have {size!r}: "
                "the configuration is another network's"
            )


def _heads(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What no shape tells."""
    heads = whole("unet", settings, "num_heads", -1)
    channels = whole("unet", settings, "num_head_channels", -1)
    if heads <= 0 and channels <= 0:
        raise ValueError(
            "unet: its tensors do not tell how attention splits into heads: give num_heads or "
            "num_head_channels (and use_new_attention_order where its configuration has it true)"
        )
    if whole("unet", settings, "num_heads_upsample", -1) not in (-1, heads):
        raise ValueError(
            f"unet: num_heads_upsample is {settings['num_heads_upsample']}, num_heads is {heads}: "
            "only equal numbers can be had"
        )
    return {
        "num_heads": heads if heads > 0 else 1,
        "num_head_channels": channels if channels > 0 else -1,
        "legacy_attention": not settings.get("use_new_attention_order", False),
    }


def _autoencoder(
    shapes: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[Autoencoder, Sequence[Any]]:
    if settings.get("attn_type", "vanilla") not in ("vanilla", "none"):
        raise ValueError(f"autoencoder: attn_type is {settings['attn_type']!r}: we have 'vanilla'")
    fields = compvis_names.autoencoder_fields(shapes)
    told, top = dict(settings), settings.get("resolution")
    resolutions = settings.get("attn_resolutions")
    if type(top) is int and isinstance(resolutions, list | tuple):
        levels = range(len(fields["ch_mult"]))
        told["attn_levels"] = [n for n in levels if top // 2**n in resolutions]
    _check_told("autoencoder", told, fields)
    module = Autoencoder(**fields)
    image = (1, module.factor, module.factor, shapes[_MARKERS["autoencoder"]][1])
    return module, (image,)


def _condition(
    shapes: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[SpatialRescaler, Sequence[Any]]:
    if settings.get("method", "bilinear") != "bilinear":
        raise ValueError(f"condition: method is {settings['method']!r}: we have 'bilinear'")
    if "n_stages" not in settings:
        raise ValueError(
            "condition: its tensors do not tell how often it halves the layout: give n_stages "
            "(2 for latents of factor 4)"
        )
    stages = whole("condition", settings, "n_stages")
    outputs, inputs = (*shapes[_MARKERS["condition"]], 1)[:2]
    outputs = whole("condition", settings, "out_channels", outputs)
    bias = bool(settings.get("bias", "channel_mapper.bias" in shapes))
    return SpatialRescaler(outputs, stages, bias), ((1, 2**stages, 2**stages, inputs),)


def settings_from(module: UNet | Autoencoder | SpatialRescaler, in_channels: int) -> dict[str, Any]:
    """The settings in CompVis' YAML that make a network of ours; ValueError if none do."""
    if isinstance(module, SpatialRescaler):
        return {
            "n_stages": module.n_stages,
            "in_channels": in_channels,
            "out_channels": module.out_channels,
            "bias": module.use_bias,
        }
    if isinstance(module, Autoencoder):
        return _settings_from_autoencoder(module, in_channels)
    check_fields(
        module, "unet", num_groups=32, norm_eps=1e-5, mid_attention=True, mid_attention_norm=True,
        freq_shift=0, sin_first=False, down_padding=1,
    )  # fmt: skip
    same = ("out_channels", "model_channels", "num_res_blocks", "num_heads", "num_head_channels")
    same += ("use_scale_shift_norm", "resblock_updown", "dropout")
    return {
        "image_size": 64,  # it is not read by their code
        "in_channels": in_channels,
        "attention_resolutions": list(module.attention_factors),
        "channel_mult": list(module.channel_mult),
        "use_new_attention_order": not module.legacy_attention,
        **{name: getattr(module, name) for name in same},
    }


def _settings_from_autoencoder(module: Autoencoder, in_channels: int) -> dict[str, Any]:
    check_fields(module, "autoencoder", patch=1, num_groups=32)
    same = ("z_channels", "out_ch", "ch", "num_res_blocks", "dropout")
    inner = {
        "double_z": module.kind == "kl",
        "resolution": _RESOLUTION,
        "in_channels": in_channels,
        "ch_mult": list(module.ch_mult),
        "attn_resolutions": [_RESOLUTION // 2**level for level in module.attn_levels],
        **{name: getattr(module, name) for name in same},
        **({} if module.mid_attention else {"attn_type": "none"}),
    }
    return {
        "embed_dim": module.embed_dim,
        "ddconfig": inner,
        "lossconfig": {"target": "torch.nn.Identity"},
        **({"n_embed": module.n_embed} if module.kind == "vq" else {}),
    }


def facts(state: State, channels: int) -> dict[str, Any]:
    """What goes with a latent diffusion model: from its YAML, else from its buffers.

    Args:
      state: the whole checkpoint.
      channels: of the latents.

    Returns:
      Of prediction, schedule, latent_mean and latent_std what is told; nothing is guessed.
    """
    tensors = state.tensors
    params = ((state.config or {}).get("model") or {}).get("params") or {}
    found: dict[str, Any] = {}
    schedule = _schedule_of_buffer(tensors.get("betas"))
    scale = None
    if params:
        found["prediction"] = params.get("parameterization", "eps")
        scale = params.get("scale_factor", 1.0)
        kind = params.get("beta_schedule", "linear")
        if kind in ("linear", "cosine"):
            schedule = {
                "kind": kind,
                "num_timesteps": int(params.get("timesteps", 1000)),
                "start": float(params.get("linear_start", 1e-4)),
                "end": float(params.get("linear_end", 2e-2)),
            }
    if schedule:
        found["schedule"] = schedule
    if "scale_factor" in tensors:
        scale = np.asarray(tensors["scale_factor"])
    return found | ({} if scale is None else latent_scale(float(scale), channels))


def _schedule_of_buffer(betas: Any) -> dict[str, Any] | None:
    """The schedule whose betas a checkpoint carries, if it is one of CompVis' "linear" ones."""
    if betas is None or len(betas.shape) != 1 or betas.shape[0] < 2:
        return None
    table = np.asarray(betas).astype(np.float64)
    start, end = (float(f"{beta:.6g}") for beta in (table[0], table[-1]))
    if not 0 < start <= end < 1:
        return None
    schedule = Schedule("linear", len(table), start, end)
    if not np.allclose(np.cumprod(1 - table), schedule.alpha_bar, rtol=1e-4):
        return None
    return {"kind": "linear", "num_timesteps": len(table), "start": start, "end": end}
