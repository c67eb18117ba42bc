"""Interleaved timings: every contender once per round, so that a busy moment affects all."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

ROUNDS = 5
_SECONDS = 20.0
Case = TypeVar("Case")


@dataclass
class Budget:
    """What one `hsd bench` may take; it says on stderr what runs."""

    seconds: float = float("inf")
    left_out: list[str] = field(default_factory=list)
    """The cases that there was no time for."""
    _started: float = field(default_factory=time.perf_counter)

    def tell(self, line: str) -> None:
        """A line on stderr, with the seconds so far."""
        spent = time.perf_counter() - self._started
        print(f"[{spent:4.0f} s] {line}", file=sys.stderr, flush=True)

    def cases(self, cases: Sequence[Case], name: Callable[[Case], str]) -> Iterator[Case]:
        """Yields cases, the first at any rate, while there is time for one like the longest."""
        longest = 0.0
        for index, case in enumerate(cases):
            begun = time.perf_counter()
            if index and begun + longest > self._started + self.seconds:
                self.left_out += map(name, cases[index:])
                return
            self.tell(name(case))
            yield case
            longest = max(longest, time.perf_counter() - begun)

    def notes(self) -> list[str]:
        """What a report must say of cases left out."""
        if not self.left_out:
            return []
        minutes = self.seconds / 60
        return [f"Left out after {minutes:.0f} minutes: {'; '.join(self.left_out)} (--minutes N)"]


def pace(quick: bool) -> dict[str, Any]:
    """The rounds of `interleaved`: the usual ones, or as few as tell anything."""
    return {"rounds": 2, "seconds": 0.0, "warm": 1} if quick else {}


def interleaved(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int = ROUNDS,
    seconds: float = _SECONDS,
    warm: int = 2,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, list[float]]:
    """Times each of `runs`, round by round.

    Args:
      runs: functions by name; each must wait for its result.
      rounds: the minimum number of rounds.
      seconds: rounds continue until this time is spent, up to four times `rounds`.
      warm: warm-up rounds, which are not counted: the first ones allocate memory.
      tell: is given a line for each, with its median.

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
    for name, seconds in medians(times).items():
        tell(f"  {name}: {1e3 * seconds:.1f} ms, {len(times[name])} times")
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: statistics.median(values) for name, values in times.items()}


def ratio(times: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """How many times faster `fast` is: the median of the ratios within rounds."""
    pairs = zip(times[slow], times[fast], strict=True)
    return statistics.median(a / b for a, b in pairs)
