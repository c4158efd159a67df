"""The attested end as a TLS client: an enclave calls its custodian, makes sure that it is, and attests itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature

from blindai.attestation.attesters.attester import Attester, DeviceAttester
from blindai.attestation.evidence import TpmIdentity
from blindai.channel import gate
from blindai.channel import reversed_gate as messages
from blindai.channel.clock import SYSTEM_CLOCK, Clock
from blindai.channel.flow import AsyncStream, Flow
from blindai.channel.http1 import Answer, request_head
from blindai.channel.keyset import INSTANCE_LIFETIME, PrivateKeyset
from blindai.channel.opened import MAX_QUOTED, OpenedConnection, problem_in, server_name
from blindai.channel.prover import Prover
from blindai.channel.statement import VERSION, Role, Statement
from blindai.channel.tls import TLSPipe, calling_context
from blindai.crypto.canonical import Canonical
from blindai.errors import BlindAIError, CustodianError, Unavailable, harmless
from blindai.wire.problems import error_from

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

T = TypeVar("T")

# As long as the custodian waits at most (`channel.gated.GATE_SECONDS`), and the connection itself.
OPENING_SECONDS = 15.0

# For a farewell of a few bytes: whoever does not take it will notice the end of the connection.
CLOSING_SECONDS = 1.0

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Challenged(NamedTuple):
    """The challenge of a custodian that has proved its key, and what this end says about the connection."""

    nonce: str
    statement: Statement
    credential: gate.GateCredential | None


class CallingEnd:
    """Makes evidence for the connections that an enclave opens. One for each process: it is the instance.

    Attributes:
        keyset: made at start, kept as long as the process; never replaced (`INSTANCE_LIFETIME`).
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
        """
        self._prover = Prover(Role.CLIENT, attester, config, devices)
        self.keyset = PrivateKeyset(datetime.fromtimestamp(clock.now(), UTC), INSTANCE_LIFETIME)
        self.context = calling_context(self.keyset.tls_key, self.keyset.certificate())

    @property
    def instance(self) -> str:
        """What this instance is called: the digest of its keyset, in hex."""
        return self.keyset.digest

    @property
    def simulated(self) -> bool:
        return self._prover.simulated

    @property
    def quick(self) -> bool:
        """Whether an event loop may call `identity` and `present` directly."""
        return self._prover.quick

    def identity(self) -> TpmIdentity | None:
        """For whom the custodian must make a credential; None where the attester is no TPM.

        Raises:
            BlindAIError: the attester failed.
        """
        identity = self._prover.identity()
        return identity and msgspec.structs.replace(identity, ek_certificates=())

    def statement(self, nonce: str, pipe: TLSPipe) -> Statement:
        """What this end says about one of its connections; of devices, nothing yet."""
        return self._prover.statement(bytes.fromhex(nonce), pipe, self.keyset)

    def present(self, challenged: Challenged) -> messages.Presentation:
        """Evidence for the connection of a challenge.

        Raises:
            CustodianError: `custodian.credential`; its credential is not for the TPM of this enclave.
            BlindAIError: the attester failed.
        """
        activated = self._activated(challenged.credential)
        shown = self._prover.shown(self._prover.prove(challenged.statement), self.keyset, activated)
        return messages.Presentation(nonce=challenged.nonce, **msgspec.structs.asdict(shown))

    def _activated(self, credential: gate.GateCredential | None) -> bytes | None:
        if credential is None and not self._prover.activates:
            return None
        try:
            if credential is None:
                raise ValueError("none came")
            return self._prover.activated(credential)
        except ValueError as error:
            raise CustodianError(
                f"the custodian's credential is not for this enclave: {error}", code="custodian.credential"
            ) from error


class AttestedCall(OpenedConnection):
    """One TCP connection to the custodian, sans I/O. `open()` first; then any number of `exchange()`, one at a time.

    Where the attester is slow, an event loop takes the steps of `open()` one by one, and makes the evidence elsewhere:
    `end.identity()`, the flow `challenge()`, `end.present()`, the flow `present()`. `call` does that.
    """

    def __init__(
        self,
        end: CallingEnd,
        address: str,
        custodian: Ed25519PublicKey,
        audience: str,
        *,
        server_name: str | None = None,
    ) -> None:
        """`custodian` is the public key in the measured configuration; `audience` the lease in there."""
        super().__init__(end.context, address, server_name=server_name)
        self._end = end
        self._custodian = custodian
        self._audience = audience
        self._opened = False

    def open(self) -> Flow[None]:
        """Handshake and gate, with the evidence made in place.

        Raises:
            CustodianError: the peer is not the custodian, or it does not accept this enclave.
            BlindAIError: the attester failed, or the custodian has refused for reasons of its own (`lease.*`).
            Unavailable: the connection ended.
        """
        challenged = yield from self.challenge(self._end.identity())
        yield from self.present(self._end.present(challenged))

    def challenge(self, identity: TpmIdentity | None) -> Flow[Challenged]:
        """Handshake and challenge. When it ends the peer is the custodian, and has heard of lease and TPM keys alone.

        Raises:
            CustodianError: the peer is not the custodian.
            Unavailable: the connection ended.
        """
        try:
            yield from self._handshake()
            request = messages.ChallengeRequest(v=VERSION, audience=self._audience, identity=identity)
            answer = yield from self._ask_custodian(messages.CHALLENGE_PATH, request)
            if answer.status != 200:
                raise self._not_custodian(problem_in(answer))
            try:
                challenge = messages.challenge_answer_decoder.decode(answer.body)
            except _UNREADABLE as error:
                raise self._not_custodian(f"an answer that cannot be parsed: {error}") from error
            _require_version(challenge.v)
            self._verify(challenge)
        except BaseException:
            self._usable = False
            raise
        return Challenged(challenge.nonce, self._end.statement(challenge.nonce, self._pipe), challenge.credential)

    def present(self, presentation: messages.Presentation) -> Flow[None]:
        """The evidence, and the custodian's word that the gate is open.

        Raises:
            CustodianError: the custodian does not accept the evidence; its code and step are those of the refusal.
            BlindAIError: the custodian has refused for reasons of its own (`lease.*`).
            Unavailable: the connection ended.
        """
        try:
            answer = yield from self._ask_custodian(gate.GATE_PATH, presentation)
            if answer.status != 200:
                raise _refusal(answer)
            try:
                admission = messages.admission_decoder.decode(answer.body)
            except _UNREADABLE as error:
                raise _protocol(f"an answer that cannot be parsed: {error}") from error
            _require_version(admission.v)
            if admission.instance != self._end.instance:
                raise _protocol(f"it has judged another instance than this one: {admission.instance}")
        except BaseException:
            self._usable = False
            raise
        self._opened = True

    def exchange(
        self, head: bytes, body: Iterable[bytes | bytearray | memoryview] = (), *, max_answer_bytes: int
    ) -> Flow[Answer]:
        """Send one request, return its answer.

        Raises:
            CustodianError: `custodian.not_open`; the gate is shut, and nothing was sent.
            Unavailable: the connection ended before the answer was complete, or had ended before; then nothing was
                sent.
        """
        if not self._opened:
            raise CustodianError("the custodian has not accepted this enclave yet", code="custodian.not_open")
        return (yield from self._exchange_once(head, body, max_answer_bytes=max_answer_bytes))

    # The steps.

    def _ask_custodian(self, path: str, message: msgspec.Struct) -> Flow[Answer]:
        try:
            return (yield from self._ask(path, message, max_answer_bytes=messages.MAX_ANSWER_BYTES))
        except Unavailable as error:
            if error.code == "unavailable.protocol":
                raise self._not_custodian(error.message) from error
            raise

    def _tls_refusal(self, reason: str) -> CustodianError:
        return CustodianError(
            f"no TLS 1.3 connection to the custodian at {self.address}: {reason}", code="custodian.tls"
        )

    def _not_custodian(self, got: str) -> CustodianError:
        return CustodianError(
            f"{self.address} is no custodian: {harmless(got)}",
            code="custodian.not_custodian",
            hint="`address` in the table [custody] is the custodian's port for enclaves, not that for operators",
        )

    def _verify(self, challenge: messages.ChallengeAnswer) -> None:
        """That this very connection ends at the holder of the custodian's key."""
        spki = self._pipe.peer_spki_sha256()
        if spki is None:
            raise self._tls_refusal("its key is not an elliptic-curve key")
        statement = messages.ChallengeStatement(
            audience=self._audience,
            nonce=challenge.nonce,
            ekm=self._pipe.exported(bytes.fromhex(challenge.nonce)),
            spki_sha256=spki,
            caller_spki_sha256=self._end.keyset.public.tls_spki_sha256,
        )
        try:
            self._custodian.verify(bytes.fromhex(challenge.signature), statement.message)
        except InvalidSignature as error:
            raise CustodianError(
                f"{self.address} does not hold the custodian's key, or somebody sits in between",
                code="custodian.signature",
                hint="compare `public_key` in the table [custody] with what `blindai custodian` shows",
            ) from error


