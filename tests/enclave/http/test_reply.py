from __future__ import annotations

import json

from blindai.enclave.http.reply import incident, problem_content, problem_reply
from blindai.errors import InvalidInput, Unavailable


def test_a_problem_is_json_with_a_code() -> None:
    reply = problem_reply(InvalidInput("wrong", code="input.shape", hint="right it"), b"/v2/models")
    assert reply.status == 400
    assert json.loads(b"".join(reply.buffers)) == {"error": "wrong", "code": "input.shape", "hint": "right it"}
    assert reply.headers == b"content-type: application/json\r\n"


def test_a_problem_has_the_form_of_the_interface_that_was_asked() -> None:
    error = InvalidInput("wrong", code="input.tokens", hint="right it")
    detail = {
        "message": "wrong",
        "type": "invalid_request_error",
        "code": "input.tokens",
        "param": "input",
        "hint": "right it",
    }
    assert json.loads(problem_content(error, b"/v1/embeddings")) == {"error": detail}
    for target in (b"", b"/", b"/v1", b"/v2/v1/", b"/V1/embeddings"):
        assert json.loads(problem_content(error, target))["code"] == "input.tokens", target


def test_who_is_told_to_come_back_is_told_when() -> None:
    assert b"retry-after: 1\r\n" in problem_reply(Unavailable("busy", code="busy"), b"").headers


def test_an_incident_says_nothing_but_its_identifier() -> None:
    first, second = incident(ValueError("secret")), incident(ValueError("secret"))
    assert first.code == "internal"
    assert "secret" not in str(first)
    assert first.message != second.message
