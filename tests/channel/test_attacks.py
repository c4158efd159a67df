"""Attacks on attested TLS, each by a real server on a real socket. The attacker must not get one application byte."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from blindai.attestation.attesters.attester import Attester
from blindai.attestation.result import Mode
from blindai.channel.end import AttestedEnd, Identity
from blindai.channel.gate import GATE_PATH, GateRequest, encoder, fresh_decoder
from blindai.channel.keyset import PrivateKeyset
from blindai.channel.statement import Role, Statement
from blindai.channel.tls import TLSPipe, client_context
from blindai.demo.impostor import Accomplice, Answer, Impostor, receive
from blindai.errors import AttestationError, Unavailable

from .conftest import RunningEnd, Victim

RunEnd = Callable[[AttestedEnd], RunningEnd]

GATE_REQUEST = encoder.encode({"v": 1, "mode": "fresh", "nonce": "00" * 32})


def new_keyset() -> PrivateKeyset:
    return PrivateKeyset(datetime.now(UTC))


@contextmanager
def impostor(answer: Answer, identity: PrivateKeyset | None = None) -> Iterator[Impostor]:
    """An impostor that must not have got anything when the test is over."""
    with Impostor(answer, identity or new_keyset()) as attacker:
        yield attacker
    assert attacker.gate_requests > 0, "the victim never came as far as the gate"
    assert attacker.application_bytes == 0


def refused(
    victim: Victim, attacker: Impostor | RunningEnd, step: str, code: str, *, resume: bool = True
) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        victim.send(attacker.address, resume=resume)
    assert (caught.value.step, caught.value.code) == (step, code)
    return caught.value


def changed(answer: bytes, **fields: Any) -> bytes:
    return encoder.encode(msgspec.structs.replace(fresh_decoder.decode(answer), **fields))


class TestRelay:
    def test_man_in_the_middle_with_his_own_key(self, enclave: RunningEnd, victim: Victim) -> None:
        accomplice = Accomplice("127.0.0.1", enclave.port)
        with impostor(accomplice.ask) as attacker:
            error = refused(victim, attacker, "binding", "binding.key")
        assert error.result is not None
        assert [check.step for check in error.result.checks if check.outcome == "FAIL"] == ["binding"]

    def test_man_in_the_middle_who_lies_about_the_statement(self, enclave: RunningEnd, victim: Victim) -> None:
        """What the peer says of its own view chooses the words of the refusal, and nothing else."""
        accomplice = Accomplice("127.0.0.1", enclave.port)

        def answer(request: bytes) -> bytes:
            genuine = accomplice.ask(request)
            statement = msgspec.structs.replace(fresh_decoder.decode(genuine).statement, ekm="00" * 32)
            return changed(genuine, statement=statement)

        with impostor(answer) as attacker:
            refused(victim, attacker, "binding", "binding.report_data")

    def test_stolen_tls_key(self, enclave: RunningEnd, victim: Victim) -> None:
        accomplice = Accomplice("127.0.0.1", enclave.port)
        with impostor(accomplice.ask, enclave.end.identity().keyset) as attacker:
            refused(victim, attacker, "binding", "binding.exporter")

    def test_stolen_tls_key_against_a_resumed_gate(self, enclave: RunningEnd, victim: Victim) -> None:
        victim.send(enclave.address)
        kept = victim.party(enclave.address).remembered
        accomplice = Accomplice("127.0.0.1", enclave.port)
        with impostor(accomplice.ask, enclave.end.identity().keyset) as attacker:
            victim.party(attacker.address.removeprefix("https://")).remembered = kept
            refused(victim, attacker, "binding", "binding.proof")

    def test_the_relay_does_work_where_the_exporter_is_left_out(
        self, enclave: RunningEnd, victim: Victim, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The attack is real: without the exporter in the statement, the relay has the victim's request."""
        monkeypatch.setattr(TLSPipe, "exported", lambda self, nonce: "00" * 32)
        accomplice = Accomplice("127.0.0.1", enclave.port)
        with Impostor(accomplice.ask, enclave.end.identity().keyset) as attacker:
            channel, stream = victim.connect(attacker.address)
            stream.run(channel.open())
            with pytest.raises(Unavailable):  # the relay keeps what it got, and answers nothing
                stream.run(channel.exchange(b"GET /secret HTTP/1.1\r\n\r\n", max_answer_bytes=1), seconds=0.5)
            stream.close()
        assert attacker.application_bytes > 0

    def test_keyset_exchanged_on_the_way(self, enclave: RunningEnd, victim: Victim) -> None:
        accomplice = Accomplice("127.0.0.1", enclave.port)
        own = new_keyset()

        def answer(request: bytes) -> bytes:
            return changed(accomplice.ask(request), keyset=own.public)

        with impostor(answer, own) as attacker:
            refused(victim, attacker, "binding", "binding.key")

    def test_keyset_exchanged_with_a_stolen_key(self, enclave: RunningEnd, victim: Victim) -> None:
        stolen = enclave.end.identity().keyset
        foreign = msgspec.structs.replace(new_keyset().public, tls_spki_sha256=stolen.public.tls_spki_sha256)
        accomplice = Accomplice("127.0.0.1", enclave.port)

        def answer(request: bytes) -> bytes:
            return changed(accomplice.ask(request), keyset=foreign)

        with impostor(answer, stolen) as attacker:
            refused(victim, attacker, "binding", "binding.exporter")

    def test_lifetime_of_the_keyset_prolonged(self, attester: Attester, victim: Victim, run_end: RunEnd) -> None:
        """Who sits inside the connection itself still cannot change the keyset."""
        liar = run_end(Liar(attester, shown_not_after=4_000_000_000))
        refused(victim, liar, "binding", "binding.keyset")
        assert not liar.received

    def test_configuration_exchanged_on_the_way(self, attester: Attester, victim: Victim, run_end: RunEnd) -> None:
        liar = run_end(Liar(attester, shown_config={"name": "other"}))
        refused(victim, liar, "binding", "binding.config")
        assert not liar.received

    def test_evidence_for_a_keyset_of_another_key(self, attester: Attester, victim: Victim, run_end: RunEnd) -> None:
        """An enclave that vouches for a keyset must name in it the key of this connection."""
        liar = run_end(Liar(attester, keyset_for="ab" * 32))
        error = refused(victim, liar, "binding", "binding.key")
        assert error.got == "abab..ab"
        assert not liar.received


