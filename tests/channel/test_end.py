from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from blindai.attestation.attesters.attester import Attester
from blindai.attestation.evidence import Evidence
from blindai.attestation.policy import Policy
from blindai.attestation.result import Checklist
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.attestation.verifiers import verify
from blindai.channel import gate
from blindai.channel.end import CMW_MEDIA_TYPE, AttestedEnd, cmw_record
from blindai.channel.gate import GateRefusal
from blindai.channel.keyset import CMW_EXTENSION, KEYSET_LIFETIME
from blindai.channel.statement import config_digest
from blindai.channel.tls import TLSPipe, client_context
from blindai.errors import Unavailable

from .conftest import MovableClock, SwitchableAttester

NONCE = "5a" * 32
FRESH = {"v": 1, "mode": "fresh", "nonce": NONCE}


def connected(end: AttestedEnd) -> tuple[TLSPipe, TLSPipe]:
    client, server = TLSPipe(client_context(), server=False), TLSPipe(end.identity().context, server=True)
    while not (client.established and server.established):
        client.established or client.handshake()
        server.feed(client.outgoing())
        server.established or server.handshake()
        client.feed(server.outgoing())
    return client, server


def answer(end: AttestedEnd, request: dict[str, Any], pipe: TLSPipe | None = None) -> bytes:
    answered = end.answer(gate.encoder.encode(request), pipe or connected(end)[1], end.identity())
    assert isinstance(answered, bytes)
    return answered


def refused(end: AttestedEnd, body: bytes) -> GateRefusal:
    with pytest.raises(GateRefusal) as caught:
        end.answer(body, connected(end)[1], end.identity())
    problem = gate.problem_decoder.decode(caught.value.body)
    assert (problem.error, problem.code) == (caught.value.message, caught.value.code)
    return caught.value


class TestAnswer:
    def test_every_field_is_the_ends_own(self, switchable: SwitchableAttester) -> None:
        end = AttestedEnd(switchable, {"name": "test", "limit": 5})
        client, server = connected(end)
        fresh = gate.fresh_decoder.decode(answer(end, FRESH, server))
        public = end.identity().keyset.public
        assert fresh.keyset == public
        assert fresh.config == {"name": "test", "limit": 5}
        statement = fresh.statement
        assert statement.role == "server"
        assert statement.nonce == NONCE
        assert statement.ekm == client.exported(bytes.fromhex(NONCE))
        assert statement.spki_sha256 == client.peer_spki_sha256() == public.tls_spki_sha256
        assert statement.keyset_digest == public.digest
        assert statement.config_digest == config_digest(fresh.config)
        assert switchable.calls[-1][0] == statement.report_data

    def test_evidence_commits_to_the_statement(self, attester: Attester, clock: MovableClock, policy: Policy) -> None:
        end = AttestedEnd(attester, {})
        fresh = gate.fresh_decoder.decode(answer(end, FRESH))
        evidence = Evidence.decode(bytes(fresh.evidence))
        claims = verify(evidence, anchors=policy.anchors(), now=end._now(), checks=Checklist())
        assert claims.report_data == fresh.statement.report_data

    def test_resumed(self, attester: Attester) -> None:
        end = AttestedEnd(attester, {})
        request = FRESH | {"mode": "resumed", "keyset_digest": end.identity().keyset.digest}
        resumed = gate.resumed_decoder.decode(answer(end, request))
        assert len(bytes.fromhex(resumed.signature)) == 64

    @pytest.mark.parametrize("digest", [None, "00" * 32])
    def test_resumed_on_other_keys(self, attester: Attester, digest: str | None) -> None:
        """Not the end of the connection: the relying party asks fresh."""
        end = AttestedEnd(attester, {})
        refusal = refused(end, gate.encoder.encode(FRESH | {"mode": "resumed", "keyset_digest": digest}))
        assert (refusal.status, refusal.code, refusal.fatal) == (409, "gate.keyset_unknown", False)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{}",
            b"\xff",
            b"[" * 5000,
            gate.encoder.encode(FRESH | {"nonce": "5a" * 31}),
            gate.encoder.encode(FRESH | {"nonce": "5A" * 32}),
            gate.encoder.encode(FRESH | {"mode": "other"}),
            gate.encoder.encode(FRESH | {"report_data": "00" * 64}),
            gate.encoder.encode(FRESH | {"role": "client"}),
            gate.encoder.encode(FRESH) + b"x",
        ],
        ids=range(10),
    )
    def test_malformed(self, attester: Attester, body: bytes) -> None:
        refusal = refused(AttestedEnd(attester, {}), body)
        assert (refusal.status, refusal.code, refusal.fatal) == (400, "gate.malformed", True)

    @pytest.mark.parametrize("version", [0, 2, -1])
    def test_another_version(self, attester: Attester, version: int) -> None:
        refusal = refused(AttestedEnd(attester, {}), gate.encoder.encode(FRESH | {"v": version}))
        assert (refusal.status, refusal.code) == (400, "gate.version")

    def test_a_slow_attester_does_not_hold_the_loop(self, attester: Attester) -> None:
        slow = SwitchableAttester(attester, quick=False)

        async def main() -> bytes:
            end = AttestedEnd(slow, {})
            future = end.answer(gate.encoder.encode(FRESH), connected(end)[1], end.identity())
            assert isinstance(future, asyncio.Future)
            return await future

        assert gate.fresh_decoder.decode(asyncio.run(main())).statement.nonce == NONCE
        assert slow.calls[-1][1] != threading.get_ident()

    def test_a_failing_attester(self, switchable: SwitchableAttester) -> None:
        end = AttestedEnd(switchable, {})
        _, server = connected(end)
        switchable.broken = True
        with pytest.raises(Unavailable):
            end.answer(gate.encoder.encode(FRESH), server, end.identity())

    def test_no_enclave_without_evidence(self, switchable: SwitchableAttester) -> None:
        switchable.broken = True
        with pytest.raises(Unavailable):
            AttestedEnd(switchable, {})

    @pytest.mark.parametrize("value", [1.5, "é", 2**60])
    def test_a_configuration_that_cannot_be_measured(self, attester: Attester, value: Any) -> None:
        with pytest.raises(ValueError, match="canonical"):
            AttestedEnd(attester, {"key": value})

    def test_says_that_it_is_simulated(self, attester: Attester) -> None:
        assert AttestedEnd(attester, {}).simulated


