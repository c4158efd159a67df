"""The server's end against clients that misbehave at every stage, over real sockets and in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blindai.attestation.attesters.attester import Attester
from blindai.channel import gate, gated
from blindai.channel.end import AttestedEnd, Identity
from blindai.channel.gate import GATE_PATH, MAX_REQUEST_BODY_BYTES, MAX_REQUEST_HEAD_BYTES
from blindai.channel.plaintext import PlaintextTransport
from blindai.channel.server import MAX_GATE_REQUESTS, AttestedProtocol, AttestedProtocols
from blindai.channel.tls import TLSPipe, client_context
from blindai.demo.impostor import receive

from .conftest import REQUEST, Client, Recorder, RunningEnd, SwitchableAttester, post

RunEnd = Callable[..., RunningEnd]

FRESH = gate.encoder.encode({"v": 1, "mode": "fresh", "nonce": "00" * 32})
UNKNOWN = gate.encoder.encode({"v": 1, "mode": "resumed", "nonce": "00" * 32, "keyset_digest": "00" * 32})


def gate_request(body: bytes = FRESH, *headers: str, target: str = GATE_PATH, method: str = "POST") -> bytes:
    return post(target, body, *headers, method=method)


Connect = Callable[..., Client]


class TestNotTLS:
    def test_plain_http_is_told(self, enclave: RunningEnd) -> None:
        with socket.create_connection(("127.0.0.1", enclave.port), timeout=5) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = plain.makefile("rb").read()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["code"] == "channel.plain_http"
        assert not enclave.received
        enclave.nothing_left()

    @pytest.mark.parametrize("data", [b"\x00", b"\xff" * 1000, b"\r\n", b"\x80\x2e\x01\x00\x02", b"\x17\x03\x03"])
    def test_garbage_is_not(self, enclave: RunningEnd, data: bytes) -> None:
        with socket.create_connection(("127.0.0.1", enclave.port), timeout=5) as plain:
            plain.sendall(data)
            assert plain.recv(100) == b""
        enclave.nothing_left()

    def test_what_begins_like_tls_gets_an_alert_at_most(self, enclave: RunningEnd) -> None:
        with socket.create_connection(("127.0.0.1", enclave.port), timeout=5) as plain:
            plain.sendall(b"\x16\x03\x01\x01\x00" + os.urandom(256))
            assert plain.makefile("rb").read()[:1] in {b"", b"\x15"}
        enclave.nothing_left()

    def test_more_after_the_refusal_is_not_looked_at(self, enclave: RunningEnd) -> None:
        with socket.create_connection(("127.0.0.1", enclave.port), timeout=5) as plain:
            for _ in range(20):
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 1000)
            assert plain.makefile("rb").read().startswith(b"HTTP/1.1 400 ")
        enclave.nothing_left()


class TestGate:
    def test_opens_for_a_fresh_request(self, enclave: RunningEnd, connect: Connect) -> None:
        client = connect(enclave).shake()
        client.send(gate_request())
        status, answer = client.response()
        assert (status, answer["mode"]) == (200, "fresh")
        client.send(REQUEST)
        assert client.receive().endswith(b"ok")
        assert enclave.received == REQUEST

    def test_takes_a_request_byte_by_byte(self, enclave: RunningEnd, connect: Connect) -> None:
        client = connect(enclave).shake()
        for byte in gate_request():
            client.send(bytes([byte]))
        assert client.response()[0] == 200

    def test_takes_a_chunked_request(self, enclave: RunningEnd, connect: Connect) -> None:
        client = connect(enclave).shake()
        head = f"POST {GATE_PATH} HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        client.send(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(FRESH), FRESH))
        assert client.response()[0] == 200

    @pytest.mark.parametrize(
        ("request_", "status", "code"),
        [
            (gate_request(target="/v2"), 403, "gate.required"),
            (gate_request(target=GATE_PATH + "/"), 403, "gate.required"),
            (gate_request(target=GATE_PATH + "?x=1"), 403, "gate.required"),
            (gate_request(target="http://e" + GATE_PATH), 403, "gate.required"),
            (gate_request(b"", method="GET"), 403, "gate.required"),
            (gate_request(method="PUT"), 403, "gate.required"),
            (gate_request(b"", method="OPTIONS"), 403, "gate.required"),
            (REQUEST, 403, "gate.required"),
            (gate_request(b""), 400, "gate.malformed"),
            (gate_request(b"{"), 400, "gate.malformed"),
            (gate_request(FRESH[:-1]), 400, "gate.malformed"),
            (gate_request(FRESH.replace(b"00", b"0O", 1)), 400, "gate.malformed"),
            (gate_request(FRESH.replace(b"1", b"2", 1)), 400, "gate.version"),
            (b"\x00\x01\x02", 400, "gate.http"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "gate.http"),
            (gate_request(FRESH, "Upgrade: websocket", "Connection: upgrade"), 400, "gate.http"),
            (gate_request(FRESH, f"Content-Length: {len(FRESH)}"), 400, "gate.http"),
            (gate_request(FRESH, "Transfer-Encoding: chunked"), 400, "gate.http"),
            (gate_request(b" " * MAX_REQUEST_BODY_BYTES + FRESH), 413, "gate.too_large"),
            (gate_request(FRESH, "X: " + "a" * 8000), 431, "gate.too_large"),
            (gate_request(target="/" + "a" * 8000), 403, "gate.required"),
            (gate_request() + REQUEST, 400, "gate.pipelined"),
            (gate_request() + gate_request(), 400, "gate.pipelined"),
        ],
        ids=lambda value: repr(value[:48]) if isinstance(value, bytes) else str(value),
    )
    def test_stays_shut(self, enclave: RunningEnd, connect: Connect, request_: bytes, status: int, code: str) -> None:
        client = connect(enclave).shake()
        client.send(request_)
        answered, problem = client.response()
        assert (answered, problem["code"]) == (status, code)
        assert client.ended()
        client.close()
        assert not enclave.received
        enclave.nothing_left()

    def test_a_head_of_any_length_byte_by_byte(self, enclave: RunningEnd, connect: Connect) -> None:
        client = connect(enclave).shake()
        client.send(f"POST {GATE_PATH} HTTP/1.1\r\n".encode())
        with contextlib.suppress(OSError):
            for _ in range(MAX_REQUEST_HEAD_BYTES):
                client.send(b"X: y\r\n")
        status, problem = client.response()
        assert (status, problem["code"]) == (431, "gate.too_large")

    def test_a_request_for_unknown_keys_may_be_followed_by_a_fresh_one(
        self, enclave: RunningEnd, connect: Connect
    ) -> None:
        client = connect(enclave).shake()
        client.send(gate_request(UNKNOWN))
        status, problem = client.response()
        assert (status, problem["code"]) == (409, "gate.keyset_unknown")
        client.send(gate_request())
        assert client.response()[0] == 200

    def test_too_many_requests(self, enclave: RunningEnd, connect: Connect) -> None:
        client = connect(enclave).shake()
        for _ in range(MAX_GATE_REQUESTS):
            client.send(gate_request(UNKNOWN))
            assert client.response()[0] == 409
        client.send(gate_request())
        status, problem = client.response()
        assert (status, problem["code"]) == (429, "gate.attempts")
        assert client.ended()
        client.close()
        enclave.nothing_left()

    def test_a_peer_that_goes_on_after_its_refusal_is_cut(
        self, enclave: RunningEnd, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gated, "LINGER_SECONDS", 0.05)
        client = connect(enclave).shake()
        client.send(gate_request(b"{}"))
        assert client.response()[0] == 400
        enclave.nothing_left()

    def test_nothing_passes_a_gate_that_refused(self, enclave: RunningEnd, connect: Connect) -> None:
        client = connect(enclave).shake()
        client.send(gate_request(b"{}"))
        with contextlib.suppress(OSError):
            for _ in range(10):
                client.send(gate_request() + REQUEST)
        assert client.response()[0] == 400
        client.close()
        enclave.nothing_left()
        assert not enclave.received


class TestSlowEvidence:
    @pytest.fixture
    def evidence(self) -> Iterator[threading.Event]:
        """Set it, and the attester goes on."""
        one = threading.Event()
        yield one
        one.set()

    @pytest.fixture
    def slow(self, attester: Attester, evidence: threading.Event, run_end: RunEnd) -> RunningEnd:
        switchable = SwitchableAttester(attester, quick=False)
        end = AttestedEnd(switchable, {})
        attest = switchable.attest

        def waiting(report_data: bytes) -> Any:
            evidence.wait(10)
            return attest(report_data)

        switchable.attest = waiting  # type: ignore[method-assign] # the same attester, held up
        return run_end(end)

    def test_opens_the_gate(self, slow: RunningEnd, connect: Connect, evidence: threading.Event) -> None:
        client = connect(slow).shake()
        client.send(gate_request())
        evidence.set()
        assert client.response()[0] == 200
        client.send(REQUEST)
        assert client.receive().endswith(b"ok")

    def test_is_not_to_be_overtaken(self, slow: RunningEnd, connect: Connect, evidence: threading.Event) -> None:
        client = connect(slow).shake()
        client.send(gate_request())
        client.send(REQUEST)
        status, problem = client.response()
        assert (status, problem["code"]) == (400, "gate.pipelined")
        client.close()
        evidence.set()
        slow.nothing_left()
        assert not slow.received

    def test_does_not_keep_a_client_that_left(
        self, slow: RunningEnd, connect: Connect, evidence: threading.Event
    ) -> None:
        client = connect(slow).shake()
        client.send(gate_request())
        slow.eventually(lambda: any(protocol._answering is not None for protocol in slow.protocols))
        client.close()
        slow.nothing_left()
        evidence.set()

    def test_outlasts_the_deadline(
        self, slow: RunningEnd, connect: Connect, evidence: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gated, "GATE_SECONDS", 0.2)
        client = connect(slow).shake()
        client.send(gate_request())
        assert client.ended()
        evidence.set()
        slow.nothing_left()


@pytest.mark.parametrize("quick", [True, False])
def test_evidence_that_cannot_be_had(attester: Attester, run_end: RunEnd, connect: Connect, quick: bool) -> None:
    switchable = SwitchableAttester(attester, quick=quick)
    end = run_end(AttestedEnd(switchable, {}))
    switchable.broken = True
    client = connect(end).shake()
    client.send(gate_request())
    status, problem = client.response()
    assert (status, problem["code"]) == (503, "gate.no_evidence")
    assert "quoting" not in problem["error"]
    assert client.ended()
    client.close()
    end.nothing_left()


class TestDeadline:
    @pytest.mark.parametrize("stage", ["silence", "half a hello", "handshake", "half a request", "refused once"])
    def test_of_the_gate(
        self, enclave: RunningEnd, connect: Connect, monkeypatch: pytest.MonkeyPatch, stage: str
    ) -> None:
        monkeypatch.setattr(gated, "GATE_SECONDS", 0.2)
        client = connect(enclave)
        reach(client, stage)
        assert client.socket.recv(65536) is not None
        enclave.nothing_left()

    def test_does_not_hold_past_the_gate(
        self, enclave: RunningEnd, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gated, "GATE_SECONDS", 0.2)
        client = connect(enclave).shake()
        client.send(gate_request())
        assert client.response()[0] == 200
        assert enclave.call(enclave.protocols[0]._deadline.cancelled)


def reach(client: Client, stage: str) -> None:
    """Bring a connection to a stage, where it stays."""
    stages = ["silence", "half a hello", "handshake", "half a request", "refused once", "open", "in use"]
    at = stages.index(stage)
    if at == 1:
        client.pipe.handshake()
        client.socket.sendall(client.pipe.outgoing()[:100])
    if at >= 2:
        client.shake()
    if at == 3:
        client.send(gate_request()[:-10])
    if at >= 4:
        client.send(gate_request(UNKNOWN))
        client.response()
    if at >= 5:
        client.send(gate_request())
        client.response()
    if at >= 6:
        client.send(REQUEST)


class TestEnds:
    @pytest.mark.parametrize("way", ["close", "reset", "close_notify", "half-close"])
    def test_of_connections_at_every_stage(self, enclave: RunningEnd, connect: Connect, way: str) -> None:
        stages = ["silence", "half a hello", "handshake", "half a request", "refused once", "open", "in use"]
        for index in range(50):
            client = connect(enclave)
            reach(client, stages[index % len(stages)])
            with contextlib.suppress(OSError):
                if way == "close_notify" and client.pipe.established:
                    client.pipe.close()
                    client.socket.sendall(client.pipe.outgoing())
                elif way == "half-close":
                    client.socket.shutdown(socket.SHUT_WR)
                elif way == "reset":
                    client.reset()
                else:
                    client.close()
        if way == "close_notify":
            for protocol in enclave.protocols:  # those whose handshake was not over yet
                enclave.call(protocol.abandon)
        enclave.eventually(lambda: len(enclave.protocols) == 50)
        enclave.nothing_left()

    def test_close_notify_is_answered(self, enclave: RunningEnd, connect: Connect) -> None:
        client = connect(enclave)
        reach(client, "open")
        client.pipe.close()
        client.socket.sendall(client.pipe.outgoing())
        assert receive(client.socket, client.pipe) == b""
        assert client.pipe._connection.get_shutdown() == 3  # sent and received

    def test_half_close_is_answered(self, enclave: RunningEnd, connect: Connect) -> None:
        client = connect(enclave)
        reach(client, "open")
        client.socket.shutdown(socket.SHUT_WR)
        assert receive(client.socket, client.pipe) == b""

    def test_request_and_close_notify_in_one_flight(self, enclave: RunningEnd, connect: Connect) -> None:
        client = connect(enclave)
        reach(client, "open")
        client.pipe.write(REQUEST)
        client.pipe.close()
        client.socket.sendall(client.pipe.outgoing())
        assert client.receive().endswith(b"ok")
        assert enclave.received == REQUEST
        enclave.nothing_left()

    def test_the_inner_protocol_hears_of_it(self, attester: Attester, run_end: RunEnd, connect: Connect) -> None:
        lost: list[Exception | None] = []

        class Inner(asyncio.Protocol):
            def connection_lost(self, exc: Exception | None) -> None:
                lost.append(exc)

        end = run_end(AttestedEnd(attester, {}), Inner)
        client = connect(end)
        reach(client, "open")
        client.close()
        end.eventually(lambda: lost == [None])

    def test_records_that_do_not_authenticate(self, enclave: RunningEnd, connect: Connect) -> None:
        client = connect(enclave)
        reach(client, "open")
        client.socket.sendall(b"\x17\x03\x03\x00\x40" + os.urandom(64))
        assert client.ended()
        assert not enclave.received
        enclave.nothing_left()

    def test_all_that_wait_are_cut_at_once(self, enclave: RunningEnd, connect: Connect) -> None:
        waiting, opened = connect(enclave), connect(enclave)
        reach(waiting, "refused once")
        reach(opened, "open")
        enclave.call(enclave.make.close)
        assert waiting.ended()
        opened.send(REQUEST)
        assert opened.receive().endswith(b"ok")


class Sink(asyncio.Protocol):
    """Takes little at a time: it pauses after each read until `go_on`."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.reads = 0
        self.paused = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        self.received += data
        if self.paused:
            self.transport.pause_reading()


