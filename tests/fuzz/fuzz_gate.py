"""Coverage-guided fuzzing of the gate, both ends, with atheris (the extra `fuzz`).

    python tests/fuzz/fuzz_gate.py -max_total_time=120 [CORPUS]

`check` is the property, which test_fuzz_gate.py also holds against Hypothesis. Whatever bytes an enclave is sent, on
the wire or inside TLS, none gets past its gate but behind a genuine gate request. Whatever bytes a client is answered,
it refuses with a typed error and sends no application byte. Everything happens in memory, with real TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import sys
import tempfile
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if __name__ == "__main__":
    import atheris

    # The channel must be imported under the instrumentation first, or the fuzzer sees none of its branches.
    with atheris.instrument_imports(include=["blindai.channel", "blindai.attestation.evidence"]):
        importlib.import_module("blindai.channel.client")
        importlib.import_module("blindai.channel.server")

import structlog

from blindai.attestation.anchors import Vendor
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.channel import gate
from blindai.channel.client import AttestedChannel
from blindai.channel.end import AttestedEnd
from blindai.channel.flow import READ
from blindai.channel.relying_party import RelyingParty
from blindai.channel.server import AttestedProtocols
from blindai.channel.tls import TLSFailure, TLSPipe, client_context
from blindai.errors import AttestationError, Unavailable

if TYPE_CHECKING:
    from blindai.channel.flow import Flow

_HEAD = f"POST {gate.GATE_PATH} HTTP/1.1\r\nHost: e\r\nContent-Length: ".encode()
_FRESH = b'{"v":1,"mode":"fresh","nonce":"' + b"5a" * 32 + b'"}'
_RESUMED = b'{"v":1,"mode":"resumed","nonce":"' + b"5a" * 32 + b'","keyset_digest":"' + b"00" * 32 + b'"}'

# The first byte of an input: which end gets the rest, and where.
WIRE_TO_SERVER, TLS_TO_SERVER, WIRE_TO_CLIENT, TLS_TO_CLIENT, BODY_TO_CLIENT = range(5)

APPLICATION = b"GET /secret HTTP/1.1\r\nHost: e\r\n\r\n"


def request(body: bytes) -> bytes:
    return _HEAD + str(len(body)).encode() + b"\r\n\r\n" + body


class Wire(asyncio.Transport):
    """Keeps what a server sends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def write_eof(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def get_write_buffer_size(self) -> int:
        return 0

    def take(self) -> bytes:
        taken = bytes(self.sent)
        self.sent.clear()
        return taken


class Inner(asyncio.Protocol):
    """What stands behind the gate."""

    def __init__(self) -> None:
        self.received = bytearray()

    def data_received(self, data: bytes) -> None:
        self.received += data


class World:
    """One enclave, one policy that accepts it, and an event loop for its timers."""

    def __init__(self) -> None:
        root = SimulatedRoot.generate()
        self.end = AttestedEnd(SimulatedAttester(root=root), {"name": "fuzz"})
        self.policy = Policy.simulated({Vendor.INTEL: root.anchor.spki_sha256}, measure_package())
        self.protocols = AttestedProtocols(self.end)
        self.runner = asyncio.Runner()

    @cached_property
    def seeds(self) -> list[bytes]:
        """Well-formed messages of both directions; those of the enclave are genuine, of another connection."""
        _, server = _connected(self)
        identity = self.end.identity()
        fresh = self.end.answer(_FRESH, server, identity)
        assert isinstance(fresh, bytes)
        to_server = [request(_FRESH), request(_RESUMED) + request(_FRESH), request(_FRESH) + APPLICATION, APPLICATION]
        resumed = b'{"v":1,"mode":"resumed","signature":"' + b"00" * 64 + b'"}'
        problem = b'{"error":"no","code":"gate.required"}'
        bodies = [fresh, resumed, problem]
        answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body) for body in bodies]
        pipe = TLSPipe(client_context(), server=False)
        pipe.handshake()
        hello = pipe.outgoing()
        return [
            *(bytes([TLS_TO_SERVER]) + data for data in to_server),
            *(bytes([BODY_TO_CLIENT]) + data for data in bodies),
            *(bytes([TLS_TO_CLIENT]) + data for data in answers),
            bytes([WIRE_TO_SERVER]) + hello,
            bytes([WIRE_TO_CLIENT]) + server_flight(self, hello),
        ]


