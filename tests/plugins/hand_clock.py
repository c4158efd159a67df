"""A wall clock that tests turn by hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class HandClock:
    """Seconds that pass when a test says so."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now
