"""The relying party as a TLS server: it challenges who calls, judges the evidence, then lets another protocol speak."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.attestation.policy import Policy
from blindai.attestation.result import AttestationResult, Mode
from blindai.channel import gate
from blindai.channel import reversed_gate as messages
from blindai.channel.activation import Challenge
from blindai.channel.clock import SYSTEM_CLOCK, Clock
from blindai.channel.gate import GateRefusal
from blindai.channel.gate_reader import GateReader
from blindai.channel.gated import GatedProtocol, GatedProtocols
from blindai.channel.keyset import INSTANCE_LIFETIME, Keyset, self_signed, spki_sha256
from blindai.channel.live import UNREADABLE, live_transcript, opened_checks, require_key, require_protocol
from blindai.channel.statement import NONCE_LENGTH, VERSION, Role
from blindai.channel.tls import TLSPipe, receiving_context
from blindai.channel.transcript import Transcript
from blindai.crypto.digests import tagged
from blindai.errors import AttestationError, BlindAIError, harmless
from blindai.wire.problems import status_of

# The challenge and the attestation. There is no second try on a connection.
MAX_GATE_REQUESTS = 2

# Each may hold a presentation in memory (`MAX_PRESENTATION_BODY_BYTES`). The oldest makes room for a newcomer: who
# means well is through in a fraction of a second.
MAX_SHUT_GATES = 256

# What is signed to see whether key and public key belong together: nothing that any protocol would take.
PROBE_DOMAIN = "blindai/probe/v1"

_log = structlog.get_logger("blindai.channel")


class Caller(NamedTuple):
    """An enclave that was attested on a live connection.

    Attributes:
        audience: which policy it asked to be judged by, and was: the id of a lease.
        instance: digest of its keyset.
        keyset, config: what its evidence commits to.
        transcript: of this gate.
        result: the verdict; this connection ends when it does.
    """

    audience: str
    instance: str
    keyset: Keyset
    config: dict[str, Any]
    transcript: Transcript
    result: AttestationResult


class Challenged(NamedTuple):
    """What the relying party remembers of a challenge until it is answered, on the same connection."""

    audience: str
    nonce: bytes
    credential: Challenge | None


class ReceivingEnd:
    """Judges who calls. One for each process, with a TLS key of its own.

    Attributes:
        context: for the TLS connections that it accepts.
    """

    def __init__(
        self,
        sign: Callable[[bytes], bytes],
        public_key: str,
        policy_for: Callable[[str], Awaitable[Policy]],
        admit: Callable[[Caller], Awaitable[None]] | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`policy_for` and `admit` refuse by raising a `BlindAIError`, which the caller is told.

        Args:
            sign: with the key by which callers know this relying party (Ed25519, RFC 8032).
            public_key: of the same key, 32 bytes in hex.
            policy_for: the policy for an audience; the place to refuse an unknown one.
            admit: called with each caller that was attested, before its gate opens.
            clock: for dates in certificates and collateral.

        Raises:
            ValueError: `sign` and `public_key` do not belong together.
        """
        probe = tagged(PROBE_DOMAIN, {"nonce": os.urandom(NONCE_LENGTH).hex()})
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(sign(probe), probe)
        except InvalidSignature as error:
            raise ValueError("this public key is not that of the signing key") from error
        self._sign = sign
        self._policy_for = policy_for
        self._admit = admit
        self._clock = clock
        now = self.now()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self_signed(key, "BlindAI custodian", not_before=now, not_after=now + INSTANCE_LIFETIME)
        self._spki_sha256 = spki_sha256(key.public_key())
        self.context = receiving_context(key, certificate)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    def challenge(self, body: bytes, pipe: TLSPipe) -> tuple[bytes, Challenged]:
        """The body of the answer to a challenge request, and what must be remembered of it.

        Raises:
            GateRefusal: see there.
            AttestationError: no credential can be made for the caller's TPM; the caller's TLS key is of the wrong kind.
        """
        try:
            request = messages.challenge_request_decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise GateRefusal(400, "gate.malformed", f"the challenge request cannot be parsed: {error}") from error
        if request.v != VERSION:
            raise GateRefusal(400, "gate.version", f"this custodian speaks version {VERSION} of the gate")
        nonce = os.urandom(NONCE_LENGTH)
        statement = messages.ChallengeStatement(
            audience=request.audience,
            nonce=nonce.hex(),
            ekm=pipe.exported(nonce),
            spki_sha256=self._spki_sha256,
            caller_spki_sha256=require_key(pipe),
        )
        credential = None if request.identity is None else Challenge.of(request.identity)
        answer = messages.ChallengeAnswer(
            v=VERSION,
            nonce=statement.nonce,
            signature=self._sign(statement.message).hex(),
            credential=None if credential is None else credential.credential,
        )
        return gate.encoder.encode(answer), Challenged(request.audience, nonce, credential)

    async def judge(self, body: bytes, pipe: TLSPipe, challenged: Challenged) -> Caller:
        """The caller, if the presentation in `body` is genuine, about this connection, and as the policy wants it.

        Raises:
            GateRefusal: the presentation cannot be parsed.
            AttestationError: it is refused.
            BlindAIError: `policy_for` or `admit` has refused.
        """
        now = self.now()
        credential = challenged.credential
        try:
            shown = messages.presentation_decoder.decode(body)
            require_protocol((shown.v, shown.mode), (VERSION, Mode.FRESH))
            if shown.nonce != challenged.nonce.hex():
                raise AttestationError(
                    "the evidence is old: it answers another challenge",
                    code="binding.nonce",
                    step="binding",
                    expected=challenged.nonce.hex(),
                    got=shown.nonce,
                    likely="recorded evidence was replayed",
                )
            activation = None if credential is None else credential.answered(shown.activated or b"")
            transcript = live_transcript(pipe, Role.CLIENT, challenged.nonce, shown, at=now, activation=activation)
        except UNREADABLE as error:
            raise GateRefusal(400, "gate.malformed", f"the attestation cannot be parsed: {error}") from error
        policy = await self._policy_for(challenged.audience)
        result = transcript.appraise(policy, now=now, checks=opened_checks(pipe))
        caller = Caller(
            audience=challenged.audience,
            instance=transcript.statement.keyset_digest,
            keyset=transcript.keyset,
            config=transcript.config,
            transcript=transcript,
            result=result,
        )
        if self._admit is not None:
            await self._admit(caller)
        return caller


