"""Measuring several ways to do one thing side by side: in rounds, and compared within each round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Effort:
    """How much is measured: `rounds` of all lanes, each lane for about `seconds` but `fewest` to `most` times."""

    rounds: int
    seconds: float
    fewest: int
    most: int

    def calls(self, seconds_each: float) -> int:
        """How often something that takes `seconds_each` is done in one round."""
        return max(self.fewest, min(self.most, int(self.seconds / max(seconds_each, 1e-9))))


FULL = Effort(rounds=11, seconds=0.2, fewest=7, most=1000)
QUICK = Effort(rounds=2, seconds=0.0, fewest=1, most=1)


class Lane(Protocol):
    """One way to do it."""

    @property
    def name(self) -> str: ...

    def sample(self, calls: int) -> Sequence[int]:
        """Do it `calls` times; the nanoseconds that each took."""


@dataclass(frozen=True)
class Repeated:
    """A lane that calls a function of this process; `between` is done before each call and not timed."""

    name: str
    call: Callable[[], object]
    between: Callable[[], object] | None = None

    def sample(self, calls: int) -> list[int]:
        now, call, between = time.perf_counter_ns, self.call, self.between
        taken = []
        for _ in range(calls):
            if between is not None:
                between()
            started = now()
            call()
            taken.append(now() - started)
        return taken


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds: its median, and the quartiles as a measure of the noise."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        ordered = sorted(values)
        if len(ordered) < 2:
            return cls(ordered[0], ordered[0], ordered[0])
        low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(median, low, high)

    def text(self, digits: int = 0) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True)
class Run:
    """What `interleave` measured: for each lane the p50 of each round, in microseconds."""

    p50: dict[str, list[float]]

    def spread(self, name: str) -> Spread:
        return Spread.of(self.p50[name])

    def added(self, name: str, base: str) -> list[float]:
        """How much slower `name` was than `base`, round by round."""
        return [one - other for one, other in zip(self.p50[name], self.p50[base], strict=True)]


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """The ratio of two figures that were measured in the same rounds."""
    return Spread.of(one / other for one, other in zip(over, under, strict=True))


def interleave(lanes: Sequence[Lane], effort: Effort) -> Run:
    """Measure all lanes, one after the other in each round; every round begins with another lane."""
    p50: dict[str, list[float]] = {lane.name: [] for lane in lanes}
    calls = {}
    for lane in lanes:  # warms up too
        calls[lane.name] = effort.calls(statistics.median(lane.sample(effort.fewest)) / 1e9)
    for number in range(effort.rounds):
        first = number % len(lanes)
        for lane in (*lanes[first:], *lanes[:first]):
            lane.sample(min(3, effort.fewest))  # its code and its connection come back into the caches
            p50[lane.name].append(statistics.median(lane.sample(calls[lane.name])) / 1e3)
    return Run(p50)
