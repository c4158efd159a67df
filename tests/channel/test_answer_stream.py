"""An answer comes apart the same way however the network cuts it, and one that is unclear is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.channel.answer_stream import AnswerHead, AnswerPart, AnswerStream, End
from blindai.channel.http1 import MAX_HEAD_BYTES, MalformedAnswer

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Y: z\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


def parts_of(pieces: list[bytes], *, to_head: bool = False) -> list[AnswerPart]:
    stream = AnswerStream(to_head=to_head)
    return [part for piece in pieces for part in stream.feed(piece)]


def summary(parts: list[AnswerPart]) -> tuple[list[AnswerHead], bytes, int]:
    """Heads, the whole body, and how many ends there are."""
    heads = [part for part in parts if isinstance(part, AnswerHead)]
    body = b"".join(part for part in parts if isinstance(part, bytes))
    return heads, body, parts.count(End.END)


@st.composite
def cut(draw: st.DrawFn, answer: bytes) -> list[bytes]:
    places = sorted(draw(st.sets(st.integers(1, len(answer) - 1))))
    return [answer[start:end] for start, end in zip([0, *places], [*places, len(answer)], strict=True)]


@pytest.mark.parametrize(
    ("answer", "body"), [(PLAIN, b"hello"), (CHUNKED, b"hello"), (INTERIM + PLAIN, b"hello"), (EMPTY, b"")]
)
@given(data=st.data())
def test_where_it_is_cut_changes_nothing(answer: bytes, body: bytes, data: st.DataObject) -> None:
    found = summary(parts_of(data.draw(cut(answer))))
    assert found == summary(parts_of([answer]))
    assert found[1:] == (body, 1)


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, INTERIM + PLAIN, EMPTY])
def test_no_beginning_of_an_answer_has_an_end(answer: bytes) -> None:
    for size in range(1, len(answer)):
        stream = AnswerStream()
        assert End.END not in stream.feed(answer[:size])
        assert not stream.complete


def test_the_head_says_what_came() -> None:
    head = parts_of([PLAIN])[0]
    assert head == AnswerHead(200, b"OK", ((b"Content-Length", b"5"), (b"X-Y", b"z")), 5, keep_alive=True)
    assert isinstance(head, AnswerHead)
    assert not head.interim
    heads, _, _ = summary(parts_of([INTERIM + CHUNKED]))
    assert [(one.status, one.interim, one.length) for one in heads] == [(100, True, 0), (200, False, None)]


def test_the_connection_ends_where_the_answer_says_so() -> None:
    head = parts_of([PLAIN.replace(b"X-Y: z", b"Connection: close")])[0]
    assert isinstance(head, AnswerHead)
    assert not head.keep_alive


def test_an_answer_to_head_ends_with_its_fields() -> None:
    parts = parts_of([PLAIN.removesuffix(b"hello")], to_head=True)
    assert [type(part) for part in parts] == [AnswerHead, End]


@pytest.mark.parametrize(
    "answer",
    [
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        PLAIN + PLAIN,
        PLAIN + b"more",
        PLAIN.replace(b"X-Y: z", b"Content-Length: 6"),
        PLAIN.replace(b"X-Y: z", b"Transfer-Encoding: chunked"),
        PLAIN.replace(b"Length: 5", b"Length: -5"),
        CHUNKED.replace(b"0\r\n\r\n", b"0\r\nLate: field\r\n\r\n"),
        CHUNKED.replace(b"3\r\nllo", b"zz\r\nllo"),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (MAX_HEAD_BYTES + 1),
        INTERIM * (MAX_HEAD_BYTES // len(INTERIM) + 1),
    ],
)
def test_an_unclear_answer_is_refused(answer: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        parts_of([answer])
    with pytest.raises(MalformedAnswer):
        parts_of([answer[place : place + 7] for place in range(0, len(answer), 7)])


def test_a_body_in_answer_to_head_is_refused() -> None:
    with pytest.raises(MalformedAnswer):
        parts_of([PLAIN], to_head=True)


@given(st.binary(max_size=400))
def test_noise_is_refused_or_no_whole_answer(noise: bytes) -> None:
    stream = AnswerStream()
    try:
        parts = stream.feed(noise)
    except MalformedAnswer:
        return
    assert End.END not in parts
