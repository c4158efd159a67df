from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tritonclient.utils import triton_to_np_dtype

from blindai.errors import InvalidInput
from blindai.wire.datatype import DATATYPES
from blindai.wire.v2 import (
    InferRequest,
    Limits,
    Tensor,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    parse_header_length,
)
from tensor_strategies import assert_same, tensors

X = Tensor("x", "FP32", np.array([1, 2.5], np.float32))
Y = Tensor("y", "INT64", np.array([[3], [-4]], np.int64))


def joined(message: tuple[list[bytes | memoryview], int | None]) -> tuple[bytes, int | None]:
    buffers, header_length = message
    return b"".join(buffers), header_length


def request(message: object, payload: bytes = b"") -> InferRequest:
    header = message if isinstance(message, bytes) else json.dumps(message).encode()
    return decode_request(header + payload, len(header) if payload else None)


def refusal(message: object, payload: bytes = b"") -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        request(message, payload)
    assert len(caught.value.message) < 500
    return caught.value


def tensor(**members: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]} | members


def binary(size: Any, **members: Any) -> dict[str, Any]:
    described = tensor(parameters={"binary_data_size": size}) | members
    return {name: value for name, value in described.items() if name != "data"}


# The examples of the specifications


def test_the_inference_example_of_the_protocol() -> None:
    # Open Inference Protocol V2, REST, "Inference Request Examples"; its BOOL data are one short of its shape.
    got = request(
        {
            "id": "42",
            "inputs": [
                {"name": "input0", "shape": [2, 2], "datatype": "UINT32", "data": [1, 2, 3, 4]},
                {"name": "input1", "shape": [3], "datatype": "BOOL", "data": [True, False, True]},
            ],
            "outputs": [{"name": "output0"}],
        }
    )
    assert got.id == "42"
    assert got.outputs == ("output0",)
    assert got.binary == frozenset()
    first, second = got.inputs
    assert (first.name, first.datatype, first.data.tolist()) == ("input0", "UINT32", [[1, 2], [3, 4]])
    assert (second.name, second.datatype, second.data.tolist()) == ("input1", "BOOL", [True, False, True])


def test_the_response_example_of_the_protocol() -> None:
    data = [1.0, 1.1, 2.0, 2.1, 3.0, 3.1]
    got = decode_response(
        json.dumps(
            {"id": "42", "outputs": [{"name": "output0", "shape": [3, 2], "datatype": "FP32", "data": data}]}
        ).encode()
    )
    assert got.id == "42"
    assert got.model_name == ""
    assert got.outputs[0].data.tolist() == np.array(data, np.float32).reshape(3, 2).tolist()


def test_the_examples_of_the_binary_extension() -> None:
    # Triton, "Binary tensor data extension", Examples: 16 and 3 bytes of input, 24 of output.
    got = request(
        {
            "model_name": "mymodel",
            "inputs": [
                {"name": "input0", "shape": [2, 2], "datatype": "UINT32", "parameters": {"binary_data_size": 16}},
                {"name": "input1", "shape": [3], "datatype": "BOOL", "parameters": {"binary_data_size": 3}},
            ],
            "outputs": [{"name": "output0", "parameters": {"binary_data": True}}],
        },
        bytes([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 255, 255, 255, 255, 1, 0, 1]),
    )
    assert got.model_name == "mymodel"
    assert got.binary == frozenset({"output0"})
    assert got.inputs[0].data.tolist() == [[1, 2], [3, 2**32 - 1]]
    assert got.inputs[1].data.tolist() == [True, False, True]
    output = Tensor("output0", "FP32", np.zeros((3, 2), np.float32))
    body, header_length = joined(encode_response([output], model_name="mymodel", binary=got.binary))
    assert header_length is not None
    assert len(body) == header_length + 24
    assert json.loads(body[:header_length])["outputs"][0]["parameters"] == {"binary_data_size": 24}


# Round trips


@given(inputs=st.lists(tensors(json=False), max_size=4, unique_by=lambda t: t.name), id_=st.text(max_size=9))
def test_a_binary_request_comes_back(inputs: list[Tensor], id_: str) -> None:
    body, header_length = joined(encode_request(inputs, ["b", "a"], id=id_, parameters={"k": 1, "on": True}))
    got = decode_request(body, header_length)
    assert (got.id, got.outputs, got.binary) == (id_, ("b", "a"), frozenset({"a", "b"}))
    assert got.parameters == {"k": 1, "on": True}
    for one, other in zip(got.inputs, inputs, strict=True):
        assert_same(one, other)


@given(inputs=st.lists(tensors(json=True), max_size=4, unique_by=lambda t: t.name))
def test_a_json_request_comes_back(inputs: list[Tensor]) -> None:
    body, header_length = joined(encode_request(inputs, binary=False))
    got = decode_request(body, header_length)
    assert header_length is None
    assert (got.outputs, got.binary) == ((), False)
    for one, other in zip(got.inputs, inputs, strict=True):
        assert_same(one, other)


