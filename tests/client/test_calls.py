"""What is sent for each call, to the byte, and what is made of answers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from blindai.attestation.result import AttestationResult, Mode, Status
from blindai.channel.http1 import Answer
from blindai.client.calls import Call, Calls, wanted_visibility
from blindai.client.model_file import ModelBody
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
from blindai.wire.api_key import ApiKey
from blindai.wire.tensor import Tensor

RESULT = AttestationResult(status=Status.AFFIRMING, checks=(), mode=Mode.FRESH, policy_digest="")
CALLS = Calls("host:9443", None)


def lines(call: Call[Any]) -> list[str]:
    head, end, rest = call.head.decode().partition("\r\n\r\n")
    assert (end, rest) == ("\r\n\r\n", "")
    return head.split("\r\n")


def body(call: Call[Any]) -> bytes:
    return b"".join(bytes(part) for part in call.body)


def answer(status: int, content: bytes, **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, content, keep_alive=True)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (CALLS.server(), "GET /v2 HTTP/1.1"),
        (CALLS.model("acme/m"), "GET /v2/models/acme/m HTTP/1.1"),
        (CALLS.model("acme/m", "3"), "GET /v2/models/acme/m/versions/3 HTTP/1.1"),
        (CALLS.index(), "POST /v2/repository/index HTTP/1.1"),
        (CALLS.load("acme/m"), "POST /v2/repository/models/acme/m/load HTTP/1.1"),
        (CALLS.unload("acme/m"), "POST /v2/repository/models/acme/m/unload HTTP/1.1"),
        (CALLS.delete("acme/m"), "DELETE /v2/repository/models/acme/m HTTP/1.1"),
        (CALLS.delete("acme/m", "7"), "DELETE /v2/repository/models/acme/m?version=7 HTTP/1.1"),
        (CALLS.visibility("acme/m"), "GET /v2/repository/models/acme/m/visibility HTTP/1.1"),
        (
            CALLS.set_visibility("acme/m", wanted_visibility("public", ())),
            "PUT /v2/repository/models/acme/m/visibility HTTP/1.1",
        ),
        (CALLS.infer("acme/m", []), "POST /v2/models/acme/m/infer HTTP/1.1"),
        (CALLS.infer("acme/m", [], version="2"), "POST /v2/models/acme/m/versions/2/infer HTTP/1.1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_request_lines(call: Call[Any], line: str) -> None:
    first, host, *headers = lines(call)
    assert (first, host) == (line, "Host: host:9443")
    fields = dict(header.split(": ") for header in headers)
    assert int(fields.get("Content-Length", "0")) == len(body(call))
    assert "Authorization" not in fields


def test_what_is_asked_for_when_a_model_is_shared() -> None:
    call = CALLS.set_visibility("acme/m", wanted_visibility("shared", ["clinic", "lab", "clinic"]))
    assert json.loads(body(call)) == {"visibility": "shared", "shared_with": ["clinic", "lab"]}


def test_a_refusal_says_when_to_come_back() -> None:
    refusal = answer(429, b'{"error": "later", "code": "quota.requests_per_minute"}', retry_after="12")
    with pytest.raises(QuotaExceeded) as caught:
        CALLS.server().read(refusal, RESULT)
    assert caught.value.retry_after == 12


def test_a_key_of_a_cloud_is_checked_and_trimmed() -> None:
    key = ApiKey.new().text
    assert f"Authorization: Bearer {key}" in lines(Calls("host:9443", f" {key}\n").server())
    with pytest.raises(AuthenticationError) as caught:
        Calls("host:9443", f"{key[:7]}{key[7:].swapcase()}")
    assert caught.value.code == "authentication.key_format"


def test_the_api_key_is_a_bearer_token() -> None:
    call = Calls("host:9443", "sk-abc123").server()
    assert "Authorization: Bearer sk-abc123" in lines(call)


def test_the_api_key_is_in_no_repr() -> None:
    calls = Calls("host:9443", "sk-abc123")
    assert "sk-abc123" not in repr(calls)
    assert "sk-abc123" not in repr(calls.server())
    assert "sk-abc123" not in repr(calls.infer("acme/m", []))


@pytest.mark.parametrize("key", ["", "a b", "a\r\nX: y", "a\nb", "ключ", "a\x00", "a\x7f", " a", "a\t"])
def test_an_api_key_that_is_none(key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Calls("host:9443", key)
    assert caught.value.code == "input.api_key"
    assert key == "" or key not in str(caught.value)


@pytest.mark.parametrize("model_id", ["", "/", "m", "/m", "acme/", "a/b/c", "acme//m", "//"])
def test_a_model_id_of_another_form(model_id: str) -> None:
    for make in (CALLS.model, CALLS.load, CALLS.unload, CALLS.delete, lambda name: CALLS.infer(name, [])):
        with pytest.raises(InvalidInput) as caught:
            make(model_id)
        assert caught.value.code == "model.id"
        assert "namespace/name" in caught.value.hint


@pytest.mark.parametrize(
    ("model_id", "path"),
    [
        ("acme/a b", "acme/a%20b"),
        ("acme/a?x=1", "acme/a%3Fx%3D1"),
        ("acme/a#b", "acme/a%23b"),
        ("acme/a%2Fb", "acme/a%252Fb"),
        ("acme/é", "acme/%C3%A9"),
        ("acme/a\r\nX: y", "acme/a%0D%0AX%3A%20y"),
        ("acme/a\x00", "acme/a%00"),
        ("../..", "../.."),
    ],
)
def test_no_character_of_a_model_id_leaves_its_place(model_id: str, path: str) -> None:
    assert lines(CALLS.model(model_id))[0] == f"GET /v2/models/{path} HTTP/1.1"


@pytest.mark.parametrize("version", ["", "1/../2", "1?x", "1 HTTP/1.1", "é", "\r\n", "-1", "1.0", "²", 1.0])
def test_a_version_of_another_form(version: Any) -> None:
    for make in (CALLS.model, CALLS.delete, lambda name, version: CALLS.infer(name, [], version=version)):
        with pytest.raises(InvalidInput) as caught:
            make("acme/m", version)
        assert caught.value.code == "model.version"


def test_a_version_that_is_a_number() -> None:
    assert lines(CALLS.model("acme/m", 3))[0] == "GET /v2/models/acme/m/versions/3 HTTP/1.1"  # type: ignore[arg-type] # people do


def test_upload(adder: bytes) -> None:
    model = ModelBody.open(adder)
    call = CALLS.upload("acme/m", model, model.chunks(), version="4")
    first, *headers = lines(call)
    assert first == "PUT /v2/repository/models/acme/m?version=4 HTTP/1.1"
    fields = dict(header.split(": ", 1) for header in headers)
    assert fields["Expect"] == "100-continue"
    assert fields["Content-Type"] == "application/onnx"
    assert fields["Content-Digest"].startswith("sha-256=:")
    assert call.expect_continue
    assert int(fields["Content-Length"]) == len(body(call))


@pytest.mark.parametrize("binary", [True, False])
def test_infer(binary: bool) -> None:
    tensor = Tensor.from_array("x", np.arange(6, dtype=np.int64).reshape(2, 3))
    call = CALLS.infer("acme/m", [tensor], outputs=["y"], binary=binary, max_answer_bytes=77)
    fields = dict(header.split(": ") for header in lines(call)[1:])
    sent = body(call)
    assert int(fields["Content-Length"]) == len(sent)
    assert call.max_answer_bytes == 77
    assert fields["Content-Type"] == ("application/octet-stream" if binary else "application/json")
    length = int(fields.get("Inference-Header-Content-Length", len(sent)))
    request = json.loads(sent[:length])
    assert request["inputs"][0]["shape"] == [2, 3]
    assert [output["name"] for output in request["outputs"]] == ["y"]
    assert len(sent) - length == (48 if binary else 0)


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            (400, "input.shape", InvalidInput),
            (400, "model.format", InvalidModel),
            (401, "authentication.failed", AuthenticationError),
            (403, "permission.denied", PermissionDenied),
            (403, "lease.stopped", LeaseStopped),
            (403, "lease.expired", LeaseExpired),
            (404, "model.not_found", ModelNotFound),
            (413, "quota.body", QuotaExceeded),
            (503, "busy", Unavailable),
            (500, "internal", BlindAIError),
        ],
    )
    def test_a_refusal_becomes_its_error(self, status: int, code: str, kind: type[BlindAIError]) -> None:
        content = json.dumps({"error": "no", "code": code, "hint": "try"}).encode()
        with pytest.raises(BlindAIError) as caught:
            CALLS.server().read(answer(status, content), RESULT)
        assert type(caught.value) is kind
        assert (caught.value.message, caught.value.code, caught.value.hint) == ("no", code, "try")

    def test_a_budget_keeps_its_figures(self) -> None:
        problem = {"error": "no", "code": "lease.budget_exhausted", "used": 3, "granted": 2, "request_id": "r"}
        with pytest.raises(BudgetExhausted) as caught:
            CALLS.server().read(answer(402, json.dumps(problem).encode()), RESULT)
        assert (caught.value.used, caught.value.granted, caught.value.request_id) == (3, 2, "r")

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"name":1}', b"<html>"])
    def test_one_that_cannot_be_read(self, content: bytes) -> None:
        for call in (CALLS.server(), CALLS.model("acme/m"), CALLS.infer("acme/m", [])):
            with pytest.raises(Unavailable) as caught:
                call.read(answer(200, content), RESULT)
            assert caught.value.code == "unavailable.protocol"

    @pytest.mark.parametrize("length", ["x", "-1", "1e3", "99999", ""])
    def test_a_prediction_with_a_wrong_header_length(self, length: str) -> None:
        content = b'{"model_name":"m","outputs":[]}'
        with pytest.raises(Unavailable) as caught:
            CALLS.infer("acme/m", []).read(answer(200, content, inference_header_content_length=length), RESULT)
        assert caught.value.code == "unavailable.protocol"

    def test_a_prediction(self) -> None:
        content = {
            "model_name": "acme/m",
            "model_version": "3",
            "outputs": [{"name": "y", "datatype": "INT64", "shape": [2], "data": [1, 2]}],
        }
        prediction = CALLS.infer("acme/m", []).read(answer(200, msgspec.json.encode(content)), RESULT)
        assert (prediction.model, prediction.version) == ("acme/m", "3")
        assert prediction.output[0].as_flat() == [1, 2]
        assert prediction.attestation is RESULT

    def test_nothing_is_expected_of_a_control_call(self) -> None:
        for call in (CALLS.load("acme/m"), CALLS.unload("acme/m"), CALLS.delete("acme/m")):
            call.read(answer(200, b"whatever"), RESULT)