class Source(asyncio.Protocol):
    """Sends much at once, and knows when it should stop."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(bytes(8 << 20))

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


class TestFlowControl:
    def test_a_slow_reader_gets_everything_in_its_own_time(
        self, attester: Attester, run_end: RunEnd, connect: Connect
    ) -> None:
        sink = Sink()
        end = run_end(AttestedEnd(attester, {}), lambda: sink)
        client = connect(end)
        reach(client, "open")
        data = os.urandom(6 << 20)
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        end.eventually(lambda: sink.reads == 1)
        for count in range(2, 12):
            assert end.call(lambda: sink.reads) == count - 1, "it was not asked for more"
            end.call(sink.transport.resume_reading)
            end.eventually(lambda count=count: sink.reads == count)  # type: ignore[misc] # bound at once
        sink.paused = False
        end.call(sink.transport.resume_reading)
        sender.join(20)
        end.eventually(lambda: len(sink.received) == len(data))
        assert sink.received == data

    def test_a_pause_does_not_outlive_the_connection(
        self, attester: Attester, run_end: RunEnd, connect: Connect
    ) -> None:
        sink = Sink()
        end = run_end(AttestedEnd(attester, {}), lambda: sink)
        client = connect(end)
        reach(client, "open")
        client.send(bytes(100_000))
        end.eventually(lambda: sink.reads == 1)
        end.call(sink.transport.abort)
        end.call(sink.transport.resume_reading)
        end.nothing_left()

    def test_who_does_not_read_makes_the_inner_protocol_wait(
        self, attester: Attester, run_end: RunEnd, connect: Connect
    ) -> None:
        source = Source()
        end = run_end(AttestedEnd(attester, {}), lambda: source)
        client = connect(end)
        reach(client, "open")
        client.send(REQUEST)
        end.eventually(lambda: source.events == ["pause"])
        left = 8 << 20
        while left:
            left -= len(client.receive())
        end.eventually(lambda: source.events == ["pause", "resume"])

    @pytest.mark.parametrize("way", ["close", "abort"])
    def test_who_does_not_read_cannot_keep_a_connection(
        self, attester: Attester, run_end: RunEnd, connect: Connect, monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        monkeypatch.setattr(gated, "LINGER_SECONDS", 0.05)
        source = Source()
        lost = threading.Event()
        source.connection_lost = lambda exc: lost.set()  # type: ignore[method-assign] # to be told
        end = run_end(AttestedEnd(attester, {}), lambda: source)
        client = connect(end)
        reach(client, "open")
        client.send(REQUEST)
        end.eventually(lambda: source.events == ["pause"])
        end.call(getattr(source.transport, way))
        assert lost.wait(10)

    def test_who_reads_slowly_gets_all_of_it(
        self, attester: Attester, run_end: RunEnd, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A response before the close is not cut short as long as it is taken."""
        monkeypatch.setattr(gated, "LINGER_SECONDS", 0.5)
        source = Source()
        end = run_end(AttestedEnd(attester, {}), lambda: source)
        client = connect(end)
        reach(client, "open")
        client.send(REQUEST)
        end.eventually(lambda: source.events == ["pause"])
        end.call(source.transport.close)
        received = 0
        while data := client.receive():
            received += len(data)
        assert received == 8 << 20


