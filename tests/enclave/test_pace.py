from __future__ import annotations

from blindai.enclave.pace import Pace

SMALL = Pace.kind(100, 4096)


def test_nothing_is_trusted_before_it_was_tried() -> None:
    pace = Pace()
    for _ in range(3):
        assert not pace.below(SMALL, 1000)
        pace.note(SMALL, 10)
    assert pace.below(SMALL, 1000)


def test_the_slow_first_run_does_not_count_for_ever() -> None:
    pace = Pace()
    for ns in (10**9, 10, 10):
        pace.note(SMALL, ns)
    assert pace.below(SMALL, 1000)


def test_other_sizes_prove_nothing() -> None:
    pace = Pace()
    for _ in range(10):
        pace.note(SMALL, 10)
    assert not pace.below(Pace.kind(100, 1 << 20), 1000)
    assert not pace.below(Pace.kind(1 << 20, 4096), 1000)
    assert pace.below(Pace.kind(101, 4097), 1000)


def test_a_slower_pace_is_noticed() -> None:
    pace = Pace()
    for _ in range(10):
        pace.note(SMALL, 10)
    for _ in range(4):
        pace.note(SMALL, 2000)
    assert not pace.below(SMALL, 1000)


def test_each_disappointment_doubles_the_trials() -> None:
    pace = Pace()
    trials = []
    for _ in range(4):
        count = 0
        while not pace.below(SMALL, 1000):
            pace.note(SMALL, 10)
            count += 1
        trials.append(count)
        pace.disappointed(SMALL)
    assert trials == [3, 6, 12, 24]
