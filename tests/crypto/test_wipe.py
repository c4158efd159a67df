from __future__ import annotations

import mmap
import sys
from typing import Any

import pytest

from blindai.crypto.wipe import Wipeable, fresh_bytes, wipe

SECRET = b"0123456789abcdef"


def anonymous(content: bytes) -> mmap.mmap:
    mapped = mmap.mmap(-1, len(content))
    mapped[:] = content
    return mapped


@pytest.mark.parametrize("make", [bytearray, anonymous, lambda content: memoryview(bytearray(content))])
def test_a_buffer_is_overwritten_and_keeps_its_length(make: Any) -> None:
    buffer: Wipeable = make(SECRET)
    wipe(buffer)
    assert bytes(buffer) == bytes(len(SECRET))


def test_a_part_of_a_buffer_is_overwritten_alone() -> None:
    buffer = bytearray(SECRET)
    wipe(memoryview(buffer)[4:8])
    assert buffer == b"0123\0\0\0\x0089abcdef"


def test_a_buffer_of_other_elements_is_overwritten() -> None:
    buffer = bytearray(SECRET)
    wipe(memoryview(buffer).cast("I"))
    assert buffer == bytes(len(SECRET))


def test_bytes_are_overwritten_where_they_are() -> None:
    secret = b"".join([SECRET, SECRET])  # made at run time: a constant would belong to the module
    wipe(secret)
    assert secret == bytes(2 * len(SECRET))


def test_shared_bytes_are_left_alone() -> None:
    for byte in range(256):
        wipe(bytes([byte]))
    wipe(b"")
    assert [bytes([byte])[0] for byte in range(256)] == list(range(256))


@pytest.mark.parametrize("empty", [bytearray(), memoryview(bytearray())])
def test_nothing_is_wiped_of_nothing(empty: Wipeable) -> None:
    wipe(empty)
    assert len(empty) == 0


@pytest.mark.parametrize("buffer", [memoryview(SECRET), memoryview(bytearray(SECRET))[::2]])
def test_what_cannot_be_overwritten_is_refused(buffer: memoryview) -> None:
    with pytest.raises((TypeError, BufferError)):
        wipe(buffer)


def test_fresh_bytes_hold_what_is_written_and_outlive_their_name() -> None:
    made, view = fresh_bytes(len(SECRET))
    assert (len(made), view.format, view.readonly) == (len(SECRET), "B", False)
    view[:] = SECRET
    assert made == SECRET
    del made
    assert bytes(view) == SECRET
    wipe(view)
    assert bytes(view) == bytes(len(SECRET))


@pytest.mark.parametrize("size", [0, 1])
def test_no_shared_object_can_be_filled(size: int) -> None:
    with pytest.raises(ValueError, match="shared"):
        fresh_bytes(size)


def test_bytes_without_room_are_refused() -> None:
    with pytest.raises(MemoryError):
        fresh_bytes(1 << 60)


def test_other_implementations_of_python_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.implementation, "name", "pypy")
    with pytest.raises(TypeError, match="CPython"):
        wipe(SECRET)
    with pytest.raises(TypeError, match="CPython"):
        fresh_bytes(16)
