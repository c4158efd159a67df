"""The relying party's end: no application byte leaves before the peer of this very connection is attested."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import chain

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.attestation.evidence import Evidence
from blindai.attestation.result import AttestationResult, Checklist, Mode
from blindai.channel import gate
from blindai.channel.activation import Challenge
from blindai.channel.binding import unbound
from blindai.channel.flow import READ, Flow
from blindai.channel.http1 import Answer, AnswerReader, MalformedAnswer, request_head
from blindai.channel.relying_party import RelyingParty, RememberedKeyset
from blindai.channel.statement import (
    NO_DEVICES,
    NONCE_LENGTH,
    VERSION,
    Role,
    Statement,
    config_digest,
    devices_digest,
)
from blindai.channel.tls import PIECE_BYTES, TLSFailure, TLSPipe, pieces
from blindai.channel.transcript import Transcript
from blindai.errors import AttestationError, Unavailable, harmless

# OpenSSL's reason strings for "the peer will not speak TLS 1.3", from either side's point of view.
_VERSION_REASONS = frozenset({"unsupported protocol", "tlsv1 alert protocol version", "tls alert protocol version"})
_NOT_TLS_REASONS = frozenset({"wrong version number", "http request", "packet length too long"})


class AttestedChannel:
    """One TCP connection, sans I/O. `open()` first; then any number of `exchange()`, one at a time.

    Attributes:
        transcript: of the fresh gate, once the peer has answered; it is there for a refused peer too.
        application_bytes_sent: how many bytes of TLS records with application data left so far.
    """

    def __init__(self, party: RelyingParty, *, server_name: str | None = None) -> None:
        self._party = party
        self._pipe = TLSPipe(party.context, server=False)
        if server_name is not None:
            self._pipe.set_server_name(server_name)
        self._result: AttestationResult | None = None
        self._usable = True
        self.transcript: Transcript | None = None
        self.application_bytes_sent = 0

    @property
    def result(self) -> AttestationResult:
        """The verdict on the peer of this connection.

        Raises:
            AttestationError: `channel.not_open`, before `open()` has ended well.
        """
        if self._result is None:
            raise AttestationError("the peer is not attested yet", code="channel.not_open", step="channel")
        return self._result

    @property
    def usable(self) -> bool:
        """Whether another exchange can be made on this connection."""
        return self._usable

    @property
    def group(self) -> str:
        """The key-exchange group of the connection."""
        return self._pipe.group

    def open(self, *, resume: bool = True) -> Flow[AttestationResult]:
        """Handshake and gate. With `resume`, a keyset verified recently may stand for a new quote.

        Raises:
            AttestationError: the peer is refused.
            Unavailable: the connection ended.
        """
        try:
            yield from self._handshake()
            result = None
            if resume and (kept := self._party.recall()) is not None:
                result = yield from self._resumed_gate(kept)
            if result is None:
                result = yield from self._fresh_gate()
        except BaseException as error:
            self._usable = False
            if isinstance(error, AttestationError):
                # Names in certificates, and whatever else the peer sent, end up on somebody's terminal.
                error.message, error.expected, error.got = map(harmless, (error.message, error.expected, error.got))
                error.transcript = self.transcript
            raise
        self._result = result
        return result

    def exchange(
        self,
        head: bytes,
        body: Iterable[bytes | bytearray | memoryview] = (),
        *,
        max_answer_bytes: int,
        expect_continue: bool = False,
    ) -> Flow[Answer]:
        """Send one request, return its answer.

        With `expect_continue`, `head` carries `Expect: 100-continue` and the body goes out only after the
        server agreed to take it (RFC 9110, section 10.1.1).

        Raises:
            AttestationError: the verdict has expired; nothing was sent.
            Unavailable: the connection ended before the answer was complete, or had ended before; then nothing was
                sent.
        """
        self.result.require_valid(self._party.now())
        if not self._usable:
            raise Unavailable(f"the connection to {self._party.address} has ended", code="unavailable.closed")
        # Until the answer is complete, the connection is in the middle of something.
        self._usable = False
        answer = yield from self._exchange(
            head, body, max_answer_bytes=max_answer_bytes, expect_continue=expect_continue
        )
        self._usable = answer.keep_alive
        return answer

    def close(self) -> Flow[None]:
        """Say good-bye (close_notify)."""
        self._usable = False
        if self._pipe.established:
            self._pipe.close()
            if farewell := self._pipe.outgoing():
                yield farewell

    # The steps.

    def _handshake(self) -> Flow[None]:
        try:
            while not self._pipe.handshake():
                if outgoing := self._pipe.outgoing():
                    yield outgoing
                received = yield READ
                if not received:
                    raise Unavailable(
                        f"{self._party.address} closed the connection during the TLS handshake",
                        code="unavailable.handshake",
                    )
                self._pipe.feed(received)
        except TLSFailure as error:
            if outgoing := self._pipe.outgoing():
                yield outgoing
            raise self._tls_refusal(error.reason) from error

    def _tls_refusal(self, reason: str) -> AttestationError:
        if reason in _VERSION_REASONS:
            code, likely = "channel.tls_version", "the server, or a box in between, is too old"
        elif reason in _NOT_TLS_REASONS:
            code, likely = "channel.not_tls", "this port does not speak TLS"
        else:
            code, likely = "channel.tls", "the bytes on the wire were changed, or this is not a TLS server"
        return AttestationError(
            f"no TLS 1.3 connection to {self._party.address}",
            code=code,
            step="channel",
            expected="TLS 1.3",
            got=reason,
            likely=likely,
        )

    def _statement(self, nonce: bytes, keyset_digest: str, config: str, devices: str) -> Statement:
        spki = self._pipe.peer_spki_sha256()
        if spki is None:
            raise AttestationError(
                "the server's TLS key is not an elliptic-curve key",
                code="channel.key_type",
                step="channel",
                expected="P-256",
            )
        return Statement(
            role=Role.SERVER,
            nonce=nonce.hex(),
            ekm=self._pipe.exported(nonce),
            spki_sha256=spki,
            keyset_digest=keyset_digest,
            devices_digest=devices,
            config_digest=config,
        )

    def _ask(self, request: gate.GateRequest) -> Flow[Answer]:
        body = gate.encoder.encode(request)
        head = request_head(
            "POST",
            gate.GATE_PATH,
            self._party.address,
            [("Content-Type", "application/json"), ("Content-Length", str(len(body)))],
        )
        try:
            return (yield from self._exchange(head, [body], max_answer_bytes=gate.MAX_ANSWER_BYTES, application=False))
        except Unavailable as error:
            raise self._not_attested(error.message) from error

    def _not_attested(self, got: str) -> AttestationError:
        return AttestationError(
            f"{self._party.address} does not attest itself",
            code="channel.not_attested",
            step="channel",
            expected=f"evidence from POST {gate.GATE_PATH}",
            got=got,
            likely="this is not a BlindAI enclave, or a proxy ends TLS before it",
        )

    def _fresh_gate(self) -> Flow[AttestationResult]:
        nonce = os.urandom(NONCE_LENGTH)
        answer = yield from self._ask(gate.GateRequest(v=VERSION, mode=Mode.FRESH, nonce=nonce.hex()))
        challenge = self._challenge(answer)
        if challenge is not None:
            nonce = os.urandom(NONCE_LENGTH)
            answer = yield from self._ask(
                gate.GateRequest(v=VERSION, mode=Mode.FRESH, nonce=nonce.hex(), credential=challenge.credential)
            )
        if answer.status != 200:
            raise self._not_attested(_problem(answer))
        try:
            fresh = gate.fresh_decoder.decode(answer.body)
            keyset_digest = fresh.keyset.digest
            _ = fresh.keyset.expires_at
            config = config_digest(fresh.config)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, OverflowError, OSError, RecursionError) as error:
            raise self._not_attested(f"an answer that cannot be parsed: {error}") from error
        self._require_protocol(fresh.v, fresh.mode, Mode.FRESH)
        devices = _devices_digest(bytes(fresh.evidence))
        now = self._party.now()
        self.transcript = Transcript(
            at=now,
            statement=self._statement(nonce, keyset_digest, config, devices),
            claimed=fresh.statement,
            keyset=fresh.keyset,
            config=fresh.config,
            evidence=fresh.evidence,
            activation=None if challenge is None else challenge.answered(fresh.activated or b""),
        )
        checks = Checklist()
        with checks.check("channel", expected="TLS 1.3") as opened:
            opened.got = f"{self._pipe.version}, {self._pipe.group}"
        result = self.transcript.appraise(self._party.policy, now=now, checks=checks)
        self._party.remember(fresh.keyset, config, devices, result)
        return result

    def _challenge(self, answer: Answer) -> Challenge | None:
        """A credential for the TPM that the peer names as its own; None where it did not ask for one."""
        if answer.status != 409:
            return None
        try:
            required = gate.activation_required_decoder.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return Challenge.of(required.identity) if required.code == gate.ACTIVATION_REQUIRED else None

    def _resumed_gate(self, kept: RememberedKeyset) -> Flow[AttestationResult | None]:
        """None when the enclave has other keys now: then only a fresh gate will do."""
        nonce = os.urandom(NONCE_LENGTH)
        keyset_digest = kept.result.keyset_digest
        answer = yield from self._ask(
            gate.GateRequest(
                v=VERSION,
                mode=Mode.RESUMED,
                nonce=nonce.hex(),
                keyset_digest=keyset_digest,
                devices_digest=None if kept.devices_digest == NO_DEVICES else kept.devices_digest,
            )
        )
        if answer.status == 409:
            self._party.remembered = None
            return None
        if answer.status != 200:
            raise self._not_attested(_problem(answer))
        try:
            resumed = gate.resumed_decoder.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._not_attested(f"an answer that cannot be parsed: {error}") from error
        self._require_protocol(resumed.v, resumed.mode, Mode.RESUMED)
        own = self._statement(nonce, keyset_digest, kept.config_digest, kept.devices_digest)
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(kept.keyset.proof_key))
            key.verify(bytes.fromhex(resumed.signature), own.resume_message)
        except (InvalidSignature, ValueError) as error:
            self._party.remembered = None
            raise unbound(
                kept.result,
                "the peer of this connection does not hold the keys that were attested",
                code="binding.proof",
                expected=f"a signature by the connection-proof key of keyset {keyset_digest}",
                got="a signature that does not verify for this connection",
                likely="a relay sits in between, or an answer was replayed",
            ) from error
        return msgspec.structs.replace(kept.result, mode=Mode.RESUMED)

    def _require_protocol(self, version: int, mode: Mode, expected: Mode) -> None:
        if (version, mode) != (VERSION, expected):
            raise AttestationError(
                "the peer answered with another protocol than was asked for",
                code="channel.downgrade",
                step="channel",
                expected=f"version {VERSION}, {expected}",
                got=f"version {version}, {mode}",
            )

    def _exchange(
        self,
        head: bytes,
        body: Iterable[bytes | bytearray | memoryview],
        *,
        max_answer_bytes: int,
        expect_continue: bool = False,
        application: bool = True,
    ) -> Flow[Answer]:
        reader = AnswerReader(max_answer_bytes)
        parts: Iterable[bytes | bytearray | memoryview] = chain((head,), body)
        try:
            if expect_continue:
                self._pipe.write(head)
                yield self._take(application=application)
                while reader.answer is None and not reader.continued:
                    yield from self._read_into(reader)
                parts = body
            if reader.answer is None:
                waiting = 0
                for piece in pieces(parts):
                    self._pipe.write(piece)
                    waiting += len(piece)
                    if waiting >= PIECE_BYTES:
                        yield self._take(application=application)
                        waiting = 0
                if outgoing := self._take(application=application):
                    yield outgoing
            while reader.answer is None:
                yield from self._read_into(reader)
        except (TLSFailure, MalformedAnswer) as error:
            raise Unavailable(
                f"the exchange with {self._party.address} broke off: {error}", code="unavailable.protocol"
            ) from error
        return reader.answer

    def _take(self, *, application: bool) -> bytes:
        outgoing = self._pipe.outgoing()
        if application:
            self.application_bytes_sent += len(outgoing)
        return outgoing

    def _read_into(self, reader: AnswerReader) -> Flow[None]:
        """Read from the wire once, and pass on all plaintext that this gave."""
        received = yield READ
        if not received:
            raise Unavailable(
                f"{self._party.address} closed the connection before its answer was complete",
                code="unavailable.closed",
            )
        self._pipe.feed(received)
        while plaintext := self._pipe.read():
            reader.feed(plaintext)
        if plaintext == b"" and reader.answer is None:
            raise Unavailable(
                f"{self._party.address} ended the TLS connection before its answer was complete",
                code="unavailable.closed",
            )


def _devices_digest(evidence: bytes) -> str:
    try:
        return devices_digest(Evidence.decode(evidence).devices)
    except AttestationError:
        return NO_DEVICES  # the appraisal says what is wrong with the evidence


# How much of a stranger's words an error repeats.
_MAX_QUOTED = 200


def _problem(answer: Answer) -> str:
    """What the peer gave as its reason, cut short: nobody vouches for the peer."""
    try:
        problem = gate.problem_decoder.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"HTTP status {answer.status}"
    return f"HTTP status {answer.status}, {problem.code}: {problem.error}"[:_MAX_QUOTED]
