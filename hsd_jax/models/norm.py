"""Normalisations, NHWC: batch normalisation whose running statistics are parameters, and groups.

Running mean and variance live in "params" beside scale and bias, so that
`module.apply({"params": params}, x)` is all that inference needs. In training the new running
values are sown into the collection "stats" under the same path, and `merge_stats` puts them back:

    out, new = module.apply({"params": params}, x, train=True, mutable=["stats"])
    params = merge_stats(params, new["stats"])  # after the optimizer's update
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

EPSILON = 1e-5
# Enough groups for statistics to be local to few channels, and a divisor of every preset's widths.
_MAX_GROUPS = 8

AxisName = str | tuple[str, ...]
_axis_name: ContextVar[AxisName | None] = ContextVar("axis_name", default=None)


@contextmanager
def statistics_over(axis_name: AxisName | None) -> Iterator[None]:
    """Makes batch norms traced inside also take statistics over the mapped axes `axis_name`.

    It is for `jax.pmap`, under which an array is one device's part of the batch; None is for whole
    batches, sharded ones included.
    """
    token = _axis_name.set(axis_name)
    try:
        yield
    finally:
        _axis_name.reset(token)


def mean_over_devices(mean: jax.Array) -> jax.Array:
    """The mean over the whole batch from that of a device's part; the same if nothing is mapped."""
    axis_name = _axis_name.get()
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


class BatchNorm(nn.Module):
    """Batch normalisation as torch's `BatchNorm2d` (Ioffe and Szegedy, arXiv 1502.03167).

    Statistics are over all axes but the last, in float32: those of the batch when `train`, else the
    running ones. Running values are averages with weight 1 - momentum for the old value and use
    the unbiased variance; normalisation uses the biased one. Running values get no gradient.

    Attributes:
      train: use the statistics of the batch, and sow the new running values into "stats".
      momentum: share of the batch in the new running values (torch's meaning, not flax's).
      dtype: type of the output, None for float32; statistics and parameters are float32.
    """

    train: bool = False
    momentum: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., C]` -> `[..., C]`; ValueError when `train` and a channel has only one value."""
        ones, zeros, shape = nn.initializers.ones_init(), nn.initializers.zeros_init(), x.shape[-1:]
        scale = self.param("scale", ones, shape, jnp.float32)
        bias = self.param("bias", zeros, shape, jnp.float32)
        mean = jax.lax.stop_gradient(self.param("mean", zeros, shape, jnp.float32))
        var = jax.lax.stop_gradient(self.param("var", ones, shape, jnp.float32))
        x = x.astype(jnp.float32)
        if self.train:
            mean, var = self._batch_statistics(x, mean, var)
        factor = scale * jax.lax.rsqrt(var + EPSILON)
        y = x * _channels(factor, x) + _channels(bias - mean * factor, x)
        return y.astype(self.dtype or jnp.float32)

    def _batch_statistics(
        self, x: jax.Array, running_mean: jax.Array, running_var: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        axes, count, axis_name = tuple(range(x.ndim - 1)), x.size // x.shape[-1], _axis_name.get()

        if axis_name is not None:
            count *= jax.lax.axis_size(axis_name)
        if count < 2:
            raise ValueError(
                f"batch statistics need more than one value a channel, got shape {x.shape}: "
                "train with a larger batch or image, or with norm='group'"
            )
        mean = mean_over_devices(x.mean(axes))
        var = mean_over_devices(jnp.square(x - _channels(mean, x)).mean(axes))
        if not self.is_initializing():
            self._sow_running("mean", running_mean, mean)
            self._sow_running("var", running_var, var * (count / (count - 1)))
        return mean, var

    def _sow_running(self, name: str, old: jax.Array, batch: jax.Array) -> None:
        new = (1 - self.momentum) * old + self.momentum * jax.lax.stop_gradient(batch)
        # The default reduction collects a tuple of calls; here the last call's value is wanted.
        self.sow("stats", name, new, init_fn=lambda: new, reduce_fn=lambda _, value: value)


def _channels(v: jax.Array, like: jax.Array) -> jax.Array:
    return v.reshape((1,) * (like.ndim - 1) + v.shape)


def make_norm(
    kind: str, channels: int, *, train: bool, dtype: Any, name: str
) -> Callable[[jax.Array], jax.Array]:
    """The normalisation module `kind` ("batch", "group" or "none") for `channels` channels.

    Groups are the greatest common divisor of 8 and `channels`; epsilon is 1e-5 for both kinds.
    """
    if kind == "batch":
        return BatchNorm(train=train, dtype=dtype, name=name)
    if kind == "group":
        groups = math.gcd(_MAX_GROUPS, channels)
        return nn.GroupNorm(num_groups=groups, epsilon=EPSILON, dtype=dtype, name=name)
    if kind == "none":
        return lambda x: x
    raise ValueError(f"unknown norm {kind!r}: use 'batch', 'group' or 'none'")


def merge_stats(params: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces the parameters at the paths of `stats` by its values.

    It is pure and free under jit. Raises ValueError if `stats` has a path that `params` lacks.
    """
    merged = dict(params)
    for name, value in stats.items():
        if name not in merged:
            raise ValueError(
                f"running statistics for {name!r}, which params lack (they have "
                f"{sorted(merged)}): merge into the params of the module that sowed them"
            )
        merged[name] = merge_stats(merged[name], value) if isinstance(value, Mapping) else value
    return merged
