from __future__ import annotations

import numpy as np
import pytest

from blindai.enclave.engine import Signature, TensorSpec
from blindai.errors import InvalidInput
from blindai.wire.metadata import TensorMetadata
from blindai.wire.tensor import Tensor

SPEC = TensorSpec("x", "FP32", (-1, 3))
ANY_RANK = TensorSpec("r", "FP32", (-1,), ranked=False, required=False)
SIGNATURE = Signature([SPEC, ANY_RANK], [TensorSpec("y", "FP32", (3,)), TensorSpec("z", "FP32", ())])


def zeros(name: str, *shape: int) -> Tensor:
    return Tensor(name, "FP32", np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (9, 3)])
def test_a_variable_dimension_takes_any_size(shape: tuple[int, ...]) -> None:
    SIGNATURE.check_inputs({"x": zeros("x", *shape)})


@pytest.mark.parametrize("shape", [(), (3,), (1, 2), (3, 1), (1, 3, 1), (1, 0)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        SIGNATURE.check_inputs({"x": zeros("x", *shape)})
    assert refusal.value.code == "input.shape"
    assert refusal.value.message == f"input 'x': expected shape [-1, 3], got {list(shape)}"
    assert "-1" in refusal.value.hint


def test_a_fixed_shape_needs_no_word_on_variable_sizes() -> None:
    with pytest.raises(InvalidInput) as refusal:
        TensorSpec("x", "FP32", (2,)).refuse_other(zeros("x", 3))
    assert refusal.value.code == "input.shape"
    assert refusal.value.hint == ""


@pytest.mark.parametrize("shape", [(), (2,), (1, 2, 3)])
def test_an_input_of_unknown_rank_takes_any_shape(shape: tuple[int, ...]) -> None:
    SIGNATURE.check_inputs({"x": zeros("x", 1, 3), "r": zeros("r", *shape)})


def test_another_datatype_is_refused() -> None:
    with pytest.raises(InvalidInput) as refusal:
        SIGNATURE.check_inputs({"x": Tensor("x", "FP64", np.zeros((1, 3)))})
    assert refusal.value.code == "input.datatype"
    assert refusal.value.message == "input 'x': expected FP32, got FP64"


def test_an_unknown_input_is_refused() -> None:
    with pytest.raises(InvalidInput) as refusal:
        SIGNATURE.check_inputs({"X": zeros("X", 1, 3)})
    assert refusal.value.code == "input.name"
    assert refusal.value.message == "the model has no input 'X', it has 'x', 'r'"


def test_a_missing_input_is_refused_unless_it_is_optional() -> None:
    SIGNATURE.check_inputs({"x": zeros("x", 1, 3)})
    with pytest.raises(InvalidInput) as refusal:
        SIGNATURE.check_inputs({"r": zeros("r", 1)})
    assert refusal.value.code == "input.missing"
    assert refusal.value.message == "input 'x' FP32 [-1, 3] is missing"


def test_outputs_are_selected_in_the_order_asked_for() -> None:
    assert SIGNATURE.select_outputs(()) == ["y", "z"]
    assert SIGNATURE.select_outputs(("z", "y")) == ["z", "y"]
    assert SIGNATURE.output("z").shape == ()


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(InvalidInput) as refusal:
        SIGNATURE.select_outputs(("y", "q"))
    assert refusal.value.code == "input.name"
    assert refusal.value.message == "the model has no output 'q', it has 'y', 'z'"


def test_an_error_lists_a_few_of_many_names() -> None:
    wide = Signature((TensorSpec(f"column{n}", "FP32", ()) for n in range(500)), ())
    for attempt in (lambda: wide.check_inputs({"q": zeros("q")}), lambda: wide.select_outputs(("q",))):
        with pytest.raises(InvalidInput) as refusal:
            attempt()
        assert refusal.value.code == "input.name"
        assert len(refusal.value.message) < 400
    assert refusal.value.message.endswith("it has none")


def test_a_spec_describes_itself_to_clients() -> None:
    assert SPEC.metadata == TensorMetadata("x", "FP32", (-1, 3))