class CalledConnection:
    """An open connection to the custodian on asyncio. One exchange at a time."""

    def __init__(self, call: AttestedCall, stream: AsyncStream) -> None:
        self._call = call
        self._stream = stream

    @property
    def usable(self) -> bool:
        """Whether another exchange can be made; the custodian may have closed it meanwhile."""
        return self._call.usable and not self._stream.is_stale()

    async def exchange(
        self,
        head: bytes,
        body: Iterable[bytes | bytearray | memoryview] = (),
        *,
        max_answer_bytes: int,
        seconds: float | None = None,
    ) -> Answer:
        """As `AttestedCall.exchange`; `seconds` bounds each read and write in place of the connection's own bound."""
        return await self._stream.run(
            self._call.exchange(head, body, max_answer_bytes=max_answer_bytes), seconds=seconds
        )

    async def post(self, path: str, body: bytes, *, max_answer_bytes: int, seconds: float | None = None) -> Answer:
        """Exchange one JSON message; otherwise as `exchange`."""
        fields = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        head = request_head("POST", path, self._call.address, fields)
        return await self.exchange(head, [body], max_answer_bytes=max_answer_bytes, seconds=seconds)

    async def close(self) -> None:
        """Say good-bye and close. Never fails."""
        try:
            await self._stream.run(self._call.close(), seconds=CLOSING_SECONDS)
        except Unavailable:
            pass
        finally:
            self._stream.close()

    def cut(self) -> None:
        """Close at once and without a word: an exchange was broken off, and what comes now belongs to nothing."""
        self._stream.close()


