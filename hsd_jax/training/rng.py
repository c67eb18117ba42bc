"""Random keys, derived from (seed, name, step, example) and never stored.

A resumed run is therefore the same run, and a run on other devices draws the same numbers.
"""

import zlib
from collections.abc import Mapping

import jax


def named_key(seed: int, name: str, step: jax.Array | int = 0) -> jax.Array:
    """The key of stream `name` at `step`.

    Args:
      seed: the run's seed.
      name: the stream, "train" or "init" say; hashed with CRC-32, equal on every process.
      step: may be traced.

    Returns:
      A typed scalar key.
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(key, step)


def per_example(key: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    """A key for each example, by its place in the whole batch, `batch["index"]` (int32 [B]).

    Numbers drawn with these keys do not depend on the devices or parts of a batch; numbers drawn
    with `key` itself would repeat on every device.

    Returns:
      Typed keys [B].
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch["index"])
