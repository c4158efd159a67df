"""The relying party as a server, against enclaves that lie, relay, replay or do not keep to the protocol."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from blindai.attestation.attesters.attester import Attester
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.policy import Policy
from blindai.attestation.result import Mode
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.channel import gate, gated, receiving
from blindai.channel import reversed_gate as messages
from blindai.channel.calling import CallingEnd, Challenged
from blindai.channel.gate import GATE_PATH
from blindai.channel.receiving import MAX_GATE_REQUESTS, ReceivingEnd
from blindai.channel.reversed_gate import CHALLENGE_PATH, Presentation
from blindai.channel.statement import Role, Statement
from blindai.channel.tls import TLSPipe, calling_context
from blindai.demo.impostor import Impostor
from blindai.errors import AttestationError, BlindAIError, CustodianError, LeaseStopped, Unavailable

from .conftest import (
    LEASE,
    REQUEST,
    Client,
    Custodian,
    Dialler,
    MovableClock,
    RunningEnd,
    Victim,
    post,
    rsa_certificate,
)

Connect = Callable[..., Client]
RunCustodian = Callable[..., Custodian]

CHALLENGE = gate.encoder.encode({"v": 1, "audience": LEASE})
OTHER = "cd" * 32


class Liar(CallingEnd):
    """A genuine enclave that says, or shows, something else than it should."""

    def __init__(
        self,
        attester: Attester,
        *,
        says: Callable[[Statement], Statement] = lambda said: said,
        shows: Callable[[Presentation], Presentation] = lambda shown: shown,
        **options: Any,
    ) -> None:
        super().__init__(attester, {"name": "test"}, **options)
        self._says = says
        self._shows = shows

    def statement(self, nonce: str, pipe: TLSPipe) -> Statement:
        return self._says(super().statement(nonce, pipe))

    def present(self, challenged: Challenged) -> Presentation:
        return self._shows(super().present(challenged))


def changed(**fields: Any) -> Callable[[Any], Any]:
    return lambda value: msgspec.structs.replace(value, **fields)


@pytest.fixture
def end(attester: Attester) -> CallingEnd:
    return CallingEnd(attester, {"name": "test"})


@pytest.fixture
def refused(custodian: Custodian, dialler: Dialler) -> Callable[..., CustodianError]:
    """What an enclave is told that the custodian does not let in."""

    def refused(end: CallingEnd, step: str, code: str) -> CustodianError:
        with pytest.raises(CustodianError) as caught:
            dialler.open(end, custodian)
        assert (caught.value.step, caught.value.code) == (step, code)
        nobody(custodian, dialler)
        return caught.value

    return refused


def nobody(custodian: Custodian, *who: Client | Dialler) -> None:
    """Nobody was let in, and nothing is left of those who tried, once they have hung up."""
    for one in who:
        one.close()
    assert custodian.callers == []
    custodian.nothing_left()
    assert not custodian.received


class TestAccepted:
    def test_who_calls_is_known(self, custodian: Custodian, end: CallingEnd, dialler: Dialler) -> None:
        assert dialler.send(end, custodian) == b"ok"
        (caller,) = custodian.callers
        assert caller.audience == LEASE
        assert caller.instance == end.instance == caller.keyset.digest == caller.result.keyset_digest
        assert caller.keyset == end.keyset.public
        assert caller.config == {"name": "test"}
        assert caller.result.mode is Mode.FRESH
        assert caller.transcript.statement.role is Role.CLIENT
        assert custodian.received == REQUEST

    def test_the_record_can_be_judged_again(
        self, custodian: Custodian, end: CallingEnd, dialler: Dialler, policy: Policy
    ) -> None:
        dialler.open(end, custodian)
        (caller,) = custodian.callers
        again = msgspec.json.decode(msgspec.json.encode(caller.transcript), type=type(caller.transcript))
        assert again.appraise(policy, now=caller.transcript.at).claims == caller.result.claims

    def test_every_connection_attests_fresh(self, custodian: Custodian, end: CallingEnd, dialler: Dialler) -> None:
        for _ in range(3):
            dialler.open(end, custodian)
        assert len({caller.instance for caller in custodian.callers}) == 1
        assert len({caller.transcript.statement.nonce for caller in custodian.callers}) == 3
        assert len({caller.transcript.statement.ekm for caller in custodian.callers}) == 3

    def test_byte_by_byte(self, custodian: Custodian, connect: Connect, end: CallingEnd) -> None:
        client = connect(custodian, end.context).shake()
        for byte in post(CHALLENGE_PATH, CHALLENGE):
            client.send(bytes([byte]))
        status, challenge = client.response()
        assert status == 200
        client.send(presented(end, client, challenge))
        assert client.response() == (200, {"v": 1, "instance": end.instance})
        client.send(REQUEST)
        assert client.receive().endswith(b"ok")

    def test_a_ledger_that_takes_its_time(self, custodian: Custodian, end: CallingEnd, dialler: Dialler) -> None:
        custodian.held.clear()
        threading.Timer(0.1, custodian.held.set).start()
        assert dialler.send(end, custodian) == b"ok"

    def test_a_verdict_that_runs_out_ends_the_connection(
        self, custodian: Custodian, end: CallingEnd, dialler: Dialler, clock: MovableClock
    ) -> None:
        connection, stream = dialler.open(end, custodian)
        assert stream.run(connection.exchange(REQUEST, max_answer_bytes=100)).body == b"ok"
        expires = custodian.callers[0].result.expires_at
        assert expires is not None
        clock.offset = (expires - datetime.now(UTC) + timedelta(seconds=1)).total_seconds()
        with pytest.raises(Unavailable) as caught:
            stream.run(connection.exchange(REQUEST, max_answer_bytes=100))
        assert caught.value.code == "unavailable.closed"
        assert custodian.received == REQUEST
        custodian.nothing_left()


def presented(end: CallingEnd, client: Client, challenge: Any) -> bytes:
    """The request with which `end` answers a challenge on the connection of `client`."""
    challenged = Challenged(challenge["nonce"], end.statement(challenge["nonce"], client.pipe), None)
    return post(GATE_PATH, gate.encoder.encode(end.present(challenged)))


def challenged(client: Client, body: bytes = CHALLENGE) -> Any:
    """The challenge that the custodian gives to `client`."""
    client.send(post(CHALLENGE_PATH, body))
    status, challenge = client.response()
    assert status == 200
    return challenge


class TestBinding:
    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"role": Role.SERVER}, "binding.role"),
            ({"nonce": OTHER}, "binding.nonce"),
            ({"ekm": OTHER}, "binding.exporter"),
            ({"spki_sha256": OTHER}, "binding.key"),
            ({"keyset_digest": OTHER}, "binding.keyset"),
            ({"devices_digest": OTHER}, "binding.devices"),
            ({"config_digest": OTHER}, "binding.config"),
            ({"v": 2}, "binding.report_data"),
        ],
        ids=str,
    )
    def test_evidence_that_commits_to_something_else(
        self, attester: Attester, refused: Any, fields: dict[str, Any], code: str
    ) -> None:
        refused(Liar(attester, says=changed(**fields)), "binding", code)

    def test_a_statement_beside_it_changes_the_words_alone(self, attester: Attester, refused: Any) -> None:
        honest: list[Statement] = []

        def says(statement: Statement) -> Statement:
            honest.append(statement)
            return msgspec.structs.replace(statement, ekm=OTHER)

        liar = Liar(attester, says=says, shows=lambda shown: msgspec.structs.replace(shown, statement=honest[-1]))
        refused(liar, "binding", "binding.report_data")

    def test_another_nonce_beside_it(self, attester: Attester, refused: Any) -> None:
        refused(Liar(attester, shows=changed(nonce=OTHER)), "binding", "binding.nonce")

    def test_a_configuration_exchanged_on_the_way(self, attester: Attester, refused: Any) -> None:
        refused(Liar(attester, shows=changed(config={"name": "other"})), "binding", "binding.config")

    def test_a_keyset_exchanged_on_the_way(self, attester: Attester, end: CallingEnd, refused: Any) -> None:
        refused(Liar(attester, shows=changed(keyset=end.keyset.public)), "binding", "binding.keyset")

    def test_a_keyset_of_another_tls_key(self, attester: Attester, end: CallingEnd, refused: Any) -> None:
        """The enclave vouches for a keyset that does not name the key of the connection."""
        foreign = msgspec.structs.replace(end.keyset.public, not_after=end.keyset.public.not_after - 1)
        liar = Liar(attester, says=changed(keyset_digest=foreign.digest), shows=changed(keyset=foreign))
        refused(liar, "binding", "binding.key")

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"v": 2}, "channel.downgrade"),
            ({"v": 0}, "channel.downgrade"),
            ({"mode": Mode.RESUMED}, "channel.downgrade"),
        ],
        ids=str,
    )
    def test_another_version_or_mode(self, attester: Attester, refused: Any, fields: dict[str, Any], code: str) -> None:
        refused(Liar(attester, shows=changed(**fields)), "channel", code)


class TestReflection:
    def test_what_an_enclave_says_as_a_server(
        self, custodian: Custodian, enclave: RunningEnd, connect: Connect, end: CallingEnd
    ) -> None:
        """Whoever connects to an enclave has its evidence for any nonce, that of a custodian too."""
        client = connect(custodian, end.context).shake()
        nonce = challenged(client)["nonce"]
        victim = connect(enclave).shake()
        victim.send(post(GATE_PATH, gate.encoder.encode({"v": 1, "mode": "fresh", "nonce": nonce})))
        status, answer = victim.response()
        assert (status, answer["statement"]["role"]) == (200, "server")
        client.send(post(GATE_PATH, json.dumps(answer | {"nonce": nonce}).encode()))
        status, problem = client.response()
        assert (status, problem["code"], problem["step"]) == (403, "binding.role", "binding")
        nobody(custodian, client)

    def test_what_an_enclave_says_to_its_custodian(
        self, custodian: Custodian, end: CallingEnd, victim: Victim, dialler: Dialler
    ) -> None:
        """The other direction: a custodian who turns against its enclaves shows their evidence to a client."""

        def answer(request: bytes) -> bytes:
            connection, stream = dialler.dial(end, custodian, custodian.key.public_key())
            challenge = stream.run(connection.challenge(None))
            nonce = json.loads(request)["nonce"]
            shown = end.present(challenge._replace(statement=end.statement(nonce, connection._pipe)))
            fields = {name: getattr(shown, name) for name in gate.FreshAnswer.__struct_fields__}
            return gate.encoder.encode(gate.FreshAnswer(**fields))

        with Impostor(answer, end.keyset) as attacker, pytest.raises(AttestationError) as caught:
            victim.send(attacker.address)
        assert (caught.value.step, caught.value.code) == ("binding", "binding.role")
        assert attacker.application_bytes == 0


class TestReplay:
    def recorded(self, custodian: Custodian, connect: Connect, end: CallingEnd) -> bytes:
        """A presentation that was accepted."""
        client = connect(custodian, end.context).shake()
        request = presented(end, client, challenged(client))
        client.send(request)
        assert client.response()[0] == 200
        client.close()
        custodian.callers.clear()
        return request

    def test_of_recorded_evidence(self, custodian: Custodian, connect: Connect, end: CallingEnd) -> None:
        recorded = self.recorded(custodian, connect, end)
        client = connect(custodian, end.context).shake()
        challenged(client)
        client.send(recorded)
        status, problem = client.response()
        assert (status, problem["code"], problem["step"]) == (403, "binding.nonce", "binding")
        nobody(custodian, client)

    def test_of_recorded_evidence_with_the_nonce_of_today(
        self, custodian: Custodian, connect: Connect, end: CallingEnd
    ) -> None:
        recorded = json.loads(self.recorded(custodian, connect, end).partition(b"\r\n\r\n")[2])
        client = connect(custodian, end.context).shake()
        nonce = challenged(client)["nonce"]
        client.send(post(GATE_PATH, json.dumps(recorded | {"nonce": nonce}).encode()))
        status, problem = client.response()
        assert (status, problem["code"], problem["step"]) == (403, "binding.nonce", "binding")
        nobody(custodian, client)

    def test_of_evidence_on_the_same_connection(self, custodian: Custodian, connect: Connect, end: CallingEnd) -> None:
        """What comes behind an open gate is no gate request any more."""
        client = connect(custodian, end.context).shake()
        request = presented(end, client, challenged(client))
        client.send(request)
        assert client.response()[0] == 200
        client.send(request)
        assert client.receive().endswith(b"ok")
        assert len(custodian.callers) == 1

    def test_every_challenge_has_a_nonce_of_its_own(
        self, custodian: Custodian, connect: Connect, end: CallingEnd
    ) -> None:
        nonces = {challenged(connect(custodian, end.context).shake())["nonce"] for _ in range(20)}
        assert len(nonces) == 20
        assert all(len(bytes.fromhex(nonce)) == 32 for nonce in nonces)

    def test_no_second_challenge_on_a_connection(self, custodian: Custodian, connect: Connect, end: CallingEnd) -> None:
        client = connect(custodian, end.context).shake()
        challenged(client)
        client.send(post(CHALLENGE_PATH, CHALLENGE))
        status, problem = client.response()
        assert (status, problem["code"]) == (403, "gate.required")
        assert client.ended()
        nobody(custodian, client)


class TestRelay:
    """Somebody sits in between: one TLS connection to the enclave, another to the custodian."""

    def test_with_a_key_of_its_own(
        self, custodian: Custodian, run_custodian: RunCustodian, attester: Attester, connect: Connect
    ) -> None:
        """An enclave that does not look at the signature would give the relay evidence, but not for this connection."""
        careless, relay = CallingEnd(attester, {"name": "test"}), CallingEnd(attester, {"name": "test"})
        outside = connect(custodian, relay.context).shake()
        inside = connect(run_custodian(), careless.context).shake()
        outside.send(presented(careless, inside, challenged(outside)))
        status, problem = outside.response()
        assert (status, problem["code"], problem["step"]) == (403, "binding.key", "binding")
        nobody(custodian, outside)

    def test_with_the_stolen_key_of_the_enclave(
        self, custodian: Custodian, run_custodian: RunCustodian, end: CallingEnd, connect: Connect
    ) -> None:
        outside = connect(custodian, end.context).shake()
        inside = connect(run_custodian(), end.context).shake()
        outside.send(presented(end, inside, challenged(outside)))
        status, problem = outside.response()
        assert (status, problem["code"], problem["step"]) == (403, "binding.exporter", "binding")
        nobody(custodian, outside)

    def test_does_work_where_the_exporter_is_left_out(
        self,
        custodian: Custodian,
        run_custodian: RunCustodian,
        end: CallingEnd,
        connect: Connect,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The attack is real: without the exporter, who stole the TLS key is let in."""
        monkeypatch.setattr(TLSPipe, "exported", lambda self, nonce: "00" * 32)
        outside = connect(custodian, end.context).shake()
        inside = connect(run_custodian(), end.context).shake()
        outside.send(presented(end, inside, challenged(outside)))
        assert outside.response()[0] == 200


