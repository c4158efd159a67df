from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindai.errors import InvalidInput
from blindai.wire.datatype import DATATYPES
from blindai.wire.tensor import (
    MAX_ELEMENTS,
    MAX_QUOTED,
    MAX_RANK,
    Tensor,
    element_count,
    from_binary,
    from_json,
    quoted,
    to_binary,
    to_json,
)
from tensor_strategies import assert_same, tensors


def values(data: list[Any], datatype: str = "FP32") -> Tensor:
    return Tensor("x", datatype, np.array(data, DATATYPES[datatype].dtype))


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@settings(max_examples=30)
@given(data=st.data())
def test_binary_form_comes_back_bit_for_bit(datatype: str, data: st.DataObject) -> None:
    tensor = data.draw(tensors(json=False, datatype=datatype))
    assert_same(from_binary(tensor.name, datatype, tensor.shape, to_binary(tensor)), tensor)


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@settings(max_examples=30)
@given(data=st.data())
def test_json_form_comes_back_bit_for_bit(datatype: str, data: st.DataObject) -> None:
    tensor = data.draw(tensors(json=True, datatype=datatype))
    assert_same(from_json(tensor.name, datatype, tensor.shape, memoryview(to_json(tensor))), tensor)


def test_binary_forms_share_memory_with_the_array_and_the_body() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    payload = to_binary(Tensor("x", "FP32", array))
    assert np.shares_memory(np.frombuffer(payload, np.float32), array)
    body = bytearray(payload)
    assert np.shares_memory(from_binary("x", "FP32", (2, 3), body).data, np.frombuffer(body, np.uint8))


def test_an_array_that_is_not_contiguous_is_sent_row_by_row() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    assert bytes(to_binary(Tensor("x", "INT32", array))) == np.array([0, 3, 1, 4, 2, 5], "<i4").tobytes()
    assert bytes(to_json(Tensor("x", "INT32", array))) == b"[0,3,1,4,2,5]"


@pytest.mark.parametrize(
    ("array", "datatype", "expected"),
    [
        (np.array([1, 2], ">i4"), "INT32", [1, 2]),
        (np.array([True]), "BOOL", [True]),
        (np.array(["é", ""]), "BYTES", ["é".encode(), b""]),
        (np.array([b"a", "b"], object), "BYTES", [b"a", b"b"]),
        (np.array([b"ab", b"c"]), "BYTES", [b"ab", b"c"]),
        (np.array([1.5], ml_dtypes.bfloat16), "BF16", [0x3FC0]),
        (np.array(2.5, np.float16), "FP16", 2.5),
    ],
)
def test_an_array_decides_its_datatype(array: np.ndarray[Any, Any], datatype: str, expected: Any) -> None:
    tensor = Tensor.from_array("x", array)
    assert tensor.datatype == datatype
    assert tensor.shape == array.shape
    assert tensor.data.dtype == DATATYPES[datatype].dtype
    assert tensor.data.tolist() == expected


def test_numbers_are_wrapped_without_a_copy() -> None:
    array = np.zeros(3, np.int64)
    assert Tensor.from_array("x", array).data is array


@pytest.mark.parametrize("array", [np.array([1j]), np.array(["2026-01-01"], "M8[D]"), np.array([1], object)])
def test_an_array_without_a_datatype_is_refused(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        Tensor.from_array("x", array)
    assert refusal.value.code == "input.datatype"


@pytest.mark.parametrize(
    ("shape", "count"),
    [((), 1), ((3,), 3), ((2, 0, 5), 0), ((1,) * MAX_RANK, 1), ((MAX_ELEMENTS,), MAX_ELEMENTS)],
)
def test_elements_of_a_shape(shape: tuple[int, ...], count: int) -> None:
    assert element_count("x", shape) == count


@pytest.mark.parametrize(
    "shape", [(-1,), (2, -3), (0, -1), (1,) * (MAX_RANK + 1), (MAX_ELEMENTS, 2), (0, 2**62), (10**4000,), (2**31,) * 3]
)
def test_an_impossible_shape_is_refused_before_anything_is_allocated(shape: tuple[int, ...]) -> None:
    for decode in (from_binary, from_json):
        with pytest.raises(InvalidInput) as refusal:
            decode("x", "FP32", shape, b"[]")
        assert refusal.value.code == "input.shape"
        assert len(refusal.value.message) < 300


@pytest.mark.parametrize("datatype", ["", "FP8", "fp32", "FLOAT", "INT4", "x" * 10_000])
def test_an_unknown_datatype_is_refused(datatype: str) -> None:
    array = np.zeros(1, np.float32)
    for attempt in (
        lambda: from_binary("x", datatype, (1,), bytes(4)),
        lambda: from_json("x", datatype, (1,), b"[1]"),
        lambda: to_binary(Tensor("x", datatype, array)),
        lambda: to_json(Tensor("x", datatype, array)),
    ):
        with pytest.raises(InvalidInput) as refusal:
            attempt()
        assert refusal.value.code == "input.datatype"
        assert len(refusal.value.message) < 400


@pytest.mark.parametrize("size", [0, 3, 4, 7, 9, 16])
def test_binary_data_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidInput) as refusal:
        from_binary("x", "FP32", (2, 1), bytes(size))
    assert refusal.value.code == "input.size"
    assert refusal.value.message == f"tensor 'x': FP32 of shape [2, 1] takes 8 bytes, binary_data_size is {size}"


