"""Sweeps: lists of overrides of one config, each a run of its own."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict


def variants(config: ConfigDict, sweep: str) -> dict[int, dict[str, Any]]:
    """The configs of a sweep, by index.

    Args:
      config: what the runs share.
      sweep: FILE.py, which has `get_sweep()`, a list of overrides such as
        {"optimizer.learning_rate": 1e-4}; or FILE.py:INDEX for one of them.

    Raises:
      ValueError: no such file or index, or an override that the config does not take; all are
        tried, whichever is asked for.
    """
    file, colon, index = sweep.partition(":")
    overrides = _read(Path(file))
    made = {i: _variant(config, changes, f"{file}:{i}") for i, changes in enumerate(overrides)}
    if not colon:
        return made
    if not index.isdecimal() or int(index) not in made:
        raise ValueError(f"--sweep {sweep}: {file} has the indices 0 to {len(made) - 1}")
    return {int(index): made[int(index)]}


def _read(path: Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        raise ValueError(f"--sweep {path}: no such file: give FILE.py or FILE.py:INDEX")
    try:
        overrides = runpy.run_path(str(path))["get_sweep"]()
    except Exception as error:  # the file is code
        raise ValueError(f"--sweep {path}: get_sweep() failed: {error!r}") from error
    if not overrides or not all(isinstance(changes, Mapping) for changes in overrides):
        raise ValueError(f"--sweep {path}: get_sweep() must return a list of dicts, one a run")
    return overrides


def _variant(config: ConfigDict, changes: Mapping[str, Any], name: str) -> dict[str, Any]:
    made = config.copy_and_resolve_references()
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner: Any = made
        for parent in parents:
            inner = inner.get(parent, None) if isinstance(inner, ConfigDict) else None
        if not isinstance(inner, ConfigDict) or last not in inner:
            raise ValueError(f"--sweep {name}: the config has no key {key!r}")
        try:
            inner[last] = value
        except TypeError as error:
            kind = type(inner[last]).__name__
            raise ValueError(f"--sweep {name}: {key} is {value!r}, not a {kind}") from error
    return made.to_dict()
