"""A folder of our weights as CompVis and diffusers have them: tensors and configurations."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from hsd_jax import weights
from hsd_jax.convert import PARTS, compvis, diffusers, to_torch, torch_files
from hsd_jax.weights import Loaded

# Where a latent diffusion model's checkpoint and YAML have each network, and the class of theirs.
_PLACES = {
    "unet": (
        "model.diffusion_model.",
        "unet_config",
        "ldm.modules.diffusionmodules.openaimodel.UNetModel",
    ),
    "autoencoder": ("first_stage_model.", "first_stage_config", ""),
    "condition": (
        "cond_stage_model.",
        "cond_stage_config",
        "ldm.modules.encoders.modules.SpatialRescaler",
    ),
}


def find(name_or_dir: str, parts: list[str] | None) -> tuple[Path, list[str]]:
    """A folder of our weights, and which of its networks to write; ValueError if it has none."""
    source = weights.find(name_or_dir)
    names = list(dict.fromkeys(parts or ()))
    names = names or [name for name in PARTS if (source / f"{name}.json").is_file()]
    if not names:
        raise ValueError(f"{source} holds none of {', '.join(PARTS)}")
    return source, names


def write(
    source: Path, names: list[str], style: str, folder: Path, tell: Callable[[str], None]
) -> list[str]:
    """Writes networks of ours into `folder`.

    compvis: `model.ckpt` with `config.yaml` (the autoencoder alone where there is no UNet), and
    `u2net.pth` for the layout generator. diffusers: a subfolder a model.

    Args:
      source, names: see `find`.
      style: "compvis" or "diffusers".
      folder: where to; it is there.
      tell: is told what is going on.

    Returns:
      Lines that tell what was written.

    Raises:
      ValueError: a network cannot be represented, or `source` lacks it.
    """
    return (_diffusers if style == "diffusers" else _compvis)(source, names, folder, tell)


def _diffusers(
    source: Path, names: list[str], folder: Path, tell: Callable[[str], None]
) -> list[str]:
    lines = []
    for name in names:
        if name not in ("unet", "autoencoder"):
            lines.append(f"left out {name}: diffusers has none (use --to compvis)")
            continue
        tell(f"writing {name} ...")
        part = weights.load_part(source, name)
        state = to_torch(part.module, part.params, name, "diffusers")
        model = folder / name
        if name == "autoencoder":
            model = folder / ("vqvae" if part.module.kind == "vq" else "vae")
        model.mkdir()
        save_file(state, model / "diffusion_pytorch_model.safetensors", {"format": "pt"})
        config = diffusers.config_from(part.module, _in_channels(name, part))
        if name == "autoencoder":
            config["scaling_factor"] = 1.0
        _write_json(model / "config.json", config)
        lines.append(f"wrote {model.name}: {config['_class_name']}")
        if name == "unet" and "schedule" in part.extra:
            lines.append(_write_scheduler(folder / "scheduler", part.extra))
    if not any(line.startswith("wrote") for line in lines):
        raise ValueError(f"diffusers has none of {', '.join(names)}: use --to compvis")
    return lines


def _write_scheduler(folder: Path, extra: Mapping[str, Any]) -> str:
    scheduler = diffusers.scheduler_from(extra)
    if scheduler is None:
        return f"left out the schedule: diffusers has no {extra['schedule']['kind']!r} of ours"
    folder.mkdir()
    _write_json(folder / "scheduler_config.json", scheduler)
    return "wrote scheduler: DDIMScheduler"


def _compvis(
    source: Path, names: list[str], folder: Path, tell: Callable[[str], None]
) -> list[str]:
    lines: list[str] = []
    whole = [name for name in names if name in _PLACES] != ["autoencoder"]
    sections: dict[str, Any] = {}
    state: dict[str, np.ndarray] = {}
    extra: Mapping[str, Any] = {}
    for name in names:
        tell(f"converting {name} ...")
        part = weights.load_part(source, name)
        tensors = to_torch(part.module, part.params, name, "compvis")
        if name not in _PLACES:
            file = {"layout_generator": "u2net"}.get(name, name) + ".pth"
            torch_files.save(folder / file, tensors, under=None)
            lines.append(f"wrote {file}: {name}")
            continue
        prefix = _PLACES[name][0] if whole else ""
        state |= {prefix + key: value for key, value in tensors.items()}
        sections[name] = {
            "target": _PLACES[name][2] or _first_stage(part.module.kind, whole),
            "params": compvis.settings_from(part.module, _in_channels(name, part)),
        }
        extra = part.extra if name == "unet" else extra
    if sections:
        tell("writing model.ckpt ...")
        torch_files.save(folder / "model.ckpt", state)
        model = _latent_diffusion(sections, extra) if whole else sections["autoencoder"]
        _write_json(folder / "config.yaml", {"model": model})  # JSON is YAML
        lines.append(f"wrote model.ckpt with config.yaml: {', '.join(sections)}")
    if any(extra.get("latent_mean", [])) or len(set(extra.get("latent_std", [1.0]))) > 1:
        lines.append(
            "note: its latents have a mean and deviation a channel; config.yaml has one factor"
        )
    return lines


def _first_stage(kind: str, whole: bool) -> str:
    """The class of a first stage: within a latent diffusion model it is another than alone."""
    vq = "VQModelInterface" if whole else "VQModel"
    return f"ldm.models.autoencoder.{vq if kind == 'vq' else 'AutoencoderKL'}"


def _latent_diffusion(sections: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The YAML of a LatentDiffusion whose UNet has the facts `extra`."""
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
    params |= {_PLACES[name][1]: section for name, section in sections.items()}
    return {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}


def _in_channels(name: str, part: Loaded) -> int:
    layer = {"unet": "input_blocks_0_0", "condition": "channel_mapper"}.get(name)
    kernel = part.params[layer] if layer else part.params["encoder"]["conv_in"]
    return int(kernel["kernel"].shape[2])


def _write_json(path: Path, settings: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(settings, indent=2) + "\n")
