from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from blindai.enclave.running.watchdog import Watchdog


class Switch:
    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    made = Watchdog()
    yield made
    made.close()


def test_a_run_past_its_time_is_cancelled(watchdog: Watchdog) -> None:
    late, early = Switch(), Switch()
    watchdog.watch(early, 1000)
    watchdog.watch(late, 0)
    assert late.cancelled.wait(20)
    watchdog.release(late)
    watchdog.release(early)
    assert not early.cancelled.is_set()


def test_a_released_run_is_left_alone(watchdog: Watchdog) -> None:
    released, watched = Switch(), Switch()
    watchdog.watch(released, 0.001)
    watchdog.release(released)
    watchdog.watch(watched, 0.002)
    assert watched.cancelled.wait(20)
    assert not released.cancelled.is_set()
    watchdog.release(watched)
