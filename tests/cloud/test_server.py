"""A control plane at work: both ports, from an account to a key that an enclave asks about, and a good end."""

from __future__ import annotations

import http.client
import json
import socket
import ssl

import pytest
from structlog.testing import capture_logs

from blindai.errors import ConfigurationError, Unavailable
from blindai.wire import cloud as wire
from cloud_scene import CloudScene, RunningCloud, question


def test_a_key_from_sign_up_to_its_refusal(scene: CloudScene) -> None:
    tenant = scene.tenant("alice")
    enclave = scene.played()
    with scene.served() as running:
        line = enclave.call(running.enclaves)
        asked = question(tenant.key)
        (signed,) = line.ask(wire.AUTHORISATIONS, asked, wire.AuthorisationAnswer).assertions
        assert (signed.assertion.namespace, signed.assertion.key_id) == ("alice", tenant.key.id)
        scene.plane.accounts.revoke_key(tenant.user, "alice", tenant.key.id)
        answer = line.ask(wire.AUTHORISATIONS, asked, wire.AuthorisationAnswer)
        assert answer == wire.AuthorisationAnswer(refused=(wire.Refused(tenant.key.digest),))
        line.hang_up()


def _get(running: RunningCloud, path: str, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    context = ssl.create_default_context(cafile=str(running.certificate))
    connection = http.client.HTTPSConnection(running.people.removeprefix("https://"), context=context)
    connection.request(method, path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, dict(answer.getheaders())


def test_the_port_of_people_shows_pages_and_interface_and_nothing_of_enclaves(small_scene: CloudScene) -> None:
    with small_scene.served() as running:
        for path in (wire.AUTHORISATIONS, wire.REPORTS):
            status, text, _ = _get(running, path, "POST")
            assert (status, "input.message" in text) == (404, False)
        status, text, headers = _get(running, "/nothing-is-here")
        assert (status, headers["content-type"].partition(";")[0]) == (404, "text/html")
        status, text, headers = _get(running, "/api/v1/nothing-is-here")
        assert (status, json.loads(text)["code"]) == (404, "http.not_found")
        assert headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_port_of_enclaves_speaks_to_nobody_without_evidence(small_scene: CloudScene) -> None:
    with small_scene.served() as running:
        host, _, port = running.enclaves.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as plain:
            plain.sendall(b"POST /v1/reports HTTP/1.1\r\n\r\n")
            assert b"channel.plain_http" in plain.recv(4096)


def test_a_stop_is_in_good_order(small_scene: CloudScene) -> None:
    enclave = small_scene.played()
    with capture_logs() as logs:
        with small_scene.served() as running:
            address = running.enclaves
            line = enclave.call(address)
            line.ask(wire.REPORTS, wire.Report(first=True), wire.Reported)
        with pytest.raises(Unavailable):
            line.ask(wire.REPORTS, wire.Report(), wire.Reported)
        line.hang_up()
        with pytest.raises(Unavailable):
            enclave.call(address)
    events = [one["event"] for one in logs]
    assert (events[0], events[-1]) == ("serving", "stopped")
    assert "incident" not in events


def test_a_taken_port_is_named(small_scene: CloudScene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigurationError) as caught:
            RunningCloud(small_scene, enclave_port=taken.getsockname()[1])
        assert caught.value.code == "configuration.address"


def test_two_servers_of_one_cloud_are_one_to_an_enclave(small_scene: CloudScene) -> None:
    """They share the folder, and so database and key: what one was told, the other knows."""
    tenant = small_scene.tenant("alice")
    enclave = small_scene.played()
    with (
        CloudScene(small_scene.folder, platform=small_scene.platform) as second,
        small_scene.served() as one,
        second.served() as two,
    ):
        assert second.plane.public_key == small_scene.plane.public_key
        total = wire.UsageTotal(namespace="alice", key_id=tenant.key.id, queries=3)
        for running in (one, two):
            line = enclave.call(running.enclaves)
            line.ask(wire.REPORTS, wire.Report(totals=(total,)), wire.Reported)
            answer = line.ask(wire.AUTHORISATIONS, question(tenant.key), wire.AuthorisationAnswer)
            assert len(answer.assertions) == 1
            line.hang_up()
        assert second.plane.fleet.usage("alice").month_queries == 3
        second.plane.accounts.revoke_key(tenant.user, "alice", tenant.key.id)
        assert len(enclave.ask(tenant.key).refused) == 1
