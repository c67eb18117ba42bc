"""Interleaved timings: every contender once per round, so that a busy moment affects all."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

ROUNDS = 5
_SECONDS = 20.0


def interleaved(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int = ROUNDS,
    seconds: float = _SECONDS,
    warm: int = 2,
) -> dict[str, list[float]]:
    """Times each of `runs`, round by round.

    Args:
      runs: functions by name; each must wait for its result.
      rounds: the minimum number of rounds.
      seconds: rounds continue until this time is spent, up to four times `rounds`.
      warm: warm-up rounds, which are not counted: the first ones allocate memory.

    Returns:
      The seconds of each round, by name.
    """
    for run in [*runs.values()] * warm:
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    begun = time.perf_counter()
    for index in range(4 * rounds):
        if index >= rounds and time.perf_counter() - begun > seconds:
            break
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: statistics.median(values) for name, values in times.items()}


def ratio(times: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """How many times faster `fast` is: the median of the ratios within rounds."""
    pairs = zip(times[slow], times[fast], strict=True)
    return statistics.median(a / b for a, b in pairs)
