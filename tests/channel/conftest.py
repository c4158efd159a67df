"""An attested end on a real loopback socket, with an inner protocol that records what passed the gate."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blindai.attestation.anchors import Vendor
from blindai.attestation.attesters.attester import Attester
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.evidence import TEE, Evidence
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.result import AttestationResult
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.channel.client import AttestedChannel
from blindai.channel.clock import SYSTEM_CLOCK, Clock
from blindai.channel.end import AttestedEnd
from blindai.channel.flow import BlockingStream
from blindai.channel.relying_party import RelyingParty
from blindai.channel.server import AttestedProtocol, AttestedProtocols
from blindai.errors import Unavailable

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


class RunningEnd:
    """A server of attested TLS in a thread of its own."""

    def __init__(self, end: AttestedEnd, inner: Callable[[], asyncio.Protocol] | None = None, *, port: int = 0) -> None:
        self.end = end
        self.port = port
        self.received = bytearray()
        self.make = AttestedProtocols(end)
        self.protocols: list[AttestedProtocol] = []
        self._inner = inner or (lambda: Recorder(self.received))
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
        self.protocols.append(self.make(self._inner))
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

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()


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