async def call(
    end: CallingEnd,
    host: str,
    port: int,
    *,
    custodian: Ed25519PublicKey,
    audience: str,
    opening_seconds: float = OPENING_SECONDS,
    seconds: float | None = None,
) -> CalledConnection:
    """Connect to the custodian and attest. A slow attester works in the default executor: the event loop goes on.

    Args:
        end: the instance that calls.
        host, port: where the custodian listens for enclaves.
        custodian: its public key.
        audience: the lease.
        opening_seconds: for all of it.
        seconds: bounds each read and write from then on.

    Raises:
        CustodianError, BlindAIError, Unavailable: as `AttestedCall.open`; `unavailable.timeout`, `unavailable.connect`.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    stream: AsyncStream | None = None
    try:
        async with asyncio.timeout(opening_seconds):
            stream = await AsyncStream.connect(host, port, connect_seconds=opening_seconds, seconds=seconds)
            connection = AttestedCall(end, address, custodian, audience, server_name=server_name(host))
            identity = await _beside(end, end.identity)
            challenged = await stream.run(connection.challenge(identity))
            presentation = await _beside(end, lambda: end.present(challenged))
            await stream.run(connection.present(presentation))
    except BaseException as error:
        if stream is not None:
            stream.close()
        if isinstance(error, TimeoutError):
            raise Unavailable(
                f"the custodian at {address} did not open its gate in time", code="unavailable.timeout"
            ) from error
        raise
    return CalledConnection(connection, stream)


async def _beside(end: CallingEnd, make: Callable[[], T]) -> T:
    """What `make` gives; beside the event loop, if it takes its time."""
    return make() if end.quick else await asyncio.get_running_loop().run_in_executor(None, make)


def _require_version(got: int) -> None:
    if got != VERSION:
        raise _protocol(f"it speaks version {got} of the gate, not {VERSION}")


def _protocol(got: str) -> CustodianError:
    return CustodianError(
        f"the custodian does not keep to the protocol: {harmless(got)[:MAX_QUOTED]}", code="custodian.protocol"
    )


def _refusal(answer: Answer) -> BlindAIError:
    """The custodian's reason, in the class that belongs to it. Its words are believed: it has proved its key."""
    try:
        problem = gate.gate_problem_decoder.decode(answer.body)
    except _UNREADABLE:
        return _protocol(f"HTTP status {answer.status} without a reason")
    if problem.step or problem.code.startswith("gate."):
        words = harmless(problem.error)[:MAX_QUOTED]
        return CustodianError(f"the custodian refuses this enclave: {words}", code=problem.code, step=problem.step)
    return error_from(answer.status, answer.body)
