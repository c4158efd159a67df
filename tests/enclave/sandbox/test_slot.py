"""Tensors in shared memory: written by one side, read by the other, to the bit."""

from __future__ import annotations

import fcntl
import mmap
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.enclave.sandbox.messages import ProtocolError, TensorHead
from blindai.enclave.sandbox.slot import KEPT_BYTES, MIN_BYTES, Layout, Slot, read_tensor
from blindai.errors import InvalidModel
from blindai.wire.tensor import Tensor
from tensor_strategies import assert_same, tensors


@given(st.lists(tensors(json=False), max_size=4))
def test_what_is_written_is_read(sent: list[Tensor]) -> None:
    layout = Layout()
    for tensor in sent:
        layout.add([tensor])
    view = memoryview(bytearray(layout.end + 6))
    offset = layout.write(view, b"header")
    assert bytes(view[offset:]) == b"header"
    for head, tensor in zip(layout.heads, sent, strict=True):
        assert_same(read_tensor(view, head)[0], tensor)


@given(st.lists(st.integers(1, 3), min_size=2, max_size=4), tensors(json=False))
def test_rows_of_several_are_one_and_come_apart(counts: list[int], sample: Tensor) -> None:
    sent = [Tensor(sample.name, sample.datatype, np.stack([sample.data] * count)) for count in counts]
    layout = Layout()
    layout.add(sent)
    assert layout.heads[0].shape == (sum(counts), *sample.data.shape)
    view = memoryview(bytearray(layout.end))
    layout.write(view, b"")
    for got, tensor in zip(read_tensor(view, layout.heads[0], counts), sent, strict=True):
        assert_same(got, tensor)


def test_a_copy_is_not_changed_by_the_other_side() -> None:
    view = memoryview(bytearray(np.arange(4, dtype=np.float32).tobytes()))
    read = read_tensor(view, TensorHead("x", "FP32", (4,), 0, 16))[0]
    view[:] = bytes(16)
    assert read.data.tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("shape", [(), (3,), (5, 2)])
def test_rows_that_are_not_the_requests_are_the_models_fault(shape: tuple[int, ...]) -> None:
    size = 4 * int(np.prod(shape))
    with pytest.raises(InvalidModel) as refused:
        read_tensor(memoryview(bytes(64)), TensorHead("x", "FP32", shape, 0, size), [1, 1])
    assert refused.value.code == "model.batch"


def test_rows_of_different_size_are_no_tensor() -> None:
    with pytest.raises(ProtocolError):
        read_tensor(memoryview(bytes(64)), TensorHead("x", "FP32", (2,), 0, 7), [1, 1])


def test_neither_side_can_change_the_size_of_the_memory() -> None:
    slot = Slot(1)
    assert slot.size == MIN_BYTES
    for size in (0, MIN_BYTES // 2, MIN_BYTES * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(slot.fileno(), size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(slot.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    slot.close()


@pytest.mark.parametrize("size", [MIN_BYTES, KEPT_BYTES * 2])
def test_nothing_is_left_in_memory_that_was_cleared(size: int) -> None:
    slot = Slot(size)
    other = mmap.mmap(slot.fileno(), size)
    other[:size] = b"\xff" * size
    slot.clear(size)
    assert other[:size] == bytes(size)
    slot.close()
    other.close()


def test_nothing_is_left_in_memory_that_was_given_up() -> None:
    slot = Slot(MIN_BYTES)
    other = mmap.mmap(slot.fileno(), MIN_BYTES)
    other[:4] = b"left"
    slot.close()
    assert other[:4] == bytes(4)
    other.close()
