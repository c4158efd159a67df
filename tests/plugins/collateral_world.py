"""A world for tests of endorsements: its clock stands still, nobody really sleeps, and the log is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from blindai.attestation.collateral.cache import Cache
from blindai.attestation.collateral.fetch import HttpFetcher
from blindai.attestation.collateral.library import Library
from blindai.attestation.collateral.service import Services

START = datetime(2026, 1, 15, 12, tzinfo=UTC)


class World:
    """A clock that moves only when it is told to, or when somebody sleeps; and a log."""

    def __init__(self) -> None:
        self.now = START
        self.slept: list[float] = []
        self.events: list[tuple[str, dict[str, Any]]] = []

    def clock(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)

    def log(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    def fetcher(self, timeout: float = 5.0) -> HttpFetcher:
        return HttpFetcher(timeout=timeout, clock=self.clock, sleep=self.sleep, jitter=lambda: 1.0)

    def library(self, services: Services, cache: Cache | None = None, *, online: bool = True) -> Library:
        return Library(
            cache or Cache(None, log=self.log),
            self.fetcher() if online else None,
            services,
            clock=self.clock,
            log=self.log,
        )

    def events_named(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]
