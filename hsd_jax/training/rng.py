"""Keys are derived from (seed, name, step, example), never stored: a resumed run is the same run,
and a run on other devices draws the same numbers."""

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

    Whatever is drawn from these is the same for a batch on one device, on many, or in parts;
    numbers drawn from `key` itself would come again on every device.

    Returns:
      Typed keys [B].
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch["index"])
