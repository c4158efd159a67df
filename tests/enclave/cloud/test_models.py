"""Models in a cloud: who may query them, how many an account may have, and what of them is counted."""

from __future__ import annotations

import json

import msgspec
import onnx
import pytest

from blindai.enclave.app import Application
from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import ModelVisibility, Visibility
from enclave_server import RunningServer, node_model
from fake_cloud import PLENTY, FakeControlPlane

from .conftest import INLINE, CloudEnclave

IDENTITY = node_model(onnx.helper.make_node("Identity", ["x"], ["y"]), size=3)


@pytest.fixture(scope="module")
def owner(plane: FakeControlPlane) -> ApiKey:
    return plane.key("acme")


def stored(name: str, namespace: str = "acme") -> str:
    return f"/v2/repository/models/{namespace}/{name}"


def visibility(enclave: CloudEnclave, key: ApiKey, name: str) -> ModelVisibility:
    answer = enclave.ask("GET", stored(name) + "/visibility", key)
    assert answer.status == 200
    return msgspec.json.decode(answer.body, type=ModelVisibility)


def test_visibility_is_private_at_first_and_stays_with_the_model(enclave: CloudEnclave, owner: ApiKey) -> None:
    assert enclave.ask("PUT", stored("one"), owner, IDENTITY).status == 201
    assert visibility(enclave, owner, "one") == ModelVisibility(Visibility.PRIVATE)
    wanted = b'{"visibility": "shared", "shared_with": ["zeta", "alpha", "zeta"]}'
    answer = enclave.ask("PUT", stored("one") + "/visibility", owner, wanted)
    assert answer.json == {"visibility": "shared", "shared_with": ["alpha", "zeta"]}
    # Another version is of the same model.
    assert enclave.ask("PUT", stored("one"), owner, IDENTITY).status == 201
    assert enclave.ask("DELETE", stored("one") + "?version=1", owner).status == 200
    assert visibility(enclave, owner, "one").shared_with == ("alpha", "zeta")
    # With its last version it is gone: the next of this name is as private as any.
    assert enclave.ask("DELETE", stored("one"), owner).status == 200
    enclave.ask("GET", stored("one") + "/visibility", owner).assert_problem(404, "model.not_found")
    assert enclave.ask("PUT", stored("one"), owner, IDENTITY).status == 201
    assert visibility(enclave, owner, "one") == ModelVisibility(Visibility.PRIVATE)
    assert enclave.ask("DELETE", stored("one"), owner).status == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"visibility": "shared"}', "input.message"),
        (b'{"visibility": "shared", "shared_with": []}', "input.message"),
        (b'{"visibility": "public", "shared_with": ["partner"]}', "input.message"),
        (b'{"visibility": "private", "shared_with": ["partner"]}', "input.message"),
        (b'{"visibility": "secret"}', "input.message"),
        (b'{"visibility": "public", "until": 5}', "input.message"),
        ('{"visibility": "shared", "shared_with": ["p\u0430rtner"]}'.encode(), "input.message"),
        (b'{"visibility": "shared", "shared_with": ["Partner"]}', "input.message"),
        (b'{"visibility": "shared", "shared_with": ["../acme"]}', "input.message"),
        (b'{"visibility": "shared", "shared_with": [' + b'"partner",' * 100 + b'"partner"]}', "input.message"),
        (b"{}", "input.message"),
        (b"", "input.message"),
        (b"shared", "input.json"),
        (b" " * (65 << 10), "quota.body"),
    ],
)
def test_a_visibility_that_is_none_changes_nothing(
    enclave: CloudEnclave, owner: ApiKey, body: bytes, code: str
) -> None:
    if enclave.ask("GET", "/v2/models/acme/kept", owner).status == 404:
        assert enclave.ask("PUT", stored("kept"), owner, IDENTITY).status == 201
    answer = enclave.ask("PUT", stored("kept") + "/visibility", owner, body)
    assert answer.json["code"] == code
    assert visibility(enclave, owner, "kept") == ModelVisibility(Visibility.PRIVATE)


def limited(plane: FakeControlPlane, **quotas: int) -> ApiKey:
    """A key of an account of its own, with these quotas."""
    return plane.key(f"account-{len(plane.keys)}", quotas=msgspec.structs.replace(PLENTY, **quotas))


def namespace_of(plane: FakeControlPlane, key: ApiKey) -> str:
    return plane.keys[key.digest].namespace


