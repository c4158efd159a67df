"""The attested end as a client: on every platform, against forged custodians, and on an event loop."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.channel.test_attacks import listening, load, new_keyset
from tests.channel.test_client import Memory, respond

from blindai.attestation.anchors import Vendor
from blindai.attestation.attesters.attester import Attester
from blindai.attestation.attesters.devices import SimulatedDeviceAttester
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.credential import make_credential
from blindai.attestation.evidence import TEE, Evidence, TpmIdentity
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.policy.gpus import GpuPolicy
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.attestation.simulated.nvidia import SimulatedNvidiaRoot
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.attestation.simulated.tpm import QUOTED_PCRS, SimulatedTpm, TpmFaults
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot
from blindai.channel import calling as calling_module
from blindai.channel import gate
from blindai.channel import reversed_gate as messages
from blindai.channel.calling import AttestedCall, CalledConnection, CallingEnd, call
from blindai.channel.gate import GATE_PATH, GateCredential
from blindai.channel.keyset import INSTANCE_LIFETIME
from blindai.channel.receiving import Caller, Challenged, ReceivingEnd
from blindai.channel.reversed_gate import CHALLENGE_PATH
from blindai.channel.tls import TLSPipe, receiving_context
from blindai.errors import AttestationError, BlindAIError, CustodianError, LeaseStopped, QuotaExceeded, Unavailable

from .conftest import (
    LEASE,
    REQUEST,
    Custodian,
    Dialler,
    MovableClock,
    RunningEnd,
    SwitchableAttester,
    Victim,
    rsa_certificate,
)

RunCustodian = Callable[..., Custodian]

OTHER = "cd" * 32


@pytest.fixture
def end(switchable: SwitchableAttester) -> CallingEnd:
    return CallingEnd(switchable, {"name": "test"})


@pytest.fixture(scope="session")
def tpm_root() -> SimulatedTpmRoot:
    return SimulatedTpmRoot.generate()


def booted(root: SimulatedTpmRoot, **options: Any) -> SimulatedTpm:
    one = SimulatedTpm(root, **options)
    one.boot()
    return one


def tpm_policy(root: SimulatedTpmRoot, tpm: SimulatedTpm) -> Policy:
    measurements = {f"pcr{index}": value.hex() for index, value in tpm.pcrs.items() if index in QUOTED_PCRS}
    return Policy.simulated({Vendor.TPM: root.anchor.spki_sha256}, measurements)


class SlowTpm:
    """A TPM that notes in which threads it works."""

    tee, simulated, quick = TEE.TPM, True, False

    def __init__(self, tpm: SimulatedTpm) -> None:
        self._tpm = tpm
        self.threads: set[int] = set()

    def identity(self) -> TpmIdentity:
        self.threads.add(threading.get_ident())
        return self._tpm.identity()

    def activate(self, blob: bytes, encrypted_secret: bytes) -> bytes:
        self.threads.add(threading.get_ident())
        return self._tpm.activate(blob, encrypted_secret)

    def attest(self, report_data: bytes) -> Evidence:
        self.threads.add(threading.get_ident())
        return self._tpm.attest(report_data)


async def calling(end: CallingEnd, custodian: Custodian, **options: Any) -> CalledConnection:
    key = custodian.key.public_key()
    return await call(end, "127.0.0.1", custodian.port, custodian=key, audience=LEASE, **options)


async def ask(end: CallingEnd, custodian: Custodian) -> bytes:
    connection = await calling(end, custodian)
    try:
        return (await connection.exchange(REQUEST, max_answer_bytes=100)).body
    finally:
        await connection.close()


class TestPlatforms:
    @pytest.mark.parametrize("quick", [True, False])
    @pytest.mark.parametrize("tee", [TEE.INTEL_TDX, TEE.INTEL_SGX])
    def test_intel(self, custodian: Custodian, dialler: Dialler, root: SimulatedRoot, tee: TEE, quick: bool) -> None:
        custodian.policy = Policy.simulated({Vendor.INTEL: root.anchor.spki_sha256}, measure_package(tee=tee))
        attester = SwitchableAttester(SimulatedAttester(tee=tee, root=root), quick=quick)
        end = CallingEnd(attester, {"name": "test"})
        assert dialler.send(end, custodian) == b"ok"
        assert custodian.callers[0].result.claims is not None
        assert custodian.callers[0].result.claims.tee is tee

    def test_amd(self, custodian: Custodian, dialler: Dialler) -> None:
        root = SimulatedAmdRoot.generate()
        measurements = measure_package(tee=TEE.AMD_SEV_SNP)
        custodian.policy = Policy.simulated({Vendor.AMD: root.anchor.spki_sha256}, measurements)
        end = CallingEnd(SimulatedAttester(tee=TEE.AMD_SEV_SNP, root=root), {"name": "test"})
        assert dialler.send(end, custodian) == b"ok"

    def test_with_gpus(self, custodian: Custodian, dialler: Dialler, attester: Attester, root: SimulatedRoot) -> None:
        gpu_root = SimulatedNvidiaRoot.generate()
        roots = {Vendor.INTEL: root.anchor.spki_sha256, Vendor.NVIDIA: gpu_root.anchor.spki_sha256}
        custodian.policy = replace(Policy.simulated(roots, measure_package()), gpus=GpuPolicy(count=2))
        end = CallingEnd(attester, {"name": "test"}, devices=SimulatedDeviceAttester(count=2, root=gpu_root))
        assert end.simulated
        assert dialler.send(end, custodian) == b"ok"
        assert len(custodian.callers[0].result.devices) == 2
        with pytest.raises(CustodianError) as caught:
            dialler.open(CallingEnd(attester, {"name": "test"}), custodian)
        assert (caught.value.step, caught.value.code) == ("devices", "devices.missing")

    @pytest.mark.parametrize(("ek", "ak"), [("ecc", "ecc"), ("rsa", "rsa")])
    def test_a_tpm(self, custodian: Custodian, dialler: Dialler, tpm_root: SimulatedTpmRoot, ek: Any, ak: Any) -> None:
        tpm = booted(tpm_root, ek=ek, ak=ak)
        custodian.policy = tpm_policy(tpm_root, tpm)
        end = CallingEnd(tpm, {"name": "test"})
        for _ in range(2):
            assert dialler.send(end, custodian) == b"ok"
        answers = [caller.transcript.activation for caller in custodian.callers]
        assert all(answers)
        assert len({answer.secret for answer in answers if answer is not None}) == 2

    def test_a_tpm_on_an_event_loop(self, custodian: Custodian, tpm_root: SimulatedTpmRoot) -> None:
        tpm = booted(tpm_root)
        custodian.policy = tpm_policy(tpm_root, tpm)
        slow = SlowTpm(tpm)
        assert asyncio.run(ask(CallingEnd(slow, {"name": "test"}), custodian)) == b"ok"
        assert threading.get_ident() not in slow.threads

    def test_a_tpm_that_cannot_open_its_credential(
        self, custodian: Custodian, dialler: Dialler, tpm_root: SimulatedTpmRoot
    ) -> None:
        forgetful = booted(tpm_root, faults=TpmFaults(forgets_secret=True))
        custodian.policy = tpm_policy(tpm_root, forgetful)
        with pytest.raises(CustodianError) as caught:
            dialler.open(CallingEnd(forgetful, {"name": "test"}), custodian)
        assert (caught.value.step, caught.value.code) == ("endorsements", "endorsements.activation")

    def test_a_tpm_that_does_not_say_who_it_is(
        self, custodian: Custodian, dialler: Dialler, tpm_root: SimulatedTpmRoot
    ) -> None:
        class Silent:
            tee, simulated, quick = TEE.TPM, True, True

            def attest(self, report_data: bytes) -> Evidence:
                return tpm.attest(report_data)

        tpm = booted(tpm_root)
        custodian.policy = tpm_policy(tpm_root, tpm)
        with pytest.raises(CustodianError) as caught:
            dialler.open(CallingEnd(Silent(), {"name": "test"}), custodian)
        assert (caught.value.step, caught.value.code) == ("endorsements", "endorsements.not_activated")

    @pytest.mark.parametrize("field", ["ek_public", "ak_public"])
    def test_a_tpm_whose_keys_cannot_be_parsed(
        self, custodian: Custodian, dialler: Dialler, tpm_root: SimulatedTpmRoot, field: str
    ) -> None:
        class Garbled(SlowTpm):
            def identity(self) -> TpmIdentity:
                return msgspec.structs.replace(super().identity(), **{field: b"\0\1"})

        with pytest.raises(CustodianError) as caught:
            dialler.open(CallingEnd(Garbled(booted(tpm_root)), {"name": "test"}), custodian)
        assert caught.value.code == "custodian.not_custodian"
        assert "evidence.malformed" in caught.value.message


class TestInstance:
    def test_is_its_keyset(self, end: CallingEnd, switchable: SwitchableAttester) -> None:
        assert end.instance == end.keyset.digest == end.keyset.public.digest
        assert switchable.calls == []  # nothing is attested before somebody asks
        assert end.simulated

    def test_stays_itself(
        self, attester: Attester, clock: MovableClock, custodian: Custodian, dialler: Dialler
    ) -> None:
        end = CallingEnd(attester, {"name": "test"}, clock=clock)
        dialler.open(end, custodian)
        clock.offset = timedelta(days=20).total_seconds()
        dialler.open(end, custodian)
        assert [caller.instance for caller in custodian.callers] == [end.instance] * 2
        assert end.keyset.public.expires_at - end.keyset.not_before > INSTANCE_LIFETIME - timedelta(seconds=2)

    def test_another_start_is_another_instance(self, attester: Attester) -> None:
        assert CallingEnd(attester, {}).instance != CallingEnd(attester, {}).instance

    def test_a_configuration_without_an_encoding(self, attester: Attester) -> None:
        with pytest.raises(ValueError, match="canonical"):
            CallingEnd(attester, {"name": "\u00e4"})


class Wrong(ReceivingEnd):
    """Signs something else than this connection: `wrong` says what."""

    wrong: ClassVar[dict[str, Any]] = {}

    def challenge(self, body: bytes, pipe: TLSPipe) -> tuple[bytes, Challenged]:
        encoded, challenged = super().challenge(body, pipe)
        answer = messages.challenge_answer_decoder.decode(encoded)
        true = messages.ChallengeStatement(
            audience=challenged.audience,
            nonce=answer.nonce,
            ekm=pipe.exported(challenged.nonce),
            spki_sha256=self._spki_sha256,
            caller_spki_sha256=pipe.peer_spki_sha256() or "",
        )
        signature = self._sign(msgspec.structs.replace(true, **self.wrong).message).hex()
        return gate.encoder.encode(msgspec.structs.replace(answer, signature=signature)), challenged


class TestForgery:
    """Nothing is attested before the custodian has proved its key."""

    def refused(self, dialler: Dialler, end: CallingEnd, custodian: Custodian, key: Any = None) -> CustodianError:
        connection, stream = dialler.dial(end, custodian, key or custodian.key.public_key())
        with pytest.raises(CustodianError) as caught:
            stream.run(connection.open())
        assert not connection.usable
        assert custodian.callers == []
        return caught.value

    def test_another_key(
        self, custodian: Custodian, dialler: Dialler, end: CallingEnd, switchable: SwitchableAttester
    ) -> None:
        foreign = Ed25519PrivateKey.generate().public_key()
        assert self.refused(dialler, end, custodian, foreign).code == "custodian.signature"
        assert switchable.calls == []

    def test_signs_what_it_should(self, run_custodian: RunCustodian, dialler: Dialler, end: CallingEnd) -> None:
        assert dialler.send(end, run_custodian(Wrong)) == b"ok"

    @pytest.mark.parametrize("field", ["nonce", "ekm", "spki_sha256", "caller_spki_sha256", "audience", "v"])
    def test_a_signature_about_something_else(
        self,
        run_custodian: RunCustodian,
        dialler: Dialler,
        end: CallingEnd,
        switchable: SwitchableAttester,
        field: str,
    ) -> None:
        class Forger(Wrong):
            wrong: ClassVar[dict[str, Any]] = {field: {"audience": "lease-b", "v": 2}.get(field, OTHER)}

        assert self.refused(dialler, end, run_custodian(Forger)).code == "custodian.signature"
        assert switchable.calls == []

    def test_a_relay_before_the_custodian(
        self,
        custodian: Custodian,
        run_custodian: RunCustodian,
        dialler: Dialler,
        end: CallingEnd,
        attester: Attester,
        switchable: SwitchableAttester,
    ) -> None:
        """The relay has the genuine custodian sign; it signs for the connection of the relay."""

        class Relay(ReceivingEnd):
            def challenge(self, body: bytes, pipe: TLSPipe) -> tuple[bytes, Challenged]:
                accomplice, stream = dialler.dial(CallingEnd(attester, {}), custodian, custodian.key.public_key())
                stream.run(accomplice._handshake())
                answer = stream.run(accomplice._ask(CHALLENGE_PATH, messages.challenge_request_decoder.decode(body)))
                assert answer.status == 200
                return answer.body, Challenged(LEASE, bytes(32), None)

        relay = run_custodian(Relay)
        assert self.refused(dialler, end, relay, custodian.key.public_key()).code == "custodian.signature"
        assert switchable.calls == []
        assert custodian.callers == []

    def test_a_recorded_challenge(
        self, run_custodian: RunCustodian, dialler: Dialler, end: CallingEnd, switchable: SwitchableAttester
    ) -> None:
        class Recording(ReceivingEnd):
            recorded: ClassVar[list[tuple[bytes, Challenged]]] = []

            def challenge(self, body: bytes, pipe: TLSPipe) -> tuple[bytes, Challenged]:
                self.recorded.append(super().challenge(body, pipe))
                return self.recorded[0]

        custodian = run_custodian(Recording)
        dialler.open(end, custodian)
        custodian.callers.clear()
        switchable.calls.clear()
        assert self.refused(dialler, end, custodian).code == "custodian.signature"
        assert switchable.calls == []

    def test_a_refusal_of_somebody_who_has_proved_nothing(
        self, run_custodian: RunCustodian, dialler: Dialler, end: CallingEnd
    ) -> None:
        """Who sits in between cannot stop a lease."""

        class Stopping(ReceivingEnd):
            def challenge(self, body: bytes, pipe: TLSPipe) -> tuple[bytes, Challenged]:
                raise LeaseStopped("this lease is over, \x1b[31mbelieve me")

        error = self.refused(dialler, end, run_custodian(Stopping))
        assert error.code == "custodian.not_custodian"
        assert "lease.stopped" in error.message
        assert "\x1b" not in error.message

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"v": 2}, "custodian.protocol"),
            ({"nonce": "00"}, "custodian.not_custodian"),
            ({"signature": ""}, "custodian.not_custodian"),
            ({"more": 1}, "custodian.not_custodian"),
        ],
        ids=str,
    )
    def test_an_answer_of_another_form(
        self,
        run_custodian: RunCustodian,
        dialler: Dialler,
        end: CallingEnd,
        switchable: SwitchableAttester,
        fields: dict[str, Any],
        code: str,
    ) -> None:
        class Odd(ReceivingEnd):
            def challenge(self, body: bytes, pipe: TLSPipe) -> tuple[bytes, Challenged]:
                answer, challenged = super().challenge(body, pipe)
                return gate.encoder.encode(msgspec.json.decode(answer) | fields), challenged

        assert self.refused(dialler, end, run_custodian(Odd)).code == code
        assert switchable.calls == []

    def test_an_answer_of_any_size(self, run_custodian: RunCustodian, dialler: Dialler, end: CallingEnd) -> None:
        class Endless(ReceivingEnd):
            def challenge(self, body: bytes, pipe: TLSPipe) -> tuple[bytes, Challenged]:
                answer, challenged = super().challenge(body, pipe)
                return answer + b" " * messages.MAX_ANSWER_BYTES, challenged

        assert self.refused(dialler, end, run_custodian(Endless)).code == "custodian.not_custodian"

    def test_an_enclave_in_place_of_the_custodian(
        self, enclave: RunningEnd, dialler: Dialler, end: CallingEnd, switchable: SwitchableAttester
    ) -> None:
        connection, stream = dialler.dial(end, enclave, Ed25519PrivateKey.generate().public_key())
        with pytest.raises(CustodianError) as caught:
            stream.run(connection.open())
        assert caught.value.code == "custodian.not_custodian"
        assert "gate.required" in caught.value.message
        assert switchable.calls == []

    @pytest.mark.parametrize("kind", ["plain", "TLS 1.2", "TLS 1.3"])
    def test_another_server(self, dialler: Dialler, end: CallingEnd, tmp_path: Any, kind: str) -> None:
        context = None
        if kind != "plain":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.maximum_version = ssl.TLSVersion.TLSv1_2 if kind == "TLS 1.2" else ssl.TLSVersion.TLSv1_3
            load(context, new_keyset(), tmp_path)
        with listening(context) as address:
            connection, stream = dialler.reach(end, address, Ed25519PrivateKey.generate().public_key())
            with pytest.raises(CustodianError) as caught:
                stream.run(connection.open())
        assert caught.value.code == ("custodian.not_custodian" if kind == "TLS 1.3" else "custodian.tls")

    def test_another_kind_of_key(
        self, custodian: Custodian, dialler: Dialler, end: CallingEnd, switchable: SwitchableAttester
    ) -> None:
        custodian.end.context = receiving_context(*rsa_certificate())
        assert self.refused(dialler, end, custodian).code == "custodian.tls"
        assert switchable.calls == []

    def test_a_client_in_place_of_the_enclave(self, custodian: Custodian, victim: Victim) -> None:
        """Without a certificate the handshake fails, whatever else is said."""
        with pytest.raises(AttestationError) as caught:
            victim.send(custodian.address)
        assert caught.value.code == "channel.not_attested"


class TestCredential:
    def refused(self, dialler: Dialler, end: CallingEnd, custodian: Custodian) -> CustodianError:
        with pytest.raises(CustodianError) as caught:
            dialler.open(end, custodian)
        return caught.value

    @staticmethod
    def crediting(credential: GateCredential | None) -> type[ReceivingEnd]:
        class Crediting(ReceivingEnd):
            def challenge(self, body: bytes, pipe: TLSPipe) -> tuple[bytes, Challenged]:
                answer, challenged = super().challenge(body, pipe)
                decoded = messages.challenge_answer_decoder.decode(answer)
                return gate.encoder.encode(msgspec.structs.replace(decoded, credential=credential)), challenged

        return Crediting

    def test_for_an_enclave_without_a_tpm(
        self, run_custodian: RunCustodian, dialler: Dialler, end: CallingEnd, switchable: SwitchableAttester
    ) -> None:
        custodian = run_custodian(self.crediting(GateCredential(b"b", b"s")))
        assert self.refused(dialler, end, custodian).code == "custodian.credential"
        assert switchable.calls == []

    def test_none_for_a_tpm(self, run_custodian: RunCustodian, dialler: Dialler, tpm_root: SimulatedTpmRoot) -> None:
        custodian = run_custodian(self.crediting(None))
        end = CallingEnd(booted(tpm_root), {"name": "test"})
        assert self.refused(dialler, end, custodian).code == "custodian.credential"

    def test_for_another_key(self, run_custodian: RunCustodian, dialler: Dialler, tpm_root: SimulatedTpmRoot) -> None:
        tpm, other = booted(tpm_root), booted(tpm_root)
        made = make_credential(tpm.ek_public, other.ak_public.name, b"s" * 32)
        custodian = run_custodian(self.crediting(GateCredential(made.blob, made.encrypted_secret)))
        assert self.refused(dialler, CallingEnd(tpm, {"name": "test"}), custodian).code == "custodian.credential"


class TestAdmission:
    def test_of_another_instance(self, run_custodian: RunCustodian, dialler: Dialler, end: CallingEnd) -> None:
        class Confused(ReceivingEnd):
            async def judge(self, body: bytes, pipe: TLSPipe, challenged: Challenged) -> Caller:
                return (await super().judge(body, pipe, challenged))._replace(instance=OTHER)

        with pytest.raises(CustodianError) as caught:
            dialler.open(end, run_custodian(Confused))
        assert caught.value.code == "custodian.protocol"

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"", "custodian.protocol"),
            (b'{"v":1}', "custodian.protocol"),
            (b'{"v":1,"instance":"%s","more":1}' % OTHER.encode(), "custodian.protocol"),
            (b'{"v":2,"instance":"%s"}' % OTHER.encode(), "custodian.protocol"),
        ],
    )
    def test_of_another_form(self, attester: Attester, body: bytes, code: str) -> None:
        end, connection, server = scripted(attester, respond(200, body)(b""))
        with pytest.raises(CustodianError) as caught:
            server.talk(connection.open())
        assert caught.value.code == code
        assert not connection.usable
        assert end.instance != OTHER

    @pytest.mark.parametrize(
        ("status", "body", "kind", "code", "step"),
        [
            (403, b'{"error":"no","code":"code.unknown","step":"code"}', CustodianError, "code.unknown", "code"),
            (400, b'{"error":"no","code":"gate.malformed"}', CustodianError, "gate.malformed", ""),
            (403, b'{"error":"no","code":"lease.stopped"}', LeaseStopped, "lease.stopped", None),
            (429, b'{"error":"no","code":"quota.rate"}', QuotaExceeded, "quota.rate", None),
            (503, b'{"error":"no","code":"busy"}', Unavailable, "busy", None),
            (500, b'{"error":"no","code":"internal"}', BlindAIError, "internal", None),
            (502, b"<html>", CustodianError, "custodian.protocol", ""),
        ],
        ids=str,
    )
    def test_refused(
        self, attester: Attester, status: int, body: bytes, kind: type[BlindAIError], code: str, step: str | None
    ) -> None:
        _, connection, server = scripted(attester, respond(status, body)(b""))
        with pytest.raises(kind) as caught:
            server.talk(connection.open())
        assert caught.value.code == code
        assert getattr(caught.value, "step", None) == step
        assert not connection.usable

    @pytest.mark.parametrize("answers", [0, 1])
    def test_a_connection_that_ends(self, attester: Attester, answers: int) -> None:
        _, connection, server = scripted(attester, None, answers=answers)
        with pytest.raises(Unavailable) as caught:
            server.talk(connection.open())
        assert caught.value.code == "unavailable.closed"
        assert not connection.usable

    def test_nothing_is_sent_before_it(self, custodian: Custodian, dialler: Dialler, end: CallingEnd) -> None:
        connection, stream = dialler.dial(end, custodian, custodian.key.public_key())
        stream.run(connection.challenge(end.identity()))
        with pytest.raises(CustodianError) as caught:
            stream.run(connection.exchange(REQUEST, max_answer_bytes=100))
        assert caught.value.code == "custodian.not_open"
        assert connection.application_bytes_sent == 0

    def test_an_attester_that_fails(
        self, custodian: Custodian, dialler: Dialler, end: CallingEnd, switchable: SwitchableAttester
    ) -> None:
        switchable.broken = True
        with pytest.raises(Unavailable) as caught:
            dialler.open(end, custodian)
        assert caught.value.code == "unavailable.quoting"


class TestEventLoop:
    @pytest.mark.parametrize("quick", [True, False])
    def test_a_call(self, custodian: Custodian, attester: Attester, quick: bool) -> None:
        switchable = SwitchableAttester(attester, quick=quick)
        end = CallingEnd(switchable, {"name": "test"})

        async def main() -> None:
            connection = await calling(end, custodian)
            assert connection.usable
            for _ in range(3):
                answer = await connection.post("/v1/renewals", b"{}", max_answer_bytes=100)
                assert (answer.status, answer.body) == (200, b"ok")
            await connection.close()
            assert not connection.usable

        asyncio.run(main())
        assert [thread == threading.get_ident() for _, thread in switchable.calls] == [quick]
        head = b"POST /v1/renewals HTTP/1.1\r\nHost: %s\r\n" % custodian.address.encode()
        assert bytes(custodian.received).count(head) == 3
        custodian.nothing_left()

    def test_a_slow_attester_holds_up_nobody(
        self, custodian: Custodian, switchable: SwitchableAttester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        switchable.quick = False
        end = CallingEnd(switchable, {"name": "test"})
        going_on = threading.Event()
        attest = switchable.attest

        def waiting(report_data: bytes) -> Evidence:
            assert going_on.wait(10), "the event loop stood still"
            return attest(report_data)

        monkeypatch.setattr(switchable, "attest", waiting)

        async def main() -> bytes:
            asyncio.get_running_loop().call_later(0.1, going_on.set)
            return await ask(end, custodian)

        assert asyncio.run(main()) == b"ok"

    def test_a_custodian_that_takes_too_long(self, custodian: Custodian, end: CallingEnd) -> None:
        custodian.held.clear()
        with pytest.raises(Unavailable) as caught:
            asyncio.run(calling(end, custodian, opening_seconds=0.3))
        assert caught.value.code == "unavailable.timeout"
        custodian.held.set()
        custodian.nothing_left()

    def test_a_call_that_is_given_up(self, custodian: Custodian, end: CallingEnd) -> None:
        custodian.held.clear()

        async def main() -> None:
            task = asyncio.create_task(calling(end, custodian))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        custodian.held.set()
        custodian.nothing_left()

    def test_nobody_there(self, custodian: Custodian, end: CallingEnd) -> None:
        custodian.close()
        with pytest.raises(Unavailable) as caught:
            asyncio.run(calling(end, custodian))
        assert caught.value.code == "unavailable.connect"

    def test_a_custodian_that_has_closed(self, custodian: Custodian, end: CallingEnd) -> None:
        async def main() -> None:
            connection = await calling(end, custodian)
            await asyncio.to_thread(custodian.close)
            while connection.usable:
                await asyncio.sleep(0.005)
            with pytest.raises(Unavailable):
                await connection.post("/v1/renewals", b"{}", max_answer_bytes=100)
            await connection.close()

        asyncio.run(main())

    def test_a_refusal(self, custodian: Custodian, end: CallingEnd) -> None:
        custodian.policy = replace(custodian.policy, chips=("00" * 16,))
        with pytest.raises(CustodianError) as caught:
            asyncio.run(calling(end, custodian))
        assert (caught.value.step, caught.value.code) == ("platform", "chip.unknown")
        custodian.nothing_left()

    def test_a_farewell_that_nobody_takes(
        self, custodian: Custodian, end: CallingEnd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def nothing(patience: float | None) -> None:
            assert patience == calling_module.CLOSING_SECONDS
            raise TimeoutError

        async def main() -> None:
            connection = await calling(end, custodian)
            connection._stream.pause_writing()
            monkeypatch.setattr(connection._stream, "_wait", nothing)
            await connection.close()
            assert not connection.usable

        asyncio.run(main())
        custodian.nothing_left()

    def test_cut(self, custodian: Custodian, end: CallingEnd) -> None:
        async def main() -> None:
            connection = await calling(end, custodian)
            connection.cut()
            assert not connection.usable

        asyncio.run(main())
        custodian.nothing_left()


def scripted(attester: Attester, last: bytes | None, *, answers: int = 1) -> tuple[CallingEnd, AttestedCall, Memory]:
    """An enclave, its call, and a custodian in memory: it challenges as it should, and then answers `last`.

    With `answers` 0 it hangs up instead of challenging.
    """
    key = Ed25519PrivateKey.generate()

    async def nobody(audience: str) -> Policy:
        raise AssertionError

    receiving_end = ReceivingEnd(key.sign, key.public_key().public_bytes_raw().hex(), nobody)
    heard = bytearray()

    def answer(plaintext: bytes) -> bytes | None:
        heard.extend(plaintext)
        head, _, body = bytes(heard).partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or -1)
        if len(body) != length:
            return b""
        heard.clear()
        if CHALLENGE_PATH.encode() in head:
            return respond(200, receiving_end.challenge(body, server.pipe)[0])(b"") if answers else None
        assert GATE_PATH.encode() in head
        return last

    server = Memory(receiving_end.context, answer)
    end = CallingEnd(attester, {"name": "test"})
    return end, AttestedCall(end, "custodian:1", key.public_key(), LEASE), server
