"""Errors in OpenAI's form survive the way over HTTP as those of `wire.problems` do."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.errors import BlindAIError, BudgetExhausted, InvalidInput, ModelNotFound, QuotaExceeded
from blindai.wire.openai import error_body, error_from
from blindai.wire.problems import MAX_PROBLEM_BYTES, PROBLEMS, problem_body, status_of


@pytest.mark.parametrize("code", [code for code, problem in PROBLEMS.items() if problem.kind is not BudgetExhausted])
def test_every_code_travels(code: str) -> None:
    sent = PROBLEMS[code].kind("what was wrong", code=code, hint="what to do")
    received = error_from(status_of(sent), error_body(sent))
    assert type(received) is type(sent)
    assert (received.message, received.code, received.hint) == ("what was wrong", code, "what to do")


def test_an_exhausted_budget_keeps_its_figures() -> None:
    sent = BudgetExhausted("used up", used=7, granted=5, request_id="r1", state="denied", reason="not now")
    received = error_from(status_of(sent), error_body(sent))
    assert isinstance(received, BudgetExhausted)
    assert (received.used, received.granted, received.request_id) == (7, 5, "r1")
    assert (received.state, received.reason) == ("denied", "not now")


@pytest.mark.parametrize(
    ("error", "kind", "param"),
    [
        (ModelNotFound("x", code="model.not_found"), "not_found_error", "model"),
        (InvalidInput("x", code="input.tokens"), "invalid_request_error", "input"),
        (QuotaExceeded("x", code="quota.queue"), "rate_limit_error", None),
        (QuotaExceeded("x", code="quota.run_time"), "server_error", None),
        (BudgetExhausted("x", used=1, granted=1, request_id="", state=""), "insufficient_quota", None),
    ],
)
def test_what_openais_clients_look_at(error: BlindAIError, kind: str, param: str | None) -> None:
    detail = json.loads(error_body(error))["error"]
    assert (detail["message"], detail["code"], detail["type"]) == ("x", error.code, kind)
    assert detail["param"] == param
    assert "hint" not in detail


def test_a_refusal_of_the_connection_is_read_too() -> None:
    sent = QuotaExceeded("wait", code="quota.queue", hint="later")
    received = error_from(429, problem_body(sent))
    assert (type(received), received.code, received.hint) == (QuotaExceeded, "quota.queue", "later")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff",
        b"[" * 1000,
        b'{"error": null}',
        b'{"error": {"message": "x"}}',
        b'{"error": {"message": "x", "type": "y", "code": 7, "param": null}}',
        b'{"error": {"message": "' + b"x" * MAX_PROBLEM_BYTES + b'", "type": "y", "code": "z", "param": null}}',
    ],
)
def test_what_is_no_error_of_ours_is_not_repeated(body: bytes) -> None:
    received = error_from(404, body)
    assert (type(received), received.code) == (ModelNotFound, "http.status")


@given(st.integers(400, 599), st.binary(max_size=200))
def test_any_body_becomes_an_error(status: int, body: bytes) -> None:
    assert isinstance(error_from(status, body), BlindAIError)