def test_an_account_may_have_so_many_versions_of_models(enclave: CloudEnclave, plane: FakeControlPlane) -> None:
    key = limited(plane, models=2)
    namespace = namespace_of(plane, key)
    for name in ("one", "one"):
        assert enclave.ask("PUT", stored(name, namespace), key, IDENTITY).status == 201
    refused = enclave.ask("PUT", stored("two", namespace), key, IDENTITY)
    refused.assert_problem(429, "quota.account_models")
    assert refused.headers["retry-after"] == "60"
    assert enclave.ask("DELETE", stored("one", namespace) + "?version=1", key).status == 200
    assert enclave.ask("PUT", stored("two", namespace), key, IDENTITY).status == 201


def test_uploads_under_way_count(enclave: CloudEnclave, plane: FakeControlPlane) -> None:
    key = limited(plane, models=1)
    namespace = namespace_of(plane, key)
    with enclave.connect() as wire:
        wire.head("PUT", stored("one", namespace), "Content-Length: 1000", f"Authorization: Bearer {key.text}")
        wire.send(b"x")
        enclave.eventually(lambda: bool(enclave.application.repository.pending))
        enclave.ask("PUT", stored("two", namespace), key, IDENTITY).assert_problem(429, "quota.account_models")
    enclave.eventually(lambda: not enclave.application.repository.pending)
    assert enclave.ask("PUT", stored("two", namespace), key, IDENTITY).status == 201


def test_a_model_too_large_for_the_account_is_refused_before_its_body_is_read(
    enclave: CloudEnclave, plane: FakeControlPlane
) -> None:
    key = limited(plane, model_bytes=len(IDENTITY) + 100)
    namespace = namespace_of(plane, key)
    assert enclave.ask("PUT", stored("one", namespace), key, IDENTITY).status == 201
    with enclave.connect() as wire:
        # Nothing of the body is sent, and the answer is there.
        wire.head("PUT", stored("two", namespace), "Content-Length: 101", f"Authorization: Bearer {key.text}")
        refused = wire.response()
    refused.assert_problem(429, "quota.account_bytes")
    assert refused.headers["retry-after"] == "60"
    assert enclave.ask("DELETE", stored("one", namespace), key).status == 200
    assert enclave.ask("PUT", stored("two", namespace), key, IDENTITY).status == 201


def test_a_body_without_a_length_is_cut_off_where_the_account_ends(
    enclave: CloudEnclave, plane: FakeControlPlane
) -> None:
    key = limited(plane, model_bytes=10)
    with enclave.connect() as wire:
        headers = ("Transfer-Encoding: chunked", f"Authorization: Bearer {key.text}")
        wire.head("PUT", stored("one", namespace_of(plane, key)), *headers)
        wire.send(b"8\r\n12345678\r\n8\r\n12345678\r\n0\r\n\r\n")
        wire.response().assert_problem(429, "quota.account_bytes")
    assert enclave.application.repository.pending == set()


def test_uploads_and_deletions_are_counted_when_they_succeed(enclave: CloudEnclave, plane: FakeControlPlane) -> None:
    key = plane.key("counted")
    path = stored("one", "counted")
    assert enclave.ask("PUT", path, key, b"no model").status == 400
    assert enclave.ask("PUT", path, key, IDENTITY).status == 201
    assert enclave.ask("DELETE", path, key).status == 200
    assert enclave.ask("DELETE", path, key).status == 404
    enclave.eventually(lambda: ("counted", key.id) in plane.totals and plane.totals["counted", key.id].deletions == 1)
    total = plane.totals["counted", key.id]
    assert (total.uploads, total.deletions, total.queries) == (1, 1, 0)


def test_an_enclave_of_no_cloud_knows_no_visibility_and_asks_for_no_key() -> None:
    server = RunningServer(msgspec.convert({"runtime": INLINE}, EnclaveConfig), OnnxRuntimeEngine(), simulated=True)
    try:
        assert server.upload("acme/one", IDENTITY).status == 201
        path = stored("one") + "/visibility"
        server.request("GET", path).assert_problem(404, "cloud.none")
        body = json.dumps({"visibility": "public"}).encode()
        server.request("PUT", path, body).assert_problem(404, "cloud.none")
        # A header that is no key is nothing to it.
        assert server.request("GET", "/v2/models/acme/one", b"", "Authorization: Bearer x").status == 200
        assert server.request("GET", "/metrics").status == 200
    finally:
        server.stop()


def test_an_enclave_of_a_cloud_needs_an_end_that_calls(plane: FakeControlPlane) -> None:
    config = msgspec.convert({"runtime": INLINE, "cloud": plane.config()}, EnclaveConfig)
    with pytest.raises(ValueError, match="control plane"):
        Application(config, OnnxRuntimeEngine())
