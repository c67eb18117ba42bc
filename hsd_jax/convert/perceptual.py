"""LPIPS from what people have: torchvision's classifiers, the `lpips` package, taming-transformers.

The learnt weights of the channels (`lin0` to `lin4`) and the backbone mostly come in two files, for
the `lpips` package (`weights/v0.1/*.pth`) and taming-transformers (`vgg.pth`) hold the former only.
CompVis' checkpoints of autoencoders hold both, under `loss.perceptual_loss.`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hsd_jax.convert.state import read, under
from hsd_jax.convert.tensors import Leaf, Progress, Table, param_shapes, to_params
from hsd_jax.models.perceptual import BACKBONES, LPIPS, SCALE, SHIFT

_IN_TRAINER = "loss.perceptual_loss."
# Of torchvision's files the head is not needed; the `lpips` package saves its lins twice, and the
# scaling, which is checked.
_IGNORE = (r"classifier\..*", r"lins\.\d\.model\.1\.weight", r"scaling_layer\.(shift|scale)")


def load(
    state: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[LPIPS, dict[str, Any]]:
    """The distance of a checkpoint, or of two; its backbone is told by the shapes.

    Args:
      state: torch names to tensors: `features.N.*` of torchvision's vgg16 or alexnet, or
        `net.sliceM.N.*` and `linN.model.1.weight` of LPIPS, or the latter only.
      config: `{"backbone": ...}`, the file (or the state) of torchvision's classifier, when `state`
        has no backbone.
      progress: see `tensors.Progress`.

    Returns:
      (module, params); without `linN` in `state`, `module.calibrated` is False.

    Raises:
      ValueError: no backbone or two, another network, or another scaling of the input.
    """
    config = dict(config or {})
    if set(config) - {"backbone"}:
        raise ValueError(f"perceptual: unknown settings {sorted(config)}: give backbone alone")
    state = under(state, _IN_TRAINER) or dict(state)
    if "backbone" in config:
        state |= _separate_backbone(state, config["backbone"])
    _check_scaling(state)
    calibrated = any(name.startswith("lin") for name in state)
    module = LPIPS(_backbone(state), calibrated)
    shapes = param_shapes(module, (1, 64, 64, 3), (1, 64, 64, 3))
    table = names_table(module, "net.slice1.0.weight" in state)
    return module, to_params(state, table, shapes, "perceptual", _IGNORE, progress)


def names_table(module: LPIPS, sliced: bool) -> Table:
    """Torch's names: LPIPS' `net.sliceM.N` when `sliced`, else torchvision's `features.N`."""
    table = {}
    for i, stage in enumerate(BACKBONES[module.backbone].stages):
        for layer in stage.layers:
            name = f"net.slice{i + 1}.{layer.index}" if sliced else f"features.{layer.index}"
            path = f"net/conv{layer.index}"
            table[f"{name}.weight"] = Leaf(f"{path}/kernel", "conv")
            table[f"{name}.bias"] = Leaf(f"{path}/bias", "as_is")
        if module.calibrated:
            table[f"lin{i}.model.1.weight"] = Leaf(f"lin_{i}/kernel", "conv")
    return table


def _first_layer(state: Mapping[str, Any]) -> str | None:
    names = ("net.slice1.0.weight", "features.0.weight")
    return next((name for name in names if name in state), None)


def _separate_backbone(
    state: Mapping[str, Any], source: str | Path | Mapping[str, Any]
) -> Mapping[str, Any]:
    if _first_layer(state):
        raise ValueError(
            f"perceptual: the checkpoint has a backbone of its own ({_first_layer(state)!r}): "
            "leave the setting 'backbone' out"
        )
    return source if isinstance(source, Mapping) else read(source).tensors


def _backbone(state: Mapping[str, Any]) -> str:
    """The name of the backbone whose first convolution is there."""
    first = _first_layer(state)
    if first is None:
        held = "only the weights of channels" if "lin0.model.1.weight" in state else "no LPIPS"
        raise ValueError(
            f"perceptual: tensor 'features.0.weight' is missing, the checkpoint holds {held}: give "
            "torchvision's vgg16 or alexnet, beside LPIPS' own file as the setting 'backbone'"
        )
    given = tuple(state[first].shape)
    for name, backbone in BACKBONES.items():
        layer = backbone.stages[0].layers[0]
        if given == (layer.features, 3, layer.kernel_size, layer.kernel_size):
            return name
    raise ValueError(
        f"perceptual: tensor {first!r} is {list(given)}: give one of {', '.join(BACKBONES)}"
    )


def _check_scaling(state: Mapping[str, Any]) -> None:
    for name, wanted in (("shift", SHIFT), ("scale", SCALE)):
        given = state.get(f"scaling_layer.{name}")
        if given is not None and not np.array_equal(np.asarray(given).ravel(), wanted):
            raise ValueError(
                f"perceptual: tensor 'scaling_layer.{name}' is {np.asarray(given).ravel()}, "
                f"LPIPS 0.1 has {wanted}: the checkpoint is another version's"
            )
