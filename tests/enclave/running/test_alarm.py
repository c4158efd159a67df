"""A timer that is set often and rings seldom."""

from __future__ import annotations

import asyncio
from typing import Any

from blindai.enclave.running.alarm import Alarm


class HandLoop:
    """The part of an event loop that an alarm uses, with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[asyncio.TimerHandle, Any]] = []
        self.made = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Any) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, call, (), self)  # type: ignore[arg-type] # the part of a loop that it uses
        self.timers.append((handle, call))
        self.made += 1
        return handle

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def move(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0].when() <= self.now]
        self.timers = [timer for timer in self.timers if timer[0].when() > self.now]
        for handle, call in due:
            if not handle.cancelled():
                call()


def made() -> tuple[HandLoop, Alarm, list[float]]:
    loop = HandLoop()
    rung: list[float] = []
    return loop, Alarm(loop, lambda: rung.append(loop.now)), rung  # type: ignore[arg-type] # the part of a loop it uses


def test_it_rings_once_in_its_time() -> None:
    loop, alarm, rung = made()
    alarm.set(5)
    loop.move(4)
    assert rung == []
    loop.move(1)
    loop.move(100)
    assert rung == [105]


def test_one_that_is_unset_does_not_ring() -> None:
    loop, alarm, rung = made()
    alarm.set(5)
    alarm.unset()
    loop.move(100)
    assert (rung, loop.timers) == ([], [])


def test_setting_it_again_puts_it_off_and_makes_no_other_timer() -> None:
    loop, alarm, rung = made()
    for _ in range(3):
        alarm.set(5)
        loop.move(1)
    assert loop.made == 1
    loop.move(3.5)
    assert rung == []
    loop.move(0.5)
    assert rung == [107]


def test_an_earlier_time_takes_the_place_of_a_later_one() -> None:
    loop, alarm, rung = made()
    alarm.set(50)
    alarm.set(1)
    loop.move(1)
    loop.move(100)
    assert rung == [101]


def test_a_closed_one_leaves_no_timer() -> None:
    loop, alarm, rung = made()
    alarm.set(5)
    alarm.close()
    assert all(handle.cancelled() for handle, _ in loop.timers)
    loop.move(100)
    assert rung == []
