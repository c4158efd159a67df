from __future__ import annotations

import importlib.abc
import sys
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from blindai.client.prediction import Output, Prediction
from blindai.errors import BlindAIError, ConfigurationError
from blindai.wire.datatype import DATATYPES
from blindai.wire.tensor import Tensor
from blindai.wire.v2 import InferResponse


def output(datatype: str, data: np.ndarray[Any, Any]) -> Output:
    return Output(Tensor("y", datatype, data))


@pytest.fixture
def prediction() -> Prediction:
    outputs = (
        Tensor("label", "INT64", np.array([1, 0])),
        Tensor("probabilities", "FP32", np.array([[0.25, 0.75], [1.0, 0.0]], np.float32)),
    )
    return Prediction(InferResponse(outputs, model_name="acme/cancer", model_version="3"))


def test_outputs_are_reached_by_position_and_by_name(prediction: Prediction) -> None:
    assert [one.name for one in prediction] == ["label", "probabilities"]
    assert len(prediction) == 2
    assert prediction.output[0] is prediction["label"]
    assert prediction["probabilities"].as_flat() == [0.25, 0.75, 1.0, 0.0]
    with pytest.raises(KeyError, match="there are 'label', 'probabilities'"):
        prediction["logits"]


def test_prediction_says_which_model_answered(prediction: Prediction) -> None:
    assert (prediction.model, prediction.version, prediction.attestation) == ("acme/cancer", "3", None)


def test_what_is_printed_holds_no_value(prediction: Prediction) -> None:
    assert repr(prediction) == "Prediction(acme/cancer version 3: 'label' INT64 [2], 'probabilities' FP32 [2, 2])"
    assert repr(prediction.output[1]) == "Output('probabilities' FP32 [2, 2])"
    assert repr(Prediction(InferResponse(()))) == "Prediction(: )"


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in {"BF16", "BYTES"}])
def test_numbers_keep_their_datatype_and_memory(datatype: str) -> None:
    data = np.array([[0, 1], [1, 1]], DATATYPES[datatype].dtype)
    one = output(datatype, data)
    assert one.as_numpy() is data
    assert (one.dtype, one.shape, one.datatype) == (data.dtype, (2, 2), datatype)
    assert one.as_flat() == data.ravel().tolist()


def test_flat_values_are_pythons_own() -> None:
    assert {type(value) for value in output("FP16", np.ones(2, np.float16)).as_flat()} == {float}
    assert {type(value) for value in output("UINT64", np.ones(2, np.uint64)).as_flat()} == {int}
    assert output("BOOL", np.array([True])).as_flat() == [True]
    assert output("FP32", np.array(2.5, np.float32)).as_flat() == [2.5]


def test_bfloat16_keeps_its_type() -> None:
    bits = np.array([[1.0, -0.5]], ml_dtypes.bfloat16).view(np.uint16)
    one = output("BF16", bits)
    assert one.as_numpy().dtype == one.dtype == np.dtype(ml_dtypes.bfloat16)
    assert np.shares_memory(one.as_numpy(), bits)
    assert one.as_flat() == [1.0, -0.5]


def test_bytes_are_bytes() -> None:
    data = np.array([b"a", b"\0\xff"], dtype=object)
    one = output("BYTES", data)
    assert one.dtype == np.dtype(object)
    assert one.as_flat() == [b"a", b"\0\xff"]


def test_unaligned_read_only_answer_can_be_read() -> None:
    received = np.frombuffer(b"x" + np.array([1.5, 2.5], "<f4").tobytes(), np.uint8)[1:]
    data = received.view("<f4")
    one = output("FP32", data)
    assert not one.as_numpy().flags.writeable
    assert one.as_flat() == [1.5, 2.5]


def test_numpy_functions_take_an_output() -> None:
    one = output("FP32", np.array([1.0, 3.0], np.float32))
    assert np.mean(one) == 2.0
    assert np.asarray(one) is one.as_numpy()
    assert np.asarray(one, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(one), one.as_numpy())


def test_without_torch_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(ConfigurationError) as caught:
        output("FP32", np.zeros(1, np.float32)).as_torch()
    assert caught.value.code == "configuration.torch"
    assert "as_numpy()" in caught.value.hint


class BrokenFinder(importlib.abc.MetaPathFinder):
    """PyTorch is there, but something it needs is not."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "torch":
            raise ModuleNotFoundError("No module named 'filelock'", name="filelock")


def test_broken_torch_speaks_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [BrokenFinder(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="filelock"):
        output("FP32", np.zeros(1, np.float32)).as_torch()


def from_numpy(data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As much of PyTorch as is used; tests/client/test_torch.py meets the real one where it is installed."""
    if data.dtype == object:
        raise TypeError("can't convert np.ndarray of type numpy.object_")
    assert data.flags.writeable
    assert data.flags.aligned
    return data


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(from_numpy=from_numpy, bfloat16=ml_dtypes.bfloat16)
    monkeypatch.setitem(sys.modules, "torch", module)


@pytest.mark.usefixtures("torch")
def test_torch_gets_memory_that_it_may_write() -> None:
    data = np.array([1.5], np.float32)
    assert output("FP32", data).as_torch() is data
    data.flags.writeable = False
    copied = output("FP32", data).as_torch()
    assert copied.tolist() == [1.5]
    assert output("BF16", np.array([0x3FC0], np.uint16)).as_torch().tolist() == [1.5]


@pytest.mark.usefixtures("torch")
def test_what_torch_does_not_have_is_refused() -> None:
    with pytest.raises(BlindAIError) as caught:
        output("BYTES", np.array([b"a"], dtype=object)).as_torch()
    assert caught.value.code == "output.datatype"
    assert "as_numpy()" in caught.value.hint
