"""Errors survive the way over HTTP with their class, code and words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.errors import (
    AuthenticationError,
    BlindAIError,
    BudgetExhausted,
    InvalidInput,
    InvalidModel,
    LeaseExpired,
    LeaseStopped,
    ModelNotFound,
    PermissionDenied,
    QuotaExceeded,
    Unavailable,
)
from blindai.wire.problems import MAX_PROBLEM_BYTES, PROBLEMS, error_from, problem_body, status_of


@pytest.mark.parametrize("code", [code for code, problem in PROBLEMS.items() if problem.kind is not BudgetExhausted])
def test_every_code_of_the_table_travels(code: str) -> None:
    sent = PROBLEMS[code].kind("what was wrong", code=code, hint="what to do")
    received = error_from(status_of(sent), problem_body(sent))
    assert type(received) is type(sent)
    assert (received.message, received.code, received.hint) == ("what was wrong", code, "what to do")
    assert status_of(sent) == PROBLEMS[code].status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("x", code="input.shape"), 400),
        (InvalidModel("x", code="model.truncated"), 400),
        (QuotaExceeded("x", code="quota.rate"), 429),
        (QuotaExceeded("x"), 429),
        (AuthenticationError("x"), 401),
        (PermissionDenied("x"), 403),
        (ModelNotFound("x"), 404),
        (Unavailable("x"), 503),
        (LeaseStopped("x"), 403),
        (LeaseExpired("x"), 403),
        (BlindAIError("x"), 500),
    ],
)
def test_codes_outside_the_table_take_their_family_or_class(error: BlindAIError, status: int) -> None:
    assert status_of(error) == status
    received = error_from(status, problem_body(error))
    assert (type(received), received.code) == (type(error), error.code)


def test_an_exhausted_budget_keeps_its_figures() -> None:
    sent = BudgetExhausted("used up", used=7, granted=5, request_id="r1", state="denied", reason="not now")
    received = error_from(status_of(sent), problem_body(sent))
    assert isinstance(received, BudgetExhausted)
    assert (received.used, received.granted, received.request_id) == (7, 5, "r1")
    assert (received.state, received.reason) == ("denied", "not now")
    assert status_of(sent) == 402


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidInput), (404, ModelNotFound), (413, QuotaExceeded), (500, Unavailable), (502, Unavailable)],
)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": 1}', b"\xff", b" " * (MAX_PROBLEM_BYTES + 1)])
def test_a_foreign_body_becomes_an_error_of_the_status(status: int, kind: type[BlindAIError], body: bytes) -> None:
    error = error_from(status, body)
    assert type(error) is kind
    assert error.code == "http.status"


def test_an_unknown_code_is_kept() -> None:
    error = error_from(418, b'{"error": "no coffee", "code": "teapot.short"}')
    assert (type(error), error.code) == (BlindAIError, "teapot.short")


@given(st.integers(400, 599), st.binary(max_size=200))
def test_no_body_breaks_the_client(status: int, body: bytes) -> None:
    assert isinstance(error_from(status, body), BlindAIError)
