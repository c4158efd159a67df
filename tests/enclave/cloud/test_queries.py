"""Each request is decided on its own: by its own key, whatever came before it on the connection."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import numpy as np
import onnx
import pytest

from blindai.errors import Unavailable
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import ModelVisibility, Scope, Visibility
from enclave_server import Response, Wire, binary_request, node_model
from fake_cloud import PLENTY, FakeControlPlane

from .conftest import CloudEnclave, bearer

IDENTITY = node_model(onnx.helper.make_node("Identity", ["x"], ["y"]), size=3)
VALUES = np.ones((1, 3), np.float32)
BODY, LENGTH = binary_request(VALUES)

MODEL = "/v2/models/acme/scorer/infer"
STORED = "/v2/repository/models/acme/scorer"


@pytest.fixture(scope="module")
def owner(enclave: CloudEnclave, plane: FakeControlPlane) -> ApiKey:
    """A key of the account that has a model."""
    key = plane.key("acme")
    assert enclave.ask("PUT", STORED, key, IDENTITY).status == 201
    return key


@pytest.fixture(autouse=True)
def private(enclave: CloudEnclave, owner: ApiKey) -> None:
    show(enclave, owner, Visibility.PRIVATE)


def show(enclave: CloudEnclave, owner: ApiKey, visibility: Visibility, *shared_with: str) -> None:
    body = msgspec.json.encode(ModelVisibility(visibility, shared_with))
    assert enclave.ask("PUT", STORED + "/visibility", owner, body).status == 200


def query(key: ApiKey | str | None, path: str = MODEL) -> bytes:
    """The bytes of a query, always the same for the same key."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(BODY)}", *bearer(key)]
    return "".join(f"{line}\r\n" for line in [*lines, f"Inference-Header-Content-Length: {LENGTH}", ""]).encode() + BODY


def infer(wire: Wire, key: ApiKey | str | None) -> Response:
    wire.send(query(key))
    return wire.response()


def code(response: Response) -> str:
    return "" if response.status == 200 else str(response.json["code"])


def test_the_keys_of_one_connection_take_turns(enclave: CloudEnclave, plane: FakeControlPlane, owner: ApiKey) -> None:
    stranger, upload_only, revoked = plane.key("other"), plane.key("acme", Scope.UPLOAD), plane.key("acme")
    plane.revoke(revoked)
    wanted = {
        owner: "",
        stranger: "model.not_found",
        None: "model.not_found",
        upload_only: "permission.scope",
        revoked: "authentication.key",
        "bai_sk_": "authentication.key_format",
    }
    with enclave.connect() as wire:
        for _ in range(4):
            for key, answer in wanted.items():
                # Twice the same head: the second is not parsed, and is decided all the same.
                assert [code(infer(wire, key)) for _ in range(2)] == [answer] * 2


def test_pipelined_requests_each_have_their_own_key(
    enclave: CloudEnclave, plane: FakeControlPlane, owner: ApiKey
) -> None:
    stranger = plane.key("other")
    new = plane.key("acme")  # nobody was asked about it yet
    keys = [owner, None, new, stranger, owner, new, None]
    with enclave.connect() as wire:
        wire.send(b"".join(map(query, keys)))
        answers = [code(wire.response()) for _ in keys]
    assert answers == ["", "model.not_found", "", "model.not_found", "", "", "model.not_found"]


def test_a_known_head_is_refused_when_its_key_was_revoked(
    enclave: CloudEnclave, plane: FakeControlPlane, owner: ApiKey
) -> None:
    key = plane.key("acme")
    with enclave.connect() as wire:
        assert code(infer(wire, key)) == ""
        assert code(infer(wire, key)) == ""
        plane.revoke(key)
        deadline = time.monotonic() + 5
        while (answer := code(infer(wire, key))) == "":
            assert time.monotonic() < deadline
        assert answer == "authentication.key"


def test_a_known_head_is_refused_when_the_model_is_shared_no_more(
    enclave: CloudEnclave, plane: FakeControlPlane, owner: ApiKey
) -> None:
    partner = plane.key("partner")
    with enclave.connect() as wire:
        for visibility, shared_with, wanted in (
            (Visibility.SHARED, ("partner",), ""),
            (Visibility.PRIVATE, (), "model.not_found"),
            (Visibility.PUBLIC, (), ""),
            (Visibility.SHARED, ("somebody-else",), "model.not_found"),
        ):
            show(enclave, owner, visibility, *shared_with)
            assert [code(infer(wire, partner)) for _ in range(3)] == [wanted] * 3


