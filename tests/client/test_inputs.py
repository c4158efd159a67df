from __future__ import annotations

from collections import UserDict
from typing import Any

import numpy as np
import pytest

from blindai.client.inputs import to_tensors
from blindai.errors import InvalidInput
from blindai.wire.metadata import TensorMetadata
from blindai.wire.tensor import Tensor

FEATURES = TensorMetadata("features", "FP32", (-1, 30))
IDS = TensorMetadata("input_ids", "INT64", (-1, -1))
MASK = TensorMetadata("attention_mask", "INT64", (-1, -1))


def refusal(inputs: object, *declared: TensorMetadata) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        to_tensors(inputs, declared)
    return caught.value


def only(inputs: object, declared: TensorMetadata) -> Tensor:
    (tensor,) = to_tensors(inputs, [declared])
    return tensor


def test_array_for_a_model_with_one_input() -> None:
    batch = np.ones((4, 30), np.float32)
    tensor = only(batch, FEATURES)
    assert (tensor.name, tensor.datatype, tensor.shape) == ("features", "FP32", (4, 30))
    assert np.shares_memory(tensor.data, batch)


def test_list_for_a_model_with_one_input_is_one_tensor() -> None:
    tensor = only([[1] * 30, [2.5] * 30], FEATURES)
    assert (tensor.datatype, tensor.shape) == ("FP32", (2, 30))
    assert only([np.zeros(30, np.float32), np.ones(30, np.float32)], FEATURES).shape == (2, 30)


def test_list_of_one_whole_array_is_the_values_in_order() -> None:
    batch = np.ones((4, 30), np.float32)
    assert np.shares_memory(only([batch], FEATURES).data, batch)
    # With one dimension less it is a batch of one.
    assert only([batch[0]], FEATURES).shape == (1, 30)


@pytest.mark.parametrize("pair", [list, tuple])
def test_values_in_order_for_a_model_with_several_inputs(pair: Any) -> None:
    ids, mask = to_tensors(pair(([[5, 6]], np.ones((1, 2), np.int64))), [IDS, MASK])
    assert (ids.name, ids.data.tolist()) == ("input_ids", [[5, 6]])
    assert (mask.name, mask.data.tolist()) == ("attention_mask", [[1, 1]])


@pytest.mark.parametrize("mapping", [dict, UserDict])
def test_values_by_name_are_sent_in_the_models_order(mapping: Any) -> None:
    tensors = to_tensors(mapping({"attention_mask": [[1]], "input_ids": [[7]]}), [IDS, MASK])
    assert [(tensor.name, tensor.data.tolist()) for tensor in tensors] == [
        ("input_ids", [[7]]),
        ("attention_mask", [[1]]),
    ]


def test_unknown_name_is_refused_with_the_models_inputs() -> None:
    error = refusal({"ids": [[1]], "attention_mask": [[1]]}, IDS, MASK)
    assert error.code == "input.name"
    assert "'ids'" in error.message
    assert error.hint == "the model takes 'input_ids' INT64 [-1, -1], 'attention_mask' INT64 [-1, -1]"


def test_name_that_is_no_text_is_refused() -> None:
    assert refusal({1: [[1]]}, IDS).code == "input.name"
    with pytest.raises(InvalidInput) as caught:
        to_tensors({1: [1]})
    assert caught.value.code == "input.name"


def test_missing_name_is_refused_with_the_models_inputs() -> None:
    error = refusal({"input_ids": [[1]]}, IDS, MASK)
    assert error.code == "input.missing"
    assert "'attention_mask'" in error.message
    assert "'input_ids' INT64 [-1, -1]" in error.hint


@pytest.mark.parametrize("inputs", [np.zeros((2, 2), np.int64), 1, [[1]], ([1], [2], [3]), []])
def test_wrong_number_of_values_is_refused(inputs: object) -> None:
    error = refusal(inputs, IDS, MASK)
    assert error.code == "input.missing"
    assert "takes 2 inputs" in error.message
    assert "'input_ids'" in error.hint


@pytest.mark.parametrize("shape", [(30,), (2, 29), (1, 2, 30), ()])
def test_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    error = refusal(np.zeros(shape, np.float32), FEATURES)
    assert error.code == "input.shape"
    assert error.message == f"input 'features': the model takes shape [-1, 30] (-1: any), got {list(shape)}"


@pytest.mark.parametrize("batch", [-1, 1])
def test_missing_batch_dimension_is_pointed_out(batch: int) -> None:
    declared = TensorMetadata("x", "FP32", (batch, 3, 4))
    assert "x[None]" in refusal(np.zeros((3, 4), np.float32), declared).hint
    assert refusal(np.zeros((4, 3), np.float32), declared).hint == ""
    assert refusal(np.zeros((3, 4), np.float32), TensorMetadata("x", "FP32", (2, 3, 4))).hint == ""


def test_shape_that_the_engine_does_not_know_is_not_checked() -> None:
    unknown = TensorMetadata("x", "FP32", ())
    assert only(1.0, unknown).shape == ()
    assert only([[1.0]], unknown).shape == (1, 1)
    assert only([np.zeros(2, np.float32)], unknown).shape == (1, 2)


def test_refusal_of_a_value_names_its_input() -> None:
    error = refusal(np.zeros((1, 30), np.int64), FEATURES)
    assert error.code == "input.datatype"
    assert error.message.startswith("input 'features': the model takes FP32")
    assert "x.astype(np.float32)" in error.hint
    assert refusal(None, FEATURES).code == "input.unsupported_type"
    assert refusal([[1] * 30, [1]], FEATURES).code == "input.shape"
    assert refusal([[2**24 + 1] + [0] * 29], FEATURES).code == "input.value"


def test_long_names_are_shortened_in_errors() -> None:
    assert len(refusal({"x" * 10_000: 1}, IDS).message) < 10_100  # an unknown name is the caller's own
    declared = TensorMetadata("x" * 10_000, "FP32", (-1,))
    assert len(refusal(None, declared).message) < 300


def test_datatype_of_a_newer_server_is_left_to_it() -> None:
    assert only([1], TensorMetadata("x", "FP8", (-1,))).datatype == "INT64"


def test_without_metadata_only_named_values_are_taken() -> None:
    (tensor,) = to_tensors({"x": [1.5]})
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", "FP32", (1,))
    with pytest.raises(InvalidInput) as caught:
        to_tensors([1.5])
    assert caught.value.code == "input.name"


def test_model_without_inputs() -> None:
    assert to_tensors({}, []) == []
    assert to_tensors([], []) == []
    assert refusal([1]).code == "input.missing"