class TestKeys:
    def test_they_change_at_half_their_lifetime(self, attester: Attester, clock: MovableClock) -> None:
        end = AttestedEnd(attester, {}, clock=clock)
        first = end.identity()
        clock.offset = (KEYSET_LIFETIME / 2).total_seconds() - 60
        assert end.identity() is first
        clock.offset = (KEYSET_LIFETIME / 2).total_seconds()
        second = end.identity()
        assert second.keyset.digest != first.keyset.digest
        assert second.keyset.public.expires_at - first.keyset.public.expires_at >= KEYSET_LIFETIME / 2 - timedelta(
            seconds=2
        )
        assert end.identity() is second

    def test_a_connection_keeps_the_keys_it_began_with(self, attester: Attester, clock: MovableClock) -> None:
        end = AttestedEnd(attester, {}, clock=clock)
        identity = end.identity()
        _, server = connected(end)
        clock.offset = KEYSET_LIFETIME.total_seconds()
        assert end.identity() is not identity
        answered = end.answer(gate.encoder.encode(FRESH), server, identity)
        assert isinstance(answered, bytes)
        assert gate.fresh_decoder.decode(answered).keyset == identity.keyset.public

    def test_old_ones_stay_while_the_attester_fails(self, switchable: SwitchableAttester, clock: MovableClock) -> None:
        end = AttestedEnd(switchable, {}, clock=clock)
        first = end.identity()
        clock.offset = KEYSET_LIFETIME.total_seconds()
        switchable.broken = True
        assert end.identity() is first
        switchable.broken = False
        assert end.identity() is not first

    def test_a_slow_attester_renews_them_beside_the_loop(self, attester: Attester, clock: MovableClock) -> None:
        slow = SwitchableAttester(attester, quick=False)

        async def main() -> None:
            end = AttestedEnd(slow, {}, clock=clock)
            first = end.identity()
            clock.offset = (KEYSET_LIFETIME / 2).total_seconds()
            while end.identity() is first:
                await asyncio.sleep(0.001)

        asyncio.run(main())
        assert len(slow.calls) == 2  # one at the start and one renewal, however often it was asked meanwhile
        assert slow.calls[1][1] != threading.get_ident()

    def test_none_of_them_is_written_anywhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: SimulatedRoot, attester: Attester
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        end = AttestedEnd(attester, {})
        answer(end, FRESH)
        assert list(tmp_path.rglob("*")) == []


class TestCertificate:
    def test_it_carries_the_evidence_as_a_hint(self, attester: Attester, policy: Policy) -> None:
        end = AttestedEnd(attester, {})
        client, _ = connected(end)
        certificate = client._connection.get_peer_certificate(as_cryptography=True)
        assert certificate is not None
        extension = certificate.extensions.get_extension_for_oid(CMW_EXTENSION)
        assert not extension.critical
        assert isinstance(extension.value, x509.UnrecognizedExtension)
        media_type, value = decode_record(der_octets(extension.value.value))
        assert media_type == CMW_MEDIA_TYPE
        evidence = Evidence.decode(value)
        assert evidence.tee is attester.tee
        assert evidence.quote
        # Small enough for every handshake.
        assert len(extension.value.value) < 16_384

    def test_the_hint_does_not_pass_for_a_statement(self, switchable: SwitchableAttester) -> None:
        end = AttestedEnd(switchable, {})
        fresh = gate.fresh_decoder.decode(answer(end, FRESH))
        assert switchable.calls[0][0] != fresh.statement.report_data

    @pytest.mark.parametrize("length", [0, 1, 23, 24, 255, 256, 65_535, 65_536])
    def test_records_of_every_length(self, length: int) -> None:
        assert decode_record(cmw_record("a/b", bytes(length))) == ("a/b", bytes(length))


def der_octets(data: bytes) -> bytes:
    """The content of an OCTET STRING (X.690, section 8.7)."""
    assert data[0] == 0x04
    if data[1] < 0x80:
        assert len(data) == 2 + data[1]
        return data[2:]
    size = data[1] & 0x7F
    assert int.from_bytes(data[2 : 2 + size], "big") == len(data) - 2 - size
    return data[2 + size :]


def decode_record(data: bytes) -> tuple[str, bytes]:
    """A CBOR array of a text and a byte string (RFC 8949, section 3)."""
    assert data[0] == 0x82
    media_type, rest = decode_string(data[1:], 0x60)
    value, rest = decode_string(rest, 0x40)
    assert rest == b""
    return media_type.decode(), value


def decode_string(data: bytes, major: int) -> tuple[bytes, bytes]:
    assert data[0] & 0xE0 == major
    size = {24: 1, 25: 2, 26: 4}.get(data[0] & 0x1F, 0)
    length = int.from_bytes(data[1 : 1 + size], "big") if size else data[0] & 0x1F
    assert length >= {0: 0, 1: 24, 2: 256, 4: 65_536}[size], "not the shortest form"
    return data[1 + size : 1 + size + length], data[1 + size + length :]
