"""`hsd convert --to`: a folder of our weights as CompVis or diffusers have them."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from hsd_jax import weights
from hsd_jax.convert import export as styles
from hsd_jax.convert import torch_files
from hsd_jax.convert.command import Tell, staged
from hsd_jax.convert.dispatch import PARTS
from hsd_jax.weights import Loaded

_PREFIXES = {
    "unet": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    "condition": "cond_stage_model.",
}
_TARGETS = {
    "unet": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
    "condition": "ldm.modules.encoders.modules.SpatialRescaler",
}


class _Part(NamedTuple):
    """A network without its parameters."""

    module: Any
    in_channels: int
    extra: Mapping[str, Any]


_FIRST_STAGES = {"vq": ("VQModel", "VQModelInterface"), "kl": ("AutoencoderKL", "AutoencoderKL")}


def export(args: argparse.Namespace, tell: Tell) -> list[str]:
    """Writes the folder or name `args.src` of our weights in the style `args.to`.

    compvis: `model.ckpt` with `config.yaml` (the autoencoder alone where there is no UNet), and
    `u2net.pth` for the layout generator. diffusers: a subfolder a model.

    Raises:
      ValueError: a network cannot be represented; nothing is written then.
    """
    if args.config or args.set or args.fill:
        raise ValueError("--config, --set and --fill are for reading: leave them out with --to")
    source = weights.find(str(args.src))
    names = [name for name in PARTS if (source / f"{name}.json").is_file()]
    if args.part:
        names = list(dict.fromkeys(args.part))
    if not names:
        raise ValueError(f"{source} holds none of {', '.join(PARTS)}")
    write = _diffusers if args.to == "diffusers" else _compvis
    with staged(args.output) as folder:
        return write(source, names, folder, tell)


def _diffusers(source: Path, names: list[str], folder: Path, tell: Tell) -> list[str]:
    lines = []
    for name in names:
        if name not in ("unet", "autoencoder"):
            lines.append(f"left out {name}: diffusers has none (use --to compvis)")
            continue
        tell(f"writing {name} ...")
        part = weights.load_part(source, name)
        state = styles.state_of(part.module, part.params, name, "diffusers")
        model = folder / (name if name == "unet" else _vae_folder(part))
        model.mkdir()
        save_file(state, model / "diffusion_pytorch_model.safetensors", {"format": "pt"})
        config = getattr(styles, f"diffusers_{name}")(part.module, _in_channels(name, part))
        if name == "autoencoder":
            config["scaling_factor"] = 1.0
        _write_json(model / "config.json", config)
        lines.append(f"wrote {model.name}: {config['_class_name']}")
        if name == "unet" and "schedule" in part.extra:
            lines += _scheduler(folder, part.extra)
    if not any(line.startswith("wrote") for line in lines):
        raise ValueError(f"diffusers has none of {', '.join(names)}: use --to compvis")
    return lines


def _vae_folder(part: Loaded) -> str:
    return "vqvae" if part.module.kind == "vq" else "vae"


def _scheduler(folder: Path, extra: Mapping[str, Any]) -> list[str]:
    """DDIM's settings, where its betas are ours; and what diffusers cannot be told."""
    schedule = {"kind": "linear", "num_timesteps": 1000, "start": 0.0015, "end": 0.0205}
    schedule |= extra["schedule"]
    if schedule["kind"] != "linear":
        return [f"left out the schedule: diffusers has no {schedule['kind']!r} of ours"]
    predictions = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
    (folder / "scheduler").mkdir()
    settings = {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": schedule["start"],
        "beta_end": schedule["end"],
        "num_train_timesteps": schedule["num_timesteps"],
        "prediction_type": predictions[extra.get("prediction", "eps")],
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    _write_json(folder / "scheduler" / "scheduler_config.json", settings)
    return ["wrote scheduler: DDIMScheduler"]


def _compvis(source: Path, names: list[str], folder: Path, tell: Tell) -> list[str]:
    lines: list[str] = []
    diffusion = [name for name in names if name in _PREFIXES]
    whole = diffusion != ["autoencoder"]
    parts: dict[str, _Part] = {}
    state: dict[str, np.ndarray] = {}
    for name in names:
        tell(f"converting {name} ...")
        part = weights.load_part(source, name)
        tensors = styles.state_of(part.module, part.params, name, "compvis")
        if name in _PREFIXES:
            prefix = _PREFIXES[name] if whole else ""
            state |= {prefix + key: value for key, value in tensors.items()}
            parts[name] = _Part(part.module, _in_channels(name, part), part.extra)
        else:
            file = {"layout_generator": "u2net"}.get(name, name) + ".pth"
            torch_files.save(folder / file, tensors, under=None)
            lines.append(f"wrote {file}: {name}")
    if parts:
        tell("writing model.ckpt ...")
        torch_files.save(folder / "model.ckpt", state)
        # JSON is YAML.
        _write_json(folder / "config.yaml", _latent_diffusion(parts) if whole else _first(parts))
        lines.append(f"wrote model.ckpt with config.yaml: {', '.join(parts)}")
    return lines + _unsaid(parts)


def _latent_diffusion(parts: Mapping[str, _Part]) -> dict[str, Any]:
    """The YAML of a LatentDiffusion."""
    extra = parts["unet"].extra if "unet" in parts else {}
    schedule = extra.get("schedule", {})
    params: dict[str, Any] = {
        "linear_start": schedule.get("start", 0.0015),
        "linear_end": schedule.get("end", 0.0205),
        "timesteps": schedule.get("num_timesteps", 1000),
        "beta_schedule": schedule.get("kind", "linear"),
        "parameterization": extra.get("prediction", "eps"),
        "conditioning_key": "concat",
        "concat_mode": True,
    }
    if "latent_std" in extra:
        params["scale_factor"] = 1 / float(np.mean(extra["latent_std"]))
    if "unet" in parts:
        unet = styles.compvis_unet(parts["unet"].module, parts["unet"].in_channels)
        params["unet_config"] = {"target": _TARGETS["unet"], "params": unet}
    if "autoencoder" in parts:
        part = parts["autoencoder"]
        target = f"ldm.models.autoencoder.{_FIRST_STAGES[part.module.kind][1]}"
        settings = styles.compvis_autoencoder(part.module, part.in_channels)
        params["first_stage_config"] = {"target": target, "params": settings}
    if "condition" in parts:
        stem = parts["condition"].module
        params["cond_stage_config"] = {
            "target": _TARGETS["condition"],
            "params": {
                "n_stages": stem.n_stages,
                "in_channels": parts["condition"].in_channels,
                "out_channels": stem.out_channels,
                "bias": stem.use_bias,
            },
        }
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}


def _first(parts: Mapping[str, _Part]) -> dict[str, Any]:
    """The YAML of a first stage alone."""
    part = parts["autoencoder"]
    target = f"ldm.models.autoencoder.{_FIRST_STAGES[part.module.kind][0]}"
    settings = styles.compvis_autoencoder(part.module, part.in_channels)
    return {"model": {"target": target, "params": settings}}


def _unsaid(parts: Mapping[str, _Part]) -> list[str]:
    """Facts of a UNet of ours that a YAML of CompVis has no place for."""
    extra = parts["unet"].extra if "unet" in parts else {}
    deviations = set(extra.get("latent_std", [1.0]))
    if any(extra.get("latent_mean", [])) or len(deviations) > 1:
        return ["note: its latents have a mean and deviation a channel; config.yaml has one factor"]
    return []


def _in_channels(name: str, part: Loaded) -> int:
    layer = {"unet": "input_blocks_0_0", "condition": "channel_mapper"}.get(name)
    layers = part.params if layer else part.params["encoder"]
    return int(layers[layer or "conv_in"]["kernel"].shape[2])


def _write_json(path: Path, settings: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(settings, indent=2) + "\n")
