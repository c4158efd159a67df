from __future__ import annotations

import numpy as np
import pytest

from blindai.enclave.running.pace import Pace, kind_of
from blindai.wire.tensor import Tensor
from blindai.wire.v2 import InferRequest

SMALL = ("x", "FP32", (1, 4), ())
LIMIT = 1000


def proven(pace: Pace, kind: tuple[object, ...] = SMALL) -> Pace:
    for _ in range(3):
        pace.note(kind, 10, LIMIT)
    return pace


def test_nothing_is_trusted_before_it_was_tried() -> None:
    pace = Pace()
    for _ in range(3):
        assert not pace.below(SMALL, LIMIT)
        pace.note(SMALL, 10, LIMIT)
    assert pace.below(SMALL, LIMIT)


def test_a_slow_run_begins_the_trials_anew() -> None:
    pace = Pace()
    for ns in (10**9, 10, 10, 10**9, 10, 10):
        pace.note(SMALL, ns, LIMIT)
        assert not pace.below(SMALL, LIMIT)
    pace.note(SMALL, 10, LIMIT)
    assert pace.below(SMALL, LIMIT)


def request(shape: tuple[int, ...], *, name: str = "x", outputs: tuple[str, ...] = ()) -> InferRequest:
    return InferRequest((Tensor.from_array(name, np.zeros(shape, np.float32)),), outputs)


@pytest.mark.parametrize(
    "other",
    [
        request((1, 5)),
        request((4, 1)),
        request((4,)),
        request((1, 4), name="z"),
        request((1, 4), outputs=("y",)),
        InferRequest((Tensor.from_array("x", np.zeros((1, 4), np.float64)),)),
        InferRequest((*request((1, 4)).inputs, *request((1, 4), name="z").inputs)),
        InferRequest(()),
    ],
)
def test_other_requests_prove_nothing(other: InferRequest) -> None:
    pace = proven(Pace(), kind_of(request((1, 4))))
    assert pace.below(kind_of(request((1, 4))), LIMIT)
    assert not pace.below(kind_of(other), LIMIT)


def test_a_slower_pace_is_noticed() -> None:
    pace = proven(Pace())
    for _ in range(4):
        pace.note(SMALL, 2 * LIMIT, LIMIT)
    assert not pace.below(SMALL, LIMIT)


def test_each_disappointment_doubles_the_trials() -> None:
    pace = Pace()
    trials = []
    for _ in range(4):
        count = 0
        while not pace.below(SMALL, LIMIT):
            pace.note(SMALL, 10, LIMIT)
            count += 1
        trials.append(count)
        pace.disappointed(SMALL)
    assert trials == [3, 6, 12, 24]


def test_what_was_seen_long_ago_is_forgotten() -> None:
    pace = proven(Pace())
    for size in range(63):
        pace.note(("x", "FP32", (size,), ()), 10, LIMIT)
        pace.note(SMALL, 10, LIMIT)
    assert pace.below(SMALL, LIMIT)
    for size in range(64):
        pace.note(("x", "FP32", (size, 1), ()), 10, LIMIT)
    assert not pace.below(SMALL, LIMIT)
    pace.disappointed(SMALL)
    assert not pace.below(SMALL, LIMIT)


def test_ever_new_shapes_are_not_trusted_ever_anew() -> None:
    """Values alone can make any run a hundred times slower: numbers that are nearly zero, to begin with."""
    pace = Pace()
    trials = []
    for size in range(4):
        kind = ("x", "FP32", (size,), ())
        count = 0
        while not pace.below(kind, LIMIT):
            pace.note(kind, 10, LIMIT)
            count += 1
        trials.append(count)
        pace.disappointed(kind)
    assert trials == [3, 6, 12, 24]
