"""The header of a sealed model has one form, and every length in the file follows from it."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.crypto.stream import TAG_BYTES, StreamDecryptor
from blindai.errors import InvalidModel
from blindai.wire.custody import MAX_AMOUNT, MAX_ARTEFACT_BYTES
from blindai.wire.sealed_model import (
    MAGIC,
    MAX_BODY_BYTES,
    MAX_CHUNK_BYTES,
    MAX_HEADER_BYTES,
    MIN_BODY_BYTES,
    MIN_CHUNK_BYTES,
    Head,
    SealedHeader,
    read_head,
)

KEY = bytes(range(32))

headers = st.builds(
    SealedHeader,
    chunk_bytes=st.integers(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES),
    content_type=st.sampled_from(["application/onnx", "application/x-tar"]),
    model_digest=st.binary(min_size=32, max_size=32).map(bytes.hex),
    salt=st.binary(min_size=32, max_size=32).map(bytes.hex),
    size=st.integers(MIN_BODY_BYTES, MAX_BODY_BYTES),
)


def header(**changes: Any) -> SealedHeader:
    return msgspec.structs.replace(
        SealedHeader(
            chunk_bytes=64, content_type="application/onnx", model_digest="ab" * 32, salt="cd" * 32, size=1000
        ),
        **changes,
    )


def head_of(header: SealedHeader) -> Head:
    with header.key(KEY) as key:
        return Head(header, key.commitment)


def code_of(data: bytes) -> str:
    with pytest.raises(InvalidModel) as caught:
        read_head(data)
    return caught.value.code


@given(headers, st.binary(max_size=600))
def test_any_header_is_read_as_it_was_written(header: SealedHeader, rest: bytes) -> None:
    head = head_of(header)
    assert len(head.encoded) == header.header_bytes <= MAX_HEADER_BYTES
    assert read_head(head.encoded + rest) == head
    with head.key(KEY) as key:
        assert key.commitment == head.commitment


@given(st.binary(max_size=600) | st.binary(max_size=500).map(MAGIC.__add__))
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    assert code_of(data) == "model.sealed_header"


@given(headers, st.data())
def test_any_change_is_refused_or_gives_another_key(header: SealedHeader, data: st.DataObject) -> None:
    encoded = bytearray(head_of(header).encoded)
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidModel) as caught:
        read_head(encoded).key(KEY)
    assert caught.value.code in {"model.sealed_header", "model.sealed_key"}


def test_every_changed_bit_and_every_truncation_of_a_header_is_refused() -> None:
    encoded = head_of(header()).encoded
    codes = set()
    for bit in range(8 * len(encoded)):
        changed = bytearray(encoded)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidModel) as caught:
            read_head(changed).key(KEY)
        codes.add(caught.value.code)
    assert codes == {"model.sealed_header", "model.sealed_key"}
    assert {code_of(encoded[:length]) for length in range(len(encoded))} == {"model.sealed_header"}


@pytest.mark.parametrize(
    "changed",
    [
        {"chunk_bytes": MIN_CHUNK_BYTES - 1},
        {"chunk_bytes": MAX_CHUNK_BYTES + 1},
        {"chunk_bytes": 64.0},
        {"chunk_bytes": "64"},
        {"content_type": "application/octet-stream"},
        {"content_type": None},
        {"model_digest": "AB" * 32},
        {"model_digest": "ab" * 31},
        {"model_digest": "ab" * 32 + "\n"},
        {"salt": "cd" * 33},
        {"salt": "xy" * 32},
        {"size": MIN_BODY_BYTES - 1},
        {"size": -1},
        {"size": MAX_BODY_BYTES + 1},
        {"size": True},
        {"another": 1},
    ],
)
def test_values_outside_their_limits_are_refused(changed: dict[str, Any]) -> None:
    fields = {**msgspec.to_builtins(header()), **changed}
    line = json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()
    assert code_of(MAGIC + line + b"\n" + b"0" * 64 + b"\n") == "model.sealed_header"


def test_missing_fields_are_refused() -> None:
    for name in msgspec.to_builtins(header()):
        fields = msgspec.to_builtins(header())
        del fields[name]
        line = json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()
        assert code_of(MAGIC + line + b"\n" + b"0" * 64 + b"\n") == "model.sealed_header"


def test_other_encodings_of_the_same_values_are_refused() -> None:
    head = head_of(header())
    fields = list(msgspec.to_builtins(head.header).items())
    end = head.commitment.hex().encode() + b"\n"
    lines = [json.dumps(dict(order), separators=(",", ":")).encode() for order in itertools.permutations(fields)]
    written = head.header.encoded[len(MAGIC) : -1]
    assert lines.count(written) == 1
    lines.remove(written)
    lines += [
        json.dumps(dict(fields), sort_keys=True).encode(),
        b" " + written,
        written + b" ",
        written + b"\r",
        written.replace(b"application", b"\\u0061pplication"),
        written.replace(b'"size":1000', b'"size":1000,"size":1000'),
        written.replace(b'"size":1000', b'"size":1e3'),
    ]
    for line in lines:
        assert code_of(MAGIC + line + b"\n" + end) == "model.sealed_header", line
    assert code_of(MAGIC + written + b"\n" + end.upper()) == "model.sealed_header"
    assert code_of(MAGIC + written + b"\n" + end[:-1] + b"\r\n") == "model.sealed_header"
    assert code_of(MAGIC.replace(b"v1", b"v2") + written + b"\n" + end) == "model.sealed_header"
    assert read_head(head.encoded) == head


def test_another_key_is_told_before_any_chunk_is_read() -> None:
    with pytest.raises(InvalidModel) as caught:
        head_of(header()).key(bytes(32))
    assert caught.value.code == "model.sealed_key"


@pytest.mark.parametrize("size", [MIN_BODY_BYTES, 63, 64, 65, 128, 1000, MAX_BODY_BYTES])
def test_the_chunks_cover_the_file(size: int) -> None:
    layout = header(size=size)
    first, last = layout.chunk(0), layout.chunk(layout.chunks - 1)
    assert (first.offset, first.start, first.number) == (layout.header_bytes, 0, 0)
    assert last.offset + last.length == layout.sealed_bytes
    assert last.start + last.length - TAG_BYTES == size
    assert (first.last, last.last) == (layout.chunks == 1, True)
    for number in range(min(layout.chunks - 1, 20)):
        chunk, following = layout.chunk(number), layout.chunk(number + 1)
        assert (chunk.offset + chunk.length, chunk.start + 64, chunk.last) == (following.offset, following.start, False)


def test_the_file_of_the_specification() -> None:
    """docs/protocol/sealed-model.md: whoever writes a reader of their own starts from these bytes."""
    page = (Path(__file__).parents[2] / "docs" / "protocol" / "sealed-model.md").read_text("utf-8")
    vector = dict(re.findall(r"^\| `?([a-z0-9_ ]+)`? \| `([0-9a-f]+)` \|$", page, re.MULTILINE))
    body = bytes(range(100))
    described = header(size=len(body), model_digest=hashlib.sha256(body).hexdigest(), salt=bytes(range(32, 64)).hex())
    assert described.model_digest == vector["model_digest"]
    key = described.key(KEY)
    assert (key._key.hex(), key.commitment.hex()) == (vector["file key"], vector["commitment"])
    decryptor = StreamDecryptor(key, chunk_bytes=64)
    opened = bytearray(len(body))
    for number in range(2):
        sealed, chunk = bytes.fromhex(vector[f"chunk {number}"]), described.chunk(number)
        assert len(sealed) == chunk.length
        decryptor.decrypt_into(sealed, memoryview(opened)[chunk.start :], last=chunk.last)
    assert opened == body


def test_every_chunk_can_be_asked_of_a_custodian() -> None:
    longest = header(chunk_bytes=MAX_CHUNK_BYTES, size=MAX_BODY_BYTES)
    assert longest.chunk(0).length < MAX_ARTEFACT_BYTES
    assert header(size=MAX_BODY_BYTES).sealed_bytes <= MAX_AMOUNT
