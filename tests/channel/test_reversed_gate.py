"""The messages of the gate the other way round, and what damaged ones lead to: nothing is let in, nothing is said."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from blindai.attestation.anchors import Vendor
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.evidence import TpmIdentity
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.channel import gate, receiving
from blindai.channel import reversed_gate as messages
from blindai.channel.calling import AttestedCall, CallingEnd
from blindai.channel.http1 import Answer
from blindai.channel.receiving import ReceivingEnd
from blindai.channel.tls import TLSPipe
from blindai.errors import AttestationError, CustodianError

from .conftest import LEASE

OTHER = "cd" * 32

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PRESENTATION = {
    "v": 1,
    "mode": "fresh",
    "nonce": OTHER,
    "keyset": {
        "tls_spki_sha256": OTHER,
        "hpke_public_key": OTHER,
        "receipt_key": OTHER,
        "proof_key": OTHER,
        "not_after": 2_000_000_000,
    },
    "config": {},
    "statement": {
        "role": "client",
        "nonce": OTHER,
        "ekm": OTHER,
        "spki_sha256": OTHER,
        "keyset_digest": OTHER,
        "devices_digest": OTHER,
        "config_digest": OTHER,
    },
    "evidence": {},
}
DECODERS = {
    "challenge request": (messages.challenge_request_decoder, {"v": 1, "audience": LEASE}),
    "challenge answer": (messages.challenge_answer_decoder, {"v": 1, "nonce": OTHER, "signature": OTHER * 2}),
    "presentation": (messages.presentation_decoder, PRESENTATION),
    "admission": (messages.admission_decoder, {"v": 1, "instance": OTHER}),
}


@pytest.mark.parametrize("name", DECODERS)
class TestParsers:
    def test_a_message_is_taken(self, name: str) -> None:
        decoder, message = DECODERS[name]
        decoder.decode(gate.encoder.encode(message))  # type: ignore[attr-defined] # each is a decoder

    @given(data=st.binary(max_size=200) | JSON.map(msgspec.json.encode))
    def test_any_bytes_are_refused_in_one_way(self, name: str, data: bytes) -> None:
        decoder, _ = DECODERS[name]
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            decoder.decode(data)  # type: ignore[attr-defined] # each is a decoder

    @given(data=st.data())
    def test_any_member_of_another_form(self, name: str, data: st.DataObject) -> None:
        """Whatever stands in one place of a message, it is taken as it is or refused in one way."""
        decoder, message = DECODERS[name]
        member = data.draw(st.sampled_from([*message, "more"]))
        value = data.draw(JSON)
        try:
            decoded = decoder.decode(msgspec.json.encode(message | {member: value}))  # type: ignore[attr-defined] # as above
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        assert member != "more"
        assert isinstance(getattr(decoded, member), msgspec.Raw) or getattr(decoded, member) == value

    def test_deep_nesting_is_refused(self, name: str) -> None:
        decoder, _ = DECODERS[name]
        with pytest.raises((msgspec.DecodeError, RecursionError)):
            decoder.decode(b'{"v":' + b"[" * 100_000)  # type: ignore[attr-defined] # each is a decoder


def test_what_a_custodian_signs() -> None:
    statement = messages.ChallengeStatement(
        audience=LEASE, nonce="11" * 32, ekm="22" * 32, spki_sha256="33" * 32, caller_spki_sha256="44" * 32
    )
    assert statement.message == (
        b"blindai/challenge/v1\0"
        b'{"audience":"lease-aaaaaaaaaaaaaaaa","caller_spki_sha256":"' + b"44" * 32 + b'",'
        b'"ekm":"' + b"22" * 32 + b'","nonce":"' + b"11" * 32 + b'","spki_sha256":"' + b"33" * 32 + b'","v":1}'
    )


def test_the_largest_messages_fit() -> None:
    identity = TpmIdentity(ak_public=bytes(560), ek_public=bytes(560), ek_certificates=())
    request = messages.ChallengeRequest(v=1, audience="a" * 64, identity=identity)
    assert len(gate.encoder.encode(request)) < messages.MAX_CHALLENGE_BODY_BYTES
    credential = gate.GateCredential(bytes(gate.MAX_CREDENTIAL_BLOB_BYTES), bytes(gate.MAX_ENCRYPTED_SECRET_BYTES))
    answer = messages.ChallengeAnswer(v=1, nonce=OTHER, signature=OTHER * 2, credential=credential)
    assert len(gate.encoder.encode(answer)) < messages.MAX_ANSWER_BYTES


class World(NamedTuple):
    """An enclave and its custodian in the middle of a gate, in memory.

    Attributes:
        challenge, presentation: the genuine messages.
        challenged: what the custodian remembers.
        server: its end of the connection.
    """

    end: CallingEnd
    call: AttestedCall
    receiving_end: ReceivingEnd
    challenge: bytes
    challenged: receiving.Challenged
    presentation: bytes
    server: TLSPipe
    runner: asyncio.Runner


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    root = SimulatedRoot.generate()
    policy = Policy.simulated({Vendor.INTEL: root.anchor.spki_sha256}, measure_package())
    key = Ed25519PrivateKey.generate()

    async def policy_for(audience: str) -> Policy:
        return policy

    receiving_end = ReceivingEnd(key.sign, key.public_key().public_bytes_raw().hex(), policy_for)
    end = CallingEnd(SimulatedAttester(root=root), {"name": "test"})
    call = AttestedCall(end, "custodian:1", key.public_key(), LEASE)
    client, server = call._pipe, TLSPipe(receiving_end.context, server=True)
    while not (client.established and server.established):
        client.established or client.handshake()
        server.feed(client.outgoing())
        server.established or server.handshake()
        client.feed(server.outgoing())
    request = messages.ChallengeRequest(v=1, audience=LEASE)
    challenge, remembered = receiving_end.challenge(gate.encoder.encode(request), server)
    presentation = gate.encoder.encode(end.present(after(call, challenge)))
    with asyncio.Runner() as runner:
        yield World(end, call, receiving_end, challenge, remembered, presentation, server, runner)


def after(call: AttestedCall, answer: bytes) -> Any:
    """What the enclave makes of a challenge, past the handshake."""

    def handshake() -> Iterator[None]:
        yield from ()

    def ask(*_: Any, **__: Any) -> Any:
        yield from ()
        return Answer(200, {}, answer, keep_alive=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call, "_handshake", handshake)
        patch.setattr(call, "_ask", ask)
        try:
            next(call.challenge(None))
        except StopIteration as stop:
            return stop.value


@st.composite
def damage(draw: st.DrawFn) -> list[tuple[float, int, bytes]]:
    """Where a message is damaged, how many bytes are dropped there, and what comes in their place."""
    pieces = st.binary(max_size=3) | st.sampled_from(
        [b"null", b"1e400", b"[" * 2000, b'""', b"\xff", b'"v":2,', b"0", b"a"]
    )
    return draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), pieces), min_size=1, max_size=4))


def damaged(message: bytes, damages: list[tuple[float, int, bytes]]) -> bytes:
    data = bytearray(message)
    for where, dropped, put in damages:
        start = int(where * len(data))
        data[start : start + dropped] = put
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(damages=damage())
def test_a_damaged_attestation_is_refused_or_as_good(world: World, damages: list[tuple[float, int, bytes]]) -> None:
    """Damage that no signature covers, such as white space, changes nothing of what is known."""
    data = damaged(world.presentation, damages)
    try:
        caller = world.runner.run(world.receiving_end.judge(data, world.server, world.challenged))
    except (gate.GateRefusal, AttestationError):
        caller = None
    if caller is None:
        assert data != world.presentation
        return
    assert (caller.instance, caller.keyset) == (world.end.instance, world.end.keyset.public)
    assert caller.config == {"name": "test"}


@settings(max_examples=400, deadline=None)
@given(damages=damage())
def test_a_damaged_challenge_is_refused_or_as_good(world: World, damages: list[tuple[float, int, bytes]]) -> None:
    data = damaged(world.challenge, damages)
    challenged, code = None, ""
    try:
        challenged = after(world.call, data)
    except CustodianError as error:
        code = error.code
    if challenged is None:
        assert code in {"custodian.not_custodian", "custodian.protocol", "custodian.signature"}
        assert data != world.challenge
        return
    assert challenged.nonce == world.challenged.nonce.hex()


@settings(deadline=None)
@given(data=st.binary(max_size=300) | JSON.map(msgspec.json.encode))
def test_nothing_but_a_refusal_comes_of_any_challenge_request(world: World, data: bytes) -> None:
    with pytest.raises(gate.GateRefusal) as caught:
        world.receiving_end.challenge(data, world.server)
    assert caught.value.code in {"gate.malformed", "gate.version"}


@settings(deadline=None)
@given(data=st.binary(max_size=300) | JSON.map(lambda value: msgspec.json.encode(PRESENTATION | {"config": value})))
def test_nothing_but_a_refusal_comes_of_any_attestation(world: World, data: bytes) -> None:
    remembered = receiving.Challenged(LEASE, os.urandom(32), None)
    with pytest.raises((gate.GateRefusal, AttestationError)) as caught:
        world.runner.run(world.receiving_end.judge(data, world.server, remembered))
    error = caught.value
    assert isinstance(error, gate.GateRefusal | AttestationError)
    assert error.code in {"gate.malformed", "binding.nonce", "channel.downgrade"}