class TestPolicy:
    def test_other_code(self, refused: Any, root: SimulatedRoot) -> None:
        other = SimulatedAttester(root=root, measurements={"mrtd": "ab" * 48})
        error = refused(CallingEnd(other, {"name": "test"}), "code", "code.unknown")
        assert "ab" * 8 not in error.message

    def test_a_chip_that_is_not_listed(self, refused: Any, custodian: Custodian, end: CallingEnd) -> None:
        custodian.policy = replace(custodian.policy, chips=("00" * 16,))
        refused(end, "platform", "chip.unknown")

    def test_another_configuration(self, refused: Any, custodian: Custodian, end: CallingEnd) -> None:
        custodian.policy = replace(custodian.policy, config_digests=("00" * 32,))
        refused(end, "config", "config.unknown")

    def test_another_root(self, refused: Any) -> None:
        foreign = SimulatedAttester(root=SimulatedRoot.generate())
        refused(CallingEnd(foreign, {"name": "test"}), "endorsements", "endorsements.anchor")

    def test_an_unknown_audience(self, custodian: Custodian, end: CallingEnd, dialler: Dialler) -> None:
        with pytest.raises(BlindAIError) as caught:
            dialler.open(end, custodian, "lease-bbbbbbbbbbbbbbbb")
        assert caught.value.code == "lease.unknown"
        nobody(custodian, dialler)

    def test_a_ledger_that_refuses(self, custodian: Custodian, end: CallingEnd, dialler: Dialler) -> None:
        custodian.refusal = LeaseStopped("the lease was stopped", hint="ask the custodian")
        with pytest.raises(LeaseStopped) as caught:
            dialler.open(end, custodian)
        assert (caught.value.message, caught.value.hint) == ("the lease was stopped", "ask the custodian")
        nobody(custodian, dialler)

    def test_a_ledger_that_fails(self, custodian: Custodian, end: CallingEnd, dialler: Dialler) -> None:
        custodian.refusal = RuntimeError("the password of the database is 1234")
        with capture_logs() as logs:
            with pytest.raises(BlindAIError) as caught:
                dialler.open(end, custodian)
            nobody(custodian, dialler)
        assert caught.value.code == "internal"
        assert "1234" not in str(caught.value)
        assert [line["event"] for line in logs] == ["judging_failed"]


