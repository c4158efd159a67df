"""The relying party's end: when it resumes, when it refuses, what its verdict says, and that nothing leaves before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from blindai.attestation.attesters.attester import Attester
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.policy import Policy
from blindai.attestation.result import STEPS, AttestationResult, Mode
from blindai.attestation.simulated.intel import Faults
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.channel import binding, gate
from blindai.channel.client import AttestedChannel
from blindai.channel.end import AttestedEnd, Identity
from blindai.channel.flow import READ, Flow
from blindai.channel.gate import GateRefusal
from blindai.channel.keyset import KEYSET_LIFETIME, PrivateKeyset
from blindai.channel.relying_party import RelyingParty
from blindai.channel.statement import Role, Statement
from blindai.channel.tls import PIECE_BYTES, TLSPipe, server_context
from blindai.demo.impostor import Accomplice, Impostor, receive
from blindai.errors import AttestationError, Unavailable

from .conftest import REQUEST, MovableClock, RunningEnd, SwitchableAttester, Victim

RunEnd = Callable[..., RunningEnd]

DAY = 86_400.0


class CountingEnd(AttestedEnd):
    """An attested end that notes what it was asked."""

    def __init__(self, attester: Attester, **options: Any) -> None:
        super().__init__(attester, {"name": "test"}, **options)
        self.asked: list[str] = []

    def answer(self, body: bytes, pipe: TLSPipe, identity: Identity) -> Any:
        self.asked.append(json.loads(body)["mode"])
        return super().answer(body, pipe, identity)


@pytest.fixture
def counting(attester: Attester, run_end: RunEnd) -> tuple[CountingEnd, RunningEnd]:
    end = CountingEnd(attester)
    return end, run_end(end)


class TestResumption:
    def test_is_used_within_max_age(self, counting: tuple[CountingEnd, RunningEnd], victim: Victim) -> None:
        end, running = counting
        results = [victim.attest(running.address) for _ in range(3)]
        assert end.asked == ["fresh", "resumed", "resumed"]
        assert [result.mode for result in results] == [Mode.FRESH, Mode.RESUMED, Mode.RESUMED]
        # The same verdict, for no longer.
        for result in results[1:]:
            assert msgspec.structs.replace(result, mode=Mode.FRESH) == results[0]

    def test_is_not_used_where_it_is_not_wanted(self, counting: tuple[CountingEnd, RunningEnd], victim: Victim) -> None:
        end, running = counting
        for _ in range(2):
            victim.attest(running.address, resume=False)
        assert end.asked == ["fresh", "fresh"]

    def test_ends_with_max_age(
        self, counting: tuple[CountingEnd, RunningEnd], victim: Victim, clock: MovableClock, policy: Policy
    ) -> None:
        end, running = counting
        victim.attest(running.address)
        clock.offset = policy.max_age_seconds - 30.0
        assert victim.attest(running.address).mode is Mode.RESUMED
        clock.offset = policy.max_age_seconds
        assert victim.attest(running.address).mode is Mode.FRESH
        assert end.asked == ["fresh", "resumed", "fresh"]

    def test_a_resumed_gate_does_not_renew_the_age(
        self, counting: tuple[CountingEnd, RunningEnd], victim: Victim, clock: MovableClock, policy: Policy
    ) -> None:
        end, running = counting
        for step in range(4):
            clock.offset = step * (policy.max_age_seconds / 2 + 1)
            victim.attest(running.address)
        assert end.asked == ["fresh", "resumed", "fresh", "resumed"]

    def test_ends_with_the_verdict(self, counting: tuple[CountingEnd, RunningEnd], victim: Victim) -> None:
        end, running = counting
        victim.attest(running.address)
        party = victim.party(running.address)
        assert party.remembered is not None
        expired = msgspec.structs.replace(party.remembered.result, expires_at=party.now())
        party.remembered = msgspec.structs.replace(party.remembered, result=expired)
        assert party.recall() is None
        assert victim.party(running.address).remembered is None
        victim.attest(running.address)
        assert end.asked == ["fresh", "fresh"]

    def test_max_age_zero_asks_for_a_quote_each_time(
        self, counting: tuple[CountingEnd, RunningEnd], policy: Policy, clock: MovableClock
    ) -> None:
        end, running = counting
        text = policy.to_toml().replace("max_age_seconds = 600", "max_age_seconds = 0")
        strict = Victim(Policy.parse(text, "manifest.toml"), clock)
        for _ in range(2):
            assert strict.attest(running.address).mode is Mode.FRESH
        assert end.asked == ["fresh", "fresh"]

    def test_a_restarted_enclave_is_attested_once_more(
        self, counting: tuple[CountingEnd, RunningEnd], attester: Attester, run_end: RunEnd, victim: Victim
    ) -> None:
        _, running = counting
        before = victim.attest(running.address)
        running.close()
        restarted = CountingEnd(attester)
        run_end(restarted, port=running.port)
        after = victim.attest(running.address)
        assert after.mode is Mode.FRESH
        assert after.keyset_digest != before.keyset_digest
        assert after.keyset_digest == restarted.identity().keyset.digest
        assert victim.attest(running.address).mode is Mode.RESUMED
        assert restarted.asked == ["resumed", "fresh", "resumed"]

    def test_other_code_after_a_restart_is_refused(
        self, counting: tuple[CountingEnd, RunningEnd], root: SimulatedRoot, run_end: RunEnd, victim: Victim
    ) -> None:
        _, running = counting
        victim.attest(running.address)
        running.close()
        changed = run_end(
            CountingEnd(SimulatedAttester(root=root, measurements={"mrtd": "ab" * 48})), port=running.port
        )
        with pytest.raises(AttestationError) as caught:
            victim.send(running.address)
        assert caught.value.code == "code.unknown"
        assert victim.party(running.address).remembered is None
        assert not changed.received

    def test_what_one_address_proved_is_not_believed_of_another(
        self, counting: tuple[CountingEnd, RunningEnd], attester: Attester, run_end: RunEnd, victim: Victim
    ) -> None:
        victim.attest(counting[1].address)
        other = CountingEnd(attester)
        victim.attest(run_end(other).address)
        assert other.asked == ["fresh"]


class TestExpiry:
    def test_is_asked_before_every_request(self, enclave: RunningEnd, victim: Victim, clock: MovableClock) -> None:
        channel, stream = victim.connect(enclave.address)
        stream.run(channel.open())
        stream.run(channel.exchange(REQUEST, max_answer_bytes=100))
        assert channel.result.expires_at is not None
        clock.offset = (channel.result.expires_at - datetime.now(UTC)).total_seconds() + 1
        received, sent = len(enclave.received), channel.application_bytes_sent
        with pytest.raises(AttestationError) as caught:
            stream.run(channel.exchange(REQUEST, max_answer_bytes=100))
        assert (caught.value.code, caught.value.step) == ("result.expired", "binding")
        assert len(enclave.received) == received
        assert channel.application_bytes_sent == sent

    def test_without_the_check_the_request_would_go_out(
        self, enclave: RunningEnd, victim: Victim, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The check is what holds the request back: without it, the enclave has it."""
        monkeypatch.setattr(AttestationResult, "require_valid", lambda self, now: None)
        channel, stream = victim.connect(enclave.address)
        stream.run(channel.open())
        clock.offset = 3650 * DAY
        stream.run(channel.exchange(REQUEST, max_answer_bytes=100))
        assert enclave.received == REQUEST

    def test_is_the_earliest_of_what_the_verdict_rests_on(
        self, attester: Attester, run_end: RunEnd, victim: Victim, clock: MovableClock
    ) -> None:
        end = AttestedEnd(attester, {})
        result = victim.attest(run_end(end).address)
        assert result.claims is not None
        assert result.expires_at == min(end.identity().keyset.public.expires_at, result.claims.not_after)
        assert result.expires_at is not None
        assert result.expires_at - datetime.now(UTC) <= KEYSET_LIFETIME