class MemoryTransport(asyncio.Transport):
    """Where a protocol's output stays."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.written = bytearray()
        self.events: list[str] = []
        self.limits: tuple[int | None, int | None] = (None, None)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return "close" in self.events or "abort" in self.events

    def close(self) -> None:
        self.events.append("close")

    def abort(self) -> None:
        self.events.append("abort")

    def pause_reading(self) -> None:
        self.events.append("pause_reading")

    def resume_reading(self) -> None:
        self.events.append("resume_reading")

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = (high, low)


class TestTransport:
    """What the inner protocol is given, with nothing below it but memory."""

    @staticmethod
    async def opened(attester: Attester) -> tuple[AttestedProtocol, MemoryTransport, PlaintextTransport]:
        received = bytearray()
        protocol = AttestedProtocols(AttestedEnd(attester, {}))(lambda: Recorder(received))
        lower = MemoryTransport()
        protocol.connection_made(lower)
        client = TLSPipe(client_context(), server=False)
        while not client.handshake():
            protocol.data_received(client.outgoing())
            client.feed(bytes(lower.written))
            lower.written.clear()
        client.write(gate_request())
        protocol.data_received(client.outgoing())
        inner = protocol._inner
        assert isinstance(inner, Recorder)
        return protocol, lower, inner.transport

    def run(self, attester: Attester, then: Callable[[AttestedProtocol, MemoryTransport, Any], None]) -> None:
        async def main() -> None:
            protocol, lower, transport = await self.opened(attester)
            then(protocol, lower, transport)
            protocol.connection_lost(None)

        asyncio.run(main())

    def test_looks_like_tls_to_servers(self, attester: Attester) -> None:
        def then(protocol: AttestedProtocol, lower: MemoryTransport, transport: PlaintextTransport) -> None:
            assert transport.get_extra_info("sslcontext")
            assert transport.get_extra_info("peername") == ("192.0.2.1", 1)
            assert transport.get_extra_info("socket", "none") == "none"
            assert not transport.can_write_eof()
            transport.set_write_buffer_limits(7, 3)
            assert lower.limits == (7, 3)
            assert transport.get_write_buffer_size() == len(lower.written)

        self.run(attester, then)

    def test_writes_after_the_end_go_nowhere(self, attester: Attester) -> None:
        def then(protocol: AttestedProtocol, lower: MemoryTransport, transport: PlaintextTransport) -> None:
            assert not transport.is_closing()
            transport.close()
            assert transport.is_closing()
            before = bytes(lower.written)
            transport.write(b"late")
            transport.writelines([b"late", b"later"])
            transport.close()
            protocol.abandon()
            protocol.data_received(b"\x17")
            protocol.resume_reading()
            assert lower.written == before
            assert lower.events == ["close"]

        self.run(attester, then)

    def test_a_pause_is_passed_on_once(self, attester: Attester) -> None:
        def then(protocol: AttestedProtocol, lower: MemoryTransport, transport: PlaintextTransport) -> None:
            transport.resume_reading()
            transport.pause_reading()
            transport.resume_reading()
            transport.resume_reading()
            assert lower.events == ["pause_reading", "resume_reading"]

        self.run(attester, then)

    def test_a_write_that_tls_refuses_ends_the_connection(self, attester: Attester) -> None:
        def then(protocol: AttestedProtocol, lower: MemoryTransport, transport: PlaintextTransport) -> None:
            protocol._pipe.close()
            transport.write(b"x")
            assert lower.events == ["close"]

        self.run(attester, then)

    def test_garbage_behind_a_pause_is_found_after_it(self, attester: Attester) -> None:
        async def main() -> None:
            protocol, lower, transport = await self.opened(attester)
            transport.pause_reading()
            protocol.data_received(b"\x17\x03\x03\x00\x40" + bytes(64))
            assert "close" not in lower.events
            transport.resume_reading()
            await asyncio.sleep(0)
            assert "close" in lower.events
            protocol.connection_lost(None)

        asyncio.run(main())

    def test_flow_control_before_the_gate_concerns_nobody(self, attester: Attester) -> None:
        async def main() -> None:
            protocol = AttestedProtocols(AttestedEnd(attester, {}))(asyncio.Protocol)
            protocol.connection_made(MemoryTransport())
            protocol.pause_writing()
            protocol.resume_writing()
            protocol.connection_lost(None)

        asyncio.run(main())

    def test_what_is_queued_goes_out_as_long_as_it_gets_less(
        self, attester: Attester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gated, "LINGER_SECONDS", 0.02)

        async def main() -> None:
            protocol, lower, transport = await self.opened(attester)
            transport.write(bytes(10_000))
            transport.close()
            for _ in range(4):
                before = protocol._deadline
                del lower.written[:1000]
                while protocol._deadline is before:
                    await asyncio.sleep(0.001)
                assert "abort" not in lower.events
            while "abort" not in lower.events:
                await asyncio.sleep(0.001)
            protocol.connection_lost(None)
            protocol.abort()
            assert lower.events == ["close", "abort"]

        asyncio.run(main())

    def test_a_refusal_on_a_connection_that_is_closing(self, attester: Attester) -> None:
        async def main() -> None:
            protocol = AttestedProtocols(AttestedEnd(attester, {}))(asyncio.Protocol)
            lower = MemoryTransport()
            protocol.connection_made(lower)
            lower.close()
            protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
            assert lower.events == ["close"]
            protocol.connection_lost(None)

        asyncio.run(main())

    def test_a_refusal_of_a_peer_that_has_left_already(self, attester: Attester) -> None:
        class Cut(MemoryTransport):
            def write_eof(self) -> None:
                raise OSError("not connected")

        async def main() -> None:
            protocol = AttestedProtocols(AttestedEnd(attester, {}))(asyncio.Protocol)
            lower = Cut()
            protocol.connection_made(lower)
            protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
            assert lower.events == ["abort"]
            protocol.connection_lost(None)

        asyncio.run(main())

    @pytest.mark.parametrize("request_", [gate_request(), gate_request(UNKNOWN)], ids=["fresh", "resumed"])
    def test_an_answer_that_cannot_be_sent_opens_nothing(self, attester: Attester, request_: bytes) -> None:
        """TLS fails between question and answer: there is nobody left to open a gate for."""

        class Failing(AttestedEnd):
            def answer(self, body: bytes, pipe: TLSPipe, identity: Identity) -> Any:
                pipe.close()
                return super().answer(body, pipe, identity)

        async def main() -> None:
            protocol = AttestedProtocols(Failing(attester, {}))(asyncio.Protocol)
            lower = MemoryTransport()
            protocol.connection_made(lower)
            client = TLSPipe(client_context(), server=False)
            while not client.handshake():
                protocol.data_received(client.outgoing())
                client.feed(bytes(lower.written))
                lower.written.clear()
            client.write(request_)
            protocol.data_received(client.outgoing())
            assert lower.events == ["close"]
            assert protocol._inner is None
            protocol.connection_lost(None)

        asyncio.run(main())
