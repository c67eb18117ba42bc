"""Freezes parts of the parameters during training."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from hsd_jax.training.state import Aux, Batch, Loss, Params


def frozen(params: Params, prefixes: Sequence[str]) -> Any:
    """A tree like `params` of bools: True where the path begins with one of `prefixes`.

    Args:
      params: nested dicts.
      prefixes: paths, as in "autoencoder/encoder".

    Raises:
      ValueError: a prefix that no parameter has.
    """
    paths = jax.tree_util.tree_leaves_with_path(params)
    names = ["/".join(str(key.key) for key in path) for path, _ in paths]
    for prefix in prefixes:
        if not any(_begins(name, prefix) for name in names):
            known = sorted({"/".join(name.split("/")[:2]) for name in names})
            raise ValueError(
                f"freeze names {prefix!r}, but no parameter is there: use some of "
                f"{', '.join(known)}, or what is below them"
            )
    mask = [any(_begins(name, prefix) for prefix in prefixes) for name in names]
    return jax.tree.unflatten(jax.tree.structure(params), mask)


def _begins(name: str, prefix: str) -> bool:
    return f"{name}/".startswith(f"{prefix.rstrip('/')}/")


def without_gradient(loss: Loss, prefixes: Sequence[str]) -> Loss:
    """Makes a loss constant in the frozen parameters, which saves their backward pass."""

    def constant(params: Params, batch: Batch, key: jax.Array, step: jax.Array):
        mask = frozen(params, prefixes)
        params = jax.tree.map(
            lambda leaf, still: jax.lax.stop_gradient(leaf) if still else leaf, params, mask
        )
        value, aux = loss(params, batch, key, step)
        return value, Aux(*aux)

    return constant


def without_updates(
    optimizer: optax.GradientTransformation, prefixes: Sequence[str]
) -> optax.GradientTransformation:
    """Makes an optimizer leave the frozen parameters unchanged, even by weight decay."""
    still = optax.masked(optax.set_to_zero(), lambda params: frozen(params, prefixes))
    return optax.chain(optimizer, still)
