"""What no training can do with, told before anything is read, compiled or written."""

from collections.abc import Mapping
from typing import Any

from hsd_jax.labels import LABEL_SETS

_COUNTS = (
    "batch_size", "eval_batch_size", "accumulate", "keep", "log_every", "save_every", "eval_every",
)  # fmt: skip


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
    model = config.get("model", {})
    widths, depths = (tuple(model.get(name, ())) for name in ("widths", "depths"))
    if widths and depths:
        wanted = f"as many numbers as model.widths, which is {widths}"
        _must(len(widths) == len(depths), "model.depths", depths, wanted)


def _must(well: bool, key: str, value: Any, wanted: str) -> None:
    if not well:
        raise ValueError(f"{key} is {value!r}: it must be {wanted} (--config.{key}=...)")
