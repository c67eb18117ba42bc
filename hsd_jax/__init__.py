"""HS-Diffusion (Semantic-Mixing Diffusion for Head Swapping, arXiv 2212.06458) in JAX and Flax."""

from typing import TYPE_CHECKING, Any

from hsd_jax.version import __version__

__all__ = ["HeadSwapper", "LabelSet", "__version__"]

if TYPE_CHECKING:
    from hsd_jax.labels import LabelSet
    from hsd_jax.swap import HeadSwapper


def __getattr__(name: str) -> Any:
    # Lazy, so that `hsd --help` and the configs do not wait for JAX to start.
    if name == "HeadSwapper":
        from hsd_jax.swap import HeadSwapper

        return HeadSwapper
    if name == "LabelSet":
        from hsd_jax.labels import LabelSet

        return LabelSet
    raise AttributeError(f"module 'hsd_jax' has no attribute {name!r}")
