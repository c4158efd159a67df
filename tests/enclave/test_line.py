"""A line to the custodian: one request at a time, none for longer than it is worth, and a new one when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from blindai.channel.http1 import Answer
from blindai.enclave.line import Line
from blindai.errors import BlindAIError, LeaseStopped, Unavailable
from blindai.wire import custody as wire
from blindai.wire.problems import problem_body

WATCH = wire.Watch(lease="lease-aaaaaaaaaaaaaaaa", instance="1" * 64, known=0, applied=0)
STATUS = b'{"version":1,"state":"active","stop_epoch":0}'

Post = Callable[[bytes], Awaitable[Answer]]


class Peer:
    """Connections that answer as they are told."""

    def __init__(self, post: Post) -> None:
        self.post_body = post
        self.connected = 0
        self.cuts = 0
        self.under_way = 0

    async def connect(self) -> PeerConnection:
        self.connected += 1
        return PeerConnection(self)


class PeerConnection:
    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.usable = True

    async def post(self, path: str, body: bytes, *, max_answer_bytes: int) -> Answer:
        assert path == wire.WATCHES
        self._peer.under_way += 1
        assert self._peer.under_way == 1
        try:
            return await self._peer.post_body(body)
        finally:
            self._peer.under_way -= 1

    def cut(self) -> None:
        self.usable = False
        self._peer.cuts += 1


def answer(body: bytes, status: int = 200) -> Answer:
    return Answer(status, {}, body, keep_alive=True)


async def ask(line: Line, seconds: float = 5.0) -> wire.LeaseStatus:
    return await line.ask(wire.WATCHES, WATCH, wire.LeaseStatus, seconds=seconds)


def test_one_connection_serves_many_requests_one_after_the_other() -> None:
    async def post(_: bytes) -> Answer:
        await asyncio.sleep(0)
        return answer(STATUS)

    async def test() -> None:
        peer = Peer(post)
        line = Line(peer.connect)
        await asyncio.gather(*(ask(line) for _ in range(10)))
        assert (peer.connected, peer.cuts) == (1, 0)

    asyncio.run(test())


def test_silence_is_cut_and_another_connection_is_made() -> None:
    silent = True

    async def post(_: bytes) -> Answer:
        if silent:
            await asyncio.Event().wait()
        return answer(STATUS)

    async def test() -> None:
        nonlocal silent
        peer = Peer(post)
        line = Line(peer.connect)
        with pytest.raises(Unavailable) as caught:
            await ask(line, 0.05)
        assert caught.value.code == "unavailable.timeout"
        silent = False
        assert (await ask(line)).version == 1
        assert (peer.connected, peer.cuts) == (2, 1)

    asyncio.run(test())


def test_a_caller_who_goes_away_leaves_no_answer_to_the_next() -> None:
    async def post(_: bytes) -> Answer:
        await asyncio.sleep(0.01)
        return answer(STATUS)

    async def test() -> None:
        peer = Peer(post)
        line = Line(peer.connect)
        leaving = asyncio.ensure_future(ask(line))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait({leaving})
        await ask(line)
        assert (peer.connected, peer.cuts) == (2, 1)

    asyncio.run(test())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, STATUS[:-1] + b',"more":1}'])
def test_an_answer_that_cannot_be_read(body: bytes) -> None:
    async def post(_: bytes) -> Answer:
        return answer(body)

    async def test() -> None:
        peer = Peer(post)
        with pytest.raises(Unavailable) as caught:
            await ask(Line(peer.connect))
        assert caught.value.code == "unavailable.protocol"
        assert peer.cuts == 1

    asyncio.run(test())


def test_a_refusal_is_raised_as_what_it_is_and_the_line_stays() -> None:
    async def post(_: bytes) -> Answer:
        return answer(problem_body(LeaseStopped("enough", code="lease.stopped")), 403)

    async def test() -> None:
        peer = Peer(post)
        line = Line(peer.connect)
        for _ in range(2):
            with pytest.raises(LeaseStopped) as caught:
                await ask(line)
            assert caught.value.code == "lease.stopped"
        assert (peer.connected, peer.cuts) == (1, 0)

    asyncio.run(test())


def test_a_connection_that_ended_meanwhile_is_replaced() -> None:
    async def post(_: bytes) -> Answer:
        return answer(STATUS)

    async def test() -> None:
        peer = Peer(post)
        line = Line(peer.connect)
        await ask(line)
        assert line._connection
        line._connection.cut()
        await ask(line)
        assert peer.connected == 2

    asyncio.run(test())


def test_who_cannot_connect_says_why() -> None:
    async def connect() -> PeerConnection:
        raise Unavailable("nobody is there", code="unavailable.connect")

    async def test() -> None:
        with pytest.raises(BlindAIError) as caught:
            await ask(Line(connect))
        assert caught.value.code == "unavailable.connect"

    asyncio.run(test())


def test_a_line_may_be_opened_before_it_is_used() -> None:
    async def main() -> None:
        async def post(body: bytes) -> Answer:
            return answer(STATUS)

        peer = Peer(post)
        line = Line(peer.connect)
        await line.open()
        await line.open()
        await ask(line)
        assert peer.connected == 1
        line.cut()
        await line.open()
        assert peer.connected == 2

    asyncio.run(main())


def test_errors_call_the_other_end_by_its_name() -> None:
    async def main() -> None:
        async def post(body: bytes) -> Answer:
            return answer(b"no JSON")

        with pytest.raises(Unavailable, match="the answer of the control plane cannot be read"):
            await ask(Line(Peer(post).connect, "the control plane"))

    asyncio.run(main())
