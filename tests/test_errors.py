from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from blindai import errors
from blindai.attestation.result import STEPS, AttestationResult, Check, Mode, Outcome, Status
from blindai.errors import AttestationError, BlindAIError, BudgetExhausted, ConfigurationError, harmless

TREE = [member for _, member in inspect.getmembers(errors, inspect.isclass) if issubclass(member, BlindAIError)]


@pytest.mark.parametrize("kind", TREE)
def test_every_error_is_one_tree_with_a_code_and_words(kind: type[BlindAIError]) -> None:
    assert re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", kind.default_code)
    assert kind.__doc__
    extra: dict[str, Any] = (
        {"used": 1, "granted": 1, "request_id": "r", "state": "open"} if kind is BudgetExhausted else {}
    )
    error = kind("it went wrong", **extra)
    assert (error.message, error.code, error.hint) == ("it went wrong", kind.default_code, "")
    assert error.args == ("it went wrong",)
    named = kind("it went wrong", code="a.b", hint="do this", **extra)
    assert (named.code, named.hint) == ("a.b", "do this")
    assert all(words in str(named) for words in ("it went wrong", "a.b", "do this"))


def test_codes_tell_the_errors_apart() -> None:
    codes = [kind.default_code for kind in TREE]
    assert len(set(codes)) == len(codes)


def test_an_error_reads_as_its_sentence_code_and_next_step() -> None:
    assert str(ConfigurationError("wrong")) == "wrong [configuration.invalid]"
    assert str(ConfigurationError("wrong", code="policy.hex", hint="fix it")) == "wrong [policy.hex]\n  next  fix it"


def test_an_exhausted_budget_says_how_far_it_went() -> None:
    error = BudgetExhausted("the budget is used up", used=7, granted=7, request_id="r1", state="requested")
    assert (error.used, error.granted, error.request_id, error.state) == (7, 7, "r1", "requested")


def test_an_attestation_error_reads_from_check_to_code() -> None:
    checks = tuple(
        Check(step=step, name=STEPS[step], outcome=outcome)
        for step, outcome in (("quote", Outcome.PASS), ("code", Outcome.FAIL), ("hardware", Outcome.SKIP))
    )
    result = AttestationResult(status=Status.CONTRAINDICATED, checks=checks, mode=Mode.FRESH, policy_digest="")
    error = AttestationError(
        "the enclave is genuine, but runs code you have not approved",
        code="code.unknown",
        step="code",
        check="code measurement (MRTD)",
        expected="9f3a..1c (policy ./manifest.toml, line 4)",
        got="41be..77",
        likely="the operator upgraded",
        hint="blindai verify https://host:9443 --explain",
        result=result,
    )
    assert str(error).split("\n") == [
        "the enclave is genuine, but runs code you have not approved",
        "  check     code measurement (MRTD)        1 of 2 passed",
        "  expected  9f3a..1c (policy ./manifest.toml, line 4)",
        "  got       41be..77",
        "  likely    the operator upgraded",
        "  safe      no prompt, tensor or API key was sent",
        "  next      blindai verify https://host:9443 --explain",
        "  code      code.unknown",
    ]


def test_an_attestation_error_without_details_leaves_their_lines_out() -> None:
    assert str(AttestationError("refused", step="quote")).split("\n") == [
        "refused",
        "  check     quote",
        "  safe      no prompt, tensor or API key was sent",
        "  code      attestation.refused",
    ]
    assert "check" not in str(AttestationError("refused"))
    result = AttestationResult(status=Status.CONTRAINDICATED, checks=(), mode=Mode.FRESH, policy_digest="")
    assert "passed" not in str(AttestationError("refused", result=result))


def test_text_of_a_stranger_commands_no_terminal() -> None:
    assert harmless("a\x1b[31mb\x07\r\x9bc\u202e") == "a?[31mb???c?"
    assert harmless("plain") == "plain"
