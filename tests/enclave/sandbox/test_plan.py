"""What is kept of messages of the same shapes: what it says is what would be worked out anew."""

from __future__ import annotations

import numpy as np
import pytest

from blindai.enclave.sandbox.messages import RunRequest, TensorHead, encode
from blindai.enclave.sandbox.plan import MOST_BYTES, MOST_PLANS, KnownAnswer, Plan, Plans, fixed, key_of
from blindai.enclave.sandbox.slot import Layout, read_tensor
from blindai.wire.tensor import Tensor


def tensors(seed: int = 0) -> list[Tensor]:
    generator = np.random.default_rng(seed)
    return [
        Tensor.from_array("a", generator.random((2, 3), np.float32)),
        Tensor.from_array("b", generator.integers(0, 9, (0, 4), np.int64)),
        Tensor.from_array("c", generator.integers(0, 9, (), np.int8)),
    ]


def kept(sent: list[Tensor], header: bytes = b"") -> tuple[Plans, Layout, bytes]:
    plans, layout = Plans(), Layout()
    for tensor in sent:
        layout.add([tensor])
    header = header or encode(RunRequest(layout.heads, ["y"]))
    plans.keep(key_of(sent, ["y"]), layout.heads, layout.end, header)
    return plans, layout, header


def test_a_plan_writes_what_a_layout_writes() -> None:
    plans, _, header = kept(tensors())
    again = tensors(1)
    plan = plans.find(key_of(again, ["y"]))
    assert plan is not None
    written = bytearray(1000)
    plan.write(memoryview(written), again)
    layout = Layout()
    for tensor in again:
        layout.add([tensor])
    anew = bytearray(1000)
    layout.write(memoryview(anew), header)
    assert written == anew


def test_another_name_datatype_shape_order_or_wish_is_another_message() -> None:
    plans, _, _ = kept(tensors())
    a, b, c = tensors()
    others = [
        ([Tensor("z", a.datatype, a.data), b, c], ["y"]),
        ([Tensor("a", "INT32", a.data.view(np.int32)), b, c], ["y"]),
        ([Tensor("a", a.datatype, a.data.reshape(3, 2)), b, c], ["y"]),
        ([b, a, c], ["y"]),
        ([a, b], ["y"]),
        ([a, b, c], ["y", "z"]),
        ([a, b, c], []),
    ]
    assert [plans.find(key_of(sent, wanted)) for sent, wanted in others] == [None] * len(others)


def test_what_may_vary_in_length_or_is_long_is_not_kept() -> None:
    words = [Tensor.from_array("a", np.array([b"word"], object))]
    plans, _, _ = kept(words)
    assert plans.find(key_of(words, ["y"])) is None
    plans, _, _ = kept(tensors(), b"x" * (MOST_BYTES + 1))
    assert plans.find(key_of(tensors(), ["y"])) is None


def test_no_more_are_kept_than_may_be() -> None:
    plans = Plans()
    for number in range(10 * MOST_PLANS):
        plans.keep((number,), [], 0, b"")
        assert plans.find((number,)) == Plan([], 0, b"")
    assert sum(plans.find((number,)) is not None for number in range(10 * MOST_PLANS)) <= MOST_PLANS


def test_an_answer_known_is_read_as_one_that_is_not() -> None:
    sent = tensors()
    _, layout, header = kept(sent)
    memory = bytearray(layout.end + len(header))
    layout.write(memoryview(memory), header)
    answer = KnownAnswer(layout.heads)
    assert (answer.names, answer.end) == (["a", "b", "c"], layout.end)
    read = answer.read(memoryview(memory))
    for one, head in zip(read, layout.heads, strict=True):
        (other,) = read_tensor(memoryview(memory), head)
        assert (one.name, one.datatype, one.shape) == (other.name, other.datatype, other.shape)
        assert one.data.tobytes() == other.data.tobytes()
    before = read[0].data.copy()
    memory[:] = bytes(len(memory))  # the process may write there at any time
    assert np.array_equal(read[0].data, before)


@pytest.mark.parametrize(("datatype", "is_fixed"), [("FP32", True), ("BOOL", False), ("BYTES", False)])
def test_what_must_be_looked_at_each_time_is_no_known_answer(datatype: str, is_fixed: bool) -> None:
    assert fixed([TensorHead("x", datatype, (1,), 0, 4)]) is is_fixed
