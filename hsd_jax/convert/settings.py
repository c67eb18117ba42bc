"""Reading settings strictly: what is not understood is refused by name and value."""

from collections.abc import Collection, Mapping
from typing import Any


def refuse_others(
    part: str,
    settings: Mapping[str, Any],
    known: Collection[str],
    free: Collection[str],
    fixed: Mapping[str, Any],
) -> None:
    """Raises ValueError for a setting that our network cannot follow.

    Args:
      part: what to call the network.
      settings: to check.
      known: those that are read elsewhere.
      free: those that change nothing at inference.
      fixed: those of which we have one value only.
    """
    for name, value in settings.items():
        if name in known or name in free or name.startswith("_"):
            continue
        if name not in fixed:
            if value is None or value is False:
                continue  # an option that is off
            raise ValueError(f"{part}: the setting {name}={value!r} is not known: no such network")
        if value != fixed[name]:
            raise ValueError(
                f"{part}: {name} is {value!r}, and our network has {fixed[name]!r} only"
            )


def whole(part: str, settings: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A whole number among settings; ValueError when it is missing or something else."""
    value = settings.get(name)
    value = default if value is None else value
    if type(value) is not int:
        problem = "is missing" if value is None else f"is {value!r}, not a whole number"
        raise ValueError(f"{part}: the setting {name} {problem}")
    return value
