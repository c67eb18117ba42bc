"""Which reader a checkpoint needs, told by the names of its tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn

from hsd_jax.convert import compvis, diffusers, u2net
from hsd_jax.convert.state import State, read_config
from hsd_jax.convert.tensors import Progress

PARTS = (
    *("autoencoder", "unet", "condition"),
    *("layout_generator", "perceptual", "inception"),
)
_ALONE = {"layout_generator": "u2net", "perceptual": "perceptual", "inception": "inception"}


def kind_of(tensors: Mapping[str, Any], part: str | None = None) -> str | None:
    """Whose names these are, "diffusers", "compvis" or "u2net"; None for nobody's."""
    if part in _ALONE:
        return _ALONE[part]
    if diffusers.parts_in(tensors):
        return "diffusers"
    if compvis.parts_in(tensors):
        return "compvis"
    return "u2net" if u2net.is_u2net(tensors) else None


def parts_in(tensors: Mapping[str, Any]) -> list[str]:
    """The networks that a checkpoint holds, as far as names tell."""
    kind = kind_of(tensors)
    if kind == "diffusers":
        return diffusers.parts_in(tensors)
    if kind == "compvis":
        return compvis.parts_in(tensors)
    return ["layout_generator"] if kind else []


def settings_of(kind: str | None, part: str) -> tuple[str, ...]:
    """The names of the settings that a part of a checkpoint can be given."""
    known = {"compvis": compvis.KNOWN, "diffusers": diffusers.KNOWN}.get(kind or "", {})
    alone = {"layout_generator": u2net.KNOWN, "perceptual": ("backbone",)}
    return known.get(part) or alone.get(part, ("preprocessing",))


def load(
    state: State,
    part: str,
    config: Mapping[str, Any] | str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """One network of a checkpoint: (module, params as numpy arrays); see `convert.from_torch`."""
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}: use one of {', '.join(PARTS)}")
    given = read_config(config) if config is not None else {}
    beside = state.config or {}
    kind = kind_of(state.tensors, part)
    try:
        if kind == "diffusers":
            beside = beside if "block_out_channels" in beside else {}
            return diffusers.load(state.tensors, part, beside | given, progress)
        if kind == "u2net" and part == "layout_generator":
            return u2net.load(state.tensors, given, progress)
        if part in ("perceptual", "inception"):
            return _load_alone(state, part, given, progress)
        beside = compvis.settings_of(beside if "model" in beside else {}, part)
        settings = beside | compvis.settings_of(given, part)
        return compvis.load(state.tensors, part, settings, progress)
    except ValueError as error:
        raise ValueError(f"{state.source}: {error}") from error


def _load_alone(
    state: State, part: str, config: Mapping[str, Any], progress: Progress | None
) -> tuple[nn.Module, dict[str, Any]]:
    """The nets of training and evaluation, whose modules few need."""
    if part == "perceptual":
        from hsd_jax.convert import perceptual

        return perceptual.load(state.tensors, config, progress)
    from hsd_jax.convert import inception

    return inception.load(state.tensors, config, progress)
