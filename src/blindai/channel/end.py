"""The attested end: keys, evidence and answers to the gate, shared by all connections of one enclave."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import msgspec
import structlog

from blindai.attestation.attesters.attester import Attester, DeviceAttester
from blindai.attestation.result import Mode
from blindai.channel import gate
from blindai.channel.clock import SYSTEM_CLOCK, Clock
from blindai.channel.gate import GateRefusal
from blindai.channel.keyset import KEYSET_LIFETIME, PrivateKeyset
from blindai.channel.prover import Prover
from blindai.channel.statement import NO_DEVICES, VERSION, Role, Statement
from blindai.channel.tls import TLSPipe, server_context
from blindai.crypto.canonical import Canonical
from blindai.crypto.digests import tagged
from blindai.errors import BlindAIError

if TYPE_CHECKING:
    from OpenSSL import SSL

# Each fresh gate attests the devices anew. Whoever resumes an older one than these is told to ask fresh.
MAX_RESUMABLE = 4096

CERTIFICATE_DOMAIN = "blindai/certificate/v1"
CMW_MEDIA_TYPE = "application/vnd.blindai.evidence+json"

_log = structlog.get_logger("blindai.channel")


class Identity:
    """One keyset with the TLS context that holds its key."""

    def __init__(self, keyset: PrivateKeyset, context: SSL.Context) -> None:
        self.keyset = keyset
        self.context = context
        self._devices: OrderedDict[str, None] = OrderedDict()

    def commit(self, digest: str) -> None:
        """Remember that a quote was made for this keyset with devices of this digest."""
        if digest == NO_DEVICES:
            return
        self._devices[digest] = None
        if len(self._devices) > MAX_RESUMABLE:
            self._devices.popitem(last=False)

    def has_committed(self, digest: str) -> bool:
        """Whether a resumed gate may name these devices: they were attested with this keyset, not too long ago."""
        return digest == NO_DEVICES or digest in self._devices


class AttestedEnd:
    """Makes evidence for connections.

    It computes every field of the statement itself: no caller chooses report_data.
    """

    def __init__(
        self,
        attester: Attester,
        config: Mapping[str, Canonical],
        *,
        devices: DeviceAttester | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`config` is the measured configuration; `devices` attests GPUs and switches beside the processor.

        Raises:
            ValueError: `config` is outside the canonical encoding.
            BlindAIError: the attester failed.
        """
        self._prover = Prover(Role.SERVER, attester, config, devices)
        self._clock = clock
        # Of all keys that a connection still has: with the last one its keyset is gone.
        self._identities: WeakValueDictionary[str, Identity] = WeakValueDictionary()
        self._identity = self._new_identity()
        self._renewing = False

    @property
    def simulated(self) -> bool:
        return self._prover.simulated

    @property
    def config_digest(self) -> str:
        """Of the measured configuration, in hex."""
        return self._prover.config_digest

    def receipt_keyset(self, digest: str | None) -> PrivateKeyset | None:
        """The keyset of this digest while a connection of it is open; the present one for None. From any thread."""
        identity = self._identity if digest is None else self._identities.get(digest)
        return None if identity is None else identity.keyset

    def identity(self) -> Identity:
        """The keys for a new connection. They change at half their lifetime: no client meets expired ones.

        While the attester fails, or takes its time, the old keys stay; clients refuse them once they have run out.
        """
        if not self._renewing and self._now() - self._identity.keyset.not_before >= KEYSET_LIFETIME / 2:
            self._renewing = True
            if self._prover.attester.quick:
                self._renew()
            else:
                asyncio.get_running_loop().run_in_executor(None, self._renew)
        return self._identity

    def answer(self, body: bytes, pipe: TLSPipe, identity: Identity) -> bytes | asyncio.Future[bytes]:
        """The body of the answer to one gate request on one connection; a future where hardware takes its time.

        Raises:
            GateRefusal: see there.
            BlindAIError: the attester failed.
        """
        try:
            request = gate.request_decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise GateRefusal(400, "gate.malformed", f"the gate request cannot be parsed: {error}") from error
        if request.v != VERSION:
            raise GateRefusal(400, "gate.version", f"this enclave speaks version {VERSION} of the gate")
        statement = self._statement(bytes.fromhex(request.nonce), pipe, identity)
        if request.mode is Mode.RESUMED:
            if request.keyset_digest != identity.keyset.digest:
                raise GateRefusal(409, "gate.keyset_unknown", "this enclave has other keys; ask fresh", fatal=False)
            digest = request.devices_digest or NO_DEVICES
            if not identity.has_committed(digest):
                raise GateRefusal(409, "gate.devices_unknown", "its devices were not attested; ask fresh", fatal=False)
            statement = msgspec.structs.replace(statement, devices_digest=digest)
            signature = identity.keyset.prove(statement.resume_message)
            return gate.encoder.encode(gate.ResumedAnswer(v=VERSION, mode=Mode.RESUMED, signature=signature.hex()))
        if self._prover.quick:
            return self._fresh_answer(request, statement, identity)
        return asyncio.get_running_loop().run_in_executor(None, self._fresh_answer, request, statement, identity)

    def _fresh_answer(self, request: gate.GateRequest, statement: Statement, identity: Identity) -> bytes:
        activated = self._activated(request.credential)
        proof = self._prover.prove(statement)
        identity.commit(proof.statement.devices_digest)
        return gate.encoder.encode(self._prover.shown(proof, identity.keyset, activated))

    def _activated(self, credential: gate.GateCredential | None) -> bytes | None:
        """What the credential holds. Whoever connects has one opened: then the gate is open, or the connection ends."""
        if not self._prover.activates:
            if credential is not None:
                raise GateRefusal(400, "gate.credential", "this enclave has no TPM that opens credentials")
            return None
        if credential is None:
            raise GateRefusal(
                409,
                gate.ACTIVATION_REQUIRED,
                "this enclave attests with a TPM: ask again with a credential for its identity",
                fatal=False,
                identity=self._prover.identity(),
            )
        try:
            return self._prover.activated(credential)
        except ValueError as error:
            raise GateRefusal(400, "gate.credential", "the credential is not for this TPM and its key") from error

    def _statement(self, nonce: bytes, pipe: TLSPipe, identity: Identity) -> Statement:
        return self._prover.statement(nonce, pipe, identity.keyset)

    def _renew(self) -> None:
        try:
            self._identity = self._new_identity()
        except BlindAIError as error:
            _log.error("keys_not_renewed", code=error.code, not_after=self._identity.keyset.public.not_after)
        finally:
            self._renewing = False

    def _new_identity(self) -> Identity:
        keyset = PrivateKeyset(self._now())
        hint = tagged(
            CERTIFICATE_DOMAIN,
            {"keyset_digest": keyset.digest, "spki_sha256": keyset.public.tls_spki_sha256},
        )
        evidence = self._prover.attester.attest(hashlib.sha512(hint).digest())
        # Endorsements stay out: every handshake carries the certificate, and tools fetch their own.
        certificate = keyset.certificate(cmw_record(CMW_MEDIA_TYPE, evidence.bare().encode()))
        identity = Identity(keyset, server_context(keyset.tls_key, certificate))
        self._identities[keyset.digest] = identity
        return identity

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


def cmw_record(media_type: str, value: bytes) -> bytes:
    """A conceptual message wrapper as a CBOR record: [type, value] (draft-ietf-rats-msg-wrap, section 3.1)."""
    return (
        b"\x82" + _cbor_head(0x60, len(media_type)) + media_type.encode("ascii") + _cbor_head(0x40, len(value)) + value
    )


def _cbor_head(major: int, length: int) -> bytes:
    """Initial byte and length of a string in deterministic CBOR (RFC 8949, sections 3 and 4.2.1)."""
    if length < 24:
        return bytes([major | length])
    if length < 1 << 8:
        return bytes([major | 24, length])
    if length < 1 << 16:
        return bytes([major | 25]) + length.to_bytes(2, "big")
    return bytes([major | 26]) + length.to_bytes(4, "big")
