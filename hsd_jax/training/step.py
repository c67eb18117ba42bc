"""The training step on one screen: loss, gradient, accumulation, update, EMA, metrics.

The step is pure; all that it knows of devices is an axis name. `training.parallel` compiles it with
`jax.jit` over a mesh or with `jax.pmap`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hsd_jax.models.norm import AxisName, statistics_over
from hsd_jax.training.rng import named_key
from hsd_jax.training.state import Batch, Loss, Metrics, Params, TrainState


class Sums(NamedTuple):
    """Sums over the parts of a batch, whose quotients are the values of the whole batch."""

    gradient: Params
    weight: jax.Array
    metrics: dict[str, jax.Array]
    metric_weights: dict[str, jax.Array]
    overwrite: Params | None
    parts: jax.Array


@dataclass(frozen=True)
class TrainStep:
    """`(state, batch) -> (state, metrics)`.

    Metrics are float32 scalars: the loss's own, `grad_norm` before clipping and `param_norm` after
    the update.

    Attributes:
      loss: the task's loss.
      optimizer: clips the gradient and updates the whole parameter tree.
      ema: decay of the exponential moving average, after a warm-up.
      seed: the seed of the run; the step's key is derived from it and from `state.step`.
      accumulate: the number of parts that the batch is processed in, one after the other, which
        divides the memory of activations. The result does not depend on it, except that batch norms
        and the adaptive weight of a discriminator see one part at a time.
    """

    loss: Loss
    optimizer: optax.GradientTransformation
    ema: float
    seed: int
    accumulate: int = 1

    def __call__(
        self, state: TrainState, batch: Batch, axis_name: AxisName | None = None
    ) -> tuple[TrainState, Metrics]:
        """One step; with `axis_name`, `batch` is one device's part, mapped over that axis."""
        return self.update(state, self.sums(state.params, batch, state.step, axis_name))

    def sums(
        self, params: Params, batch: Batch, step: jax.Array, axis_name: AxisName | None = None
    ) -> Sums:
        """Sums of gradients and metrics over the whole batch, reduced over the axis."""
        key = named_key(self.seed, "train", step)

        def of_part(part: Batch) -> Sums:
            def weighted(params: Params):
                # Set here and not as module fields, which are saved with the weights.
                with statistics_over(axis_name):
                    value, aux = self.loss(params, part, key, step)
                weight = jax.lax.stop_gradient(jnp.asarray(aux.weight, jnp.float32))
                return weight * value, (aux, weight)

            gradient, (aux, weight) = jax.grad(weighted, has_aux=True)(params)
            pairs = {k: v if isinstance(v, tuple) else (v, 1.0) for k, v in aux.metrics.items()}
            metrics, weights = (
                {name: jnp.asarray(pair[i], jnp.float32) for name, pair in pairs.items()}
                for i in (0, 1)
            )
            return Sums(gradient, weight, metrics, weights, aux.overwrite, jnp.ones(()))

        total = _summed(of_part, batch, self.accumulate)
        return total if axis_name is None else jax.lax.psum(total, axis_name)

    def update(self, state: TrainState, sums: Sums) -> tuple[TrainState, Metrics]:
        """The state after the optimizer's step on the batch's mean gradient."""
        gradient = jax.tree.map(lambda x: x / sums.weight, sums.gradient)
        updates, opt_state = self.optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if sums.overwrite is not None:
            params = jax.tree.map(
                lambda new, old: old if new is None else new / sums.parts,
                sums.overwrite, params, is_leaf=lambda leaf: leaf is None,
            )  # fmt: skip
        decay = ema_decay(self.ema, state.step)
        ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)
        metrics = {name: x / sums.metric_weights[name] for name, x in sums.metrics.items()}
        norms = {"grad_norm": optax.tree.norm(gradient), "param_norm": optax.tree.norm(params)}
        return TrainState(state.step + 1, params, opt_state, ema), metrics | norms


def ema_decay(decay: float, step: jax.Array) -> jax.Array:
    """min(decay, (1 + n) / (10 + n)): CompVis latent-diffusion, `LitEma`."""
    n = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + n) / (10 + n))


def _summed(sums: Callable[[Batch], Sums], batch: Batch, count: int) -> Sums:
    """Part m takes rows m, m + count, ...: so a batch that lies on devices in blocks stays put."""
    if count == 1:
        return sums(batch)

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

    def add(total: Sums, part: Batch) -> tuple[Sums, None]:
        return jax.tree.map(jnp.add, total, sums(part)), None

    return jax.lax.scan(add, zeros, parts)[0]
