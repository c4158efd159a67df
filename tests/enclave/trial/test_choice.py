from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blindai.enclave.engine import TensorSpec
from blindai.enclave.trial.budget import Budget
from blindai.enclave.trial.choice import Tried, Way, try_out
from blindai.errors import BlindAIError, InvalidInput, InvalidModel, QuotaExceeded
from blindai.wire.tensor import Tensor
from scripted_session import ScriptedSession

FIRST = Way("first", 1, "float32")
OTHER = Way("other", 1, "float32")
REDUCED = Way("other", 1, "bfloat16")


def slow(x: NDArray[Any]) -> NDArray[Any]:
    time.sleep(0.02)
    return x


def refusing(error: BlindAIError) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def act(x: NDArray[Any]) -> NDArray[Any]:
        raise error

    return act


class Shelf:
    """Loads what a test has put there, and knows what was open at once."""

    def __init__(self, **sessions: Callable[[], ScriptedSession]) -> None:
        self.sessions = sessions
        self.loaded: list[tuple[Way, ScriptedSession]] = []

    def __call__(self, way: Way) -> ScriptedSession:
        assert all(session.closed for _, session in self.loaded), "one session at a time"
        session = self.sessions[f"{way.engine}_{way.precision}" if way == REDUCED else way.engine]()
        self.loaded.append((way, session))
        return session

    def chosen(self, *ways: Way, budget: Budget) -> Tried:
        tried = try_out(self, ways, max_batch=1, budget=budget)
        way, session = self.loaded[-1]
        assert tried.session is session
        assert not session.closed
        assert way == Way(tried.trial.engine, tried.trial.threads, tried.trial.precision)
        return tried


def test_the_faster_one_is_kept_if_it_agrees(budget: Budget) -> None:
    shelf = Shelf(first=lambda: ScriptedSession(slow), other=ScriptedSession)
    trial = shelf.chosen(FIRST, OTHER, budget=budget).trial
    assert trial.engine == "other"
    assert [candidate.engine for candidate in trial.candidates] == ["first", "other"]
    assert trial.run_us == trial.candidates[1].run_us < trial.candidates[0].run_us
    assert trial.shapes == {"x": (1, 4)}


def test_the_reference_stays_where_the_other_is_slower(budget: Budget) -> None:
    shelf = Shelf(first=ScriptedSession, other=lambda: ScriptedSession(slow))
    assert shelf.chosen(FIRST, OTHER, budget=budget).trial.engine == "first"


def test_the_fastest_is_not_kept_if_its_answers_differ(budget: Budget) -> None:
    shelf = Shelf(first=lambda: ScriptedSession(slow), other=lambda: ScriptedSession(lambda x: x + np.float32(0.01)))
    trial = shelf.chosen(FIRST, OTHER, budget=budget).trial
    assert trial.engine == "first"
    assert trial.candidates[1].refused == "its answers differ"
    assert 0.001 < trial.candidates[1].difference < 0.01


def test_reduced_precision_agrees_within_a_wider_tolerance(budget: Budget) -> None:
    rough = lambda: ScriptedSession(lambda x: x * np.float32(1.01))  # noqa: E731 - a name for what stands three times here
    shelf = Shelf(first=lambda: ScriptedSession(slow), other=rough, other_bfloat16=rough)
    trial = shelf.chosen(FIRST, OTHER, REDUCED, budget=budget).trial
    assert (trial.engine, trial.precision) == ("other", "bfloat16")
    assert trial.candidates[1].refused


def test_infinities_in_the_wrong_place_can_be_written_down(budget: Budget) -> None:
    shelf = Shelf(first=ScriptedSession, other=lambda: ScriptedSession(lambda x: x * np.float32(np.nan)))
    assert shelf.chosen(FIRST, OTHER, budget=budget).trial.candidates[1].difference == -1.0


def test_integers_that_do_not_fit_are_noticed(budget: Budget) -> None:
    whole = [TensorSpec("x", "INT64", (-1, 4))]
    shelf = Shelf(
        first=lambda: ScriptedSession(slow, whole),
        other=lambda: ScriptedSession(lambda x: x.astype("i4").astype("i8"), whole),
    )
    assert shelf.chosen(FIRST, OTHER, budget=budget).trial.candidates[1].refused == "its answers differ"