@given(data=st.data())
def test_a_response_comes_back_with_each_output_in_the_form_asked_for(data: st.DataObject) -> None:
    outputs = data.draw(st.lists(tensors(json=True), max_size=4, unique_by=lambda t: t.name))
    names = data.draw(st.sets(st.sampled_from([t.name for t in outputs]))) if outputs else set()
    body, header_length = joined(
        encode_response(outputs, model_name="a/b", model_version="3", id="7", parameters={"k": 0.5}, binary=names)
    )
    assert (header_length is None) == (not names)
    described = json.loads(body[:header_length])["outputs"]
    assert {output["name"] for output in described if "data" not in output} == names
    got = decode_response(body, header_length)
    assert (got.model_name, got.model_version, got.id, got.parameters) == ("a/b", "3", "7", {"k": 0.5})
    for one, other in zip(got.outputs, outputs, strict=True):
        assert_same(one, other)


def test_a_request_for_all_outputs_asks_for_them_in_its_own_form() -> None:
    assert request(json.loads(joined(encode_request([X], binary=False))[0])).binary is False
    assert decode_request(*joined(encode_request([X]))).binary is True
    assert decode_request(*joined(encode_request([X], parameters={"binary_data_output": False}))).binary is False


@pytest.mark.parametrize(
    ("default", "own", "expected"),
    [
        (None, None, False),
        (None, True, True),
        (None, False, False),
        (True, None, True),
        (True, False, False),
        (False, True, True),
    ],
)
def test_binary_data_of_an_output_overrides_the_request(default: bool | None, own: bool | None, expected: bool) -> None:
    message: dict[str, Any] = {"inputs": [], "outputs": [{"name": "y"}]}
    if default is not None:
        message["parameters"] = {"binary_data_output": default}
    if own is not None:
        message["outputs"][0]["parameters"] = {"binary_data": own}
    assert request(message).binary == (frozenset({"y"}) if expected else frozenset())


def test_binary_data_is_aligned_and_never_copied() -> None:
    buffers, header_length = encode_request([X, Y])
    assert header_length == len(buffers[0])
    assert header_length % 64 == 0
    assert np.shares_memory(np.frombuffer(buffers[1], np.float32), X.data)
    body = bytearray(b"".join(buffers))
    for view in (body, memoryview(body)):
        got = decode_request(view, header_length)
        assert all(np.shares_memory(t.data, np.frombuffer(body, np.uint8)) for t in got.inputs)


def test_parameters_may_hold_anything_on_a_tensor_and_scalars_on_a_request() -> None:
    given_ = {"content_type": "np", "nested": {"a": [1]}}
    got = request({"inputs": [tensor(parameters=given_)], "parameters": {"a": 1, "b": 1.5, "c": "d", "e": False}})
    assert got.parameters == {"a": 1, "b": 1.5, "c": "d", "e": False}
    assert refusal({"inputs": [], "parameters": {"a": {}}}).code == "input.message"


def test_a_response_may_have_members_of_a_newer_server() -> None:
    body = json.dumps({"outputs": [tensor(stride=4)], "timing": {}}).encode()
    assert decode_response(body).outputs[0].data.tolist() == [1.0]


