from __future__ import annotations

import json

from blindai.enclave.reply import incident, problem_reply
from blindai.errors import InvalidInput, Unavailable


def test_a_problem_is_json_with_a_code() -> None:
    reply = problem_reply(InvalidInput("wrong", code="input.shape", hint="right it"))
    assert reply.status == 400
    assert json.loads(b"".join(reply.buffers)) == {"error": "wrong", "code": "input.shape", "hint": "right it"}
    assert reply.headers == b"content-type: application/json\r\n"


def test_who_is_told_to_come_back_is_told_when() -> None:
    assert b"retry-after: 1\r\n" in problem_reply(Unavailable("busy", code="busy")).headers


def test_an_incident_says_nothing_but_its_identifier() -> None:
    first, second = incident(ValueError("secret")), incident(ValueError("secret"))
    assert first.code == "internal"
    assert "secret" not in str(first)
    assert first.message != second.message
