"""What a hostile control plane can do, and what it cannot: the table of docs/protocol/cloud.md, tried out."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import numpy as np
import onnx
import pytest

from blindai.enclave.cloud import authoriser
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import AuthorisationAnswer, AuthorisationRequest, Quotas, Scope
from enclave_server import Response, binary_request, node_model
from fake_cloud import FakeControlPlane

from .conftest import CloudEnclave

MODEL = node_model(onnx.helper.make_node("Mul", ["x", "w"], ["y"]), size=3, w=np.array([2.5, -1.25, 7.0], np.float32))
VALUES = np.array([[1234.5678, 8765.4321, 555.25]], np.float32)
STORED = "/v2/repository/models/victim/model"
INFER = "/v2/models/victim/model/infer"


@pytest.fixture(scope="module")
def victim(enclave: CloudEnclave, plane: FakeControlPlane) -> ApiKey:
    """A key of an account that has a private model and queries it."""
    key = plane.key("victim")
    assert enclave.ask("PUT", STORED, key, MODEL).status == 201
    assert infer(enclave, key).status == 200
    return key


def infer(enclave: CloudEnclave, key: ApiKey) -> Response:
    body, length = binary_request(VALUES)
    return enclave.ask("POST", INFER, key, body, f"Inference-Header-Content-Length: {length}")


def test_it_can_authorise_anyone_as_anyone(enclave: CloudEnclave, plane: FakeControlPlane, victim: ApiKey) -> None:
    """So it learns what the model answers to inputs of its own, and can replace it."""
    invented = plane.key("victim")
    assert infer(enclave, invented).status == 200
    other = "/v2/repository/models/victim/planted"
    assert enclave.ask("PUT", other, invented, MODEL).status == 201
    assert enclave.ask("DELETE", other, invented).status == 200


def test_it_can_refuse_service(enclave: CloudEnclave, plane: FakeControlPlane, victim: ApiKey) -> None:
    barred = plane.key("victim")
    plane.revoke(barred)
    infer(enclave, barred).assert_problem(401, "authentication.key")


def test_it_gets_no_model_back(enclave: CloudEnclave, plane: FakeControlPlane, victim: ApiKey) -> None:
    """Whoever it authorises: no address of the enclave gives a model away."""
    invented = plane.key("victim")
    for path in ("", "/versions/1", "/versions/1/config", "/versions/1/stats"):
        answer = enclave.ask("GET", "/v2/models/victim/model" + path, invented)
        assert answer.status == 200
        assert np.array([2.5, -1.25, 7.0], np.float32).tobytes() not in answer.body
        assert len(answer.body) < 2000
    enclave.ask("GET", STORED, invented).assert_problem(405, "http.method")


def test_it_hears_of_counts_and_of_nothing_that_was_asked(
    enclave: CloudEnclave, plane: FakeControlPlane, victim: ApiKey
) -> None:
    answer = infer(enclave, victim)
    enclave.eventually(lambda: ("victim", victim.id) in plane.totals)
    heard = b"".join(body for _, body in plane.received)
    outputs = VALUES * np.array([2.5, -1.25, 7.0], np.float32)
    needles = [victim.text.encode(), MODEL[:32], answer.body[-12:]]
    needles += [number.tobytes() for number in (*VALUES.ravel(), *outputs.ravel())]
    needles += [repr(float(number)).encode() for number in (*VALUES.ravel(), *outputs.ravel())]
    assert victim.digest.encode() in heard
    for needle in needles:
        assert needle not in heard


def test_it_cannot_have_an_assertion_taken_by_another_enclave(
    enclave: CloudEnclave, plane: FakeControlPlane, victim: ApiKey, start: Callable[..., CloudEnclave]
) -> None:
    """Nor by the same one once more: answers that one enclave got are given to the other as they were."""
    recorded: list[AuthorisationAnswer] = []
    key = plane.key("victim")

    def record(_: AuthorisationRequest, answer: AuthorisationAnswer) -> AuthorisationAnswer:
        recorded.append(answer)
        return answer

    plane.tamper = record
    try:
        assert infer(enclave, key).status == 200
    finally:
        plane.tamper = None
    kept = next(answer for answer in recorded if key.digest in {signed.assertion.key for signed in answer.assertions})
    another = FakeControlPlane()
    another._private_key = plane._private_key
    second = start(another)
    another.tamper = lambda *_: kept
    second.ask("POST", "/v2/repository/index", key).assert_problem(503, "unavailable.cloud")


def test_it_cannot_make_an_assertion_last(start: Callable[..., CloudEnclave], monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says once is good for four seconds, however long it is silent then."""
    monkeypatch.setattr(authoriser, "_ANSWER_SECONDS", 0.2)
    plane = FakeControlPlane()
    enclave = start(plane)
    key = plane.key("victim")
    began = time.monotonic()
    assert enclave.ask("POST", "/v2/repository/index", key).status == 200
    plane.delay = 60.0
    while enclave.ask("GET", "/v2/models/stats", key).status == 200:
        assert time.monotonic() - began < 5
        time.sleep(0.05)


def test_it_cannot_exceed_the_measured_limits(start: Callable[..., CloudEnclave]) -> None:
    plane = FakeControlPlane()
    enclave = start(plane, limits={"max_namespace_models": 1})
    key = plane.key(
        "victim", Scope.UPLOAD, quotas=Quotas(models=10**15, model_bytes=10**15, requests_per_minute=10**15)
    )
    assert enclave.ask("PUT", STORED, key, MODEL).status == 201
    enclave.ask("PUT", STORED, key, MODEL).assert_problem(507, "quota.namespace_models")


def test_it_cannot_answer_without_its_key(start: Callable[..., CloudEnclave]) -> None:
    plane, forger = FakeControlPlane(), FakeControlPlane()
    enclave = start(plane)
    key = forger.key("victim")

    def forged(asked: AuthorisationRequest, _: AuthorisationAnswer) -> AuthorisationAnswer:
        forger.instance = plane.instance
        return forger.answer(asked)

    plane.tamper = forged
    enclave.ask("POST", "/v2/repository/index", key).assert_problem(503, "unavailable.cloud")


def test_floods_of_answers_are_cut_off(start: Callable[..., CloudEnclave]) -> None:
    """An answer is read up to its limit, whatever it announces; here it comes whole, and is not taken."""
    plane = FakeControlPlane()
    enclave = start(plane)
    plane.tamper = lambda asked, answer: msgspec.json.encode(answer) + b" " * (1 << 20) + b"x"
    enclave.ask("POST", "/v2/repository/index", plane.key("victim")).assert_problem(503, "unavailable.cloud")
    assert enclave.ask("GET", "/v2/health/ready").status == 200
