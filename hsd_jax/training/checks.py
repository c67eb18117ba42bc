"""What no training can do with, told before anything is read, compiled or written."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hsd_jax.labels import LABEL_SETS
from hsd_jax.runtime.console import one_line

_COUNTS = (
    "batch_size", "eval_batch_size", "accumulate", "keep", "log_every", "save_every", "eval_every",
)  # fmt: skip
_NETWORKS, _LARGEST = ("model", "condition", "discriminator"), 2**16


def check(config: Mapping[str, Any]) -> None:
    """Looks at the values that any task shares.

    Raises:
      ValueError: one that cannot be: names its key, the value, and what it may be.
    """
    for key in _COUNTS:
        _must(isinstance(config[key], int) and config[key] >= 1, key, config[key], "1 or more")
    for key in ("steps", "profile"):
        _must(config[key] >= 0, key, config[key], "0 or more")
    _must(0 <= config["ema"] < 1, "ema", config["ema"], "at least 0 and below 1")
    if "labels" in config:
        known = f"one of {', '.join(LABEL_SETS)}"
        _must(config["labels"] in LABEL_SETS, "labels", config["labels"], known)
    for part in _NETWORKS:
        for key, value in config.get(part, {}).items():
            wanted = f"numbers up to {_LARGEST}, and not more than 64"
            _must(_is_a_size(value), f"{part}.{key}", value, wanted)
    model = config.get("model", {})
    widths, depths = (tuple(model.get(name, ())) for name in ("widths", "depths"))
    if widths and depths:
        wanted = f"as many numbers as model.widths, which is {widths}"
        _must(len(widths) == len(depths), "model.depths", depths, wanted)


class Unfit(ValueError):
    """The config makes no training, for a reason that need not name one of its keys."""


@contextmanager
def refused() -> Iterator[None]:
    """Makes `Unfit` of what Flax, JAX and optax raise, which take most values as they come."""
    try:
        yield
    except (Unfit, OSError, FloatingPointError):
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise Unfit(f"{kind}{one_line(error)}") from error


def _is_a_size(value: Any) -> bool:
    """Whether a field of a network, if it is a number or several, can be built in this life."""
    if isinstance(value, list | tuple):
        return len(value) <= 64 and all(map(_is_a_size, value))
    return not isinstance(value, int | float) or abs(value) <= _LARGEST


def _must(well: bool, key: str, value: Any, wanted: str) -> None:
    if not well:
        raise ValueError(f"{key} is {value!r}: it must be {wanted} (--config.{key}=...)")
