"""A port on a real socket, and clients that are slow, large, broken or many."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from structlog.testing import capture_logs

from blindai.channel.listening import listen
from blindai.errors import InvalidInput
from blindai.web import http
from blindai.web.http import HttpLimits
from blindai.web.serving import HttpPort
from enclave_server import Response as Answer
from enclave_server import Wire

LIMITS = HttpLimits(
    max_connections=8,
    max_body_bytes=1000,
    max_head_bytes=2000,
    head_seconds=0.3,
    body_seconds=0.3,
    idle_seconds=0.3,
    write_seconds=0.3,
)


class RunningPort:
    """A port in a thread of its own."""

    def __init__(self, limits: HttpLimits) -> None:
        self.going = threading.Event()
        self.release = threading.Event()
        self.stopped = threading.Event()
        self._limits = limits
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._ready.wait(10)

    async def _echo(self, request: Request) -> Response:
        return JSONResponse({"bytes": len(await request.body())})

    async def _slow(self, request: Request) -> Response:
        self.going.set()
        await asyncio.to_thread(self.release.wait, 20)
        return JSONResponse({})

    async def _endless(self, request: Request) -> Response:
        async def lines() -> Any:
            while True:
                await asyncio.sleep(0)
                yield b"x" * 65536

        return StreamingResponse(lines())

    async def _large(self, request: Request) -> Response:
        return Response(bytes(16 << 20))

    async def _refusing(self, request: Request) -> Response:
        raise InvalidInput("not so", code="input.invalid")

    async def _failing(self, request: Request) -> Response:
        raise RuntimeError("with the password hunter2")

    async def _half(self, request: Request) -> Response:
        async def lines() -> Any:
            yield b"half"
            raise RuntimeError("in the middle")

        return StreamingResponse(lines(), headers={"content-length": "8"})

    async def _serve(self) -> None:
        paths = {
            "/echo": self._echo,
            "/slow": self._slow,
            "/endless": self._endless,
            "/large": self._large,
            "/refusing": self._refusing,
            "/failing": self._failing,
            "/half": self._half,
        }
        router = Router(routes=[Route(path, call, methods=["GET", "POST"]) for path, call in paths.items()])
        port = HttpPort(router, self._limits, headers=[("X-Port", "test")])
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await port.start(listener)
        self._ready.set()
        await self._stop.wait()
        await port.stop(1.0)
        self.stopped.set()

    def connect(self) -> Wire:
        return Wire(self.port)

    def request(self, method: str, target: str, body: bytes = b"") -> Answer:
        with self.connect() as wire:
            return wire.request(method, target, body)

    def begin_stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    def close(self) -> None:
        self.release.set()
        if self._thread.is_alive():
            self.begin_stop()
            self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def run_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RunningPort]]:
    monkeypatch.setattr(http, "LINGER_SECONDS", 0.2)
    running: list[RunningPort] = []

    def run(limits: HttpLimits = LIMITS) -> RunningPort:
        running.append(RunningPort(limits))
        return running[-1]

    yield run
    for one in running:
        one.close()


@pytest.fixture
def port(run_port: Callable[..., RunningPort]) -> RunningPort:
    return run_port()


def test_several_requests_on_one_connection(port: RunningPort) -> None:
    with port.connect() as wire:
        for size in (0, 1, 1000):
            answer = wire.request("POST", "/echo", b"x" * size)
            assert (answer.status, answer.json) == (200, {"bytes": size})
            assert answer.headers["x-port"] == "test"


def test_a_body_in_chunks(port: RunningPort) -> None:
    with port.connect() as wire:
        wire.head("POST", "/echo", "Transfer-Encoding: chunked")
        wire.send(b"3\r\nabc\r\n0\r\n\r\n")
        assert wire.response().json == {"bytes": 3}


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400, "http.request"),
        (b"GET echo HTTP/1.1\r\nHost: x\r\n\r\n", 400, "http.request"),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "http.target"),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 2000 + b"\r\n\r\n", 431, "http.headers_too_large"),
        (b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "http.headers_too_large"),
        (b"GET /echo HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431, "http.headers_too_large"),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413, "quota.body"),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400, "http.request"),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "http.request"),
        (
            b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n",
            413,
            "quota.body",
        ),
        (
            b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\n\r\n",
            400,
            "http.trailers",
        ),
        (
            b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            400,
            "http.upgrade",
        ),
        (b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\nGET /echo HTTP/1.1\r\nHost: x\r\n\r\n", 400, "http.pipelining"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_request_of_ours_is_refused(port: RunningPort, sent: bytes, status: int, code: str) -> None:
    with port.connect() as wire:
        wire.send(sent)
        wire.response().assert_problem(status, code)
        wire.send(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")  # nobody listens any more
        assert wire.closed()


@pytest.mark.parametrize(
    "sent",
    [b"GET /echo HT", b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx"],
    ids=["in the head", "in the body"],
)
def test_who_sends_too_slowly_is_told(port: RunningPort, sent: bytes) -> None:
    with port.connect() as wire:
        wire.send(sent)
        wire.response().assert_problem(408, "http.timeout")
        assert wire.closed()


def test_a_drop_now_and_then_gains_no_time(port: RunningPort) -> None:
    with port.connect() as wire:
        wire.send(b"GET /echo HTTP/1.1\r\n")
        while not wire.readable():  # a slow loris, which is never done
            wire.send(b"A: b\r\n")
            threading.Event().wait(0.05)
        wire.response().assert_problem(408, "http.timeout")


@pytest.mark.parametrize("sent", [b"", b"\r\n"], ids=["nothing", "an empty line"])
def test_who_says_nothing_is_cut(port: RunningPort, sent: bytes) -> None:
    with port.connect() as wire:
        wire.send(sent)
        assert wire.closed()


def test_an_idle_connection_ends(port: RunningPort) -> None:
    with port.connect() as wire:
        assert wire.request("GET", "/echo").status == 200
        assert wire.closed()


def test_who_does_not_read_is_cut(port: RunningPort) -> None:
    with port.connect() as wire:
        wire.head("GET", "/endless")
        threading.Event().wait(1.0)  # by now the server has given up
        received = b""
        with contextlib.suppress(ConnectionResetError):
            for part in iter(lambda: wire.socket.recv(1 << 20), b""):
                received = (received + part)[-16:]
        assert not received.endswith(b"0\r\n\r\n")  # it was cut, and did not end


def test_who_reads_late_but_reads_gets_all(port: RunningPort) -> None:
    with port.connect() as wire:
        wire.head("GET", "/large")
        threading.Event().wait(0.1)  # the server has to wait
        assert len(wire.response().body) == 16 << 20


def test_a_request_in_the_middle_of_an_answer_cuts_it(port: RunningPort) -> None:
    with port.connect() as wire:
        wire.head("GET", "/endless")
        assert wire.socket.recv(100)
        wire.head("GET", "/echo")
        received = b""
        with contextlib.suppress(ConnectionResetError):
            for part in iter(lambda: wire.socket.recv(1 << 20), b""):
                received = (received + part)[-100:]
        assert b"http.pipelining" not in received  # it would look like a part of the answer


def test_one_connection_too_many_is_told_to_come_back(run_port: Callable[..., RunningPort]) -> None:
    port = run_port(HttpLimits(max_connections=1, max_body_bytes=10))
    with port.connect() as one:
        one.head("GET", "/slow")
        assert port.going.wait(20)
        with port.connect() as two:
            two.response().assert_problem(503, "busy")
        port.release.set()
        assert one.response().status == 200


@pytest.mark.parametrize("sent", [b"", b"GET /ec", b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1"])
def test_connections_on_which_nothing_happens_make_room(run_port: Callable[..., RunningPort], sent: bytes) -> None:
    port = run_port(HttpLimits(max_connections=3, max_body_bytes=10))
    with port.connect() as working, contextlib.ExitStack() as strangers:
        working.head("GET", "/slow")
        assert port.going.wait(20)
        for _ in range(10):
            strangers.enter_context(port.connect()).socket.sendall(sent)
        with port.connect() as late:
            assert late.request("GET", "/echo").status == 200
        port.release.set()
        assert working.response().status == 200


def test_an_answer_that_is_not_read_makes_room(run_port: Callable[..., RunningPort]) -> None:
    port = run_port(HttpLimits(max_connections=1, max_body_bytes=10))
    with port.connect() as one:
        one.head("GET", "/large")
        assert one.socket.recv(1)
        with port.connect() as two:
            assert two.request("GET", "/echo").status == 200


def test_our_errors_are_problems(port: RunningPort) -> None:
    with port.connect() as wire:
        wire.request("GET", "/refusing").assert_problem(400, "input.invalid")


def test_other_errors_are_incidents(port: RunningPort) -> None:
    with capture_logs() as logs, port.connect() as wire:
        answer = wire.request("GET", "/failing")
        answer.assert_problem(500, "internal")
        assert b"hunter2" not in answer.body
    assert [entry["event"] for entry in logs] == ["incident"]


def test_half_an_answer_is_not_mistaken_for_one(port: RunningPort) -> None:
    with capture_logs(), port.connect() as wire:
        wire.head("GET", "/half")
        head = wire.socket.recv(1 << 16)
        assert head.startswith(b"HTTP/1.1 200")
        rest = b"".join(iter(lambda: wire.socket.recv(1 << 16), b""))
        assert (head + rest).endswith(b"half")


def test_the_end_lets_requests_finish(port: RunningPort) -> None:
    with port.connect() as wire, port.connect() as idle:
        assert idle.request("GET", "/echo").status == 200
        wire.head("GET", "/slow")
        assert port.going.wait(10)
        port.begin_stop()
        assert idle.closed()
        port.release.set()
        answer = wire.response()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert port.stopped.wait(10)


def test_the_end_waits_only_so_long(port: RunningPort) -> None:
    with capture_logs() as logs, port.connect() as wire:
        wire.head("GET", "/slow")
        assert port.going.wait(10)
        port.begin_stop()
        assert wire.closed()
        assert port.stopped.wait(10)
    assert [entry["event"] for entry in logs] == ["cut_connections"]


def test_a_client_that_vanishes_leaves_nothing(port: RunningPort) -> None:
    for _ in range(30):
        wire = port.connect()
        wire.head("POST", "/echo", "Content-Length: 10")
        wire.reset()
    # The last of them may still be counted.
    while port.request("POST", "/echo", b"x").status == 503:
        pass
    assert port.request("POST", "/echo", b"x").json == {"bytes": 1}
