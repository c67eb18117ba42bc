"""FID's InceptionV3: `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid and torch-fidelity."""

from collections.abc import Mapping
from typing import Any

from hsd_jax.convert.tensors import Shape, Table, make_table, param_shapes, to_params
from hsd_jax.models.inception import MIN_SIZE, NUM_CLASSES, InceptionV3

_IGNORE = (r".*\.num_batches_tracked",)  # a counter that inference does not read


def load(
    state: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> tuple[InceptionV3, dict[str, Any]]:
    """The network of a checkpoint; `config` may have `preprocessing` of `InceptionV3`.

    Raises:
      ValueError: another network, torchvision's Inception included.
    """
    config = dict(config or {})
    if set(config) - {"preprocessing"}:
        raise ValueError(f"inception: unknown settings {sorted(config)}: give preprocessing alone")
    classes = tuple(state["fc.weight"].shape)[0] if "fc.weight" in state else NUM_CLASSES
    if classes != NUM_CLASSES or any(name.startswith("AuxLogits.") for name in state):
        raise ValueError(
            f"inception: {classes} classes or AuxLogits: this is torchvision's Inception, whose "
            f"distances are not FID: give pt_inception-2015-12-05 ({NUM_CLASSES} classes)"
        )
    module = InceptionV3(**config)
    # Preprocessing has no parameters: the smallest input tells all shapes.
    shapes = param_shapes(InceptionV3("none"), (1, MIN_SIZE, MIN_SIZE, 3))
    return module, to_params(state, names_table(shapes), shapes, "inception", _IGNORE)


def names_table(shapes: Mapping[str, Shape]) -> Table:
    """Torch's names; ours are theirs but for the last two parts."""

    def rename(path: str) -> str:
        *parents, leaf = path.split("/")
        layer = "conv" if leaf == "kernel" else "bn"
        return path if parents == ["fc"] else "/".join([*parents, layer, leaf])

    return make_table(shapes, rename)