@pytest.mark.parametrize(
    "error",
    [
        InvalidModel("no", code="model.unsupported_operator"),
        InvalidInput("no", code="input.run"),
        QuotaExceeded("no", code="quota.memory"),
    ],
)
def test_a_candidate_that_fails_is_refused_in_words(budget: Budget, error: BlindAIError) -> None:
    def broken() -> ScriptedSession:
        raise error

    for other in (broken, lambda: ScriptedSession(refusing(error))):
        trial = Shelf(first=ScriptedSession, other=other).chosen(FIRST, OTHER, budget=budget).trial
        assert trial.engine == "first"
        assert trial.candidates[1].refused == "no"


def test_a_candidate_with_other_inputs_is_refused(budget: Budget) -> None:
    shelf = Shelf(
        first=lambda: ScriptedSession(slow), other=lambda: ScriptedSession(inputs=[TensorSpec("x", "FP32", (-1, 5))])
    )
    assert shelf.chosen(FIRST, OTHER, budget=budget).trial.candidates[1].refused == "it sees other inputs in the model"


def test_a_candidate_that_answers_what_the_reference_refuses_is_refused(budget: Budget) -> None:
    two = [TensorSpec("x", "FP32", (-1, -1)), TensorSpec("z", "FP32", (-1, -1))]

    class Strict(ScriptedSession):
        def run(self, inputs: Mapping[str, Tensor], *arguments: Any, **options: Any) -> list[Tensor]:
            if inputs["x"].shape != inputs["z"].shape:
                raise InvalidInput("no", code="input.run")
            return super().run(inputs, *arguments, **options)

    def strict() -> ScriptedSession:
        return Strict(slow, two)

    shelf = Shelf(first=strict, other=lambda: ScriptedSession(inputs=two))
    trial = shelf.chosen(FIRST, OTHER, budget=budget).trial
    assert trial.candidates[1].refused == "it answers where shapes do not go together"
    assert not Shelf(first=strict, other=strict).chosen(FIRST, OTHER, budget=budget).trial.candidates[1].refused


def test_a_model_that_nothing_fits_is_opened_untried(budget: Budget) -> None:
    shelf = Shelf(first=lambda: ScriptedSession(refusing(InvalidInput("no", code="input.run"))))
    trial = shelf.chosen(FIRST, budget=budget).trial
    assert (trial.engine, trial.shapes, trial.run_us, trial.max_batch) == ("first", {}, 0.0, 1)


@pytest.mark.parametrize("code", ["model.run", "quota.memory", "quota.load_time"])
def test_a_model_that_cannot_run_at_all_is_refused_and_closed(budget: Budget, code: str) -> None:
    kind = InvalidModel if code == "model.run" else QuotaExceeded
    shelf = Shelf(first=lambda: ScriptedSession(refusing(kind("no", code=code))))
    with pytest.raises(kind) as caught:
        try_out(shelf, [FIRST], max_batch=1, budget=budget)
    assert caught.value.code == code
    assert shelf.loaded[0][1].closed


def test_the_first_size_that_the_model_takes_is_used(budget: Budget) -> None:
    def long_only(x: NDArray[Any]) -> NDArray[Any]:
        if x.shape[1] < 400:
            raise InvalidInput("short", code="input.run")
        return x

    shelf = Shelf(first=lambda: ScriptedSession(long_only, [TensorSpec("x", "FP32", (-1, -1))]))
    assert shelf.chosen(FIRST, budget=budget).trial.shapes == {"x": (1, 1024)}


def test_where_the_time_is_over_others_are_left_out(spent: Budget) -> None:
    trial = Shelf(first=ScriptedSession, other=ScriptedSession).chosen(FIRST, OTHER, budget=spent).trial
    assert trial.engine == "first"
    assert trial.run_us > 0
    assert trial.candidates[1].refused == "the time for the trial was over"