@pytest.mark.parametrize("byte", [2, 255])
def test_a_bool_byte_that_is_neither_0_nor_1_is_refused(byte: int) -> None:
    with pytest.raises(InvalidInput) as refusal:
        from_binary("x", "BOOL", (2,), bytes([1, byte]))
    assert refusal.value.code == "input.value"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00\x00\x00",
        b"\x01\x00\x00\x00a",
        b"\x01\x00\x00\x00a\x00\x00\x00",
        b"\x01\x00\x00\x00a\x02\x00\x00\x00b",
        b"\x00\x00\x00\x00\xff\xff\xff\xff",
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x05\x00\x00\x00abcde\x00\x00",
    ],
)
def test_damaged_length_prefixes_are_refused(payload: bytes) -> None:
    with pytest.raises(InvalidInput) as refusal:
        from_binary("x", "BYTES", (2,), payload)
    assert refusal.value.code == "input.size"


def test_many_claimed_strings_in_few_bytes_are_refused_before_anything_is_allocated() -> None:
    with pytest.raises(InvalidInput) as refusal:
        from_binary("x", "BYTES", (2**40,), bytes(8))
    assert refusal.value.code == "input.size"


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "expected"),
    [
        ("INT8", (2, 2), b"[1,2,3,4]", [[1, 2], [3, 4]]),
        ("INT8", (2, 2), b" [ [1, 2], [3, 4] ] ", [[1, 2], [3, 4]]),
        ("INT8", (2, 1, 1), b"[[[1]],[[2]]]", [[[1]], [[2]]]),
        ("FP32", (), b"3", 3.0),
        ("FP32", (), b"[3]", 3.0),
        ("FP32", (2,), b"[1, 2.5]", [1.0, 2.5]),
        ("FP64", (1,), b"[123456789012345678]", [1.2345678901234568e17]),
        ("FP16", (1,), b"[65504]", [65504.0]),
        ("BF16", (2,), b"[1.5, -0.0]", [0x3FC0, 0x8000]),
        ("UINT64", (1,), b"[18446744073709551615]", [2**64 - 1]),
        ("INT64", (1,), b"[-9223372036854775808]", [-(2**63)]),
        ("BOOL", (2,), b"[true,false]", [True, False]),
        ("BYTES", (2, 1), b'[["a"],["\\u00e9"]]', [[b"a"], ["é".encode()]]),
        ("FP32", (0, 3), b"[]", []),
        ("FP32", (2, 0), b"[]", [[], []]),
        ("FP32", (2, 0), b"[[],[]]", [[], []]),
    ],
)
def test_json_data_is_read(datatype: str, shape: tuple[int, ...], raw: bytes, expected: Any) -> None:
    tensor = from_json("x", datatype, shape, raw)
    assert tensor.shape == shape
    assert tensor.data.dtype == DATATYPES[datatype].dtype
    assert tensor.data.tolist() == expected


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "code"),
    [
        ("INT64", (1,), b"[1.5]", "input.value"),
        ("INT64", (1,), b"[1.0]", "input.value"),
        ("INT64", (1,), b"[true]", "input.value"),
        ("INT64", (1,), b'["1"]', "input.value"),
        ("INT64", (1,), b"[null]", "input.value"),
        ("INT64", (1,), b"[9223372036854775808]", "input.value"),
        ("INT8", (1,), b"[128]", "input.value"),
        ("UINT8", (1,), b"[-1]", "input.value"),
        ("UINT64", (1,), b"[18446744073709551616]", "input.value"),
        ("UINT64", (1,), b"[" + b"9" * 5000 + b"]", "input.value"),
        ("BOOL", (1,), b"[1]", "input.value"),
        ("BOOL", (1,), b'["true"]', "input.value"),
        ("FP32", (1,), b"[true]", "input.value"),
        ("FP32", (1,), b'["1"]', "input.value"),
        ("FP32", (1,), b"[1e39]", "input.value"),
        ("FP32", (1,), b"[1e400]", "input.value"),
        ("FP16", (2,), b"[1, 65520]", "input.value"),
        ("BF16", (1,), b"[3.4e38]", "input.value"),
        ("FP64", (1,), b"[" + b"9" * 400 + b"]", "input.value"),
        ("BYTES", (1,), b"[1]", "input.value"),
        ("BYTES", (1,), b"[null]", "input.value"),
        ("BYTES", (1,), b'["\xff"]', "input.value"),
        ("BYTES", (1,), b'["\\ud800"]', "input.value"),
        ("FP32", (1,), b"1", "input.value"),
        ("FP32", (1,), b"[[1]]", "input.value"),
        ("FP32", (2, 2), b"[[[1,2],[3,4]]]", "input.value"),
        ("FP32", (2, 2), b"[[1,2],3]", "input.value"),
        ("FP32", (1,), b"{}", "input.value"),
        ("FP32", (1,), b"", "input.value"),
        ("FP32", (1,), b"[null]", "input.nan_in_json"),
        ("FP32", (2,), b"[1, null ]", "input.nan_in_json"),
        ("FP32", (), b"null", "input.nan_in_json"),
        ("FP32", (2,), b"[1]", "input.data"),
        ("FP32", (2,), b"[1,2,3]", "input.data"),
        ("FP32", (), b"[1,2]", "input.data"),
        ("FP32", (2, 2), b"[1,2,3]", "input.data"),
        ("FP32", (2, 2), b"[[1,2],[3]]", "input.data"),
        ("FP32", (2, 2), b"[[1,2],[3,4],[5,6]]", "input.data"),
        ("FP32", (2, 2), b"[[1,2,3,4]]", "input.data"),
        ("FP32", (0,), b"[1]", "input.data"),
    ],
)
def test_json_data_that_does_not_fit_is_refused(datatype: str, shape: tuple[int, ...], raw: bytes, code: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        from_json("x", datatype, shape, raw)
    assert refusal.value.code == code
    assert refusal.value.message.startswith("tensor 'x'")
    assert len(refusal.value.message) < 300


@pytest.mark.parametrize(
    ("datatype", "value"), [("FP32", np.nan), ("FP64", np.inf), ("FP16", -np.inf), ("BF16", 0x7FC0), ("BF16", 0xFF80)]
)
def test_nan_and_infinity_cannot_leave_as_json(datatype: str, value: float) -> None:
    with pytest.raises(InvalidInput) as refusal:
        to_json(values([0, value], datatype))
    assert refusal.value.code == "input.nan_in_json"
    assert "binary" in refusal.value.hint


def test_bytes_that_are_no_text_cannot_leave_as_json() -> None:
    with pytest.raises(InvalidInput) as refusal:
        to_json(values([b"\xff"], "BYTES"))
    assert refusal.value.code == "input.bytes_in_json"
    assert "binary" in refusal.value.hint


@pytest.mark.parametrize("encode", [to_binary, to_json])
def test_an_array_that_is_not_of_its_datatype_is_refused(encode: Any) -> None:
    with pytest.raises(InvalidInput) as refusal:
        encode(Tensor("x", "FP32", np.zeros(1, np.float64)))
    assert refusal.value.code == "input.datatype"
    with pytest.raises(InvalidInput) as refusal:
        encode(Tensor("x", "BYTES", np.array(["text"], object)))
    assert refusal.value.code == "input.value"


def test_a_name_in_an_error_is_escaped_and_shortened() -> None:
    assert quoted("a\n\x1b[31m'") == '"a\\n\\x1b[31m\'"'
    assert len(quoted("x" * 10_000)) < MAX_QUOTED + 10