class ReceivingProtocol(GatedProtocol):
    """TLS 1.3 with a certificate of the caller, challenge and attestation, then `inner_factory(caller)`'s protocol."""

    def __init__(
        self,
        end: ReceivingEnd,
        inner_factory: Callable[[Caller], asyncio.Protocol],
        waiting: dict[GatedProtocol, None],
    ) -> None:
        self._end = end
        self._inner_factory = inner_factory
        self._challenged: Challenged | None = None
        self._caller: Caller
        super().__init__(end.context, waiting, max_gate_requests=MAX_GATE_REQUESTS)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._waiting) >= MAX_SHUT_GATES:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.abort()
        super().connection_made(transport)

    def _new_reader(self) -> GateReader:
        if self._challenged is None:
            return GateReader(messages.CHALLENGE_PATH, max_body_bytes=messages.MAX_CHALLENGE_BODY_BYTES)
        return GateReader(gate.GATE_PATH, max_body_bytes=messages.MAX_PRESENTATION_BODY_BYTES)

    def _new_inner(self) -> asyncio.Protocol:
        return self._inner_factory(self._caller)

    def _pass_on(self, plaintext: bytes, inner: asyncio.Protocol) -> None:
        if self._caller.result.has_expired(self._end.now()):
            self.finish()
            _log.info("verdict_expired", audience=self._caller.audience, instance=self._caller.instance)
        else:
            inner.data_received(plaintext)

    def _asked(self, body: bytes) -> None:
        if self._challenged is None:
            try:
                answer, self._challenged = self._end.challenge(body, self._pipe)
            except (GateRefusal, BlindAIError) as error:
                self._answer_failed(error)
            else:
                self._answered(answer)
        else:
            judged = self._end.judge(body, self._pipe, self._challenged)
            self._when_ready(asyncio.get_running_loop().create_task(judged), self._admitted)

    def _admitted(self, caller: Caller) -> None:
        self._caller = caller
        self._opened(gate.encoder.encode(messages.Admission(v=VERSION, instance=caller.instance)))

    def _answer_failed(self, error: BaseException) -> None:
        audience = None if self._challenged is None else self._challenged.audience
        if isinstance(error, GateRefusal):
            refusal = error
        elif isinstance(error, AttestationError):
            # What the policy expects is nobody's business before he is attested.
            refusal = GateRefusal(403, error.code, harmless(error.message), step=error.step)
        elif isinstance(error, BlindAIError):
            refusal = GateRefusal(status_of(error), error.code, error.message, hint=error.hint)
        else:
            refusal = GateRefusal(500, "internal", "the custodian failed to judge the attestation")
        self._gate_refused(refusal)
        if refusal.code == "internal":
            _log.error("judging_failed", audience=audience, exc_info=error)
        else:
            _log.info("caller_refused", audience=audience, code=refusal.code, step=refusal.step)


class ReceivingProtocols(GatedProtocols):
    """Makes the protocol of each connection of one receiving end."""

    def __init__(self, end: ReceivingEnd) -> None:
        super().__init__()
        self._end = end

    def __call__(self, inner_factory: Callable[[Caller], asyncio.Protocol]) -> ReceivingProtocol:
        return ReceivingProtocol(self._end, inner_factory, self._waiting)
