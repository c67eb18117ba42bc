"""PyTorch checkpoints to our networks and back, exactly, without PyTorch.

`from_torch` and `to_torch` are for Python; `hsd convert` does the same between files. Which format
a checkpoint has is told by the names of its tensors, and each format has a file of its own here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from hsd_jax.convert import compvis, compvis_names, diffusers, diffusers_names, places, u2net
from hsd_jax.convert.state import State, read, read_config
from hsd_jax.convert.tensors import Shape, Table, to_state
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.condition import SpatialRescaler
from hsd_jax.models.layout_generator import LayoutGenerator, U2Net
from hsd_jax.models.unet import UNet

__all__ = ["PARTS", "from_torch", "to_torch"]

PARTS = ("autoencoder", "unet", "condition", "layout_generator", "perceptual", "inception")
STYLES = ("compvis", "diffusers")
# Parts of one format only.
_ALONE = {"layout_generator": "u2net", "perceptual": "perceptual", "inception": "inception"}


def from_torch(
    path: str | Path, part: str, config: Mapping[str, Any] | str | Path | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """A network of a PyTorch checkpoint, ready for `module.apply({"params": params}, ...)`.

    Everything is NHWC: images float32 `[B, H, W, 3]` in [-1, 1], layouts one-hot `[B, H, W, K]`.

    Args:
      path: a file or folder; see `hsd_jax.convert.state`. A pickle is read without running it.
      part: which network, and with it what comes back:
        "autoencoder": `Autoencoder`, with methods encode(x) -> latents before quantisation (kl:
          mean and logvar), quantize(h), decode(z). From CompVis, taming or diffusers.
        "unet": `UNet`, (z, t, s) -> eps; s may be None. From CompVis (averages preferred, if kept)
          or diffusers' UNet2DModel, whose input is z and s together.
        "condition": `SpatialRescaler`, onehot -> s. From CompVis.
        "layout_generator": `U2Net`, x -> logits of the official U2NET and U2NETP; with
          config={"num_classes": K}, `LayoutGenerator`.
        "perceptual": `LPIPS`. "inception": `InceptionV3` of FID.
      config: what the checkpoint does not tell: a mapping, or a file of CompVis (YAML) or diffusers
        (JSON). Settings found beside the checkpoint hold where these have none; what is then still
        open is read from the shapes, and what they cannot tell is asked for by name.

    Returns:
      (module, params), float32.

    Raises:
      ValueError: no such checkpoint, a damaged one, a pickle that asks for more than tensors, a
        network that cannot be represented, or a tensor that is missing, extra or misshapen.
    """
    module, params = load(read(path, part), part, config)
    return module, jax.tree.map(jnp.asarray, params)


def to_torch(
    module: nn.Module, params: Mapping[str, Any], part: str, style: str
) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`, bit for bit: torch's names to float32 arrays in torch's layout.

    Args:
      module: of `part`.
      params: of the module.
      part: as for `from_torch`.
      style: "compvis" (and official names for the parts that CompVis has not), without a prefix;
        or "diffusers", which knows only "unet" and "autoencoder".

    Raises:
      ValueError: that style cannot represent the network.
    """
    flat: dict[str, Any] = dict(flatten_dict(params, sep="/"))
    shapes = {path: value.shape for path, value in flat.items()}
    return to_state(params, _table(module, shapes, part, style))


def kind_of(tensors: Mapping[str, Any], part: str | None = None) -> str | None:
    """Whose names these are, "diffusers", "compvis" or "u2net"; None for nobody's."""
    if part in _ALONE:
        return _ALONE[part]
    if diffusers.parts_in(tensors):
        return "diffusers"
    if compvis.parts_in(tensors):
        return "compvis"
    return "u2net" if u2net.is_u2net(tensors) else None


def settings_of(kind: str | None, part: str) -> tuple[str, ...]:
    """The names of the settings that a part of a checkpoint can be given."""
    known = {"compvis": compvis.KNOWN, "diffusers": diffusers.KNOWN}.get(kind or "", {})
    alone = {"layout_generator": u2net.KNOWN, "perceptual": ("backbone",)}
    return known.get(part) or alone.get(part, ("preprocessing",))


def load(
    state: State, part: str, config: Mapping[str, Any] | str | Path | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """One network of a checkpoint: (module, params as numpy arrays); see `from_torch`."""
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}: use one of {', '.join(PARTS)}")
    state = places.of_part(state, part)
    given = read_config(config) if config is not None else {}
    beside = state.config or {}
    try:
        match kind_of(state.tensors, part):
            case "diffusers":
                beside = beside if "block_out_channels" in beside else {}
                return diffusers.load(state.tensors, part, beside | given)
            case "u2net" if part == "layout_generator":
                return u2net.load(state.tensors, given)
            case "perceptual":
                from hsd_jax.convert import perceptual  # here: few need it

                return perceptual.load(state.tensors, given)
            case "inception":
                from hsd_jax.convert import inception

                return inception.load(state.tensors, given)
        beside = compvis.settings_of(beside if "model" in beside else {}, part)
        settings = beside | compvis.settings_of(given, part)
        return compvis.load(state.tensors, part, settings)
    except ValueError as error:
        raise ValueError(f"{state.source}: {error}") from error


def _table(module: nn.Module, shapes: Mapping[str, Shape], part: str, style: str) -> Table:
    """Torch's names for a module whose parameters have these shapes; ValueError if it has none."""
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: use one of {', '.join(STYLES)}")
    if isinstance(module, UNet | Autoencoder):
        _check_norms(shapes, module.num_groups, part)
    if style == "diffusers":
        if not isinstance(module, UNet | Autoencoder):
            raise ValueError(f"diffusers has no {part}: write it with the style 'compvis'")
        diffusers.config_from(module, 1)  # raises for what theirs cannot be
        return diffusers_names.table(module, shapes)
    if isinstance(module, UNet | Autoencoder | SpatialRescaler):
        compvis.settings_from(module, 1)
        return compvis_names.table(module, shapes)
    if isinstance(module, U2Net | LayoutGenerator):
        if module.norm != "batch":
            raise ValueError(f"{part}: norm is {module.norm!r}, U^2-Net has 'batch'")
        return u2net.names_table(shapes)
    from hsd_jax.convert import inception, perceptual

    if isinstance(module, inception.InceptionV3):
        return inception.names_table(shapes)
    if isinstance(module, perceptual.LPIPS):
        return perceptual.names_table(module, sliced=True)
    raise ValueError(f"{part}: a {type(module).__name__} has no names in PyTorch")


def _check_norms(shapes: Mapping[str, Shape], num_groups: int, part: str) -> None:
    """Torch's GroupNorm takes only multiples of its groups; ours takes fewer groups then."""
    for path, shape in shapes.items():
        if path.endswith("/scale") and shape[0] % num_groups:
            raise ValueError(
                f"{part}: {path} normalises {shape[0]} channels, no multiple of {num_groups} "
                "groups as in PyTorch"
            )
