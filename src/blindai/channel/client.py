"""The relying party's end: no application byte leaves before the peer of this very connection is attested."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.attestation.result import AttestationResult, Mode
from blindai.channel import gate
from blindai.channel.activation import Challenge
from blindai.channel.binding import unbound
from blindai.channel.conversation import Conversation
from blindai.channel.duplex import Duplex
from blindai.channel.flow import Flow
from blindai.channel.http1 import Answer
from blindai.channel.live import UNREADABLE, live_statement, live_transcript, opened_checks, require_protocol
from blindai.channel.opened import OpenedConnection, problem_in
from blindai.channel.relying_party import RelyingParty, RememberedKeyset
from blindai.channel.statement import NO_DEVICES, NONCE_LENGTH, VERSION, Role
from blindai.channel.transcript import Transcript
from blindai.errors import AttestationError, Unavailable, harmless

# OpenSSL's reason strings for "the peer will not speak TLS 1.3", from either side's point of view.
_VERSION_REASONS = frozenset({"unsupported protocol", "tlsv1 alert protocol version", "tls alert protocol version"})
_NOT_TLS_REASONS = frozenset({"wrong version number", "http request", "packet length too long"})


class AttestedChannel(OpenedConnection):
    """One TCP connection, sans I/O. `open()` first; then any number of `exchange()`, one at a time.

    Attributes:
        transcript: of the fresh gate, once the peer has answered; it is there for a refused peer too.
    """

    def __init__(self, party: RelyingParty, *, server_name: str | None = None) -> None:
        super().__init__(party.context, party.address, server_name=server_name)
        self._party = party
        self._result: AttestationResult | None = None
        self.transcript: Transcript | None = None
        self._vouching: Transcript | None = None

    @property
    def vouching(self) -> Transcript:
        """Of the fresh gate in which the keys of this connection were attested: its own, or an earlier one.

        Raises:
            AttestationError: `channel.not_open`, before `open()` has ended well.
        """
        if self._vouching is None:
            raise _not_open()
        return self._vouching

    @property
    def result(self) -> AttestationResult:
        """The verdict on the peer of this connection.

        Raises:
            AttestationError: `channel.not_open`, before `open()` has ended well.
        """
        if self._result is None:
            raise _not_open()
        return self._result

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
        return (
            yield from self._exchange_once(
                head, body, max_answer_bytes=max_answer_bytes, expect_continue=expect_continue
            )
        )

    def converse(self, method: str) -> Conversation:
        """Begin an exchange whose request and answer come in parts. It must end before the next begins.

        Raises:
            AttestationError: the verdict has expired; nothing was sent.
            Unavailable: `unavailable.closed`, the connection has ended.
        """

        def sent(size: int) -> None:
            self.application_bytes_sent += size

        def done(usable: bool) -> None:  # noqa: FBT001 - called back with one argument
            self._usable = usable

        return Conversation(self.duplex(), self.address, to_head=method == "HEAD", sent=sent, done=done)

    def duplex(self) -> Duplex:
        """Take the connection over: no `exchange` is possible on it from here on.

        Raises:
            AttestationError: the verdict has expired.
            Unavailable: `unavailable.closed`, the connection has ended.
        """
        self.result.require_valid(self._party.now())
        if not self._usable:
            raise Unavailable(f"the connection to {self.address} has ended", code="unavailable.closed")
        self._usable = False
        return Duplex(self._pipe, self.address)

    # The steps.

    def _tls_refusal(self, reason: str) -> AttestationError:
        if reason in _VERSION_REASONS:
            code, likely = "channel.tls_version", "the server, or a box in between, is too old"
        elif reason in _NOT_TLS_REASONS:
            code, likely = "channel.not_tls", "this port does not speak TLS"
        else:
            code, likely = "channel.tls", "the bytes on the wire were changed, or this is not a TLS server"
        return AttestationError(
            f"no TLS 1.3 connection to {self.address}",
            code=code,
            step="channel",
            expected="TLS 1.3",
            got=reason,
            likely=likely,
        )

    def _ask_gate(self, request: gate.GateRequest) -> Flow[Answer]:
        try:
            return (yield from self._ask(gate.GATE_PATH, request))
        except Unavailable as error:
            raise self._not_attested(error.message) from error

    def _not_attested(self, got: str) -> AttestationError:
        return AttestationError(
            f"{self.address} does not attest itself",
            code="channel.not_attested",
            step="channel",
            expected=f"evidence from POST {gate.GATE_PATH}",
            got=got,
            likely="this is not a BlindAI enclave, or a proxy ends TLS before it",
        )

    def _fresh_gate(self) -> Flow[AttestationResult]:
        nonce = os.urandom(NONCE_LENGTH)
        answer = yield from self._ask_gate(gate.GateRequest(v=VERSION, mode=Mode.FRESH, nonce=nonce.hex()))
        challenge = self._challenge(answer)
        if challenge is not None:
            nonce = os.urandom(NONCE_LENGTH)
            answer = yield from self._ask_gate(
                gate.GateRequest(v=VERSION, mode=Mode.FRESH, nonce=nonce.hex(), credential=challenge.credential)
            )
        if answer.status != 200:
            raise self._not_attested(problem_in(answer))
        now = self._party.now()
        try:
            fresh = gate.fresh_decoder.decode(answer.body)
            require_protocol((fresh.v, fresh.mode), (VERSION, Mode.FRESH))
            activation = None if challenge is None else challenge.answered(fresh.activated or b"")
            self.transcript = live_transcript(self._pipe, Role.SERVER, nonce, fresh, at=now, activation=activation)
        except UNREADABLE as error:
            raise self._not_attested(f"an answer that cannot be parsed: {error}") from error
        result = self.transcript.appraise(self._party.policy, now=now, checks=opened_checks(self._pipe))
        self._party.remember(self.transcript, result)
        self._vouching = self.transcript
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
        devices_digest = kept.transcript.statement.devices_digest
        answer = yield from self._ask_gate(
            gate.GateRequest(
                v=VERSION,
                mode=Mode.RESUMED,
                nonce=nonce.hex(),
                keyset_digest=keyset_digest,
                devices_digest=None if devices_digest == NO_DEVICES else devices_digest,
            )
        )
        if answer.status == 409:
            self._party.remembered = None
            return None
        if answer.status != 200:
            raise self._not_attested(problem_in(answer))
        try:
            resumed = gate.resumed_decoder.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._not_attested(f"an answer that cannot be parsed: {error}") from error
        require_protocol((resumed.v, resumed.mode), (VERSION, Mode.RESUMED))
        own = live_statement(
            self._pipe,
            Role.SERVER,
            nonce,
            keyset_digest=keyset_digest,
            config=kept.transcript.statement.config_digest,
            devices=devices_digest,
        )
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(kept.transcript.keyset.proof_key))
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
        self._vouching = kept.transcript
        return msgspec.structs.replace(kept.result, mode=Mode.RESUMED)


def _not_open() -> AttestationError:
    return AttestationError("the peer is not attested yet", code="channel.not_open", step="channel")