def test_a_right_that_ends_while_the_body_comes_is_gone(
    enclave: CloudEnclave, plane: FakeControlPlane, owner: ApiKey
) -> None:
    partner = plane.key("partner")
    show(enclave, owner, Visibility.SHARED, "partner")
    with enclave.connect() as wire:
        assert code(infer(wire, partner)) == ""
        sent = query(partner)
        wire.send(sent[:-5])
        enclave.request("GET", "/v2/health/live")  # the head has arrived
        show(enclave, owner, Visibility.PRIVATE)
        wire.send(sent[-5:])
        assert code(wire.response()) == "model.not_found"


def test_a_key_that_is_revoked_while_the_body_comes_runs_nothing(
    enclave: CloudEnclave, plane: FakeControlPlane, owner: ApiKey
) -> None:
    key = plane.key("acme")
    with enclave.connect() as wire:
        assert code(infer(wire, key)) == ""
        sent = query(key)
        wire.send(sent[:-5])
        plane.revoke(key)
        membership = enclave.application.membership
        assert membership is not None
        callers = membership.queries._callers
        enclave.eventually(lambda: b"Bearer " + key.text.encode() not in callers)
        wire.send(sent[-5:])
        assert code(wire.response()) == "authentication.key"


def test_a_model_that_is_deleted_while_the_body_comes_is_gone(
    enclave: CloudEnclave, plane: FakeControlPlane, owner: ApiKey
) -> None:
    other = STORED + "-2"
    assert enclave.ask("PUT", other, owner, IDENTITY).status == 201
    with enclave.connect() as wire:
        sent = query(owner, MODEL.replace("scorer", "scorer-2"))
        wire.send(sent)
        assert code(wire.response()) == ""
        wire.send(sent[:-5])
        assert enclave.ask("DELETE", other, owner).status == 200
        wire.send(sent[-5:])
        assert code(wire.response()) == "model.not_found"


def test_a_query_while_the_control_plane_is_slow_waits_and_others_do_not(
    enclave: CloudEnclave, plane: FakeControlPlane, owner: ApiKey
) -> None:
    assert enclave.ask("GET", "/v2/models/acme/scorer/ready", owner).status == 200
    new = plane.key("acme")
    plane.delay = 0.3
    try:
        with enclave.connect() as slow, enclave.connect() as quick:
            slow.send(query(new))
            assert [code(infer(quick, owner)) for _ in range(20)] == [""] * 20
            assert not slow.readable()
            assert code(slow.response()) == ""
    finally:
        plane.delay = 0.0


def test_a_client_that_goes_away_while_it_is_asked_who_it_is_leaves_nothing(
    enclave: CloudEnclave, plane: FakeControlPlane, owner: ApiKey
) -> None:
    assert enclave.application.bodies.used == 0
    plane.delay = 0.2
    try:
        with enclave.connect() as wire:
            wire.send(query(plane.key("acme")))
            enclave.eventually(lambda: enclave.application.bodies.used > 0)
            wire.reset()
        enclave.eventually(lambda: enclave.application.bodies.used == 0)
    finally:
        plane.delay = 0.0


def test_requests_of_a_minute_are_limited_for_the_account_and_not_for_the_key(
    enclave: CloudEnclave, plane: FakeControlPlane, owner: ApiKey
) -> None:
    show(enclave, owner, Visibility.PUBLIC)
    quotas = msgspec.structs.replace(PLENTY, requests_per_minute=6)
    first, second = plane.key("limited", quotas=quotas), plane.key("limited", quotas=quotas)
    with enclave.connect() as wire:
        answers = [infer(wire, key) for key in (first, second) * 4]
        assert [code(answer) for answer in answers] == [""] * 6 + ["quota.requests_per_minute"] * 2
        assert [answer.status for answer in answers[6:]] == [429, 429]
        assert 1 <= int(answers[6].headers["retry-after"]) <= 10
        # One bucket for all that the account asks, and one for each account.
        refused = enclave.ask("POST", "/v2/repository/index", first)
        refused.assert_problem(429, "quota.requests_per_minute")
        assert code(infer(wire, owner)) == ""
    enclave.eventually(lambda: ("limited", second.id) in plane.totals)
    counts = [plane.totals["limited", key.id] for key in (first, second)]
    assert [(count.queries, count.limited) for count in counts] == [(3, 2), (3, 1)]


def test_queries_of_a_month_are_those_left_less_what_was_not_reported(
    enclave: CloudEnclave, plane: FakeControlPlane, owner: ApiKey
) -> None:
    show(enclave, owner, Visibility.PUBLIC)
    key = plane.key("thrifty", quotas=msgspec.structs.replace(PLENTY, requests_left=3))
    with enclave.connect() as wire:
        answers = [infer(wire, key) for _ in range(5)]
        assert [code(answer) for answer in answers] == [""] * 3 + ["quota.requests_per_month"] * 2
        assert (answers[3].status, answers[3].headers["retry-after"]) == (429, "3600")
    # What is no query goes on.
    assert enclave.ask("POST", "/v2/repository/index", key).status == 200


