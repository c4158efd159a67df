"""A head that comes again is not parsed again, and nobody can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from blindai.enclave.config import EnclaveConfig, Limits
from blindai.enclave.http import connection as http
from blindai.enclave.http.connection import EnclaveHttpProtocol
from blindai.enclave.http.exchange import DirectExchange, Handler, Headers
from blindai.enclave.http.repetition import known_head
from blindai.enclave.http.reply import Reply
from blindai.enclave.limits import Budget
from blindai.errors import BlindAIError, InvalidInput, QuotaExceeded
from blindai.wire.tensor import Buffer

LIMITS = Limits(max_body_bytes=300)


class Line(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.paused = self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Echo:
    """Answers with what it was sent: at once, later, or with an error; other targets through ASGI."""

    def __init__(self) -> None:
        self.bodies = Budget(1000, lambda *_: QuotaExceeded("full", code="quota.body"))
        self.refusals: list[str] = []

    def direct(self, method: bytes, target: bytes, headers: Headers) -> Handler | None:
        if target == b"/gone":
            raise InvalidInput("gone", code="model.not_found")
        handlers: dict[bytes, Handler] = {b"/now": self._now, b"/later": self._later, b"/wrong": self._wrong}
        return handlers.get(target)

    def refused(self, error: BlindAIError) -> None:
        self.refusals.append(error.code)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        more = True
        body = b""
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    def _now(self, headers: Headers, body: Buffer) -> Reply:
        return Reply(200, b"x-headers: %d\r\n" % len(headers), (bytes(body), b"!"))

    def _later(self, headers: Headers, body: Buffer) -> asyncio.Future[Reply]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()

        def settle() -> None:
            if not answer.done():
                answer.set_result(self._now(headers, body))

        loop.call_soon(settle)
        return answer

    def _wrong(self, headers: Headers, body: Buffer) -> Reply:
        raise InvalidInput("wrong", code="input.size")


def serve(pieces: Sequence[tuple[bytes, int]], *, bulk: bool) -> tuple[bytes, bool, list[str], int]:
    """What a connection answers to `pieces`, with as many turns of the event loop after each as stand beside it.

    Returns:
        The answer, whether the connection was closed, the refusals, and the bytes still taken from the budget.
    """

    async def run() -> tuple[bytes, bool, list[str], int]:
        application, line = Echo(), Line()
        config = uvicorn.Config(application, http="h11", ws="none", lifespan="off", log_config=None)
        config.load()
        protocol = EnclaveHttpProtocol(
            config,
            ServerState(),
            {},
            asyncio.get_running_loop(),
            application=application,
            settings=EnclaveConfig(limits=LIMITS),
        )
        protocol.connection_made(line)
        for piece, turns in pieces:
            for _ in range(20):
                if line.paused:
                    await asyncio.sleep(0)
            rest = piece
            while bulk and rest and protocol.space is not None:
                size = min(len(rest), len(protocol.space))
                protocol.space[:size] = rest[:size]
                protocol.space_filled(size)
                rest = rest[size:]
            if rest and not line.closed:
                protocol.data_received(rest)
            for _ in range(turns):
                await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        answered = bytes(line.written), line.closed, application.refusals
        protocol.connection_lost(None)
        await asyncio.sleep(0)
        return *answered, application.bodies.used

    return asyncio.run(run())


def request(target: str, body: bytes, *headers: str) -> bytes:
    lines = (f"POST {target} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


targets = st.sampled_from(["/now", "/now", "/now", "/later", "/wrong", "/gone", "/asgi"])
bodies = st.sampled_from([b"", b"abc", b"abd", b"\r\n\r\n", b"POST ", b"x" * 200, b"x" * 301])
honest = st.builds(request, targets, bodies, st.sampled_from(["X: 1", "X: 2", "Connection: keep-alive"]))
odd = st.sampled_from(
    [
        request("/now", b"abc", "Connection: close"),
        request("/now", b"abc", "Expect: 100-continue"),
        request("/now", b"abc", "Content-Length: 3"),
        request("/now", b"abc", "Content-Encoding: gzip"),
        b"POST /now HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST /now HTTP/1.0\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /now HTTP/1.1\nHost: x\nContent-Length: 4\n\n\r\n\r\n",
        b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\nab\r\n\r\nab",
        b"\r\n\r\n",
        b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n",
        b"nonsense\r\n\r\n",
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[bytes, int]]:
    """Requests, many of them repeated, in pieces cut anywhere; and turns of the event loop after each piece."""
    parts: list[bytes] = []
    for part in draw(st.lists(st.one_of(honest, honest, honest, odd), min_size=1, max_size=5)):
        parts += [part] * draw(st.integers(1, 3))
    whole = b"".join(parts)
    ends = [sum(map(len, parts[:n])) for n in range(1, len(parts))] if draw(st.booleans()) else []
    cuts = sorted({*ends, *draw(st.lists(st.integers(0, len(whole)), max_size=8)), 0, len(whole)})
    return [(whole[start:end], draw(st.sampled_from([0, 0, 3, 10]))) for start, end in pairwise(cuts)]


@settings(max_examples=400, deadline=None)
@given(streams(), st.booleans())
def test_a_connection_answers_the_same_with_and_without_memory(stream: list[tuple[bytes, int]], bulk: bool) -> None:
    answered = serve(stream, bulk=bulk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "known_head", lambda *_: None)
        assert serve(stream, bulk=False) == answered
    assert answered[3] == 0


def parsed(monkeypatch: pytest.MonkeyPatch, pieces: Sequence[bytes]) -> list[bytes]:
    """What of `pieces` went through the parser."""
    seen: list[bytes] = []
    parse = EnclaveHttpProtocol._parse

    def spy(self: EnclaveHttpProtocol, data: bytes, *, at_rest: bool) -> None:
        seen.append(data)
        parse(self, data, at_rest=at_rest)

    monkeypatch.setattr(EnclaveHttpProtocol, "_parse", spy)
    answered, _, _, _ = serve([(piece, 10) for piece in pieces], bulk=True)
    assert answered.count(b"HTTP/1.1 200") == len([piece for piece in pieces if piece.startswith(b"POST")])
    return seen


@pytest.mark.parametrize("target", ["/now", "/later"])
def test_a_known_head_is_not_parsed(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    first, second = request(target, b"abc"), request(target, b"abd")
    assert parsed(monkeypatch, [first, second, first]) == [first]


def test_another_head_is_parsed_and_known_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = request("/now", b"abc"), request("/now", b"abcd")
    assert parsed(monkeypatch, [first, second, second, first]) == [first, second, first]


def test_a_body_in_pieces_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = request("/now", b"x" * 200)
    assert parsed(monkeypatch, [whole, whole[:-150], whole[-150:-50], whole[-50:]]) == [whole]


def test_a_known_head_beyond_the_budget_is_refused_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = request("/now", b"x" * 200)
    take = Budget.take
    taken: list[int] = []

    def shrinking(self: Budget, amount: int) -> None:
        taken.append(amount)
        take(self, amount if len(taken) == 1 else 10 * amount)

    monkeypatch.setattr(Budget, "take", shrinking)
    answered, _, refusals, used = serve([(whole, 5), (whole, 5)], bulk=False)
    assert answered.count(b"HTTP/1.1 200") == 1
    assert b"quota.body" in answered
    assert (refusals, used) == (["quota.body"], 0)


def test_a_known_head_whose_body_never_ends_gives_its_memory_back() -> None:
    whole = request("/now", b"x" * 200)
    answered, _, refusals, used = serve([(whole, 5), (whole[:-1], 5)], bulk=False)
    assert answered.count(b"HTTP/1.1 200") == 1
    assert (refusals, used) == ([], 0)


@pytest.mark.parametrize(
    "head",
    [
        b"POST /now HTTP/1.1\nHost: x\r\nContent-Length: 3\r\n\r\n",
        b"\r\nPOST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n",
        b"PUT /now HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n",
        b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
    ],
)
def test_unusual_heads_are_not_remembered(head: bytes) -> None:
    headers = [(b"expect", b"100-continue")] if b"Expect" in head else []
    exchange = DirectExchange(Echo()._now, b"/now", headers, 3, expect_continue=False, keep_alive=True)
    exchange.received = 3
    assert known_head(head + b"abc", exchange) is None


def test_a_head_is_remembered_only_where_the_parser_saw_it_end_there() -> None:
    head = request("/now", b"")
    exchange = DirectExchange(Echo()._now, b"/now", (), 3, expect_continue=False, keep_alive=True)
    exchange.received = 3
    known = known_head(head + b"abc", exchange)
    assert known is not None
    assert (known.head, known.length) == (head, 3)
    exchange.received = 2
    assert known_head(head + b"abc", exchange) is None
