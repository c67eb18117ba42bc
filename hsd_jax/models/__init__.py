"""Flax Linen modules, NHWC; they know nothing of configs, meshes or losses."""

from typing import Any

from flax import linen as nn


def apply(module: nn.Module, params: Any, *args: Any, **options: Any) -> Any:
    """`module.apply` with parameters only, typed as `Any`.

    Linen types every result as possibly a pair with changed variables, which ours is not.
    """
    return module.apply({"params": params}, *args, **options)