# Refusals


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"\xff",
        b'{"inputs":[]}x',
        b"\xef\xbb\xbf{}",
        b'{"id":"\xff","inputs":[]}',
        b'{"id":"\\ud800","inputs":[]}',
        b"[" * 100_000,
        b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"inputs":[{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    assert refusal(body).code in {"input.json", "input.message"}


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        "x",
        {},
        {"inputs": None},
        {"inputs": {}},
        {"inputs": [1]},
        {"inputs": [], "output": []},
        {"inputs": [], "outputs": [{"name": "y", "datatype": "FP32"}]},
        {"inputs": [], "outputs": [{"name": 1}]},
        {"inputs": [], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
        {"inputs": [], "id": 1},
        {"inputs": [], "parameters": []},
        {"inputs": [], "parameters": {"binary_data_output": 1}},
        {"inputs": [], "parameters": {"binary_data_output": "true"}},
        {"inputs": [tensor(values=[1])]},
        {"inputs": [tensor(name=1)]},
        {"inputs": [tensor(datatype=None)]},
        {"inputs": [tensor(shape=1)]},
        {"inputs": [tensor(shape=[True])]},
        {"inputs": [tensor(shape=[1.0])]},
        {"inputs": [tensor(shape=["1"])]},
        {"inputs": [binary("4")]},
        {"inputs": [binary(4.0)]},
        {"inputs": [binary(True)]},
    ],
)
def test_json_that_is_another_message_is_refused(message: object) -> None:
    assert refusal(message).code == "input.message"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ([tensor(name="")], "input.name"),
        ([{"datatype": "FP32", "shape": [1], "data": [1]}], "input.name"),
        ([tensor(), tensor()], "input.name"),
        ([tensor(name="a"), tensor(name="b"), tensor(name="a")], "input.name"),
        ([tensor(datatype="")], "input.datatype"),
        ([tensor(datatype="FLOAT")], "input.datatype"),
        ([tensor(shape=None)], "input.shape"),
        ([tensor(shape=[-1])], "input.shape"),
        ([tensor(shape=[2**64, 2**64])], "input.shape"),
        ([tensor(data=[1, 2])], "input.data"),
        ([{"name": "x", "datatype": "FP32", "shape": [1]}], "input.data"),
        ([tensor(parameters={"binary_data_size": 0})], "input.data"),
        ([tensor(data=["1"])], "input.value"),
        ([tensor(data=None)], "input.nan_in_json"),
        ([binary(4)], "input.size"),
        ([binary(-1)], "input.size"),
        ([binary(2**70)], "input.size"),
        ([binary(0)], "input.size"),
        ([binary(None, parameters={"shared_memory_region": "r"})], "input.unsupported"),
    ],
)
def test_a_tensor_that_is_wrong_is_refused(message: list[Any], code: str) -> None:
    assert refusal({"inputs": message}).code == code
    with pytest.raises(InvalidInput) as caught:
        decode_response(json.dumps({"outputs": message}).encode())
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("outputs", "code"),
    [
        ([{}], "input.name"),
        ([{"name": ""}], "input.name"),
        ([{"name": "y"}, {"name": "y"}], "input.name"),
        ([{"name": "y", "parameters": {"classification": 3}}], "input.unsupported"),
        ([{"name": "y", "parameters": {"shared_memory_region": "r"}}], "input.unsupported"),
        ([{"name": str(n)} for n in range(1025)], "input.too_large"),
    ],
)
def test_a_wrong_request_for_outputs_is_refused(outputs: list[Any], code: str) -> None:
    assert refusal({"inputs": [], "outputs": outputs}).code == code


@pytest.mark.parametrize(
    ("message", "payload", "expected"),
    [
        ([binary(4)], bytes(5), "1 bytes are left after the last tensor"),
        ([binary(4)], bytes(3), "binary_data_size is 4, 3 bytes are left in the body"),
        ([binary(4), binary(4, name="y")], bytes(7), "binary_data_size is 4, 3 bytes are left in the body"),
        ([binary(8)], bytes(8), "takes 4 bytes, binary_data_size is 8"),
        ([tensor()], bytes(1), "1 bytes are left after the last tensor"),
        ([], bytes(1), "1 bytes are left after the last tensor"),
    ],
)
def test_binary_data_must_end_with_the_body(message: list[Any], payload: bytes, expected: str) -> None:
    error = refusal({"inputs": message}, payload)
    assert error.code == "input.size"
    assert expected in error.message


