"""Flax Linen modules, NHWC; they know nothing of configs, meshes or losses."""

from typing import Any

from flax import linen as nn
from flax.errors import FlaxError


def apply(module: nn.Module, params: Any, *args: Any, **options: Any) -> Any:
    """`module.apply` with parameters only, typed as `Any`.

    Linen types every result as possibly a pair with changed variables, which ours is not.

    Raises:
      ValueError: the parameters are another network's.
    """
    try:
        return module.apply({"params": params}, *args, **options)
    except FlaxError as error:
        kind = type(module).__name__
        raise ValueError(f"the parameters are not of this {kind}: {error}") from error