class TestReplay:
    def test_recorded_evidence(self, enclave: RunningEnd, victim: Victim) -> None:
        recorded = Accomplice("127.0.0.1", enclave.port).ask(GATE_REQUEST)
        with impostor(lambda _: recorded, enclave.end.identity().keyset) as attacker:
            refused(victim, attacker, "binding", "binding.nonce")

    def test_recorded_evidence_does_work_where_nonce_and_exporter_are_left_out(
        self, enclave: RunningEnd, victim: Victim, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The attack is real: without freshness in the statement, old evidence passes for new."""
        monkeypatch.setattr(TLSPipe, "exported", lambda self, nonce: "00" * 32)
        recorded = Accomplice("127.0.0.1", enclave.port).ask(GATE_REQUEST)
        with Impostor(lambda _: recorded, enclave.end.identity().keyset) as attacker:
            monkeypatch.setattr(os, "urandom", bytes)
            assert victim.attest(attacker.address).mode is Mode.FRESH

    def test_recorded_proof_of_a_resumed_gate(self, enclave: RunningEnd, victim: Victim) -> None:
        victim.send(enclave.address)
        kept = victim.party(enclave.address).remembered
        assert kept is not None
        digest = kept.result.keyset_digest
        request = encoder.encode({"v": 1, "mode": "resumed", "nonce": "00" * 32, "keyset_digest": digest})
        recorded = Accomplice("127.0.0.1", enclave.port).ask(request)
        with impostor(lambda _: recorded, enclave.end.identity().keyset) as attacker:
            victim.party(attacker.address.removeprefix("https://")).remembered = kept
            refused(victim, attacker, "binding", "binding.proof")

    def test_every_gate_has_a_nonce_of_its_own(self, victim: Victim) -> None:
        nonces = []

        def answer(request: bytes) -> bytes:
            nonces.append(json.loads(request)["nonce"])
            return b"{}"

        with impostor(answer) as attacker:
            for _ in range(20):
                refused(victim, attacker, "channel", "channel.not_attested")
        assert len(set(nonces)) == 20
        assert all(len(bytes.fromhex(nonce)) == 32 for nonce in nonces)


class TestReflection:
    def test_evidence_of_an_enclave_in_the_role_of_a_client(
        self, attester: Attester, victim: Victim, run_end: RunEnd
    ) -> None:
        liar = run_end(Liar(attester, role=Role.CLIENT))
        refused(victim, liar, "binding", "binding.role")
        assert not liar.received

    def test_gate_request_sent_back_as_answer(self, victim: Victim) -> None:
        with impostor(lambda request: request) as attacker:
            refused(victim, attacker, "channel", "channel.not_attested")


class TestDowngrade:
    def test_server_that_knows_tls_1_2_only(self, victim: Victim, tmp_path: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        load(context, new_keyset(), tmp_path)
        with listening(context) as address, pytest.raises(AttestationError) as caught:
            victim.send(address)
        assert (caught.value.step, caught.value.code) == ("channel", "channel.tls_version")

    def test_client_that_knows_tls_1_2_only(self, enclave: RunningEnd) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", enclave.port), timeout=5) as plain,
            pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
        ):
            context.wrap_socket(plain)
        assert not enclave.received

    def test_server_that_speaks_plain_http(self, victim: Victim) -> None:
        with listening(None) as address, pytest.raises(AttestationError) as caught:
            victim.send(address)
        assert (caught.value.step, caught.value.code) == ("channel", "channel.not_tls")

    def test_tls_server_without_a_gate(self, victim: Victim, tmp_path: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load(context, new_keyset(), tmp_path)
        with listening(context) as address, pytest.raises(AttestationError) as caught:
            victim.send(address)
        assert (caught.value.step, caught.value.code) == ("channel", "channel.not_attested")

    def test_resumed_answer_to_a_fresh_question(self, victim: Victim) -> None:
        answer = encoder.encode({"v": 1, "mode": "resumed", "signature": "00" * 64})
        with impostor(lambda _: answer) as attacker:
            refused(victim, attacker, "channel", "channel.not_attested")

    def test_fresh_answer_to_a_resumed_question(self, enclave: RunningEnd, victim: Victim) -> None:
        victim.send(enclave.address)
        fresh = Accomplice("127.0.0.1", enclave.port).ask(GATE_REQUEST)
        with impostor(lambda _: fresh, enclave.end.identity().keyset) as attacker:
            victim.party(attacker.address.removeprefix("https://")).remembered = victim.party(
                enclave.address
            ).remembered
            refused(victim, attacker, "channel", "channel.not_attested")

    @pytest.mark.parametrize("fields", [{"v": 0}, {"v": 2}, {"mode": Mode.RESUMED}])
    def test_other_version_or_mode_in_a_fresh_answer(
        self, enclave: RunningEnd, victim: Victim, fields: dict[str, Any]
    ) -> None:
        accomplice = Accomplice("127.0.0.1", enclave.port)
        with impostor(lambda request: changed(accomplice.ask(request), **fields)) as attacker:
            refused(victim, attacker, "channel", "channel.downgrade")

    def test_other_version_in_a_gate_request(self, enclave: RunningEnd) -> None:
        request = encoder.encode({"v": 2, "mode": "fresh", "nonce": "00" * 32})
        assert json.loads(Accomplice("127.0.0.1", enclave.port).ask(request))["code"] == "gate.version"

    def test_unknown_members_in_an_answer(self, enclave: RunningEnd, victim: Victim) -> None:
        accomplice = Accomplice("127.0.0.1", enclave.port)

        def answer(request: bytes) -> bytes:
            return json.dumps(json.loads(accomplice.ask(request)) | {"trust_me": True}).encode()

        with impostor(answer) as attacker:
            refused(victim, attacker, "channel", "channel.not_attested")


class TestEarlyData:
    def test_no_session_can_be_resumed(self, enclave: RunningEnd) -> None:
        """OpenSSL writes its ticket message all the same; the session it names does not exist."""
        context = client_context()
        first = raw_connection(context, enclave.port)
        session = first.get_session()
        assert session is not None
        second = raw_connection(context, enclave.port, session)
        # A resumed handshake carries no certificate; this one does.
        assert second.get_peer_certificate() is not None

    def test_application_bytes_in_the_first_flight(self, enclave: RunningEnd) -> None:
        """A record of application data right behind the ClientHello, where early data would stand."""
        pipe = TLSPipe(client_context(), server=False)
        pipe.handshake()
        hello = pipe.outgoing()
        with socket.create_connection(("127.0.0.1", enclave.port), timeout=5) as connection:
            connection.sendall(hello + b"\x17\x03\x03\x00\x20" + os.urandom(32))
            while connection.recv(65536):
                pass
        assert not enclave.received

    def test_application_request_before_the_gate(self, enclave: RunningEnd) -> None:
        head, body = raw_exchange(enclave.port, b"GET /v2 HTTP/1.1\r\nHost: enclave\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 ")
        assert json.loads(body)["code"] == "gate.required"
        assert not enclave.received

    def test_application_request_together_with_the_gate_request(self, enclave: RunningEnd) -> None:
        gate = f"POST {GATE_PATH} HTTP/1.1\r\nHost: e\r\nContent-Length: {len(GATE_REQUEST)}\r\n\r\n".encode()
        head, body = raw_exchange(enclave.port, gate + GATE_REQUEST + b"GET /v2 HTTP/1.1\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["code"] == "gate.pipelined"
        assert not enclave.received

    def test_nothing_is_sent_before_the_gate_is_open(self, victim: Victim, enclave: RunningEnd) -> None:
        channel, stream = victim.connect(enclave.address)
        with pytest.raises(AttestationError) as caught:
            stream.run(channel.exchange(b"GET / HTTP/1.1\r\n\r\n", max_answer_bytes=1))
        assert caught.value.code == "channel.not_open"
        assert channel.application_bytes_sent == 0

    def test_nothing_is_sent_after_the_gate_was_refused(self, victim: Victim) -> None:
        with impostor(lambda _: b"{}") as attacker:
            channel, stream = victim.connect(attacker.address)
            with pytest.raises(AttestationError):
                stream.run(channel.open())
            with pytest.raises(AttestationError) as caught:
                stream.run(channel.exchange(b"GET / HTTP/1.1\r\n\r\n", max_answer_bytes=1))
            victim.close()
        assert caught.value.code == "channel.not_open"


# How the tests above get where no client of ours would go.


class Liar(AttestedEnd):
    """A genuine enclave that sits at the very end of the connection, and answers falsely."""

    def __init__(
        self,
        attester: Attester,
        *,
        role: Role = Role.SERVER,
        shown_config: dict[str, Any] | None = None,
        shown_not_after: int | None = None,
        keyset_for: str | None = None,
    ) -> None:
        """It attests `role` and a keyset for the TLS key `keyset_for`; it shows another configuration or lifetime."""
        super().__init__(attester, {"name": "test"})
        self._role = role
        self._shown_config = shown_config
        self._shown_not_after = shown_not_after
        keyset = self.identity().keyset
        self._live_spki = keyset.public.tls_spki_sha256
        if keyset_for is not None:
            keyset.public = msgspec.structs.replace(keyset.public, tls_spki_sha256=keyset_for)
            del keyset.digest  # computed anew from what is public now

    def _statement(self, nonce: bytes, pipe: TLSPipe, identity: Identity) -> Statement:
        true = super()._statement(nonce, pipe, identity)
        return msgspec.structs.replace(true, role=self._role, spki_sha256=self._live_spki)

    def _fresh_answer(self, request: GateRequest, statement: Statement, identity: Identity) -> bytes:
        answer = super()._fresh_answer(request, statement, identity)
        if self._shown_config is not None:
            answer = changed(answer, config=self._shown_config)
        if self._shown_not_after is not None:
            answer = changed(
                answer, keyset=msgspec.structs.replace(identity.keyset.public, not_after=self._shown_not_after)
            )
        return answer


@contextmanager
def listening(context: ssl.SSLContext | None) -> Iterator[str]:
    """A server that answers one connection with 404, whatever it is sent."""

    def serve() -> None:
        plain, _ = listener.accept()
        plain.settimeout(5)
        with plain, contextlib.suppress(OSError):  # the victim hangs up
            connection = plain if context is None else context.wrap_socket(plain, server_side=True)
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def load(context: ssl.SSLContext, keyset: PrivateKeyset, folder: Any) -> None:
    """Give the standard library's TLS a certificate: it reads files only."""
    path = folder / "key.pem"
    key = keyset.tls_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(key + keyset.certificate().public_bytes(serialization.Encoding.PEM))
    context.load_cert_chain(path)


def raw_connection(context: SSL.Context, port: int, session: Any = None) -> SSL.Connection:
    """A TLS connection by hand, with a session offered for resumption."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        connection = SSL.Connection(context, None)
        connection.set_connect_state()
        if session is not None:
            connection.set_session(session)
        done = False
        while not done:
            with contextlib.suppress(SSL.WantReadError):
                connection.do_handshake()
                done = True
            with contextlib.suppress(SSL.WantReadError):
                plain.sendall(connection.bio_read(65536))
            if not done:
                connection.bio_write(plain.recv(65536))
        # The ticket message comes after the handshake.
        connection.bio_write(plain.recv(65536))
        with pytest.raises(SSL.WantReadError):
            connection.recv(1)
        return connection


def raw_exchange(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Send bytes over TLS without any gate; head and body of what comes back."""
    pipe = TLSPipe(client_context(), server=False)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        while not pipe.handshake():
            connection.sendall(pipe.outgoing())
            pipe.feed(connection.recv(65536))
        pipe.write(request)
        connection.sendall(pipe.outgoing())
        received = b""
        while plaintext := receive(connection, pipe):
            received += plaintext
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body