def test_no_requests_may_be_all_that_an_account_may(enclave: CloudEnclave, plane: FakeControlPlane) -> None:
    key = plane.key("barred", quotas=msgspec.structs.replace(PLENTY, requests_per_minute=0))
    refused = enclave.ask("POST", "/v2/repository/index", key)
    refused.assert_problem(429, "quota.requests_per_minute")
    assert refused.headers["retry-after"] == "60"


def test_all_who_have_no_key_share_one_bucket(start: Callable[..., CloudEnclave]) -> None:
    plane = FakeControlPlane()
    enclave = start(plane, cloud={"anonymous_per_minute": 2})
    owner = plane.key("acme")
    assert enclave.ask("PUT", STORED, owner, IDENTITY).status == 201
    show(enclave, owner, Visibility.PUBLIC)
    answers = []
    for _ in range(3):
        with enclave.connect() as wire:
            answers.append(code(infer(wire, None)))
    assert answers == ["", "", "quota.requests_per_minute"]
    enclave.ask("GET", "/v2/models/acme/scorer").assert_problem(429, "quota.requests_per_minute")
    assert enclave.ask("GET", "/v2/health/live").status == 200
    with enclave.connect() as wire:
        assert code(infer(wire, owner)) == ""


def test_an_enclave_that_takes_nobody_without_a_key(start: Callable[..., CloudEnclave]) -> None:
    plane = FakeControlPlane()
    enclave = start(plane, cloud={"anonymous_per_minute": 0})
    owner = plane.key("acme")
    assert enclave.ask("PUT", STORED, owner, IDENTITY).status == 201
    show(enclave, owner, Visibility.PUBLIC)
    with enclave.connect() as wire:
        assert [code(infer(wire, key)) for key in (None, owner)] == ["authentication.required", ""]
    enclave.ask("GET", "/v2/models/acme/scorer").assert_problem(401, "authentication.required")
    assert enclave.ask("GET", "/v2/health/ready").status == 200


def test_without_the_control_plane_new_keys_are_told_to_come_back(start: Callable[..., CloudEnclave]) -> None:
    plane = FakeControlPlane()
    plane.ttl_ms = 1500
    enclave = start(plane)
    owner = plane.key("acme")
    assert enclave.ask("PUT", STORED, owner, IDENTITY).status == 201
    plane.fault = Unavailable("gone", code="unavailable.connect")
    with enclave.connect() as wire:
        assert code(infer(wire, owner)) == ""
        answer = infer(wire, plane.key("acme"))
        answer.assert_problem(503, "unavailable.cloud")
        assert answer.headers["retry-after"] == "1"
        deadline = time.monotonic() + 6
        while (last := code(infer(wire, owner))) == "":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert last == "unavailable.cloud"
        plane.fault = None
        while code(infer(wire, owner)) == "unavailable.cloud":
            assert time.monotonic() < deadline + 5
            time.sleep(0.05)
        assert code(infer(wire, owner)) == ""


def test_a_model_on_loan_goes_by_its_custodian_s_tokens(start: Callable[..., CloudEnclave]) -> None:
    plane = FakeControlPlane()
    loan = {"address": "127.0.0.1:1", "public_key": plane.public_key, "lease": "lease-" + "a" * 16}
    enclave = start(plane, custody=loan)
    for key in (None, plane.key("acme"), "a token of its custodian's"):
        enclave.ask("GET", "/v2/models/leased/model", key).assert_problem(503, "lease.waiting")
        with enclave.connect() as wire:
            wire.send(query(key, "/v2/models/leased/model/infer"))
            wire.response().assert_problem(503, "lease.waiting")
    assert plane.questions == []
    # Beside it, the cloud decides.
    enclave.ask("GET", "/v2/models/acme/scorer").assert_problem(404, "model.not_found")
    enclave.ask("PUT", STORED, None, IDENTITY).assert_problem(401, "authentication.required")


def test_an_embedding_is_decided_as_a_query_of_its_model(
    enclave: CloudEnclave, plane: FakeControlPlane, owner: ApiKey
) -> None:
    body = msgspec.json.encode({"model": "acme/scorer", "input": "text"})
    answers = {}
    for name, key in {"owner": owner, "stranger": plane.key("other"), "nobody": None}.items():
        answers[name] = enclave.ask("POST", "/v1/embeddings", key, body).json["error"]["code"]
    assert answers == {"owner": "model.task", "stranger": "model.not_found", "nobody": "model.not_found"}
