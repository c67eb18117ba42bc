"""The type checker that `conftest` puts around every function of hsd_jax."""

import typing
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception

# PEP 484: an int is good where a float is asked for.
_typed: Any = beartype(conf=BeartypeConf(is_pep484_tower=True))


def typed(function: Any) -> Any:
    """`function`, its arguments and result checked in every call.

    Constructors are not: JAX makes a tree's nodes again from whatever became of their leaves, which
    may be shapes, shardings or None.
    """
    if function.__name__ == "__init__":
        return function
    for hint in getattr(function, "__annotations__", {}).values():
        _make_checkable(hint)
    try:
        return _typed(function)
    except BeartypeDecorHintPep673Exception:
        return function  # `Self` means nothing to a checker that sees one method at a time


def _make_checkable(hint: Any) -> None:
    """Protocols in an annotation are for type checkers alone unless they are declared otherwise."""
    if isinstance(hint, type) and getattr(hint, "_is_protocol", False):
        typing.runtime_checkable(hint)
    for part in hint if isinstance(hint, list) else typing.get_args(hint):
        _make_checkable(part)
