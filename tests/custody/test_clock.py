"""The custodian's time: the wall clock decides nothing, and a restart never makes a grant end early."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from blindai.custody import clock as module
from blindai.custody.clock import DRIFT_PER_MILLE, Deadline, Deadlines, SystemLedgerClock

TTL = 60_000
LENGTH = TTL + TTL * DRIFT_PER_MILLE // 1000


class FakeClock:
    def __init__(self, boot: str = "first") -> None:
        self.boot = boot
        self.ms = 1_000_000
        self.wall = datetime(2026, 1, 1, tzinfo=UTC)

    def elapsed_ms(self) -> int:
        return self.ms

    def now(self) -> datetime:
        return self.wall


def test_deadline_passes_after_its_time_and_not_before() -> None:
    clock = FakeClock()
    deadlines = Deadlines(clock)
    deadline = deadlines.after(TTL)
    clock.ms += TTL
    assert not deadlines.passed(deadline)
    clock.ms += LENGTH - TTL - 1
    assert deadlines.left_ms(deadline) == 1
    clock.ms += 1
    assert deadlines.passed(deadline)
    clock.ms += 10**9
    assert deadlines.left_ms(deadline) == 0


@pytest.mark.parametrize("ttl", [1, 999, 1000, 1001, 10**12])
def test_clock_that_runs_slow_elsewhere_is_allowed_for(ttl: int) -> None:
    assert Deadlines(FakeClock()).after(ttl).length_ms >= ttl * (1 + DRIFT_PER_MILLE / 1000)


@pytest.mark.parametrize("jump", [timedelta(days=365), timedelta(days=-365)])
def test_wall_clock_decides_nothing(jump: timedelta) -> None:
    clock = FakeClock()
    deadlines = Deadlines(clock)
    deadline = deadlines.after(TTL)
    clock.wall += jump
    assert deadlines.left_ms(deadline) == LENGTH
    assert deadlines.by(deadline) == clock.wall + timedelta(milliseconds=LENGTH)
    clock.ms += LENGTH
    assert deadlines.passed(deadline)


def test_restarted_process_on_the_same_boot_knows_what_is_left() -> None:
    clock = FakeClock()
    deadline = Deadlines(clock).after(TTL)
    clock.ms += LENGTH
    assert Deadlines(clock).passed(deadline)


def test_deadline_of_another_boot_runs_for_its_whole_length_once_more() -> None:
    deadline = Deadlines(FakeClock("first")).after(TTL)
    # Its number is far in the past of this boot's clock, and means nothing here.
    clock = FakeClock("second")
    clock.ms += 10**9
    deadlines = Deadlines(clock)
    assert deadlines.left_ms(deadline) == LENGTH
    clock.ms += LENGTH - 1
    assert not deadlines.passed(deadline)
    clock.ms += 1
    assert deadlines.passed(deadline)


def test_clock_that_counts_from_nothing_again_does_not_revive_anything_for_long() -> None:
    """A boot later, the numbers are small again: a deadline of before must not lie days ahead."""
    deadline = Deadline("first", 10**12, LENGTH)
    clock = FakeClock("second")
    assert Deadlines(clock).left_ms(deadline) == LENGTH


def test_system_clock_goes_forward_and_names_its_boot() -> None:
    one, other = SystemLedgerClock(), SystemLedgerClock()
    assert one.boot == other.boot
    first = one.elapsed_ms()
    assert other.elapsed_ms() >= first
    assert one.now().tzinfo is UTC


def test_system_without_boot_names_counts_each_process_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_BOOT_ID", tmp_path / "nowhere")
    one, other = SystemLedgerClock(), SystemLedgerClock()
    assert one.boot != other.boot
    assert one.elapsed_ms() <= time.monotonic_ns() // 1_000_000


def test_deadlines_of_other_machines_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MET", 3)
    clock = FakeClock()
    deadlines = Deadlines(clock)
    others = [Deadline("another", at_ms, LENGTH) for at_ms in range(5)]
    for deadline in others:
        assert not deadlines.passed(deadline)
    clock.ms += LENGTH
    assert deadlines.passed(others[-1])
    # Forgotten, it is waited for once more: never the other way round.
    assert not deadlines.passed(others[0])
