"""U^2-Net's official checkpoints: U2NET and U2NETP of xuebinqin/U-2-Net, `u2net.py`.

Our modules carry the reference's names, so a path is a name. The reference ends in sigmoids; ours
end in logits: `jax.nn.sigmoid(module.apply({"params": params}, x).fused)` is its first output.
"""

from collections.abc import Mapping
from typing import Any

from hsd_jax.convert.tensors import Shape, Table, make_table, param_shapes, to_params
from hsd_jax.models.layout_generator import PRESETS, LayoutGenerator, Stage, Stages, U2Net, stages

KNOWN = ("num_classes", "focus_sharpness")
_IGNORE = (r".*\.num_batches_tracked",)  # a counter that inference does not read
# The names that tell that it is there: the net's own, and within a `LayoutGenerator`.
FIRSTS = ("stage1.rebnconvin.conv_s1.weight", "net.stage1.rebnconvin.conv_s1.weight")


def is_u2net(names: Any) -> bool:
    """Whether tensors of these names can be a U^2-Net's."""
    return any(first in names for first in FIRSTS)


def load(
    state: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> tuple[U2Net | LayoutGenerator, dict[str, Any]]:
    """The network of a checkpoint; every size is read from its shapes.

    Args:
      state: torch names to tensors.
      config: None for a `U2Net` of the checkpoint's own channels (the official ones have 3 in, 1
        out). `{"num_classes": K}` for a `LayoutGenerator`, whose network has K in and K + 1 out;
        `focus_sharpness` may be given with it.

    Raises:
      ValueError: no U^2-Net, or channels that are not K and K + 1.
    """
    config = dict(config or {})
    unknown = set(config) - set(KNOWN)
    if unknown:
        raise ValueError(
            f"layout_generator: unknown setting {sorted(unknown)[0]!r}: "
            "give num_classes and focus_sharpness alone"
        )
    prefix = "net." if "net.outconv.weight" in state else ""
    state = {name.removeprefix(prefix): value for name, value in state.items()}
    shape = {name: tuple(value.shape) for name, value in state.items()}
    widths, channels = _stages(shape), _in_channels(shape)
    outputs = _channels(shape, "outconv")
    module: U2Net | LayoutGenerator = U2Net(outputs, widths)
    if "num_classes" in config:
        module = _generator(config, widths, channels, outputs)
    shapes = param_shapes(module, (1, 32, 32, channels))
    names = names_table(shapes)
    params = to_params(state, names, shapes, "layout_generator", _IGNORE)
    return module, params


def names_table(shapes: Mapping[str, Shape]) -> Table:
    """The reference's names, for a `U2Net` or a `LayoutGenerator`."""
    return make_table(shapes, lambda path: path.removeprefix("net/"))


def _generator(
    config: Mapping[str, Any], widths: Stages, channels: int, outputs: int
) -> LayoutGenerator:
    classes = config["num_classes"]
    if (channels, outputs) != (classes, classes + 1):
        raise ValueError(
            f"layout_generator: the net has {channels} channels in and {outputs} out, a generator "
            f"of num_classes={classes} has {classes} and {classes} + 1"
        )
    # The widest stage tells the factor most finely.
    for preset, full in PRESETS.items():
        width = widths.encoder[-1].out / full.encoder[-1].out
        if stages(preset, width) == widths:
            sharpness = float(config.get("focus_sharpness", 10.0))
            return LayoutGenerator(classes, preset, width, focus_sharpness=sharpness)
    raise ValueError(
        "layout_generator: its widths are no multiple of U2NET's or U2NETP's, so it has no preset: "
        "leave num_classes out and take it as a U2Net"
    )


def _stages(shape: Mapping[str, Shape]) -> Stages:
    """The table of widths that the shapes tell."""

    def stage(kind: str, name: str) -> Stage:
        mid = _channels(shape, f"{name}.rebnconv1.conv_s1")
        return Stage(kind, mid, _channels(shape, f"{name}.rebnconvin.conv_s1"))

    down, up = ([s.kind for s in row] for row in PRESETS["full"])
    return Stages(
        tuple(stage(kind, f"stage{i}") for i, kind in enumerate(down, 1)),
        tuple(stage(kind, f"stage{i}d") for i, kind in zip(range(len(up), 0, -1), up, strict=True)),
    )


def _channels(shape: Mapping[str, Shape], layer: str) -> int:
    """Output channels of a layer."""
    found = shape.get(f"{layer}.weight")
    if not found:
        raise ValueError(f"layout_generator: tensor '{layer}.weight' is missing: no U^2-Net")
    return found[0]


def _in_channels(shape: Mapping[str, Shape]) -> int:
    name = "stage1.rebnconvin.conv_s1.weight"
    if len(shape.get(name, ())) != 4:
        raise ValueError(f"layout_generator: tensor {name!r} is missing: no U^2-Net")
    return shape[name][1]
