"""The gate of a TPM: a relying party believes an attestation key only in the TPM that opened its credential."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.channel.test_end import connected

from blindai.attestation.anchors import Vendor
from blindai.attestation.attesters.attester import ActivatingAttester, Attester
from blindai.attestation.credential import make_credential
from blindai.attestation.evidence import TEE, Evidence, TpmIdentity
from blindai.attestation.policy import Policy
from blindai.attestation.result import Mode
from blindai.attestation.simulated.tpm import QUOTED_PCRS, SimulatedTpm, TpmFaults
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot
from blindai.channel import gate
from blindai.channel.end import AttestedEnd, Identity
from blindai.channel.gate import GateRefusal
from blindai.channel.saved_evidence import SavedEvidence
from blindai.channel.server import MAX_GATE_REQUESTS
from blindai.channel.tls import TLSPipe
from blindai.errors import AttestationError

from .conftest import RunningEnd, Victim

RunEnd = Callable[[AttestedEnd], RunningEnd]


@pytest.fixture(scope="session")
def tpm_root() -> SimulatedTpmRoot:
    return SimulatedTpmRoot.generate()


@pytest.fixture
def tpm(tpm_root: SimulatedTpmRoot) -> SimulatedTpm:
    return booted(tpm_root)


@pytest.fixture
def policy(tpm_root: SimulatedTpmRoot, tpm: SimulatedTpm) -> Policy:
    """In place of the policy of the other tests here: the victim trusts this maker of TPMs, and this boot."""
    measurements = {f"pcr{index}": value.hex() for index, value in tpm.pcrs.items() if index in QUOTED_PCRS}
    return Policy.simulated({Vendor.TPM: tpm_root.anchor.spki_sha256}, measurements)


def booted(root: SimulatedTpmRoot, **options: Any) -> SimulatedTpm:
    one = SimulatedTpm(root, **options)
    one.boot()
    return one


def end(attester: Attester) -> AttestedEnd:
    return AttestedEnd(attester, {"name": "test"})


class Machine:
    """A machine that is free in what it shows: its identity, answers and evidence may be of several TPMs."""

    tee = TEE.TPM
    simulated = True

    def __init__(
        self,
        evidence: SimulatedTpm,
        *,
        identity: TpmIdentity | None = None,
        activates: Callable[[bytes, bytes], bytes] | None = None,
        quick: bool = True,
    ) -> None:
        self._evidence = evidence
        self._identity = identity or evidence.identity()
        self._activates = activates or evidence.activate
        self.quick = quick
        self.credentials: list[tuple[bytes, bytes]] = []

    def identity(self) -> TpmIdentity:
        return self._identity

    def activate(self, blob: bytes, encrypted_secret: bytes) -> bytes:
        self.credentials.append((blob, encrypted_secret))
        return self._activates(blob, encrypted_secret)

    def attest(self, report_data: bytes) -> Evidence:
        return self._evidence.attest(report_data)


class WithoutActivation:
    """Evidence of a TPM by an end that asks for no credential."""

    tee, simulated, quick = TEE.TPM, True, True

    def __init__(self, inner: SimulatedTpm) -> None:
        self.attest = inner.attest


def refused(victim: Victim, running: RunningEnd, step: str, code: str) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        victim.send(running.address)
    assert (caught.value.step, caught.value.code) == (step, code)
    return caught.value


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(("ek", "ak"), [("ecc", "ecc"), ("rsa", "rsa")])
def test_a_tpm_that_opens_its_credential_is_accepted(
    ek: str, ak: str, quick: bool, tpm_root: SimulatedTpmRoot, run_end: RunEnd, victim: Victim
) -> None:
    machine = Machine(booted(tpm_root, ek=ek, ak=ak), quick=quick)
    running = run_end(end(machine))
    assert victim.send(running.address, resume=False) == b"ok"
    assert victim.send(running.address, resume=False) == b"ok"
    assert len({secret for _, secret in machine.credentials}) == 2  # a new one for each connection


def test_a_simulated_tpm_activates(tpm: SimulatedTpm) -> None:
    assert isinstance(tpm, ActivatingAttester)
    assert not isinstance(WithoutActivation(tpm), ActivatingAttester)


def test_a_resumed_connection_needs_no_credential(tpm: SimulatedTpm, run_end: RunEnd, victim: Victim) -> None:
    machine = Machine(tpm)
    running = run_end(end(machine))
    assert victim.attest(running.address).mode is Mode.FRESH
    assert victim.attest(running.address).mode is Mode.RESUMED
    assert len(machine.credentials) == 1


def test_new_keys_are_asked_for_once_more_on_the_same_connection(
    tpm: SimulatedTpm, run_end: RunEnd, victim: Victim
) -> None:
    """Resumed and refused, fresh and told to bring a credential, fresh with it: what `MAX_GATE_REQUESTS` is for."""
    first = run_end(end(Machine(tpm)))
    victim.attest(first.address)
    first.close()
    second = run_end(end(Machine(tpm)))
    victim.party(second.address).remembered = victim.party(first.address).remembered
    assert victim.attest(second.address).mode is Mode.FRESH
    assert MAX_GATE_REQUESTS > 3


def test_saved_evidence_of_a_tpm_can_be_audited(
    tpm: SimulatedTpm, run_end: RunEnd, victim: Victim, policy: Policy
) -> None:
    channel, stream = victim.connect(run_end(end(tpm)).address)
    result = stream.run(channel.open())
    assert channel.transcript is not None
    saved = SavedEvidence.decode(SavedEvidence.of(channel.transcript, result, "https://enclave").encode())
    assert saved.audit(policy, at=saved.gate.at).claims == result.claims


def test_a_tpm_that_does_not_know_the_secret(tpm_root: SimulatedTpmRoot, run_end: RunEnd, victim: Victim) -> None:
    forgetful = booted(tpm_root, faults=TpmFaults(forgets_secret=True))
    error = refused(victim, run_end(end(forgetful)), "endorsements", "endorsements.activation")
    assert "anybody could have made it" in error.likely


def test_a_key_beside_the_certificate_of_a_genuine_tpm(
    tpm: SimulatedTpm, tpm_root: SimulatedTpmRoot, run_end: RunEnd, victim: Victim
) -> None:
    """The attack for which activation exists: the attacker has a certificate, but not the TPM."""
    forged = booted(SimulatedTpmRoot.generate())
    genuine = tpm.identity()
    identity = msgspec.structs.replace(genuine, ak_public=forged.identity().ak_public)

    class Forger(Machine):
        def attest(self, report_data: bytes) -> Evidence:
            return msgspec.structs.replace(forged.attest(report_data), tpm_identity=identity)

    guessing = Forger(forged, identity=identity, activates=lambda *_: bytes(32))
    refused(victim, run_end(end(guessing)), "endorsements", "endorsements.activation")
    asking = Forger(forged, identity=identity, activates=tpm.activate)
    error = refused(victim, run_end(end(asking)), "channel", "channel.not_attested")
    assert "gate.credential" in error.got


def test_evidence_of_another_tpm_than_the_one_that_was_asked(
    tpm: SimulatedTpm, tpm_root: SimulatedTpmRoot, run_end: RunEnd, victim: Victim
) -> None:
    other = booted(tpm_root)
    swapped = Machine(other, identity=tpm.identity(), activates=tpm.activate)
    error = refused(victim, run_end(end(swapped)), "endorsements", "endorsements.activation")
    assert error.message.startswith("the evidence is of another TPM")


def test_evidence_of_a_tpm_that_nobody_asked(tpm: SimulatedTpm, run_end: RunEnd, victim: Victim) -> None:
    refused(victim, run_end(end(WithoutActivation(tpm))), "endorsements", "endorsements.not_activated")


def test_an_identity_that_cannot_be_parsed(tpm: SimulatedTpm, run_end: RunEnd, victim: Victim) -> None:
    for field in ("ek_public", "ak_public"):
        identity = msgspec.structs.replace(tpm.identity(), **{field: b"\0\1"})
        refused(victim, run_end(end(Machine(tpm, identity=identity))), "evidence", "evidence.malformed")


def test_an_endorsement_key_to_which_nothing_can_be_encrypted(
    tpm: SimulatedTpm, run_end: RunEnd, victim: Victim
) -> None:
    identity = msgspec.structs.replace(tpm.identity(), ek_public=tpm.identity().ak_public)
    refused(victim, run_end(end(Machine(tpm, identity=identity))), "endorsements", "endorsements.endorsement_key")


class Scripted(AttestedEnd):
    """An end that answers the gate from a script, and has counted how often it was asked."""

    def __init__(self, attester: Attester, *script: bytes | GateRefusal) -> None:
        super().__init__(attester, {})
        self._script = script
        self.asked = 0

    def answer(self, body: bytes, pipe: TLSPipe, identity: Identity) -> bytes:
        line = self._script[min(self.asked, len(self._script) - 1)]
        self.asked += 1
        if isinstance(line, GateRefusal):
            raise line
        return line


def asks_for_a_credential(tpm: SimulatedTpm) -> GateRefusal:
    return GateRefusal(409, gate.ACTIVATION_REQUIRED, "ask again", fatal=False, identity=tpm.identity())


def test_a_recorded_activation(tpm: SimulatedTpm, run_end: RunEnd, victim: Victim) -> None:
    """An impostor shows the identity of a genuine TPM, and then what that said to somebody else."""
    channel, stream = victim.connect(run_end(end(tpm)).address)
    stream.run(channel.open())
    transcript = channel.transcript
    assert transcript is not None
    assert transcript.activation is not None
    assert transcript.claimed is not None
    recorded = gate.encoder.encode(
        gate.FreshAnswer(
            v=1,
            mode=Mode.FRESH,
            keyset=transcript.keyset,
            config=transcript.config,
            statement=transcript.claimed,
            evidence=transcript.evidence,
            activated=transcript.activation.answer,
        )
    )
    attacker = run_end(Scripted(tpm, asks_for_a_credential(tpm), recorded))
    refused(victim, attacker, "endorsements", "endorsements.activation")
    assert not attacker.received


def test_a_quote_of_another_connection_with_a_live_activation(
    tpm: SimulatedTpm, run_end: RunEnd, victim: Victim
) -> None:
    """The credential reaches the TPM, but the quote beside the answer is an old one."""
    old = tpm.attest(bytes(64))

    class Replaying(Machine):
        def attest(self, report_data: bytes) -> Evidence:
            return old

    refused(victim, run_end(end(Replaying(tpm))), "binding", "binding.report_data")


@pytest.mark.parametrize("activated", [None, b"", bytes(32), bytes(33)])
def test_an_answer_without_the_secret(
    tpm: SimulatedTpm, run_end: RunEnd, victim: Victim, activated: bytes | None
) -> None:
    class Silent(AttestedEnd):
        def _activated(self, credential: gate.GateCredential | None) -> bytes | None:
            super()._activated(credential)
            return activated

    refused(victim, run_end(Silent(tpm, {})), "endorsements", "endorsements.activation")


def test_a_conflict_for_another_reason_is_no_evidence(tpm: SimulatedTpm, run_end: RunEnd, victim: Victim) -> None:
    for refusal in (
        GateRefusal(409, "gate.keyset_unknown", "other keys", fatal=False),
        GateRefusal(409, "gate.keyset_unknown", "other keys", fatal=False, identity=tpm.identity()),
        GateRefusal(409, gate.ACTIVATION_REQUIRED, "of whom?", fatal=False),
        GateRefusal(503, gate.ACTIVATION_REQUIRED, "broken", identity=tpm.identity()),
    ):
        scripted = Scripted(tpm, refusal)
        refused(victim, run_end(scripted), "channel", "channel.not_attested")
        assert scripted.asked == 1


def test_an_end_that_asks_for_credentials_without_end(tpm: SimulatedTpm, run_end: RunEnd, victim: Victim) -> None:
    endless = Scripted(tpm, asks_for_a_credential(tpm))
    refused(victim, run_end(endless), "channel", "channel.not_attested")
    assert endless.asked == 2


# The attested end.


def answered(one: AttestedEnd, **fields: Any) -> bytes:
    request = gate.encoder.encode({"v": 1, "mode": "fresh", "nonce": "5a" * 32} | fields)
    answer = one.answer(request, connected(one)[1], one.identity())
    assert isinstance(answer, bytes)
    return answer


def credential_for(tpm: SimulatedTpm, ak_name: bytes | None = None) -> gate.GateCredential:
    made = make_credential(tpm.ek_public, ak_name or tpm.ak_public.name, b"s" * 32)
    return gate.GateCredential(made.blob, made.encrypted_secret)


def test_a_request_without_a_credential_is_told_for_whom_to_make_one(tpm: SimulatedTpm) -> None:
    with pytest.raises(GateRefusal) as caught:
        answered(end(tpm))
    refusal = caught.value
    assert (refusal.status, refusal.code, refusal.fatal) == (409, "gate.activation_required", False)
    assert gate.activation_required_decoder.decode(refusal.body).identity == tpm.identity()


def test_the_secret_comes_back_with_the_evidence(tpm: SimulatedTpm) -> None:
    fresh = gate.fresh_decoder.decode(answered(end(tpm), credential=credential_for(tpm)))
    assert fresh.activated == b"s" * 32


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tpm, root: credential_for(booted(root)),
        lambda tpm, root: credential_for(tpm, booted(root).ak_public.name),
        lambda tpm, root: gate.GateCredential(b"", b""),
        lambda tpm, root: msgspec.structs.replace(credential_for(tpm), encrypted_secret=bytes(68)),
        lambda tpm, root: msgspec.structs.replace(credential_for(tpm), blob=bytes(68)),
    ],
    ids=["another TPM", "another key", "empty", "no point", "no integrity"],
)
def test_a_credential_for_anybody_else_ends_the_connection(
    spoil: Callable[[SimulatedTpm, SimulatedTpmRoot], gate.GateCredential],
    tpm: SimulatedTpm,
    tpm_root: SimulatedTpmRoot,
) -> None:
    with pytest.raises(GateRefusal) as caught:
        answered(end(tpm), credential=spoil(tpm, tpm_root))
    assert (caught.value.status, caught.value.code, caught.value.fatal) == (400, "gate.credential", True)


def test_a_credential_for_an_end_that_is_no_tpm(attester: Attester, tpm: SimulatedTpm) -> None:
    with pytest.raises(GateRefusal) as caught:
        answered(end(attester), credential=credential_for(tpm))
    assert (caught.value.status, caught.value.code, caught.value.fatal) == (400, "gate.credential", True)


@pytest.mark.parametrize("field", ["blob", "encrypted_secret"])
def test_a_credential_larger_than_any(tpm: SimulatedTpm, field: str) -> None:
    too_large = msgspec.structs.replace(credential_for(tpm), **{field: bytes(600)})
    with pytest.raises(GateRefusal) as caught:
        answered(end(tpm), credential=too_large)
    assert (caught.value.status, caught.value.code) == (400, "gate.malformed")


def test_the_largest_credential_fits_a_request() -> None:
    credential = gate.GateCredential(bytes(gate.MAX_CREDENTIAL_BLOB_BYTES), bytes(gate.MAX_ENCRYPTED_SECRET_BYTES))
    request = gate.GateRequest(v=1, mode=Mode.FRESH, nonce="ab" * 32, credential=credential)
    assert len(gate.encoder.encode(request)) < gate.MAX_REQUEST_BODY_BYTES
