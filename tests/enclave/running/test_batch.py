from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.enclave.running.batch import cut, rows_of, stack
from blindai.errors import InvalidModel
from blindai.wire.tensor import Tensor


def tensors(**arrays: Any) -> dict[str, Tensor]:
    return {name: Tensor.from_array(name, np.asarray(array)) for name, array in arrays.items()}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=16))
def test_what_is_stacked_is_cut_into_the_same_pieces(rows: list[int]) -> None:
    generator = np.random.default_rng(len(rows))
    requests = [
        tensors(x=generator.random((count, 3), np.float32), text=np.array([b"%d" % count] * count, dtype=object))
        for count in rows
    ]
    assert [rows_of(request) for request in requests] == rows
    stacked = stack(requests)
    assert rows_of(stacked) == sum(rows)
    for request, answer in zip(requests, cut(list(stacked.values()), rows), strict=True):
        assert [tensor.name for tensor in answer] == ["x", "text"]
        for tensor in answer:
            assert tensor.datatype == request[tensor.name].datatype
            assert np.array_equal(tensor.data, request[tensor.name].data)


def test_one_request_is_not_copied() -> None:
    request = tensors(x=np.zeros((2, 2), np.float32))
    assert stack([request]) is request


@pytest.mark.parametrize(
    "arrays", [{}, {"x": 1.0}, {"x": [1.0], "y": 1.0}, {"x": [1.0], "y": [1.0, 2.0]}, {"x": np.zeros((0, 4))}]
)
def test_inputs_that_have_no_rows(arrays: dict[str, Any]) -> None:
    assert rows_of(tensors(**arrays)) == 0


@pytest.mark.parametrize("shape", [(), (4,), (6,), (1, 5), (0,)])
def test_an_output_without_the_rows_of_its_batch(shape: tuple[int, ...]) -> None:
    good, bad = np.zeros((5, 2), np.float32), np.zeros(shape, np.float32)
    with pytest.raises(InvalidModel) as caught:
        cut(list(tensors(good=good, bad=bad).values()), [2, 3])
    assert caught.value.code == "model.batch"


def test_a_single_request_may_answer_in_any_shape() -> None:
    outputs = list(tensors(y=np.zeros((), np.float32)).values())
    assert cut(outputs, [3]) == [outputs]
