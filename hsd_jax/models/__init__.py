"""Flax Linen modules, NHWC; they know nothing of configs, meshes or losses."""

from typing import Any

from flax import linen as nn


def apply(module: nn.Module, params: Any, *args: Any, **options: Any) -> Any:
    """`module.apply` on parameters alone.

    Linen types every result as perhaps a pair with changed variables; ours never is at inference,
    and one place says so instead of each caller.
    """
    return module.apply({"params": params}, *args, **options)
