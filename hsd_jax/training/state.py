"""The state of a run and the pure step that advances it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct

from hsd_jax.models.norm import AxisName, statistics_over

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


class Aux(NamedTuple):
    """What a loss returns beside the scalar to minimise.

    Attributes:
      metrics: scalars. A plain one is a mean over the batch's examples; a pair (numerator,
        denominator) is divided after both have been summed over all parts of the batch.
      overwrite: what gradients do not set (running statistics of batch norms), as a tree with the
        structure of `params` whose other leaves are None.
      weight: of this batch's scalar in the mean over all parts of a batch, which lie on several
        devices or come one after the other; the denominator where the scalar is a weighted mean.
    """

    metrics: Mapping[str, Any]
    overwrite: Params | None = None
    weight: jax.Array | float = 1.0


class Loss(Protocol):
    """`(params, batch, key, step) -> (scalar to minimise, Aux)`.

    The batch may be a part of the whole one: random numbers come from `rng.per_example(key, batch)`
    and are then the same however the batch is divided.
    """

    def __call__(
        self, params: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Any, ...]]: ...


Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]
Sums = Callable[[Params, Batch, jax.Array, jax.Array], "_Sums"]


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


class _Sums(NamedTuple):
    """Additive over the parts of a batch, and its quotient is the whole batch's value."""

    numerators: tuple[Params, dict[str, jax.Array], Params]  # gradient, metrics, overwrite
    denominators: tuple[jax.Array, dict[str, jax.Array], jax.Array]


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    decay: float,
    axis_name: AxisName | None = None,
    accumulate: int = 1,
    on_each_device: Callable[[Sums], Sums] = lambda sums: sums,
) -> Step:
    """One training step as a pure function.

    Args:
      loss: the task's loss.
      optimizer: applied to the whole parameter tree.
      decay: of the exponential moving average, reached by a warm-up.
      axis_name: the batch is mapped over this axis, or these.
      accumulate: how many parts of the batch are worked through one after the other, which divides
        the memory of the activations. The result is that of one part, except that batch norms, and
        the adaptive weight of a discriminator, see one part at a time.
      on_each_device: makes of `(params, batch, key, step) -> sums`, which is mapped over
        `axis_name`, one that takes and gives whole arrays: the update is not mapped then. These two
        are the step's only link to parallelism.

    Returns:
      `step(state, batch, key) -> (state, metrics)`; metrics are float32 scalars: the loss's own,
      `grad_norm` before clipping and `param_norm` after the update.
    """

    def part(params: Params, batch: Batch, key: jax.Array, step: jax.Array) -> _Sums:
        def weighted(params: Params) -> tuple[jax.Array, tuple[Aux, jax.Array]]:
            with statistics_over(axis_name):
                value, aux = loss(params, batch, key, step)
            aux = Aux(*aux)
            weight = jax.lax.stop_gradient(jnp.asarray(aux.weight, jnp.float32))
            return weight * value, (aux, weight)

        grads, (aux, weight) = jax.grad(weighted, has_aux=True)(params)
        pairs = {k: v if isinstance(v, tuple) else (v, 1.0) for k, v in aux.metrics.items()}
        top, bottom = (
            {name: jnp.asarray(pair[i], jnp.float32) for name, pair in pairs.items()}
            for i in (0, 1)
        )
        return _Sums((grads, top, aux.overwrite), (weight, bottom, jnp.ones(())))

    def whole(params: Params, batch: Batch, key: jax.Array, step: jax.Array) -> _Sums:
        if accumulate == 1:
            total = part(params, batch, key, step)
        else:
            total = _sum_over_parts(lambda b: part(params, b, key, step), batch, accumulate)
        return total if axis_name is None else jax.lax.psum(total, axis_name)

    sums = on_each_device(whole)

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        total = sums(state.params, batch, key, state.step)
        grads, metrics, overwrite = (
            _divided(top, bottom) for top, bottom in zip(*total, strict=True)
        )
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
        norms = {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
        return TrainState(state.step + 1, params, opt_state, ema), metrics | norms

    return step


def _divided(numerators: Any, denominators: Any) -> Any:
    if isinstance(denominators, dict):
        return {name: value / denominators[name] for name, value in numerators.items()}
    return jax.tree.map(lambda value: value / denominators, numerators)


def _sum_over_parts(sums: Callable[[Batch], _Sums], batch: Batch, count: int) -> _Sums:
    """Part m takes rows m, m + count, ...: so a batch that lies on devices in blocks stays put."""

    def divide(x: jax.Array) -> jax.Array:
        if x.shape[0] % count:
            raise ValueError(
                f"a batch of {x.shape[0]} on a device does not divide into {count} parts: "
                "choose batch_size and accumulate so that it does"
            )
        return jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)

    parts = jax.tree.map(divide, batch)
    shapes = jax.eval_shape(sums, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: _Sums, part: Batch) -> tuple[_Sums, None]:
        return jax.tree.map(jnp.add, total, sums(part)), None

    return jax.lax.scan(add, zeros, parts)[0]