class TestRole:
    def test_without_the_check_evidence_of_a_client_would_pass(
        self, attester: Attester, run_end: RunEnd, victim: Victim, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The counterpart is in test_attacks.py: with the role in the statement, the same evidence is refused."""

        class Reflected(AttestedEnd):
            def _statement(self, nonce: bytes, pipe: TLSPipe, identity: Identity) -> Statement:
                return msgspec.structs.replace(super()._statement(nonce, pipe, identity), role=Role.CLIENT)

        def without_role(statement: Statement, domain: str) -> bytes:
            members = msgspec.to_builtins(statement)
            del members["role"]
            return domain.encode() + json.dumps(members).encode()

        reflected = run_end(Reflected(attester, {}))
        with pytest.raises(AttestationError) as caught:
            victim.attest(reflected.address)
        assert caught.value.code == "binding.role"
        monkeypatch.setattr(Statement, "_tagged", without_role)
        assert victim.send(reflected.address) == b"ok"


class TestTime:
    @pytest.mark.parametrize(
        ("days", "step"), [(-3650, "endorsements"), (-2, "endorsements"), (60, "endorsements"), (36500, "endorsements")]
    )
    def test_a_clock_that_is_wrong(
        self, enclave: RunningEnd, victim: Victim, clock: MovableClock, days: int, step: str
    ) -> None:
        clock.offset = days * DAY
        with pytest.raises(AttestationError) as caught:
            victim.send(enclave.address)
        assert caught.value.step == step
        assert caught.value.code.endswith(".not_yet_valid" if days < 0 else ".expired")
        assert "clock" in caught.value.hint
        assert not enclave.received

    def test_keys_that_have_run_out(
        self, switchable: SwitchableAttester, run_end: RunEnd, victim: Victim, clock: MovableClock
    ) -> None:
        """An enclave whose attester has been failing for a day."""
        server_clock = MovableClock()
        enclave = run_end(AttestedEnd(switchable, {}, clock=server_clock))
        clock.offset = KEYSET_LIFETIME.total_seconds() + 60
        with pytest.raises(AttestationError) as caught:
            victim.send(enclave.address)
        assert (caught.value.code, caught.value.step) == ("binding.keyset_expired", "binding")
        assert not enclave.received

    def test_a_little_skew_is_nothing(self, enclave: RunningEnd, victim: Victim, clock: MovableClock) -> None:
        for seconds in (-120.0, 120.0):
            clock.offset = seconds
            victim.attest(enclave.address, resume=False)

    @pytest.mark.parametrize(
        ("faults", "code"),
        [
            (Faults(without_collateral=True), "endorsements.missing"),
            (Faults(collateral_shift=timedelta(days=-60)), "expired"),
            (Faults(collateral_shift=timedelta(days=2)), "not_yet_valid"),
        ],
        ids=["missing", "expired", "early"],
    )
    def test_collateral(self, root: SimulatedRoot, run_end: RunEnd, victim: Victim, faults: Faults, code: str) -> None:
        enclave = run_end(AttestedEnd(SimulatedAttester(root=root, faults=faults), {}))
        with pytest.raises(AttestationError) as caught:
            victim.send(enclave.address)
        assert caught.value.step == "endorsements"
        assert caught.value.code.endswith(code)
        assert not enclave.received


class TestVerdict:
    def test_says_what_was_found(self, enclave: RunningEnd, victim: Victim, policy: Policy) -> None:
        channel, stream = victim.connect(enclave.address)
        result = stream.run(channel.open())
        assert result is channel.result
        assert result.mode is Mode.FRESH
        assert result.status == "affirming"
        assert result.policy_digest == policy.digest
        assert result.keyset_digest == enclave.end.identity().keyset.digest
        assert result.simulated
        assert result.claims is not None
        assert [check.step for check in result.checks] == list(STEPS)
        assert result.checks[0].got == "TLSv1.3, X25519MLKEM768"
        assert channel.group == "X25519MLKEM768"
        assert {check.outcome for check in result.checks} == {"PASS", "SKIP"}

    def test_of_a_refusal_shows_the_failure(self, enclave: RunningEnd, victim: Victim) -> None:
        victim.send(enclave.address)
        kept = victim.party(enclave.address).remembered
        accomplice = Accomplice("127.0.0.1", enclave.port)
        with Impostor(accomplice.ask, enclave.end.identity().keyset) as attacker:
            address = attacker.address.removeprefix("https://")
            victim.party(address).remembered = kept
            with pytest.raises(AttestationError) as caught:
                victim.send(address)
        error = caught.value
        assert error.code == "binding.proof"
        assert error.result is not None
        assert error.result.status == "contraindicated"
        assert error.result.expires_at is None
        assert [check.step for check in error.result.checks if check.outcome == "FAIL"] == ["binding"]
        passed, required = error.result.tally()
        assert passed == required - 1
        with pytest.raises(AttestationError) as again:
            error.result.require_valid(datetime.now(UTC))
        assert again.value.code == "result.refused"
        # Nothing is resumed on keys whose owner failed to prove himself.
        assert victim.party(address).remembered is None

    def test_a_keyset_with_a_broken_proof_key(self, enclave: RunningEnd, victim: Victim) -> None:
        victim.attest(enclave.address)
        party = victim.party(enclave.address)
        assert party.remembered is not None
        broken = msgspec.structs.replace(party.remembered.transcript.keyset, proof_key="no hex")
        transcript = msgspec.structs.replace(party.remembered.transcript, keyset=broken)
        party.remembered = msgspec.structs.replace(party.remembered, transcript=transcript)
        with pytest.raises(AttestationError) as caught:
            victim.attest(enclave.address)
        assert caught.value.code == "binding.proof"

    def test_before_the_gate_there_is_none(self, victim: Victim, enclave: RunningEnd) -> None:
        channel, _ = victim.connect(enclave.address)
        with pytest.raises(AttestationError) as caught:
            _ = channel.result
        assert (caught.value.code, caught.value.step) == ("channel.not_open", "channel")


class Answering(AttestedEnd):
    """An end that answers the gate with a refusal of the test's choice."""

    def __init__(self, attester: Attester, refusal: GateRefusal) -> None:
        super().__init__(attester, {})
        self._refusal = refusal

    def answer(self, body: bytes, pipe: TLSPipe, identity: Identity) -> bytes:
        raise self._refusal


class TestStrangers:
    """What peers say that nobody vouches for."""

    def test_a_refusal_is_repeated_in_harmless_words(self, attester: Attester, run_end: RunEnd, victim: Victim) -> None:
        words = "\x1b[2Jgo to https://evil.example\r\n" + "a" * 10_000
        liar = run_end(Answering(attester, GateRefusal(503, "gate.\x07", words)))
        with pytest.raises(AttestationError) as caught:
            victim.send(liar.address)
        error = caught.value
        assert error.code == "channel.not_attested"
        assert error.got.startswith("HTTP status 503, gate.?: ?[2Jgo to")
        assert error.got.isprintable()
        assert len(error.got) <= 200
        assert not liar.received

    @pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[]", b'{"error": 1, "code": 2}', b"[" * 100_000])
    def test_a_refusal_without_words(self, victim: Victim, body: bytes) -> None:
        with served(respond(502, body)) as address, pytest.raises(AttestationError) as caught:
            victim.send(address)
        assert caught.value.code == "channel.not_attested"
        assert caught.value.got == "HTTP status 502"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"v":1}',
            json.dumps({"v": 1, "mode": "fresh", "keyset": {}, "config": {}, "statement": {}, "evidence": {}}).encode(),
        ],
        ids=range(6),
    )
    def test_an_answer_that_cannot_be_parsed(self, victim: Victim, body: bytes) -> None:
        with served(respond(200, body)) as address, pytest.raises(AttestationError) as caught:
            victim.send(address)
        assert caught.value.code == "channel.not_attested"
        assert "cannot be parsed" in caught.value.got

    @pytest.mark.parametrize("key", ["a\nb", "é"])
    @pytest.mark.parametrize("value", [1.5, 2**60, "\x1b"])
    def test_an_answer_with_a_configuration_that_has_no_digest(
        self, enclave: RunningEnd, victim: Victim, key: str, value: Any
    ) -> None:
        genuine = json.loads(Accomplice("127.0.0.1", enclave.port).ask(fresh_request()))
        body = json.dumps(genuine | {"config": {key: value}}).encode()
        with served(respond(200, body)) as address, pytest.raises(AttestationError) as caught:
            victim.send(address)
        assert caught.value.code == "channel.not_attested"

    @pytest.mark.parametrize("not_after", [2**53 - 1, -(2**53) + 1])
    def test_an_answer_beyond_the_calendar(self, enclave: RunningEnd, victim: Victim, not_after: int) -> None:
        genuine = json.loads(Accomplice("127.0.0.1", enclave.port).ask(fresh_request()))
        genuine["keyset"]["not_after"] = not_after
        with served(respond(200, json.dumps(genuine).encode())) as address, pytest.raises(AttestationError) as caught:
            victim.send(address)
        assert caught.value.code == "channel.not_attested"

    @pytest.mark.parametrize(
        ("evidence", "code"),
        [(b"{}", "evidence.malformed"), (b'{"tee":"intel-tdx","quote":"AAAA"}', "evidence.malformed")],
    )
    def test_evidence_that_is_none(self, enclave: RunningEnd, victim: Victim, evidence: bytes, code: str) -> None:
        genuine = json.loads(Accomplice("127.0.0.1", enclave.port).ask(fresh_request()))
        body = json.dumps(genuine | {"evidence": json.loads(evidence)}).encode()
        with served(respond(200, body)) as address, pytest.raises(AttestationError) as caught:
            victim.send(address)
        assert (caught.value.code, caught.value.step) == (code, "evidence")

    def test_an_answer_without_end(self, victim: Victim) -> None:
        flood = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"
        with served(lambda _: flood) as address, pytest.raises(AttestationError) as caught:
            victim.send(address)
        assert caught.value.code == "channel.not_attested"
        assert "announces" in caught.value.got

    @pytest.mark.parametrize("raw", [b"SSH-2.0\r\n", b"HTTP/1.1 101 x\r\nUpgrade: y\r\nConnection: upgrade\r\n\r\n"])
    def test_an_answer_that_is_no_http(self, victim: Victim, raw: bytes) -> None:
        with served(lambda _: raw) as address, pytest.raises(AttestationError) as caught:
            victim.send(address)
        assert caught.value.code == "channel.not_attested"

    def test_two_answers_to_one_question(self, enclave: RunningEnd, victim: Victim) -> None:
        genuine = Accomplice("127.0.0.1", enclave.port).ask(fresh_request())
        with served(lambda _: respond(200, genuine)(b"") * 2) as address, pytest.raises(AttestationError) as caught:
            victim.send(address)
        assert caught.value.code == "channel.not_attested"

    @pytest.mark.parametrize("body", [b"", b"{}", b'{"v":1,"mode":"resumed","signature":"00"}', b"[" * 100_000])
    def test_a_resumed_answer_that_cannot_be_parsed(self, enclave: RunningEnd, victim: Victim, body: bytes) -> None:
        victim.attest(enclave.address)
        kept = victim.party(enclave.address).remembered
        with served(respond(200, body)) as address:
            victim.party(address).remembered = kept
            with pytest.raises(AttestationError) as caught:
                victim.send(address)
        assert caught.value.code == "channel.not_attested"

    @pytest.mark.parametrize("status", [400, 404, 429, 500])
    def test_a_resumed_gate_that_is_refused(self, enclave: RunningEnd, victim: Victim, status: int) -> None:
        victim.attest(enclave.address)
        kept = victim.party(enclave.address).remembered
        with served(respond(status, b"{}")) as address:
            victim.party(address).remembered = kept
            with pytest.raises(AttestationError) as caught:
                victim.send(address)
        assert caught.value.code == "channel.not_attested"

    @pytest.mark.parametrize("fields", [{"v": 2}, {"mode": "fresh"}])
    def test_another_version_or_mode_in_a_resumed_answer(
        self, enclave: RunningEnd, victim: Victim, fields: dict[str, Any]
    ) -> None:
        victim.attest(enclave.address)
        kept = victim.party(enclave.address).remembered
        answer = {"v": 1, "mode": "resumed", "signature": "00" * 64} | fields
        with served(respond(200, json.dumps(answer).encode())) as address:
            victim.party(address).remembered = kept
            with pytest.raises(AttestationError) as caught:
                victim.send(address)
        assert caught.value.code == "channel.downgrade"


