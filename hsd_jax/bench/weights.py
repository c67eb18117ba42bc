"""Random parameters of the usual size, for timing and comparison."""

from typing import Any

import jax
import numpy as np
from flax import linen as nn


def random_params(module: nn.Module, *args: Any) -> Any:
    """Random parameters for inputs like `args`, with activations of about unit size.

    Initial values would not do for comparing results, since some layers start at zero.
    """
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        noise = rng.standard_normal(leaf.shape, np.float32)
        if leaf.ndim > 1:
            return noise / np.sqrt(np.prod(leaf.shape[:-1]), dtype=np.float32)
        return 0.1 * noise + np.float32(path[-1].key == "scale")

    return jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes))


def normal(*shape: int) -> np.ndarray:
    """float32 samples of N(0, 1), the same in every process."""
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def relative_error(ours: Any, theirs: Any) -> float:
    """The L2 norm of the difference, divided by that of `theirs`."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
