"""An enclave in which nothing happens still says from time to time that it is there."""

from __future__ import annotations

import asyncio

import pytest

from blindai.enclave.cloud import reporter as module
from blindai.enclave.cloud.reporter import Reporter
from blindai.enclave.cloud.usage import Usage
from blindai.wire.cloud import SIGN_OF_LIFE_SECONDS
from fake_cloud import FakeControlPlane
from repositories import ThreadRepository

SECOND = 1_000_000_000


def test_a_silent_hour_ends_with_an_empty_report(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = FakeControlPlane()
    now = 0

    async def report_at(*seconds: int) -> None:
        nonlocal now
        repository = ThreadRepository()
        reporter = Reporter(plane.connect, Usage(0), repository)
        try:
            for second in seconds:
                now = second * SECOND
                await reporter.report()
        finally:
            await repository.close()

    monkeypatch.setattr(module, "elapsed_ns", lambda: now)
    start = 10 * SIGN_OF_LIFE_SECONDS
    asyncio.run(report_at(start, start + 1, start + SIGN_OF_LIFE_SECONDS - 1, start + SIGN_OF_LIFE_SECONDS))
    assert [(report.first, report.totals, report.models) for report in plane.reports] == [
        (True, (), ()),
        (False, (), ()),
    ]
