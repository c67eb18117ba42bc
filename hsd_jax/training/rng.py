"""Keys are derived from (seed, name, step), never stored: a resumed run is the same run."""

import zlib

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
