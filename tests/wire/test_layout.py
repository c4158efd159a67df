"""What is remembered of messages changes no message: with and without memory, the same comes out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.errors import InvalidInput
from blindai.wire import v2
from blindai.wire.layout import MAX_HEADER_BYTES, MAX_KEPT, Memory
from blindai.wire.v2 import InferRequest, InferResponse, Limits, Tensor
from tensor_strategies import assert_same, tensors

MEMORIES: tuple[Memory[Any, Any], ...] = (
    v2._read_requests,
    v2._read_responses,
    v2._written_requests,
    v2._written_responses,
)


def forget() -> None:
    for memory in MEMORIES:
        memory._kept.clear()


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or its refusal."""
    try:
        return call()
    except InvalidInput as error:
        return error.code, error.message


def assert_same_message(got: Any, expected: Any) -> None:
    assert type(got) is type(expected)
    if not isinstance(got, InferRequest | InferResponse):
        assert got == expected
        return
    if isinstance(got, InferRequest):
        assert (got.outputs, got.binary) == (expected.outputs, expected.binary)
        got_tensors, expected_tensors = got.inputs, expected.inputs
    else:
        got_tensors, expected_tensors = got.outputs, expected.outputs
    for name in ("id", "parameters", "model_name", "model_version"):
        assert getattr(got, name) == getattr(expected, name)
    assert len(got_tensors) == len(expected_tensors)
    for one, other in zip(got_tensors, expected_tensors, strict=True):
        assert_same(one, other)


several = st.lists(tensors(json=False), min_size=1, max_size=3, unique_by=lambda tensor: tensor.name)


@given(several, st.none() | st.lists(st.text(min_size=1), unique=True, max_size=2), st.sampled_from(["", "id"]))
def test_a_request_is_written_alike(inputs: list[Tensor], outputs: list[str] | None, id_: str) -> None:
    written = []
    for remember in (False, False, True):
        if not remember:
            forget()
        buffers, length = v2.encode_request(inputs, outputs, id=id_)
        written.append((b"".join(buffers), length))
    assert written[0] == written[1] == written[2]


@given(several, st.booleans() | st.sets(st.text()), st.sampled_from([None, {"a": 1}]))
def test_a_response_is_written_alike(outputs: list[Tensor], binary: Any, parameters: Any) -> None:
    written = []
    for remember in (False, True):
        if not remember:
            forget()
        made = outcome(
            lambda: v2.encode_response(outputs, model_name="m", model_version="1", binary=binary, parameters=parameters)
        )
        written.append((b"".join(made[0]), made[1]) if isinstance(made[0], list) else made)
    assert written[0] == written[1]


@given(
    several,
    st.sampled_from([None, ["y"], ["y", "z"]]),
    st.sampled_from(["same", "other data", "shorter", "longer", "shorter header"]),
    st.booleans(),
    st.sampled_from([None, {"timeout": 1}]),
)
def test_a_message_is_read_alike(
    sent: list[Tensor], wanted: list[str] | None, change: str, request: bool, parameters: Any
) -> None:
    decode: Callable[..., Any]
    if request:
        buffers, length = v2.encode_request(sent, wanted, parameters=parameters)
        decode = v2.decode_request
    else:
        buffers, length = v2.encode_response(sent, model_name="m", model_version="1", parameters=parameters)
        decode = v2.decode_response
    assert length is not None
    body = b"".join(buffers)
    decode(body, length)
    changed, changed_length = {
        "same": (body, length),
        "other data": (body[:length] + bytes(byte ^ 0xA5 for byte in body[length:]), length),
        "shorter": (body[:-1], length),
        "longer": (body + b"x", length),
        "shorter header": (body, length - 1),
    }[change]
    for kind in (bytes, bytearray, memoryview):
        remembered = outcome(partial(decode, kind(changed), changed_length))
        forget()
        assert_same_message(remembered, outcome(lambda: decode(changed, changed_length)))


def test_a_narrower_limit_holds_for_a_known_message() -> None:
    buffers, length = v2.encode_request([Tensor.from_array("x", np.zeros(3))])
    body = b"".join(buffers)
    v2.decode_request(body, length)
    with pytest.raises(InvalidInput) as refused:
        v2.decode_request(body, length, limits=Limits(json_bytes=10))
    assert refused.value.code == "input.too_large"
    with pytest.raises(InvalidInput) as refused:
        v2.decode_request(body, length, limits=Limits(tensors=0))
    assert refused.value.code == "input.too_large"


def test_nothing_of_the_caller_is_kept() -> None:
    forget()
    tensor = Tensor.from_array("x", np.zeros(3))
    for buffers, length in (
        v2.encode_request([tensor], id="secret"),
        v2.encode_request([tensor], parameters={"secret": "secret"}),
        v2.encode_request([tensor], binary=False),
        v2.encode_request([Tensor.from_array("x" * MAX_HEADER_BYTES, np.zeros(3))]),
    ):
        v2.decode_request(b"".join(buffers), length)
    assert [len(memory._kept) for memory in MEMORIES] == [0, 0, 0, 0]


def test_a_memory_is_bounded() -> None:
    memory: Memory[int, int] = Memory()
    for number in range(3 * MAX_KEPT):
        memory.keep(number, number)
        assert memory.get(number) == number
        assert len(memory._kept) <= MAX_KEPT


def test_parameters_of_a_known_message_are_its_own() -> None:
    buffers, length = v2.encode_request([Tensor.from_array("x", np.zeros(3))])
    body = b"".join(buffers)
    for _ in range(3):
        parameters = v2.decode_request(body, length).parameters
        assert parameters == {"binary_data_output": True}
        parameters["more"] = 1
