"""Requests: what is taken, what is refused because two readers could disagree, and any way in which they arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attested_speaker import AttestedSpeaker
from blindai.channel.answer_stream import End
from blindai.client.proxy.request import MAX_HEAD_BYTES, MAX_HEADERS, RequestHead, RequestStream
from enclave_server import Wire
from running_proxy import RunningProxy

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"

REFUSED = [
    (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "http.content_length"),
    (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", "http.content_length"),
    (HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "http.content_length"),
    (HEAD + b"Content-Length: 3, 3\r\n\r\nabc", "http.content_length"),
    (HEAD + b"Content-Length: +3\r\n\r\nabc", "http.content_length"),
    (HEAD + b"Content-Length: 9999999999999999\r\n\r\n", "http.content_length"),
    (HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "http.transfer_encoding"),
    (HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "http.transfer_encoding"),
    (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "http.transfer_encoding"),
    (HEAD + b"Transfer-Encoding: identity\r\n\r\n", "http.transfer_encoding"),
    (HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "http.request"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", "http.request"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", "http.request"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n", "http.request"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n", "http.trailers"),
    (HEAD + b"A: b\r\n c\r\n\r\n", "http.request"),
    (HEAD + b" A: b\r\n\r\n", "http.request"),
    (HEAD + b"A\x00: b\r\n\r\n", "http.request"),
    (HEAD + b"A: b\x00\r\n\r\n", "http.request"),
    (HEAD + b"A: b\rc\r\n\r\n", "http.request"),
    (b"GET / HTTP/1.1\nHost: localhost\n\n", "http.request"),
    (b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "http.target"),
    (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "http.target"),
    (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", "http.target"),
    (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", "http.target"),
    (b"GET / HTTP/1.1\r\n\r\n", "http.request"),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", "http.request"),
    (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", "http.request"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http.request"),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "http.upgrade"),
    (b"POST / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "http.transfer_encoding"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "http.request"),
    (HEAD + b"A: b\r\n" * MAX_HEADERS + b"\r\n", "http.headers_too_large"),
    (HEAD + b"A: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n", "http.headers_too_large"),
    (b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", "http.headers_too_large"),
]


@pytest.mark.parametrize(("data", "code"), REFUSED, ids=range(len(REFUSED)))
def test_what_two_readers_could_read_differently(data: bytes, code: str) -> None:
    stream = RequestStream()
    stream.feed(data)
    assert stream.error is not None
    assert stream.error.code == code
    stream.feed(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert End.END not in stream.parts


@pytest.mark.parametrize("data", [data for data, _ in REFUSED], ids=range(len(REFUSED)))
def test_nothing_of_a_second_request_reaches_the_enclave(
    proxy: RunningProxy, speaker: AttestedSpeaker, data: bytes
) -> None:
    """Whatever a smuggler hides behind it, the enclave's server never sees another request begin."""
    with Wire(proxy.port) as wire:
        wire.send(data + b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wire.response()
    assert b"smuggled" not in speaker.heard


def test_a_head_that_never_ends_is_not_kept() -> None:
    stream = RequestStream()
    for _ in range(10 * MAX_HEAD_BYTES // 1000):
        stream.feed(b"A" * 1000)
    assert stream.error is not None
    stream = RequestStream()
    stream.feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3;")
    for _ in range(10 * MAX_HEAD_BYTES // 1000):
        stream.feed(b"a" * 1000)
    assert stream.error is not None
    assert stream.error.code == "http.headers_too_large"


@given(
    bodies=st.lists(st.tuples(st.booleans(), st.lists(st.binary(min_size=1, max_size=50), max_size=5)), max_size=5),
    data=st.data(),
)
def test_however_the_bytes_arrive_the_requests_are_the_same(
    bodies: list[tuple[bool, list[bytes]]], data: st.DataObject
) -> None:
    sent = b""
    for chunked, pieces in bodies:
        if chunked:
            sent += HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
            sent += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        else:
            whole = b"".join(pieces)
            sent += HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(whole), whole)
    stream = RequestStream()
    while sent:
        size = data.draw(st.integers(1, len(sent)))
        stream.feed(sent[:size])
        sent = sent[size:]
    assert stream.error is None
    got: list[tuple[bool, bytes]] = []
    for part in stream.parts:
        if isinstance(part, RequestHead):
            got.append((part.length is None, b""))
        elif isinstance(part, bytes):
            got[-1] = (got[-1][0], got[-1][1] + part)
    assert got == [(chunked, b"".join(pieces)) for chunked, pieces in bodies]
    assert list(stream.parts).count(End.END) == len(bodies)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    stream = RequestStream()
    stream.feed(HEAD + data)
    for part in stream.parts:
        assert isinstance(part, RequestHead | bytes | End)
