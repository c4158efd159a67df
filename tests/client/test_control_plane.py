"""The control plane over HTTPS: the real one, and others that stand in its place."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blindai.client import control_plane
from blindai.client.control_plane import ControlPlane
from blindai.errors import (
    AuthenticationError,
    BlindAIError,
    ConfigurationError,
    InvalidInput,
    PermissionDenied,
    QuotaExceeded,
    Unavailable,
)
from blindai.web.certificate import PagesTls
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import Scope
from blindai.wire.cloud_api import Endpoint, NewKey
from client_cloud import ClientCloud

DIRECTORY = b'{"name": "", "endpoints": []}'


class Impostor:
    """Something that answers one request with the bytes that it was given.

    Attributes:
        received: what it was sent, behind TLS.
    """

    def __init__(self, answer: bytes, context: ssl.SSLContext | None) -> None:
        self.received = b""
        self._answer = answer
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            # Nobody called: who waits for a call gets one.
            with contextlib.suppress(OSError), socket.create_connection(self._listener.getsockname()):
                pass
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        try:
            raw, _ = self._listener.accept()
            with raw, self._context.wrap_socket(raw, server_side=True) if self._context else raw as connection:
                self.received = connection.recv(1 << 16)
                connection.sendall(self._answer)
        except OSError:
            pass  # the client went away


Plant = Callable[..., Impostor]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> PagesTls:
    return PagesTls.own_in(tmp_path_factory.mktemp("tls"), "localhost")


@pytest.fixture
def plant(tls: PagesTls) -> Iterator[Plant]:
    planted: list[Impostor] = []

    def plant(body: bytes, *, status: str = "200 OK", head: bytes = b"", plain: bool = False) -> Impostor:
        answer = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status.encode(), len(body), head, body)
        planted.append(Impostor(answer, None if plain else tls.context))
        return planted[-1]

    yield plant
    for one in planted:
        one.close()


@contextmanager
def refused(kind: type[BlindAIError], code: str) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    assert caught.value.code == code


# Who answers.


def test_a_certificate_that_nobody_knows(plant: Plant) -> None:
    there = plant(DIRECTORY)
    with refused(Unavailable, "unavailable.certificate"):
        ControlPlane(there.url, token="secret").directory()
    assert there.received == b""


def test_a_certificate_with_another_fingerprint(plant: Plant) -> None:
    there = plant(DIRECTORY)
    with refused(Unavailable, "unavailable.certificate"):
        ControlPlane(there.url, fingerprint="ab" * 32, token="secret").directory()
    there.close()
    assert there.received == b""


def test_the_fingerprint_that_was_compared(plant: Plant, tls: PagesTls) -> None:
    there = plant(DIRECTORY)
    assert ControlPlane(there.url, fingerprint=tls.fingerprint).directory().endpoints == ()
    assert b"Authorization" not in there.received


def test_a_certificate_that_the_system_trusts(
    plant: Plant, tls: PagesTls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(plant(DIRECTORY).url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as raw, _unchecked().wrap_socket(raw) as seen:
        certificate = seen.getpeercert(binary_form=True)
    assert certificate is not None
    trusted = tmp_path / "roots.pem"
    trusted.write_text(ssl.DER_cert_to_PEM_cert(certificate))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    there = plant(DIRECTORY)
    assert ControlPlane(there.url).directory().endpoints == ()


def test_a_port_without_tls(plant: Plant) -> None:
    there = plant(DIRECTORY, plain=True)
    with refused(Unavailable, "unavailable.certificate"):
        ControlPlane(there.url, token="secret").directory()
    there.close()
    assert b"secret" not in there.received


def test_a_port_where_nobody_listens() -> None:
    with refused(Unavailable, "unavailable.connection"):
        ControlPlane("https://127.0.0.1:1").directory()


@pytest.mark.parametrize(
    ("cloud", "fingerprint", "code"),
    [
        ("http://cloud.example", "", "configuration.address"),
        ("https://user:secret@cloud.example", "", "configuration.address"),
        ("https://cloud.example", "abc", "configuration.fingerprint"),
        ("https://cloud.example", "zz" * 32, "configuration.fingerprint"),
    ],
)
def test_settings_that_cannot_be_used(cloud: str, fingerprint: str, code: str) -> None:
    with refused(ConfigurationError, code):
        ControlPlane(cloud, fingerprint=fingerprint)


# What it answers.


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"name": 1, "endpoints": []}', b"\xff", b"<html>"])
def test_an_answer_that_is_no_directory(plant: Plant, tls: PagesTls, body: bytes) -> None:
    with refused(Unavailable, "unavailable.protocol"):
        ControlPlane(plant(body).url, fingerprint=tls.fingerprint).directory()


def test_an_answer_that_does_not_end(plant: Plant, tls: PagesTls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_plane, "MAX_ANSWER_BYTES", 100)
    with refused(Unavailable, "unavailable.protocol"):
        ControlPlane(plant(b" " * 101).url, fingerprint=tls.fingerprint).directory()


def test_an_answer_that_ends_too_early(plant: Plant, tls: PagesTls) -> None:
    with refused(Unavailable, "unavailable.protocol"):
        ControlPlane(plant(b"", head=b"Content-Length: 9\r\n").url, fingerprint=tls.fingerprint).directory()


def test_a_redirection_is_not_followed(plant: Plant, tls: PagesTls) -> None:
    elsewhere = plant(DIRECTORY)
    there = plant(b"", status="307 Elsewhere", head=b"Location: %b/\r\n" % elsewhere.url.encode())
    with refused(Unavailable, "unavailable.protocol"):
        ControlPlane(there.url, fingerprint=tls.fingerprint, token="secret").account()
    elsewhere.close()
    assert elsewhere.received == b""


def test_a_refusal_says_when_to_come_back(plant: Plant, tls: PagesTls) -> None:
    body = b'{"error": "too many", "code": "quota.sign_ups"}'
    there = plant(body, status="429 Too Many Requests", head=b"Retry-After: 7\r\n")
    with pytest.raises(QuotaExceeded) as caught:
        ControlPlane(there.url, fingerprint=tls.fingerprint).directory()
    assert (caught.value.code, caught.value.retry_after) == ("quota.sign_ups", 7)


def test_no_proxy_of_the_environment_is_heeded(cloud: ClientCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert cloud.plane().directory().endpoints


# The real one.


def test_the_directory_has_the_enclave(cloud: ClientCloud) -> None:
    assert cloud.plane().directory().endpoints == (Endpoint(cloud.enclave.address, simulated=True),)


def test_keys_from_the_first_to_the_last_day(cloud: ClientCloud) -> None:
    tenant = cloud.scene.tenant("keysmith")
    plane = cloud.plane(cloud.scene.access_token(tenant.user))
    account = plane.account()
    assert (account.email, [one.namespace for one in account.namespaces]) == ("keysmith@example.com", ["keysmith"])
    cloud.scene.clock.shift += 1  # times are whole seconds, and the newest comes first
    created = plane.create_key("keysmith", NewKey(name="laptop", scopes=(Scope.QUERY,), expires_in_days=3))
    key = ApiKey.parse(created.api_key)
    assert (created.entry.id, created.entry.scopes, "bai_sk_" in repr(created)) == (key.id, (Scope.QUERY,), True)
    assert key.text not in repr(created)
    assert [one.id for one in plane.keys("keysmith")] == [key.id, tenant.key.id]
    assert plane.revoke_key("keysmith", key.id).revoked_at is not None
    assert (plane.usage("keysmith").month_queries, plane.models("keysmith").models) == (0, ())


def test_a_namespace_of_somebody_else_is_none(cloud: ClientCloud) -> None:
    plane = cloud.plane(cloud.scene.access_token(cloud.scene.tenant("curious").user))
    for namespace in (cloud.acme.name, "nobody-at-all"):
        with refused(InvalidInput, "account.unknown"):
            plane.keys(namespace)
    with refused(BlindAIError, "http.not_found"):
        plane.keys("../account")


def test_a_token_that_was_given_back_is_worth_nothing(cloud: ClientCloud) -> None:
    plane = cloud.plane(cloud.scene.access_token(cloud.acme.user))
    plane.give_back_token()
    with pytest.raises(AuthenticationError):
        plane.account()
    with pytest.raises(AuthenticationError):
        cloud.plane().account()


def test_an_api_key_is_no_access_token(cloud: ClientCloud) -> None:
    with pytest.raises((AuthenticationError, PermissionDenied)):
        cloud.plane(cloud.acme.key.text).account()


def _unchecked() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
