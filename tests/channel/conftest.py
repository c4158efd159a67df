"""An attested end on a real loopback socket, with an inner protocol that records what passed the gate."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from OpenSSL import SSL

from blindai.attestation.anchors import Vendor
from blindai.attestation.attesters.attester import Attester
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.evidence import TEE, Evidence
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.result import AttestationResult
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.channel.calling import AttestedCall, CallingEnd
from blindai.channel.client import AttestedChannel
from blindai.channel.clock import SYSTEM_CLOCK, Clock
from blindai.channel.end import AttestedEnd
from blindai.channel.flow import BlockingStream
from blindai.channel.gated import GatedProtocol, GatedProtocols
from blindai.channel.receiving import Caller, ReceivingEnd, ReceivingProtocols
from blindai.channel.relying_party import RelyingParty
from blindai.channel.server import AttestedProtocols
from blindai.channel.tls import TLSFailure, TLSPipe, client_context
from blindai.demo.impostor import receive
from blindai.errors import PermissionDenied, Unavailable

REQUEST = b"GET / HTTP/1.1\r\nHost: enclave\r\n\r\n"


class SwitchableAttester:
    """Another attester that can be slow, or out of order."""

    simulated = True

    def __init__(self, inner: Attester, *, quick: bool = True) -> None:
        self._inner = inner
        self.tee: TEE = inner.tee
        self.quick = quick
        self.broken = False
        self.calls: list[tuple[bytes, int]] = []

    def attest(self, report_data: bytes) -> Evidence:
        self.calls.append((report_data, threading.get_ident()))
        if self.broken:
            raise Unavailable("the quoting service is down", code="unavailable.quoting")
        return self._inner.attest(report_data)


class Recorder(asyncio.Protocol):
    """Answers every read with "ok" and keeps what it read."""

    def __init__(self, received: bytearray) -> None:
        self._received = received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class Running:
    """Accepts connections on a loopback socket, in a thread of its own."""

    def __init__(self, make: GatedProtocols, protocol: Callable[[], GatedProtocol], *, port: int = 0) -> None:
        """`protocol` is called for each connection; its protocols are those of `make`."""
        self.port = port
        self.make = make
        self.protocols: list[GatedProtocol] = []
        self._new_protocol = protocol
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._ready.wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await self._loop.create_server(self._protocol, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        await asyncio.sleep(0.05)  # connections that were just accepted get their protocol
        server.close()
        for protocol in self.protocols:
            protocol.abort()
        await asyncio.sleep(0.01)

    def _protocol(self) -> asyncio.Protocol:
        self.protocols.append(self._new_protocol())
        return self.protocols[-1]

    def call(self, function: Callable[[], Any]) -> Any:
        """The result of `function`, called on the server's event loop."""

        async def wrapped() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result(20)

    def eventually(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition`, looked at on the server's event loop, holds."""

        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.005)

        asyncio.run_coroutine_threadsafe(wait(), self._loop).result(20)

    def nothing_left(self) -> None:
        """Wait until there is no connection, no timer and no task."""
        self.eventually(lambda: all(protocol._transport.is_closing() for protocol in self.protocols))
        self.eventually(lambda: not self.make._waiting)
        self.eventually(lambda: all(protocol._deadline.cancelled() for protocol in self.protocols))
        # The server itself, and the question.
        self.eventually(lambda: len(asyncio.all_tasks()) == 2)

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()


class RunningEnd(Running):
    """A server of attested TLS."""

    def __init__(self, end: AttestedEnd, inner: Callable[[], asyncio.Protocol] | None = None, *, port: int = 0) -> None:
        self.end = end
        self.received = bytearray()
        make = AttestedProtocols(end)
        super().__init__(make, lambda: make(inner or (lambda: Recorder(self.received))), port=port)


class Client:
    """A TLS client that sends what it is told."""

    def __init__(self, port: int, context: SSL.Context | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.pipe = TLSPipe(context or client_context(), server=False)
        self._received = b""

    def shake(self) -> Client:
        while not self.pipe.handshake():
            self.socket.sendall(self.pipe.outgoing())
            self.pipe.feed(self.socket.recv(65536))
        self.socket.sendall(self.pipe.outgoing())
        return self

    def send(self, data: bytes) -> None:
        self.pipe.write(data)
        self.socket.sendall(self.pipe.outgoing())

    def receive(self) -> bytes:
        """The next plaintext; b"" at the end, in good order or not."""
        try:
            return receive(self.socket, self.pipe)
        except (OSError, TLSFailure):
            return b""

    def response(self) -> tuple[int, Any]:
        """Status and JSON of the next response."""
        while True:
            head, end, body = self._received.partition(b"\r\n\r\n")
            length = next((int(x.split(b":")[1]) for x in head.split(b"\r\n") if b"length" in x.lower()), 0)
            if end and len(body) >= length:
                self._received = body[length:]
                return int(head.split()[1]), json.loads(body[:length])
            plaintext = self.receive()
            assert plaintext, "the server closed the connection instead of answering"
            self._received += plaintext

    def ended(self) -> bool:
        """Whether the server ends the connection now, without another byte."""
        return self._received == b"" and self.receive() == b""

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


def post(target: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    """An HTTP request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: e", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def rsa_certificate() -> tuple[Any, x509.Certificate]:
    """A key of another kind than the protocol allows, with its certificate."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name, now = x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return key, builder.sign(key, hashes.SHA256())


LEASE = "lease-aaaaaaaaaaaaaaaa"


class Custodian(Running):
    """A relying party that accepts connections: it judges by the policy of `LEASE`, and knows no other audience."""

    def __init__(self, policy: Policy, clock: Clock, *, kind: type[ReceivingEnd] = ReceivingEnd) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.policy = policy
        self.callers: list[Caller] = []
        self.received = bytearray()
        self.refusal: Exception | None = None
        self.held = threading.Event()  # cleared, and the ledger takes its time
        self.held.set()
        public_key = self.key.public_key().public_bytes_raw().hex()
        self.end = kind(self.key.sign, public_key, self._policy_for, self._admit, clock=clock)
        make = ReceivingProtocols(self.end)
        super().__init__(make, lambda: make(self._inner))

    async def _policy_for(self, audience: str) -> Policy:
        await asyncio.get_running_loop().run_in_executor(None, self.held.wait, 10)
        if audience != LEASE:
            raise PermissionDenied("there is no such lease", code="lease.unknown")
        return self.policy

    async def _admit(self, caller: Caller) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.callers.append(caller)

    def _inner(self, caller: Caller) -> asyncio.Protocol:
        return Recorder(self.received)

    def close(self) -> None:
        self.held.set()
        super().close()


class Dialler:
    """Calls custodians."""

    def __init__(self) -> None:
        self._streams: list[BlockingStream] = []

    def dial(
        self, end: CallingEnd, to: Running, key: Ed25519PublicKey, audience: str = LEASE
    ) -> tuple[AttestedCall, BlockingStream]:
        """A connection whose gate is still shut."""
        return self.reach(end, to.address, key, audience)

    def reach(
        self, end: CallingEnd, address: str, key: Ed25519PublicKey, audience: str = LEASE
    ) -> tuple[AttestedCall, BlockingStream]:
        """As `dial`, by address."""
        host, _, port = address.partition(":")
        self._streams.append(BlockingStream(host, int(port), connect_seconds=5, seconds=5))
        return AttestedCall(end, address, key, audience), self._streams[-1]

    def open(self, end: CallingEnd, to: Custodian, audience: str = LEASE) -> tuple[AttestedCall, BlockingStream]:
        connection, stream = self.dial(end, to, to.key.public_key(), audience)
        stream.run(connection.open())
        return connection, stream

    def send(self, end: CallingEnd, to: Custodian) -> bytes:
        """Attest, then send a request; the body of the answer."""
        connection, stream = self.open(end, to)
        return stream.run(connection.exchange(REQUEST, max_answer_bytes=100)).body

    def close(self) -> None:
        for stream in self._streams:
            stream.close()


class MovableClock:
    """The clock of this machine, and what a test adds to it."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        return SYSTEM_CLOCK.now() + self.offset

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic() + self.offset


class Victim:
    """A relying party with a policy, and one connection at a time."""

    def __init__(self, policy: Policy, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock
        self._parties: dict[str, RelyingParty] = {}
        self._streams: list[BlockingStream] = []

    def party(self, address: str) -> RelyingParty:
        return self._parties.setdefault(address, RelyingParty(address, self._policy, clock=self._clock))

    def connect(self, address: str) -> tuple[AttestedChannel, BlockingStream]:
        """A connection whose gate is still shut."""
        address = address.removeprefix("https://")
        host, _, port = address.partition(":")
        stream = BlockingStream(host, int(port), connect_seconds=5, seconds=5)
        self._streams.append(stream)
        return AttestedChannel(self.party(address)), stream

    def attest(self, address: str, *, resume: bool = True) -> AttestationResult:
        channel, stream = self.connect(address)
        try:
            return stream.run(channel.open(resume=resume))
        finally:
            stream.close()

    def send(self, address: str, *, resume: bool = True) -> bytes:
        """Attest, then send a request; the body of the answer."""
        channel, stream = self.connect(address)
        try:
            stream.run(channel.open(resume=resume))
            return stream.run(channel.exchange(REQUEST, max_answer_bytes=100)).body
        finally:
            stream.close()

    def close(self) -> None:
        for stream in self._streams:
            stream.close()


@pytest.fixture(scope="session")
def root() -> SimulatedRoot:
    return SimulatedRoot.generate()


@pytest.fixture
def attester(root: SimulatedRoot) -> Attester:
    return SimulatedAttester(root=root)


@pytest.fixture
def switchable(attester: Attester) -> SwitchableAttester:
    return SwitchableAttester(attester)


@pytest.fixture
def policy(root: SimulatedRoot) -> Policy:
    return Policy.simulated({Vendor.INTEL: root.anchor.spki_sha256}, measure_package())


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def run_end() -> Iterator[Callable[..., RunningEnd]]:
    running: list[RunningEnd] = []

    def run(end: AttestedEnd, inner: Callable[[], asyncio.Protocol] | None = None, *, port: int = 0) -> RunningEnd:
        running.append(RunningEnd(end, inner, port=port))
        return running[-1]

    yield run
    for one in running:
        one.close()


@pytest.fixture
def enclave(attester: Attester, run_end: Callable[..., RunningEnd]) -> RunningEnd:
    return run_end(AttestedEnd(attester, {"name": "test"}))


@pytest.fixture
def victim(policy: Policy, clock: MovableClock) -> Iterator[Victim]:
    one = Victim(policy, clock)
    yield one
    one.close()


@pytest.fixture
def run_custodian(policy: Policy, clock: MovableClock) -> Iterator[Callable[..., Custodian]]:
    running: list[Custodian] = []

    def run(kind: type[ReceivingEnd] = ReceivingEnd) -> Custodian:
        running.append(Custodian(policy, clock, kind=kind))
        return running[-1]

    yield run
    for one in running:
        one.close()


@pytest.fixture
def custodian(run_custodian: Callable[..., Custodian]) -> Custodian:
    return run_custodian()


@pytest.fixture
def dialler() -> Iterator[Dialler]:
    one = Dialler()
    yield one
    one.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def one(running: Running, context: SSL.Context | None = None) -> Client:
        clients.append(Client(running.port, context))
        return clients[-1]

    yield one
    for client in clients:
        client.close()
