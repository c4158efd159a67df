"""What enclaves may ask, and what is refused although their gate is open."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from blindai.channel.calling import CallingEnd
from blindai.errors import BlindAIError, CustodianError
from blindai.wire import cloud as wire
from blindai.wire.problems import PROBLEMS
from calling_instance import Line
from cloud_scene import CloudScene, PlayedEnclave, RunningCloud, Tenant, eventually, question
from lease_enclaves import Platform

PATHS = (wire.AUTHORISATIONS, wire.REPORTS)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, platform: Platform) -> Iterator[RunningCloud]:
    """One control plane for all that is refused and changes nothing."""
    with CloudScene(tmp_path_factory.mktemp("scene"), platform=platform) as scene, scene.served() as running:
        yield running


@pytest.fixture(scope="module")
def tenant(shared: RunningCloud) -> Tenant:
    return shared.scene.tenant("alice")


@pytest.fixture
def enclave(shared: RunningCloud) -> PlayedEnclave:
    return PlayedEnclave(shared.scene, "https://enclave.test:9443", shared.scene.config("https://enclave.test:9443"))


@pytest.fixture
def line(shared: RunningCloud, enclave: PlayedEnclave) -> Iterator[Line]:
    opened = enclave.call(shared.enclaves)
    yield opened
    opened.hang_up()


def _refused(line: Line, path: str, body: bytes, status: int, code: str) -> None:
    answer = line.post(path, body)
    assert (answer.status, json.loads(answer.body)["code"]) == (status, code), answer.body


def test_the_gate_admits_and_then_both_requests_are_answered(
    shared: RunningCloud, enclave: PlayedEnclave, line: Line, tenant: Tenant
) -> None:
    assert enclave.id in {one.id for one in shared.scene.plane.fleet.instances()}
    answer = line.ask(wire.AUTHORISATIONS, question(tenant.key), wire.AuthorisationAnswer)
    assert [one.assertion.instance for one in answer.assertions] == [enclave.id]
    total = wire.UsageTotal(namespace="alice", key_id=tenant.key.id, queries=2)
    assert line.ask(wire.REPORTS, wire.Report(totals=(total,)), wire.Reported) == wire.Reported()
    assert shared.scene.plane.fleet.usage("alice").month_queries == 2


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"v":2}', b'{"unknown":1}', b"\xff", b"[" * 5000, b'{"nonce":"x","keys":[]}'],
)
def test_what_is_no_message_is_refused(line: Line, path: str, body: bytes) -> None:
    _refused(line, path, body, 400, "input.message")


@pytest.mark.parametrize(
    "change",
    [
        {"keys": []},
        {"keys": ["ab" * 32] * (wire.MAX_KEYS + 1)},
        {"keys": ["ab" * 31]},
        {"keys": ["AB" * 32]},
        {"keys": ["' OR 1=1 --"]},
        {"nonce": "ab"},
        {"instance": "ab" * 32},
    ],
)
def test_a_question_has_its_form(line: Line, change: dict[str, Any]) -> None:
    asked = msgspec.to_builtins(question("ab" * 32)) | change
    _refused(line, wire.AUTHORISATIONS, json.dumps(asked).encode(), 400, "input.message")


@pytest.mark.parametrize(
    "told",
    [
        {"totals": [{"queries": -1}]},
        {"totals": [{"queries": wire.MAX_COUNT + 1}]},
        {"totals": [{"namespace": "Ünicode", "key_id": "bai_sk_12345678"}]},
        {"totals": [{}] * (wire.MAX_TOTALS + 1)},
        {"models": [{"namespace": "alice", "name": "x" * 65, "version": 1}]},
        {"models": [{"namespace": "alice", "name": "x", "version": 0}]},
        {"models": [{"namespace": "alice", "name": "x", "version": 1, "digest": "ab" * 32}]},
        {"instance": "ab" * 32},
    ],
)
def test_a_report_has_its_form(line: Line, told: dict[str, Any]) -> None:
    _refused(line, wire.REPORTS, json.dumps(told).encode(), 400, "input.message")


def test_refusals_of_the_fleet_travel_with_their_status(line: Line, tenant: Tenant) -> None:
    nameless = wire.Report(totals=(wire.UsageTotal(namespace="alice", queries=1),))
    _refused(line, wire.REPORTS, msgspec.json.encode(nameless), 409, "fleet.totals")


def test_a_message_too_long_ends_the_connection(line: Line) -> None:
    _refused(line, wire.REPORTS, b" " * (wire.MAX_MESSAGE_BYTES + 1), 413, "quota.body")


def test_nothing_else_is_here(line: Line) -> None:
    _refused(line, "/v1/renewals", b"{}", 404, "http.not_found")
    _refused(line, "/", b"{}", 404, "http.not_found")
    _refused(line, "/api/v1/directory", b"{}", 404, "http.not_found")
    _refused(line, f"{wire.REPORTS}/", b"{}", 404, "http.not_found")


def test_another_method_is_refused(line: Line) -> None:
    head = f"GET {wire.REPORTS} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    answer = line._stream.run(line._call.exchange(head, max_answer_bytes=1000))
    assert (answer.status, json.loads(answer.body)["code"]) == (405, "http.method")


def test_the_gate_of_a_custodian_is_not_here(shared: RunningCloud, enclave: PlayedEnclave) -> None:
    with pytest.raises(BlindAIError) as caught:
        enclave.call(shared.enclaves, audience="lease-1")
    assert caught.value.code == "fleet.audience"


def test_other_code_is_refused_and_not_admitted(shared: RunningCloud, enclave: PlayedEnclave) -> None:
    enclave.end = CallingEnd(Platform().attester, enclave.config)
    with pytest.raises(CustodianError) as caught:
        enclave.call(shared.enclaves)
    assert caught.value.code == "endorsements.anchor"
    assert enclave.end.instance not in {one.id for one in shared.scene.plane.fleet.instances()}


def test_an_enclave_of_another_control_plane_is_refused(shared: RunningCloud, enclave: PlayedEnclave) -> None:
    config = {"cloud": enclave.config["cloud"] | {"public_key": "ab" * 32}}
    stranger = PlayedEnclave(shared.scene, enclave.endpoint, config)
    with pytest.raises(BlindAIError) as caught:
        stranger.call(shared.enclaves)
    assert caught.value.code == "fleet.config"


def test_a_failure_of_ours_is_an_incident_and_shows_nothing(
    shared: RunningCloud, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.scene.plane.fleet, "_database", None)
    with capture_logs() as logs:
        _refused(line, wire.REPORTS, b"{}", 500, "internal")
        # It is written down once it has been answered.
        eventually(lambda: [one["event"] for one in logs if one["log_level"] == "error"] == ["incident"])


def test_who_comes_when_too_many_wait_is_told_to_come_back(
    shared: RunningCloud, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.server._reports, "_free", 0)
    _refused(line, wire.REPORTS, b"{}", 503, "busy")
    # Whoever asks does not wait behind those who report.
    line.ask(wire.AUTHORISATIONS, question("ab" * 32), wire.AuthorisationAnswer)


def test_no_word_of_a_message_comes_into_the_log(line: Line, tenant: Tenant) -> None:
    needle = secrets.token_hex(32)
    with capture_logs() as logs:
        line.ask(wire.AUTHORISATIONS, question(needle, tenant.key), wire.AuthorisationAnswer)
        line.post(wire.REPORTS, json.dumps({"models": [{"name": needle}]}).encode())
        line.post(f"/v1/{needle}", b"{}")
    assert {one["event"] for one in logs} >= {"asked", "refused"}
    assert needle not in repr(logs)
    assert tenant.key.digest not in repr(logs)


def test_every_refusal_has_its_place_in_the_table() -> None:
    for code in ("audience", "config", "attestation", "instance", "totals"):
        assert f"fleet.{code}" in PROBLEMS