@cache
def world() -> World:
    return World()


def server_flight(on: World, hello: bytes) -> bytes:
    """What the enclave answers to a ClientHello."""
    server = TLSPipe(on.end.identity().context, server=True)
    server.feed(hello)
    server.handshake()
    return server.outgoing()


def _connected(on: World) -> tuple[TLSPipe, TLSPipe]:
    client, server = TLSPipe(client_context(), server=False), TLSPipe(on.end.identity().context, server=True)
    while not (client.established and server.established):
        client.established or client.handshake()
        server.feed(client.outgoing())
        server.established or server.handshake()
        client.feed(server.outgoing())
    return client, server


def check(data: bytes) -> None:
    """Raises unless the property holds for `data`."""
    where, rest = (data[0] if data else 0) % 5, data[1:]
    if where in {WIRE_TO_SERVER, TLS_TO_SERVER}:
        world().runner.run(_check_server(rest, encrypted=where == TLS_TO_SERVER))
    else:
        _check_client(rest, where)


async def _check_server(data: bytes, *, encrypted: bool) -> None:
    inner = Inner()
    wire = Wire()
    protocol = world().protocols(lambda: inner)
    protocol.connection_made(wire)
    heard = b""
    try:
        if encrypted:
            client = TLSPipe(client_context(), server=False)
            while not client.handshake():
                protocol.data_received(client.outgoing())
                client.feed(wire.take())
            for part in (data[: len(data) // 2], data[len(data) // 2 :]):
                client.write(part)
                if outgoing := client.outgoing():
                    protocol.data_received(outgoing)
            client.feed(wire.take())
            while plaintext := client.read():
                heard += plaintext
        elif data:
            protocol.data_received(data)
    finally:
        protocol.connection_lost(None)
    if inner.received and b'"evidence"' not in heard and b'"signature"' not in heard:
        raise AssertionError(f"{bytes(inner.received)!r} got past the gate")
    if inner.received and (b'"nonce"' not in data or not data.endswith(inner.received)):
        raise AssertionError("the gate opened for something else than a gate request")


def _check_client(data: bytes, where: int) -> None:
    party = RelyingParty("enclave:9443", world().policy)
    channel = AttestedChannel(party)
    flow = channel.open()
    try:
        if where == WIRE_TO_CLIENT:
            _answer_with(flow, data)
        else:
            if where == BODY_TO_CLIENT:
                data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)
            _answer_inside(flow, data)
    except StopIteration as accepted:
        raise AssertionError("a peer was accepted") from accepted
    except (AttestationError, Unavailable) as error:
        if not error.code or not str(error):
            raise AssertionError("an error without a code or words") from error
    finally:
        flow.close()
    try:
        next(channel.exchange(APPLICATION, max_answer_bytes=1))
    except AttestationError as error:
        if error.code != "channel.not_open":
            raise
    else:
        raise AssertionError("the channel sends after a refusal")
    if channel.application_bytes_sent or party.remembered is not None:
        raise AssertionError("something was sent to, or remembered of, a peer that was refused")


def _answer_with(flow: Flow[Any], data: bytes) -> NoReturn:
    """Answer a client with raw bytes, then with the end of the stream."""
    action = next(flow)
    while True:
        if action is READ:
            action = flow.send(data)
            data = b""
        else:
            action = flow.send(b"")


def _answer_inside(flow: Flow[Any], data: bytes) -> NoReturn:
    """Answer a client's gate request, inside TLS, with `data`."""
    server = TLSPipe(world().end.identity().context, server=True)
    action = next(flow)
    answered = False
    while True:
        if action is READ:
            action = flow.send(server.outgoing())
            continue
        server.feed(action)
        if server.established or server.handshake():
            with contextlib.suppress(TLSFailure):  # the client's alert
                while server.read():
                    if not answered:
                        server.write(data)
                        answered = True
        action = flow.send(b"")


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory() as corpus:
        for index, seed in enumerate(world().seeds):
            Path(corpus, str(index)).write_bytes(seed)
        # Evidence with collateral is long; shorter inputs never reach its parser.
        atheris.Setup([*sys.argv, "-max_len=65536", corpus], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
