"""The state of a run and the pure step that advances it."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct

Params = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@struct.dataclass
class TrainState:
    """All that a checkpoint holds; the data position and every key follow from `step`."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params


class Loss(Protocol):
    """`(params, batch, key, step) -> (scalar to minimise, (metrics, parameters to overwrite))`.

    The third result holds what gradients do not set (running statistics of batch norms), as a
    tree with the structure of `params` whose other leaves are None.
    """

    def __call__(
        self, params: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, Params]]: ...


Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


def create_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state at step 0; the EMA starts as a copy of the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params),
    )


def ema_decay(decay: float, step: jax.Array) -> jax.Array:
    """min(decay, (1 + n) / (10 + n)): CompVis latent-diffusion, `LitEma`."""
    n = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + n) / (10 + n))


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    decay: float,
    axis_name: str | None = None,
) -> Step:
    """One training step as a pure function.

    Args:
      loss: the task's loss.
      optimizer: applied to the whole parameter tree.
      decay: of the exponential moving average, reached by a warm-up.
      axis_name: averages gradients and metrics over this mapped axis; the step's only link to
        parallelism.

    Returns:
      `step(state, batch, key) -> (state, metrics)`; metrics are float32 scalars.
    """

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        gradient = jax.value_and_grad(loss, has_aux=True)
        (_, (metrics, overwrite)), grads = gradient(state.params, batch, key, state.step)
        if axis_name is not None:
            grads, metrics, overwrite = jax.lax.pmean((grads, metrics, overwrite), axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if overwrite is not None:
            params = jax.tree.map(
                lambda new, old: old if new is None else new,
                overwrite,
                params,
                is_leaf=lambda leaf: leaf is None,
            )
        d = ema_decay(decay, state.step)
        ema = jax.tree.map(lambda e, p: e + (1 - d) * (p - e), state.ema, params)
        metrics = metrics | {"grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return step
