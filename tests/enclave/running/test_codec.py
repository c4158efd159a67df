from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from blindai.enclave.api.receipts import Receipts
from blindai.enclave.running.codec import Codec, header_length_of, long_to_read, long_to_write
from blindai.errors import InvalidInput
from blindai.wire import v2
from blindai.wire.tensor import Tensor

CODEC = Codec(1 << 20, Receipts(None, grant=lambda: None))
X = Tensor.from_array("x", np.ones((1, 4), np.float32))


def request(*, binary: bool = True, **parameters: Any) -> tuple[bytes, int | None]:
    buffers, length = v2.encode_request([X], binary=binary, parameters=parameters)
    return b"".join(buffers), length


@pytest.mark.parametrize(
    ("timeout", "deadline_ns"), [(1, 1500), (0, 0), (86_400_000_000, 86_400_000_000_500), (1 << 62, 0)]
)
def test_a_timeout_in_microseconds_is_a_deadline(timeout: int, deadline_ns: int) -> None:
    assert CODEC.decode(*request(timeout=timeout), 500).deadline_ns == deadline_ns


def test_without_a_timeout_there_is_no_deadline() -> None:
    assert CODEC.decode(*request(), 500).deadline_ns == 0


@pytest.mark.parametrize("timeout", [-1, 1.5, "1", True])
def test_what_is_no_timeout(timeout: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        CODEC.decode(*request(timeout=timeout), 0)
    assert caught.value.code == "input.message"


def test_long_messages_are_told_from_short_ones() -> None:
    assert not long_to_read(bytes(1 << 20), 100)
    assert long_to_read(bytes(1 << 20), 1 << 16)
    assert long_to_read(bytes(1 << 20), None)
    # Texts are taken apart one by one, wherever they stand and however their type is spelt.
    for datatype in (b"BYTES", b"\\u0042YTES"):
        header = b'{"inputs":[{"datatype":"%b"}]}' % datatype
        assert long_to_read(header + bytes(1 << 20), len(header))
        assert not long_to_read(header + bytes(1 << 10), len(header))
    large = [Tensor.from_array("y", np.zeros(1 << 16, np.float32))]
    in_binary, in_json = (CODEC.decode(*request(binary=binary), 0) for binary in (True, False))
    assert not long_to_write(in_binary, large)
    assert long_to_write(in_json, large)
    assert not long_to_write(in_json, [X])
    assert long_to_write(in_binary, [Tensor.from_array("y", np.array([b""] * 5000, dtype=object))])


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([], None),
        ([(b"content-length", b"5")], None),
        ([(b"inference-header-content-length", b"5")], 5),
        ([(b"a", b"b"), (b"inference-header-content-length", b"0")], 0),
    ],
)
def test_header_length(headers: list[tuple[bytes, bytes]], length: int | None) -> None:
    assert header_length_of(headers) == length


@pytest.mark.parametrize(
    "values", [[b""], [b"-1"], [b"5 "], [b"0x5"], [b"5", b"5"], [b"5", b"6"], [b"\xb2"], [b"9" * 16]]
)
def test_header_lengths_that_are_none(values: list[bytes]) -> None:
    with pytest.raises(InvalidInput) as caught:
        header_length_of([(b"inference-header-content-length", value) for value in values])
    assert caught.value.code == "input.header_length"
