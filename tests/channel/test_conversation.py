"""An exchange in parts: whatever the network and the peer do, a cut is never a clean end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeVar, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.channel.conversation import Conversation
from blindai.channel.duplex import Duplex
from blindai.channel.flow import READ, Flow
from blindai.channel.tls import TLSFailure, TLSPipe
from blindai.errors import Unavailable

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CLOSE = b"\0close_notify"
FORGED = b"\0forged"

T = TypeVar("T")


class ClearPipe:
    """A pipe whose records are pieces of plaintext, one for each feed."""

    def __init__(self) -> None:
        self.records: deque[bytes] = deque()
        self.wire: list[bytes] = []

    def feed(self, wire: bytes) -> None:
        self.records.append(wire)

    def read(self) -> bytes | None:
        if not self.records:
            return None
        record = self.records.popleft()
        if record == FORGED:
            raise TLSFailure("bad record")
        return b"" if record == CLOSE else record

    def write(self, data: bytes) -> None:
        self.wire.append(bytes(data))

    def outgoing(self) -> bytes:
        sent, self.wire = b"".join(self.wire), []
        return sent

    def close(self) -> None:
        self.wire.append(CLOSE)


class Scene:
    """A conversation with a peer that sends what the test says and then ends the connection."""

    def __init__(self, *received: bytes, to_head: bool = False) -> None:
        self.received: Iterator[bytes] = iter(received)
        self.sent = 0
        self.done: list[bool] = []
        duplex = Duplex(cast("TLSPipe", ClearPipe()), "peer:1")
        self.talk = Conversation(duplex, "peer:1", to_head=to_head, sent=self.count, done=self.done.append)

    def count(self, sent: int) -> None:
        self.sent += sent

    def run(self, flow: Flow[T]) -> T:
        try:
            wanted = next(flow)
            while True:
                wanted = flow.send(next(self.received, b"") if wanted is READ else b"")
        except StopIteration as end:
            return cast("T", end.value)

    def body(self) -> bytes:
        self.run(self.talk.head())
        parts = []
        while part := self.run(self.talk.part()):
            parts.append(part)
        return b"".join(parts)


@given(st.sets(st.integers(1, len(ANSWER) - 1)))
def test_an_answer_arrives_whole_however_it_is_cut(places: set[int]) -> None:
    ends = [*sorted(places), len(ANSWER)]
    scene = Scene(*[ANSWER[start:end] for start, end in zip([0, *ends], ends, strict=False)])
    assert (scene.body(), scene.done) == (b"hello", [True])


@given(st.integers(0, len(ANSWER) - 1), st.booleans())
def test_a_cut_is_no_end(size: int, in_order: bool) -> None:
    scene = Scene(*([ANSWER[:size]] if size else []), *([CLOSE] if in_order else []))
    with pytest.raises(Unavailable) as refused:
        scene.body()
    assert (refused.value.code, scene.done) == ("unavailable.closed", [])


@pytest.mark.parametrize(
    "received",
    [
        (FORGED,),
        (ANSWER[:-2], FORGED),
        (b"noise\r\n\r\n",),
        (ANSWER + ANSWER,),
        (b"HTTP/1.1 200 OK\r\n\r\n",),
    ],
)
def test_a_hostile_answer_is_refused(received: tuple[bytes, ...]) -> None:
    scene = Scene(*received)
    with pytest.raises(Unavailable) as refused:
        scene.body()
    assert (refused.value.code, scene.done) == ("unavailable.protocol", [])


def test_interim_heads_are_passed_over() -> None:
    scene = Scene(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", ANSWER)
    assert scene.run(scene.talk.head()).status == 200


def test_a_connection_that_ends_with_its_answer_is_not_used_again() -> None:
    scene = Scene(ANSWER.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))
    assert (scene.body(), scene.done) == (b"hello", [False])


def test_what_leaves_is_counted() -> None:
    scene = Scene()
    scene.run(scene.talk.send(b"GET / HTTP/1.1\r\n\r\n"))
    assert scene.sent == len(b"GET / HTTP/1.1\r\n\r\n")
