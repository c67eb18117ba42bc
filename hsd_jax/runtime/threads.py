"""Work on all cores, for what leaves Python's lock while it computes: numpy, scipy and Pillow.

What runs in these threads must not wait for more of them.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any


def spread(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """`[function(item) for item in items]`, in as many threads as there are cores."""
    return list(_pool().map(function, items))


def begin(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Starts a call beside the current thread."""
    return _pool().submit(function, *args)


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="hsd-cores")