class TestCertificate:
    def test_none(self, custodian: Custodian, connect: Connect) -> None:
        with capture_logs() as logs:
            client = connect(custodian).shake()
            with contextlib.suppress(OSError):
                client.send(post(CHALLENGE_PATH, CHALLENGE))
            assert client.ended()
            nobody(custodian, client)
        assert [line["reason"] for line in logs] == ["peer did not return a certificate"]

    def test_of_another_kind_of_key(self, custodian: Custodian, connect: Connect) -> None:
        context = calling_context(*rsa_certificate())
        client = connect(custodian, context).shake()
        client.send(post(CHALLENGE_PATH, CHALLENGE))
        status, problem = client.response()
        assert (status, problem["code"], problem["step"]) == (403, "channel.key_type", "channel")
        nobody(custodian, client)


class TestGate:
    @pytest.mark.parametrize(
        ("request_", "status", "code"),
        [
            (post("/v1/renewals", b"{}"), 403, "gate.required"),
            (post(GATE_PATH, CHALLENGE), 403, "gate.required"),
            (post(CHALLENGE_PATH + "/", CHALLENGE), 403, "gate.required"),
            (post(CHALLENGE_PATH, CHALLENGE, method="PUT"), 403, "gate.required"),
            (REQUEST, 403, "gate.required"),
            (post(CHALLENGE_PATH, b""), 400, "gate.malformed"),
            (post(CHALLENGE_PATH, b"{}"), 400, "gate.malformed"),
            (post(CHALLENGE_PATH, b"\xff"), 400, "gate.malformed"),
            (post(CHALLENGE_PATH, b"[" * 4000), 400, "gate.malformed"),
            (post(CHALLENGE_PATH, b'{"v":1,"audience":""}'), 400, "gate.malformed"),
            (post(CHALLENGE_PATH, b'{"v":1,"audience":"a\\nb"}'), 400, "gate.malformed"),
            (post(CHALLENGE_PATH, b'{"v":1,"audience":"%s"}' % (b"a" * 65)), 400, "gate.malformed"),
            (post(CHALLENGE_PATH, b'{"v":1,"audience":"a","nonce":"00"}'), 400, "gate.malformed"),
            (post(CHALLENGE_PATH, b'{"v":2,"audience":"a"}'), 400, "gate.version"),
            (b"\x00\x01\x02", 400, "gate.http"),
            (post(CHALLENGE_PATH, b" " * 5000), 413, "gate.too_large"),
            (post(CHALLENGE_PATH, CHALLENGE, "X: " + "a" * 8000), 431, "gate.too_large"),
            (post(CHALLENGE_PATH, CHALLENGE) + REQUEST, 400, "gate.pipelined"),
            (post(CHALLENGE_PATH, CHALLENGE) * 2, 400, "gate.pipelined"),
            (post(CHALLENGE_PATH, CHALLENGE) + post(GATE_PATH, b"{}"), 400, "gate.pipelined"),
        ],
        ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else str(value),
    )
    def test_stays_shut_for_a_challenge(
        self, custodian: Custodian, connect: Connect, end: CallingEnd, request_: bytes, status: int, code: str
    ) -> None:
        client = connect(custodian, end.context).shake()
        client.send(request_)
        answered, problem = client.response()
        assert (answered, problem["code"]) == (status, code)
        assert client.ended()
        nobody(custodian, client)

    @pytest.mark.parametrize(
        ("request_", "status", "code"),
        [
            (post("/v1/renewals", b"{}"), 403, "gate.required"),
            (REQUEST, 403, "gate.required"),
            (post(GATE_PATH, b""), 400, "gate.malformed"),
            (post(GATE_PATH, b"{}"), 400, "gate.malformed"),
            (post(GATE_PATH, b"[" * 100_000), 400, "gate.malformed"),
            (post(GATE_PATH, b"{}") + REQUEST, 400, "gate.pipelined"),
            (post(GATE_PATH, b"", "X: " + "a" * 8000), 431, "gate.too_large"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "gate.http"),
        ],
        ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else str(value),
    )
    def test_stays_shut_for_an_attestation(
        self, custodian: Custodian, connect: Connect, end: CallingEnd, request_: bytes, status: int, code: str
    ) -> None:
        client = connect(custodian, end.context).shake()
        challenged(client)
        client.send(request_)
        answered, problem = client.response()
        assert (answered, problem["code"]) == (status, code)
        assert client.ended()
        nobody(custodian, client)

    def test_an_attestation_of_any_size(self, custodian: Custodian, connect: Connect, end: CallingEnd) -> None:
        client = connect(custodian, end.context).shake()
        challenged(client)
        with contextlib.suppress(OSError):
            client.send(post(GATE_PATH, b" " * (messages.MAX_PRESENTATION_BODY_BYTES + 1)))
        status, problem = client.response()
        assert (status, problem["code"]) == (413, "gate.too_large")
        nobody(custodian, client)

    def test_evidence_of_any_size(self, attester: Attester, refused: Any) -> None:
        shows = changed(evidence=msgspec.Raw(b'{"tee":"intel-tdx","quote":"%s"}' % (b"A" * (1 << 20))))
        refused(Liar(attester, shows=shows), "evidence", "evidence.too_large")

    def test_evidence_that_cannot_be_parsed(self, attester: Attester, refused: Any) -> None:
        refused(Liar(attester, shows=changed(evidence=msgspec.Raw(b"{}"))), "evidence", "evidence.malformed")

    @pytest.mark.parametrize(
        "shows",
        [
            lambda shown: changed(keyset=msgspec.structs.replace(shown.keyset, not_after=1 << 60))(shown),
            lambda shown: changed(keyset=msgspec.structs.replace(shown.keyset, receipt_key="\u00e4"))(shown),
            changed(config={"pi": 3.14}),
            changed(config={"name": "\u00e4"}),
        ],
    )
    def test_what_nobody_can_commit_to(self, attester: Attester, refused: Any, shows: Any) -> None:
        refused(Liar(attester, shows=shows), "", "gate.malformed")

    def test_bytes_behind_an_attestation_while_it_is_judged(
        self, custodian: Custodian, connect: Connect, end: CallingEnd
    ) -> None:
        custodian.held.clear()
        client = connect(custodian, end.context).shake()
        client.send(presented(end, client, challenged(client)))
        client.send(REQUEST)
        status, problem = client.response()
        assert (status, problem["code"]) == (400, "gate.pipelined")
        client.close()
        custodian.eventually(lambda: all(protocol._lost for protocol in custodian.protocols))
        custodian.held.set()
        nobody(custodian, client)

    def test_a_caller_that_leaves_while_it_is_judged(
        self, custodian: Custodian, connect: Connect, end: CallingEnd
    ) -> None:
        custodian.held.clear()
        client = connect(custodian, end.context).shake()
        client.send(presented(end, client, challenged(client)))
        custodian.eventually(lambda: any(protocol._answering is not None for protocol in custodian.protocols))
        client.close()
        custodian.eventually(lambda: all(protocol._lost for protocol in custodian.protocols))
        custodian.held.set()
        nobody(custodian, client)

    def test_the_number_of_requests_is_that_of_the_protocol(self) -> None:
        assert len({CHALLENGE_PATH, GATE_PATH}) == MAX_GATE_REQUESTS


