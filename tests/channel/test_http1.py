from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.channel.http1 import MAX_HEAD_BYTES, Answer, AnswerReader, MalformedAnswer, request_head

FIXED = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + FIXED
EMPTY = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
ANSWERS = [FIXED, CHUNKED, CONTINUED, EMPTY]


def read(*pieces: bytes, limit: int = 100) -> Answer | None:
    reader = AnswerReader(limit)
    for piece in pieces:
        reader.feed(piece)
    return reader.answer


def parts(answer: Answer | None) -> tuple[object, ...]:
    assert answer is not None
    return answer.status, answer.headers, answer.body, answer.keep_alive


def refused(*pieces: bytes, limit: int = 100) -> str:
    with pytest.raises(MalformedAnswer) as caught:
        read(*pieces, limit=limit)
    return str(caught.value)


class TestAnswers:
    def test_fixed_length(self) -> None:
        headers = {"content-type": "a/b", "content-length": "5"}
        assert parts(read(FIXED)) == (200, headers, b"hello", True)

    def test_chunked(self) -> None:
        assert parts(read(CHUNKED)) == (200, {"transfer-encoding": "chunked"}, b"hello", True)

    def test_last_of_the_connection(self) -> None:
        assert parts(read(EMPTY)) == (204, {"connection": "close"}, b"", False)

    def test_http_1_0_ends_the_connection(self) -> None:
        answer = read(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert answer is not None
        assert not answer.keep_alive

    def test_interim_answers(self) -> None:
        reader = AnswerReader(100)
        reader.feed(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        assert (reader.answer, reader.continued) == (None, False)
        reader.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert (reader.answer, reader.continued) == (None, True)
        reader.feed(FIXED)
        assert parts(reader.answer) == parts(read(FIXED))

    @pytest.mark.parametrize("answer", ANSWERS)
    def test_split_at_every_byte_boundary(self, answer: bytes) -> None:
        whole = parts(read(answer))
        for at in range(1, len(answer)):
            assert parts(read(answer[:at], answer[at:])) == whole

    @pytest.mark.parametrize("answer", ANSWERS)
    def test_byte_by_byte(self, answer: bytes) -> None:
        assert parts(read(*(bytes([byte]) for byte in answer))) == parts(read(answer))

    @given(st.sampled_from(ANSWERS), st.lists(st.integers(0, 120), max_size=5))
    def test_split_anywhere(self, answer: bytes, cuts: list[int]) -> None:
        bounds = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
        pieces = [answer[start:end] for start, end in itertools.pairwise(bounds) if end > start]
        assert parts(read(*pieces)) == parts(read(answer))

    @pytest.mark.parametrize("answer", ANSWERS)
    def test_nothing_but_the_whole(self, answer: bytes) -> None:
        for end in range(len(answer)):
            assert read(answer[:end]) is None


class TestRefusals:
    @given(st.binary(max_size=300))
    def test_any_bytes(self, data: bytes) -> None:
        try:
            read(data)
        except MalformedAnswer:
            return

    @given(st.sampled_from(ANSWERS), st.integers(0, 120), st.integers(0, 3), st.binary(max_size=6))
    def test_damaged_answers(self, answer: bytes, at: int, drop: int, insert: bytes) -> None:
        reader = AnswerReader(10)
        try:
            reader.feed(answer[:at] + insert + answer[at + drop :])
        except MalformedAnswer:
            return
        assert reader.answer is None or len(reader.answer.body) <= 10

    def test_announced_body_over_the_limit(self) -> None:
        assert "announces 5 bytes" in refused(FIXED, limit=4)
        assert read(FIXED, limit=5) is not None

    def test_chunked_body_over_the_limit(self) -> None:
        assert "over the 4 bytes allowed" in refused(CHUNKED, limit=4)

    @pytest.mark.parametrize(
        "digits", [b"9" * 30, b"9" * 5000, b"-1", b"+5", b"0x5", b"5, 5", b"\xb2"], ids=lambda digits: repr(digits[:8])
    )
    def test_content_length_that_is_no_length(self, digits: bytes) -> None:
        refused(b"HTTP/1.1 200 OK\r\nContent-Length: " + digits + b"\r\n\r\n")

    def test_head_over_the_limit(self) -> None:
        filler = b"X-Filler: " + b"a" * 1000 + b"\r\n"
        pieces = [b"HTTP/1.1 200 OK\r\n", *[filler] * 65]
        assert "head of the answer" in refused(*pieces)
        assert read(*pieces[:60], b"Content-Length: 0\r\n\r\n") is not None

    def test_one_endless_header(self) -> None:
        pieces = [b"HTTP/1.1 200 OK\r\nX: ", *[b"a" * 16384] * 5]
        assert "head of the answer" in refused(*pieces)

    def test_head_that_comes_whole_but_too_large(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD_BYTES + b"\r\nContent-Length: 0\r\n\r\n"
        assert "head of the answer" in refused(head)

    def test_endless_interim_answers(self) -> None:
        assert "head of the answer" in refused(*[b"HTTP/1.1 100 Continue\r\n\r\n" * 100] * 30)

    def test_fields_after_the_body(self) -> None:
        assert "after the body" in refused(CHUNKED[:-2] + b"Content-Type: evil/type\r\n\r\n")

    def test_endless_field_after_the_body(self) -> None:
        pieces = [CHUNKED[:-2] + b"X: ", *[b"a" * 16384] * 5]
        assert "head of the answer" in refused(*pieces)

    def test_endless_chunk_extension(self) -> None:
        pieces = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;", *[b"a" * 16384] * 5]
        assert "head of the answer" in refused(*pieces)

    def test_smallest_chunks_are_no_flood(self) -> None:
        body = b"1\r\na\r\n" * 50_000
        answer = read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", body, b"0\r\n\r\n", limit=50_000)
        assert answer is not None
        assert len(answer.body) == 50_000

    def test_two_answers(self) -> None:
        assert "more than one answer" in refused(FIXED + FIXED)

    def test_two_answers_in_two_reads(self) -> None:
        assert "more than one answer" in refused(FIXED, FIXED)

    def test_data_after_the_last_answer(self) -> None:
        assert "Data after" in refused(EMPTY + FIXED)

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxyz",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"\x00",
        ],
        ids=lambda answer: repr(answer[:40]),
    )
    def test_what_is_not_one_clear_answer(self, answer: bytes) -> None:
        refused(answer)


class TestRequestHead:
    def test_form(self) -> None:
        head = request_head("GET", "/v2", "host:9443", [("Accept", "*/*")])
        assert head == b"GET /v2 HTTP/1.1\r\nHost: host:9443\r\nAccept: */*\r\n\r\n"

    @pytest.mark.parametrize("bad", ["a\r\nX: y", "a\n", "a\x00", "a\x7f", "é", "a\tb"])
    def test_characters_that_end_a_field_early(self, bad: str) -> None:
        with pytest.raises(ValueError, match="control or non-ASCII"):
            request_head("GET", "/", "host", [("X", bad)])
        with pytest.raises(ValueError, match="control or non-ASCII"):
            request_head("GET", "/" + bad, "host", [])
        with pytest.raises(ValueError, match="control or non-ASCII"):
            request_head("GET", "/", bad, [])

    def test_target_with_a_space(self) -> None:
        with pytest.raises(ValueError, match="space"):
            request_head("GET", "/ HTTP/1.1", "host", [])


class TestKnownHeads:
    """The head of an answer that comes again is not parsed again, and nobody can tell."""

    @given(
        st.sampled_from([*ANSWERS, FIXED.replace(b"\r\n", b"\n"), FIXED.replace(b"200 OK", b"404 Not Found")]),
        st.sampled_from(
            [
                FIXED,
                FIXED.replace(b"hello", b"world"),
                FIXED + b"x",
                FIXED + b"\r\n",
                FIXED + FIXED,
                FIXED.replace(b"Length: 5", b"Length: 4"),
                FIXED[:-1],
                FIXED[:20],
                *ANSWERS,
            ]
        ),
        st.lists(st.integers(0, 200), max_size=3),
        st.sampled_from([4, 5, 100]),
    )
    def test_they_change_no_answer(self, before: bytes, data: bytes, cuts: list[int], limit: int) -> None:
        earlier = AnswerReader(100)
        with contextlib.suppress(MalformedAnswer):
            earlier.feed(before)
        edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
        outcomes: list[tuple[object, ...]] = []
        for known in (None, earlier.known):
            reader = AnswerReader(limit, known)
            try:
                for piece in pieces:
                    reader.feed(piece)
            except MalformedAnswer as error:
                outcomes.append((str(error),))
            else:
                outcomes.append((reader.continued, reader.answer and parts(reader.answer)))
        assert outcomes[0] == outcomes[1]

    def test_a_known_head_is_not_parsed(self) -> None:
        first = AnswerReader(100)
        first.feed(FIXED)
        second = AnswerReader(100, first.known)
        second.feed(FIXED.replace(b"hello", b"world"))
        assert second._parser is None
        assert parts(second.answer)[2] == b"world"

    def test_headers_of_an_answer_are_its_own(self) -> None:
        first = AnswerReader(100)
        first.feed(FIXED)
        assert first.answer is not None
        first.answer.headers.clear()
        for _ in range(2):
            reader = AnswerReader(100, first.known)
            reader.feed(FIXED)
            assert reader.answer is not None
            assert reader.answer.headers == {"content-type": "a/b", "content-length": "5"}
            reader.answer.headers.clear()

    @pytest.mark.parametrize("answer", [CHUNKED, CONTINUED, EMPTY, FIXED.replace(b"a/b\r\n", b"a/b\n")])
    def test_unusual_answers_are_not_remembered(self, answer: bytes) -> None:
        reader = AnswerReader(100)
        with contextlib.suppress(MalformedAnswer):
            reader.feed(answer)
        assert reader.known is None

    def test_what_follows_a_known_answer_is_refused(self) -> None:
        first = AnswerReader(100)
        first.feed(FIXED)
        second = AnswerReader(100, first.known)
        second.feed(FIXED)
        with pytest.raises(MalformedAnswer):
            second.feed(FIXED)