@pytest.mark.parametrize("header_length", [-1, 3, 10**30])
def test_a_header_length_outside_the_body_is_refused(header_length: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_request(b"{}", header_length)
    assert caught.value.code == "input.header_length"


@pytest.mark.parametrize("header_length", range(1, 13))
def test_a_header_length_within_the_json_is_refused(header_length: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_request(b'{"inputs":[]}', header_length)
    assert caught.value.code == "input.json"


@pytest.mark.parametrize(("text", "value"), [(None, None), ("0", 0), (b"150", 150), ("0" * 14 + "7", 7)])
def test_the_header_of_the_length_is_read(text: str | bytes | None, value: int | None) -> None:
    assert parse_header_length(text) == value


@pytest.mark.parametrize("text", ["", " 1", "+1", "-1", "1.0", "0x10", "1_0", "٣", b"\xb2", b"1\x00", "9" * 16, "1, 1"])
def test_a_length_that_is_no_number_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_header_length(text)
    assert caught.value.code == "input.header_length"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("data", ["[1,{}]", "[ {}]", "{}"])
def test_nan_and_infinity_in_json_are_refused_and_binary_mode_is_named(number: str, data: str) -> None:
    body = json.dumps({"inputs": [tensor(data="here")]}).replace('"here"', data.format(number)).encode()
    error = refusal(body)
    assert error.code == "input.nan_in_json"
    assert "binary_data_size" in error.hint


def test_nan_cannot_be_sent_or_answered_as_json_but_as_binary() -> None:
    bad = Tensor("x", "FP32", np.array([np.nan], np.float32))
    with pytest.raises(InvalidInput) as caught:
        encode_request([bad], binary=False)
    assert caught.value.code == "input.nan_in_json"
    for binary_ in (False, {"other"}):
        with pytest.raises(InvalidInput) as caught:
            encode_response([bad], model_name="m", binary=binary_)
        assert caught.value.code == "input.nan_in_json"
    assert np.isnan(decode_request(*joined(encode_request([bad]))).inputs[0].data).all()


def test_limits_hold() -> None:
    body, header_length = joined(encode_request([X, Y]))
    assert header_length is not None
    decode_request(body, header_length, limits=Limits(json_bytes=header_length, tensors=2))
    for limits in (Limits(json_bytes=header_length - 1), Limits(tensors=1)):
        with pytest.raises(InvalidInput) as caught:
            decode_request(body, header_length, limits=limits)
        assert caught.value.code == "input.too_large"


# Any bytes


@given(body=st.binary(max_size=200), header_length=st.none() | st.integers(-1, 220))
@example(body=b"{}", header_length=0)
def test_no_bytes_do_more_than_refuse(body: bytes, header_length: int | None) -> None:
    for decode in (decode_request, decode_response):
        with suppress(InvalidInput):
            decode(body, header_length)


# tritonclient, the reference client, in both directions

_JSON_FOR_TRITON = sorted(set(DATATYPES) - {"BF16"})  # its HTTP client refuses BF16 in JSON


def _for_triton(tensor_: Tensor) -> np.ndarray[Any, Any]:
    return tensor_.data.view(triton_to_np_dtype("BF16")) if tensor_.datatype == "BF16" else tensor_.data


def _from_triton(name: str, datatype: str, array: np.ndarray[Any, Any]) -> Tensor:
    if datatype == "BYTES":
        data = np.empty(array.size, object)
        data[:] = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
        return Tensor(name, datatype, data.reshape(array.shape))
    return Tensor(name, datatype, array.view(DATATYPES[datatype].dtype))


def _triton_request(given_: Tensor, *, binary_data: bool, outputs: list[Any] | None) -> InferRequest:
    sent = triton.InferInput(given_.name, list(given_.shape), given_.datatype)
    sent.set_data_from_numpy(_for_triton(given_), binary_data=binary_data)
    body, header_length = triton.InferenceServerClient.generate_request_body([sent], outputs=outputs, request_id="q")
    return decode_request(body, header_length)


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@settings(max_examples=30)
@given(data=st.data())
def test_tritons_binary_requests_are_read(datatype: str, data: st.DataObject) -> None:
    sent = data.draw(tensors(json=False, datatype=datatype))
    got = _triton_request(sent, binary_data=True, outputs=None)
    assert (got.id, got.outputs, got.binary) == ("q", (), True)
    assert_same(got.inputs[0], sent)


@pytest.mark.parametrize("datatype", _JSON_FOR_TRITON)
@settings(max_examples=30)
@given(data=st.data())
def test_tritons_json_requests_are_read(datatype: str, data: st.DataObject) -> None:
    sent = data.draw(tensors(json=True, datatype=datatype))
    outputs = [triton.InferRequestedOutput("b", binary_data=True), triton.InferRequestedOutput("j", binary_data=False)]
    got = _triton_request(sent, binary_data=False, outputs=outputs)
    assert (got.outputs, got.binary) == (("b", "j"), frozenset({"b"}))
    assert_same(got.inputs[0], sent)


def test_tritons_nan_in_json_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        _triton_request(Tensor("x", "FP32", np.array([np.nan], np.float32)), binary_data=False, outputs=None)
    assert caught.value.code == "input.nan_in_json"


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@settings(max_examples=30)
@given(data=st.data())
def test_triton_reads_binary_responses(datatype: str, data: st.DataObject) -> None:
    outputs = data.draw(st.lists(tensors(json=False, datatype=datatype), max_size=3, unique_by=lambda t: t.name))
    body, header_length = joined(encode_response(outputs, model_name="m", binary=True))
    result = triton.InferenceServerClient.parse_response_body(body, header_length=header_length)
    for sent in outputs:
        assert_same(_from_triton(sent.name, datatype, result.as_numpy(sent.name)), sent)


@pytest.mark.parametrize("datatype", _JSON_FOR_TRITON)
@settings(max_examples=30)
@given(data=st.data())
def test_triton_reads_json_responses(datatype: str, data: st.DataObject) -> None:
    sent = data.draw(tensors(json=True, datatype=datatype))
    body, header_length = joined(encode_response([sent], model_name="m", binary=False))
    result = triton.InferenceServerClient.parse_response_body(body, header_length=header_length)
    assert_same(_from_triton(sent.name, datatype, result.as_numpy(sent.name)), sent)


def test_importing_the_codec_loads_no_onnx() -> None:
    program = (
        "import sys, blindai.wire.v2; print({'onnx', 'onnxruntime', 'ml_dtypes', 'starlette'} & sys.modules.keys())"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
    )
