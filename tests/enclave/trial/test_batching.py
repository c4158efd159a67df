from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blindai.enclave.engine import TensorSpec
from blindai.enclave.trial.batching import NO_BATCHING, measure
from blindai.enclave.trial.budget import Budget
from blindai.enclave.trial.draw import Shape
from blindai.errors import InvalidInput, QuotaExceeded
from scripted_session import ScriptedSession

# So long that what several rows cost at once is nothing beside it.
SINGLE_US = 10_000_000.0


def batched(session: ScriptedSession, budget: Budget, run_us: float = SINGLE_US) -> int:
    return measure(session, [Shape()], max_batch=8, run_us=run_us, budget=budget).max_batch


def test_rows_that_keep_to_themselves_run_together(budget: Budget) -> None:
    assert batched(ScriptedSession(lambda x: x * 2), budget) == 8


def test_the_range_of_a_whole_batch_is_noticed(budget: Budget) -> None:
    """As dynamic quantisation takes it: with rows of one scale it changes little, with extreme ones much."""

    def quantised(x: NDArray[Any]) -> NDArray[Any]:
        scale = np.abs(x).max() / 127 + 1e-9
        levels: NDArray[Any] = np.round(x / scale)
        answer: NDArray[Any] = (levels * scale).astype(np.float32)
        return answer

    assert batched(ScriptedSession(quantised), budget) == 1


def test_one_bit_in_one_row_beside_an_extreme_neighbour_is_noticed(budget: Budget) -> None:
    def leaks(x: NDArray[Any]) -> NDArray[Any]:
        y = x.copy()
        if np.abs(x).max() > 500 and len(x) > 1:
            y[-1, -1] = np.nextafter(y[-1, -1], np.float32(np.inf))
        return y

    assert batched(ScriptedSession(leaks), budget) == 1


@pytest.mark.parametrize("count", [2, 7, 8])
def test_one_number_of_rows_that_is_not_exact_is_enough(budget: Budget, count: int) -> None:
    assert batched(ScriptedSession(lambda x: x + 1 if len(x) == count else x), budget) == 1


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.sum(axis=0),
        lambda x: x.T,
        lambda x: x.sum(),
        lambda x: np.concatenate([x, x]),
        lambda x: np.random.default_rng().random(x.shape),
    ],
    ids=["sum", "transposed", "scalar", "twice", "random"],
)
def test_answers_that_are_not_rows_are_not_batched(budget: Budget, act: Any) -> None:
    assert batched(ScriptedSession(act), budget) == 1


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [TensorSpec("x", "FP32", (1, 4))],
        [TensorSpec("x", "FP32", ())],
        [TensorSpec("x", "FP32", (-1,), ranked=False)],
        [TensorSpec("x", "FP32", (-1, 4)), TensorSpec("z", "FP32", (2, 4))],
    ],
)
def test_inputs_without_rows_are_not_batched_and_not_tried(budget: Budget, inputs: list[TensorSpec]) -> None:
    session = ScriptedSession(inputs=inputs)
    assert batched(session, budget) == 1
    assert session.runs == []


def test_a_model_that_refuses_several_rows_is_not_batched(budget: Budget) -> None:
    def single(x: NDArray[Any]) -> NDArray[Any]:
        if len(x) > 1:
            raise InvalidInput("one", code="input.run")
        return x

    assert batched(ScriptedSession(single), budget) == 1


def test_memory_that_does_not_suffice_is_no_reason_to_refuse_the_model(budget: Budget) -> None:
    def heavy(x: NDArray[Any]) -> NDArray[Any]:
        if len(x) > 1:
            raise QuotaExceeded("much", code="quota.memory")
        return x

    assert batched(ScriptedSession(heavy), budget) == 1


def test_a_gain_too_small_is_none(budget: Budget) -> None:
    def slow(x: NDArray[Any]) -> NDArray[Any]:
        time.sleep(0.001 * len(x))
        return x

    assert measure(ScriptedSession(slow), [Shape()], max_batch=4, run_us=1000.0, budget=budget) == NO_BATCHING


def test_where_the_time_ends_only_what_was_tried_is_allowed(spent: Budget) -> None:
    assert batched(ScriptedSession(), spent) == 1


def test_each_shape_is_tried(budget: Budget) -> None:
    session = ScriptedSession(lambda x: x + 1 if x.shape == (3, 13) else x, [TensorSpec("x", "FP32", (-1, -1))])
    shapes = [Shape(size=8), Shape(size=13)]
    assert measure(session, shapes, max_batch=4, run_us=SINGLE_US, budget=budget).max_batch == 1
    assert measure(session, shapes[:1], max_batch=4, run_us=SINGLE_US, budget=budget).max_batch == 4
