"""The training state, and the interface of a loss."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct

Params = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@struct.dataclass
class TrainState:
    """The contents of a checkpoint; the data position and all keys are derived from `step`."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params


def create_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state at step 0; the EMA starts as a copy of the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params),
    )


class Aux(NamedTuple):
    """What a loss returns besides the scalar to minimise.

    Attributes:
      metrics: scalars. A plain one is a mean over the batch's examples; a pair (numerator,
        denominator) is divided after both have been summed over all parts of the batch.
      overwrite: parameters that gradients do not update (running statistics of batch norms), as a
        tree with the structure of `params` whose other leaves are None.
      weight: the weight of this scalar in the mean over all parts of a batch, on several devices or
        one after the other; the denominator if the scalar is a weighted mean.
    """

    metrics: Mapping[str, Any]
    overwrite: Params | None = None
    weight: jax.Array | float = 1.0


class Loss(Protocol):
    """`(params, batch, key, step) -> (scalar to minimise, Aux)`.

    The batch may be a part of the whole one: drawing random numbers with `rng.per_example(key,
    batch)` makes them independent of how it is divided.
    """

    def __call__(
        self, params: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]: ...
