from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import blindai
from blindai.enclave.sandbox.messages import REFUSALS, ProtocolError, Refusal, error_of, refusal_of
from blindai.errors import BlindAIError, InvalidInput, QuotaExceeded

ENCLAVE = Path(blindai.__file__).parent / "enclave"
CONFINED = ("models/bundle.py", "engine.py")
"""Modules whose code runs in a model's process, besides the packages `engines`, `model_file`, `text` and `trial`."""


def codes() -> Iterator[str]:
    """Those given to errors in what runs in the process of a model."""
    files = [ENCLAVE / name for name in CONFINED]
    files += [
        path for folder in ("engines", "model_file", "text", "trial") for path in (ENCLAVE / folder).rglob("*.py")
    ]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant):
                yield str(node.value.value)


def test_what_a_model_may_be_refused_for_never_ends_its_process() -> None:
    """An error that has no place in an answer is the end of the process, and one request could bring it about."""
    found = {code for code in codes() if not code.startswith("configuration.")}
    assert {"quota.texts", "input.text", "model.tokenizer"} <= found
    assert all(refusal_of(BlindAIError("x", code=code)) for code in found), found - {*REFUSALS}


@pytest.mark.parametrize("code", REFUSALS)
def test_refusals_keep_class_code_and_words(code: str) -> None:
    sent = REFUSALS[code]("what was wrong", code=code, hint="what to do")
    refusal = refusal_of(sent)
    assert refusal is not None
    received = error_of(refusal)
    assert type(received) is type(sent)
    assert (received.code, received.message, received.hint) == (code, "what was wrong", "what to do")


def test_there_is_no_memory_for_this_model() -> None:
    refusal = refusal_of(QuotaExceeded("x", code="quota.memory"))
    assert refusal is not None
    assert refusal.code == "quota.run_memory"


def test_codes_that_are_not_a_models_to_give() -> None:
    assert refusal_of(InvalidInput("x", code="lease.stopped")) is None
    with pytest.raises(ProtocolError):
        error_of(Refusal("lease.stopped", "x"))