class TestSlow:
    @pytest.mark.parametrize("stage", ["silence", "half a hello", "handshake", "half a challenge", "challenged"])
    def test_callers_are_cut(
        self,
        custodian: Custodian,
        connect: Connect,
        end: CallingEnd,
        monkeypatch: pytest.MonkeyPatch,
        stage: str,
    ) -> None:
        monkeypatch.setattr(gated, "GATE_SECONDS", 0.3)
        client = connect(custodian, end.context)
        if stage == "half a hello":
            client.pipe.handshake()
            client.socket.sendall(client.pipe.outgoing()[:100])
        elif stage != "silence":
            client.shake()
        if stage == "half a challenge":
            client.send(post(CHALLENGE_PATH, CHALLENGE)[:-10])
        elif stage == "challenged":
            challenged(client)
        custodian.eventually(lambda: len(custodian.protocols) == 1)
        nobody(custodian, client)
        if client.pipe.established:
            assert client.ended()

    def test_an_attestation_byte_by_byte_is_cut(
        self, custodian: Custodian, connect: Connect, end: CallingEnd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gated, "GATE_SECONDS", 0.3)
        client = connect(custodian, end.context).shake()
        challenged(client)
        with contextlib.suppress(OSError):
            client.send(b"POST %s HTTP/1.1\r\nHost: e\r\nContent-Length: 1000000\r\n\r\n" % GATE_PATH.encode())
            while True:
                client.send(b" ")
        nobody(custodian, client)

    def test_a_ledger_that_hangs(
        self, custodian: Custodian, end: CallingEnd, dialler: Dialler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gated, "GATE_SECONDS", 0.3)
        custodian.held.clear()
        with pytest.raises(Unavailable):
            dialler.open(end, custodian)
        custodian.held.set()
        nobody(custodian, dialler)

    def test_the_oldest_makes_room(
        self, custodian: Custodian, connect: Connect, end: CallingEnd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(receiving, "MAX_SHUT_GATES", 3)
        clients = []
        for _ in range(5):
            clients.append(connect(custodian, end.context).shake())
            challenged(clients[-1])
        assert [client.ended() for client in clients[:2]] == [True, True]
        for client in clients[2:]:
            client.send(post(GATE_PATH, b"{}"))
            assert client.response()[0] == 400
        nobody(custodian, *clients)

    def test_all_that_wait_are_cut_at_once(self, custodian: Custodian, connect: Connect, end: CallingEnd) -> None:
        waiting, opened = connect(custodian, end.context).shake(), connect(custodian, end.context).shake()
        challenged(waiting)
        opened.send(presented(end, opened, challenged(opened)))
        assert opened.response()[0] == 200
        custodian.call(custodian.make.close)
        assert waiting.ended()
        opened.send(REQUEST)
        assert opened.receive().endswith(b"ok")


class TestNotTLS:
    def test_plain_http_is_told(self, custodian: Custodian) -> None:
        with socket.create_connection(("127.0.0.1", custodian.port), timeout=5) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = plain.makefile("rb").read()
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "channel.plain_http"
        nobody(custodian)

    @pytest.mark.parametrize("data", [b"\x00", b"\xff" * 1000, b"\x17\x03\x03", b"\x16\x03\x01\x01\x00" + bytes(256)])
    def test_garbage_is_not(self, custodian: Custodian, data: bytes) -> None:
        with socket.create_connection(("127.0.0.1", custodian.port), timeout=5) as plain:
            plain.sendall(data)
            assert plain.makefile("rb").read()[:1] in {b"", b"\x15"}
        nobody(custodian)


class TestEnd:
    def test_a_key_that_does_not_belong_to_the_signatures(self) -> None:
        async def policy_for(audience: str) -> Policy:
            raise AssertionError

        one, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        with pytest.raises(ValueError, match="not that of the signing key"):
            ReceivingEnd(one.sign, other.public_key().public_bytes_raw().hex(), policy_for)

    def test_who_is_told_what_by_the_log(self, custodian: Custodian, attester: Attester, dialler: Dialler) -> None:
        """Codes and names, and nothing of the exchange itself."""
        with capture_logs() as logs:
            with pytest.raises(CustodianError):
                dialler.open(Liar(attester, says=changed(ekm=OTHER)), custodian)
            nobody(custodian, dialler)
        assert logs == [
            {
                "event": "caller_refused",
                "log_level": "info",
                "audience": LEASE,
                "code": "binding.exporter",
                "step": "binding",
            }
        ]

    def test_a_server_that_ends_while_it_judges(self, custodian: Custodian, connect: Connect, end: CallingEnd) -> None:
        custodian.held.clear()
        client = connect(custodian, end.context).shake()
        client.send(presented(end, client, challenged(client)))
        custodian.eventually(lambda: any(protocol._answering is not None for protocol in custodian.protocols))

        def cancel() -> None:
            for protocol in custodian.protocols:
                assert protocol._answering is not None
                protocol._answering.cancel()

        custodian.call(cancel)
        assert client.ended()
        custodian.held.set()
        nobody(custodian, client)