class Memory:
    """A server in memory: TLS with a key of its own, then what `answer` says to each plaintext."""

    def __init__(self, context: Any, answer: Callable[[bytes], bytes | None]) -> None:
        self.pipe = TLSPipe(context, server=True)
        self.heard: list[bytes] = []
        self._answer = answer

    def talk(self, flow: Flow[Any]) -> Any:
        """Run a flow of a client against this server; None as an answer ends the connection."""
        ended = False
        try:
            action = next(flow)
            while True:
                if action is not READ:
                    ended = self._take(action) or ended
                    action = flow.send(b"")
                    continue
                outgoing = self.pipe.outgoing()
                assert outgoing or ended, "both ends wait"
                action = flow.send(outgoing)
        except StopIteration as stop:
            return stop.value
        finally:
            flow.close()

    def _take(self, data: bytes) -> bool:
        self.pipe.feed(data)
        if not self.pipe.established and not self.pipe.handshake():
            return False
        while plaintext := self.pipe.read():
            self.heard.append(plaintext)
            reply = self._answer(plaintext)
            if reply is None:
                return True
            self.pipe.write(reply)
        return False


class TestExchange:
    """After the gate, which these tests take for passed."""

    @pytest.fixture
    def channel(self, policy: Policy, enclave: RunningEnd, victim: Victim) -> AttestedChannel:
        channel = AttestedChannel(RelyingParty("enclave:1", policy))
        channel._result = victim.attest(enclave.address)
        return channel

    @pytest.fixture
    def memory(self, channel: AttestedChannel, attester: Attester) -> Callable[..., Memory]:
        def make(answer: Callable[[bytes], bytes | None]) -> Memory:
            server = Memory(AttestedEnd(attester, {}).identity().context, answer)
            server.talk(channel._handshake())
            return server

        return make

    def test_a_whole_one(self, channel: AttestedChannel, memory: Callable[..., Memory]) -> None:
        server = memory(respond(200, b"fine"))
        for _ in range(3):
            answer = server.talk(channel.exchange(REQUEST, max_answer_bytes=10))
            assert (answer.status, answer.body) == (200, b"fine")
            assert channel.usable
        assert b"".join(server.heard) == REQUEST * 3
        assert channel.application_bytes_sent > len(REQUEST) * 3

    def test_the_last_one_of_a_connection(self, channel: AttestedChannel, memory: Callable[..., Memory]) -> None:
        server = memory(lambda _: b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        server.talk(channel.exchange(REQUEST, max_answer_bytes=10))
        assert not channel.usable
        sent = channel.application_bytes_sent
        with pytest.raises(Unavailable) as caught:
            server.talk(channel.exchange(REQUEST, max_answer_bytes=10))
        assert caught.value.code == "unavailable.closed"
        assert channel.application_bytes_sent == sent

    def test_a_body_in_parts(self, channel: AttestedChannel, memory: Callable[..., Memory]) -> None:
        parts: list[bytes | bytearray | memoryview] = [
            b"a" * 10,
            bytearray(b"b" * 70_000),
            memoryview(b"c" * 5),
            b"",
            b"d" * 200_000,
        ]
        total = sum(map(len, parts))
        seen = bytearray()

        def answer(plaintext: bytes) -> bytes:
            seen.extend(plaintext)
            return respond(200, b"")(b"") if len(seen) == len(REQUEST) + total else b""

        server = memory(answer)
        server.talk(channel.exchange(REQUEST, parts, max_answer_bytes=10))
        assert seen == REQUEST + b"".join(bytes(part) for part in parts)

    def test_a_body_that_leaves_nothing_over(self, channel: AttestedChannel, memory: Callable[..., Memory]) -> None:
        heard = bytearray()

        def answer(plaintext: bytes) -> bytes:
            heard.extend(plaintext)
            return respond(200, b"")(b"") if len(heard) == len(REQUEST) + PIECE_BYTES else b""

        memory(answer).talk(channel.exchange(REQUEST, [bytes(PIECE_BYTES)], max_answer_bytes=10))
        assert heard == REQUEST + bytes(PIECE_BYTES)

    def test_a_body_waits_for_leave(self, channel: AttestedChannel, memory: Callable[..., Memory]) -> None:
        def answer(plaintext: bytes) -> bytes:
            return respond(201, b"")(b"") if plaintext == b"body" else b"HTTP/1.1 100 Continue\r\n\r\n"

        server = memory(answer)
        reply = server.talk(channel.exchange(REQUEST, [b"body"], max_answer_bytes=10, expect_continue=True))
        assert reply.status == 201
        assert server.heard == [REQUEST, b"body"]

    def test_a_body_that_is_not_wanted_stays(self, channel: AttestedChannel, memory: Callable[..., Memory]) -> None:
        server = memory(respond(413, b"no"))
        reply = server.talk(channel.exchange(REQUEST, [b"body"], max_answer_bytes=10, expect_continue=True))
        assert reply.status == 413
        assert server.heard == [REQUEST]

    @pytest.mark.parametrize(
        ("reply", "code"),
        [
            (None, "unavailable.closed"),
            (b"nonsense\r\n\r\n", "unavailable.protocol"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", "unavailable.protocol"),
        ],
    )
    def test_one_that_breaks_off(
        self, channel: AttestedChannel, memory: Callable[..., Memory], reply: bytes | None, code: str
    ) -> None:
        server = memory(lambda _: reply)
        with pytest.raises(Unavailable) as caught:
            server.talk(channel.exchange(REQUEST, max_answer_bytes=10))
        assert caught.value.code == code
        assert not channel.usable

    def test_one_that_ends_with_close_notify(self, channel: AttestedChannel, memory: Callable[..., Memory]) -> None:
        server = memory(lambda _: b"HTTP/1.1 200 OK\r\n")
        original = server.pipe.outgoing

        def outgoing() -> bytes:
            server.pipe.close()
            return original()

        server.pipe.outgoing = outgoing  # type: ignore[method-assign] # says good-bye behind its answer
        with pytest.raises(Unavailable) as caught:
            server.talk(channel.exchange(REQUEST, max_answer_bytes=10))
        assert caught.value.code == "unavailable.closed"
        assert "ended the TLS connection" in caught.value.message

    def test_one_that_is_tampered_with(self, channel: AttestedChannel, memory: Callable[..., Memory]) -> None:
        server = memory(respond(200, b"fine"))
        original = server.pipe.outgoing
        server.pipe.outgoing = lambda: original()[:-1] + b"x"  # type: ignore[method-assign] # on the way
        with pytest.raises(Unavailable) as caught:
            server.talk(channel.exchange(REQUEST, max_answer_bytes=10))
        assert caught.value.code == "unavailable.protocol"
        assert not channel.usable

    def test_good_bye(self, channel: AttestedChannel, memory: Callable[..., Memory]) -> None:
        server = memory(respond(200, b""))
        server.talk(channel.close())
        assert server.pipe.read() == b""
        assert not channel.usable
        server.talk(channel.close())

    def test_good_bye_before_the_handshake(self, policy: Policy) -> None:
        assert list(AttestedChannel(RelyingParty("enclave:1", policy)).close()) == []


class TestHandshake:
    def test_a_peer_that_leaves(self, policy: Policy) -> None:
        flow = AttestedChannel(RelyingParty("enclave:1", policy)).open()
        assert next(flow)  # the hello
        assert flow.send(b"") is READ
        with pytest.raises(Unavailable) as caught:
            flow.send(b"")
        assert caught.value.code == "unavailable.handshake"

    def test_a_peer_that_speaks_nonsense(self, policy: Policy) -> None:
        flow = AttestedChannel(RelyingParty("enclave:1", policy)).open()
        next(flow)
        flow.send(b"")
        alert = flow.send(b"\x16\x03\x03\x00\x04\x02\x00\x00\x00")
        assert alert is None or alert[:1] == b"\x15"
        with pytest.raises(AttestationError) as caught:
            flow.send(b"")
        assert (caught.value.code, caught.value.step) == ("channel.tls", "channel")

    def test_byte_by_byte(self, policy: Policy, attester: Attester) -> None:
        channel = AttestedChannel(RelyingParty("enclave:1", policy))
        server = TLSPipe(AttestedEnd(attester, {}).identity().context, server=True)
        flow = channel._handshake()
        hello = next(flow)
        assert hello is not None
        server.feed(hello)
        assert not server.handshake()
        assert flow.send(b"") is READ
        *flight, last = server.outgoing()
        for byte in flight:
            assert flow.send(bytes([byte])) is READ
        with pytest.raises(StopIteration):
            flow.send(bytes([last]))
        assert channel.group == "X25519MLKEM768"

    def test_the_servers_name_is_sent_as_a_hint(self, policy: Policy) -> None:
        hello = next(AttestedChannel(RelyingParty("enclave:1", policy), server_name="enclave.example").open())
        assert hello is not None
        assert b"enclave.example" in hello

    def test_without_a_name_none_is_sent(self, policy: Policy) -> None:
        hello = next(AttestedChannel(RelyingParty("10.0.0.1:1", policy)).open())
        assert hello is not None
        assert b"10.0.0.1" not in hello

    def test_a_key_of_another_kind(self, policy: Policy, enclave: RunningEnd) -> None:
        """Genuine evidence behind a certificate with an RSA key."""
        key = rsa.generate_private_key(65537, 2048)
        genuine = Accomplice("127.0.0.1", enclave.port).ask(fresh_request())
        server = Memory(server_context(key, certificate_of(key)), respond(200, genuine))  # type: ignore[arg-type] # RSA
        channel = AttestedChannel(RelyingParty("enclave:1", policy))
        with pytest.raises(AttestationError) as caught:
            server.talk(channel.open())
        assert (caught.value.code, caught.value.step) == ("channel.key_type", "channel")
        assert not channel.usable


def test_every_mismatch_of_a_statement_has_words() -> None:
    """A field that is added to the statement gets its own code."""
    assert set(binding._MISMATCHES) == set(Statement.__struct_fields__) - {"v"}


def fresh_request() -> bytes:
    return gate.encoder.encode({"v": 1, "mode": "fresh", "nonce": "00" * 32})


def respond(status: int, body: bytes) -> Callable[[bytes], bytes]:
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return lambda _: head + body


@contextmanager
def served(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """An impostor that answers the gate with raw bytes, and must not have got anything in the end."""

    class Raw(Impostor):
        def _gate_request(self, connection: Any, pipe: TLSPipe) -> bytes:
            pipe.write(answer(super()._gate_request(connection, pipe)))
            connection.sendall(pipe.outgoing())
            # What the impostor would add is swallowed: the victim has heard enough.
            while plaintext := receive(connection, pipe):
                self.application_bytes += len(plaintext)
            raise ConnectionResetError

    with Raw(lambda _: b"", PrivateKeyset(datetime.now(UTC))) as attacker:
        yield attacker.address.removeprefix("https://")
    assert attacker.gate_requests > 0
    assert attacker.application_bytes == 0


def certificate_of(key: rsa.RSAPrivateKey) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
