"""Against the real PyTorch. It is no dependency, so these tests run where someone installed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blindai.client.arrays import read
from blindai.client.inputs import to_tensors
from blindai.client.model_file import ModelBody
from blindai.client.prediction import Output
from blindai.errors import BlindAIError, InvalidInput
from blindai.wire.datatype import DATATYPES
from blindai.wire.metadata import TensorMetadata
from blindai.wire.tensor import Tensor

torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ModuleNotFoundError)

NAMES = {
    "BOOL": "bool",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "FP16": "float16",
    "BF16": "bfloat16",
    "FP32": "float32",
    "FP64": "float64",
}


def refusal(given: object, datatype: str | None = None) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        read(given).values(datatype)
    return caught.value


@pytest.mark.parametrize("datatype", NAMES)
def test_every_datatype_goes_there_and_back(datatype: str) -> None:
    given = torch.tensor([[0, 1], [1, 1]]).to(getattr(torch, NAMES[datatype]))
    got, data = read(given).values()
    assert got == datatype
    assert data.dtype == DATATYPES[datatype].dtype
    assert data.ctypes.data == given.data_ptr()
    back = Output(Tensor("y", datatype, data)).as_torch()
    assert back.dtype is given.dtype
    assert torch.equal(back, given)


def test_tensor_of_a_network_is_detached() -> None:
    given = torch.nn.Parameter(torch.ones(2, 2)) * 2
    assert given.requires_grad
    assert read(given).values()[1].tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_views_are_made_contiguous() -> None:
    given = torch.arange(6).reshape(2, 3).T
    data = read(given).values()[1]
    assert data.flags.c_contiguous
    assert data.tolist() == given.tolist()
    negative = torch.tensor([1 + 2j]).conj().imag  # a view that is negated when read
    assert negative.is_neg()
    assert read(negative).values()[1].tolist() == [-2.0]


def test_scalar_tensors() -> None:
    assert read(torch.tensor(1.5)).values()[1].shape == ()
    assert read(torch.tensor(1.5, dtype=torch.bfloat16)).values()[1].shape == ()


def test_list_of_tensors_is_stacked() -> None:
    assert read([torch.ones(3), torch.zeros(3)]).values()[1].tolist() == [[1.0] * 3, [0.0] * 3]
    assert read([torch.tensor(1.0), torch.tensor(2.0)]).values()[1].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "given",
    [
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, device="meta"),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2).to(torch.float8_e4m3fn),
    ],
    ids=["complex", "meta", "sparse", "float8"],
)
def test_tensors_that_cannot_be_sent_are_refused(given: Any) -> None:
    assert refusal(given).code == "input.unsupported_type"


@pytest.mark.parametrize(
    ("given", "datatype", "advice"),
    [
        (torch.zeros(2, dtype=torch.int64), "FP32", "x.to(torch.float32)"),
        (torch.zeros(2), "BF16", "x.to(torch.bfloat16)"),
        (torch.zeros(2), "BOOL", "x.to(torch.bool)"),
    ],
)
def test_cast_is_named_in_the_words_of_torch(given: Any, datatype: str, advice: str) -> None:
    error = refusal(given, datatype)
    assert error.code == "input.datatype"
    assert advice in error.hint


def test_bfloat16_widens() -> None:
    datatype, data = read(torch.tensor([1.5], dtype=torch.bfloat16)).values("FP32")
    assert (datatype, data.tolist()) == ("FP32", [1.5])


def test_values_in_order() -> None:
    declared = [TensorMetadata("a", "FP32", (-1,)), TensorMetadata("b", "INT64", (-1,))]
    tensors = to_tensors((torch.ones(2), torch.ones(3, dtype=torch.int64)), declared)
    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors] == [
        ("a", "FP32", (2,)),
        ("b", "INT64", (3,)),
    ]


def test_output_may_be_written_even_if_the_answer_may_not(recwarn: pytest.WarningsRecorder) -> None:
    received = np.frombuffer(b"x" + np.array([1.5, 2.5], "<f4").tobytes(), np.uint8)[1:].view("<f4")
    got = Output(Tensor("y", "FP32", received)).as_torch()
    got += 1
    assert got.tolist() == [2.5, 3.5]
    assert not recwarn.list


def test_bytes_are_nothing_for_torch() -> None:
    with pytest.raises(BlindAIError) as caught:
        Output(Tensor("y", "BYTES", np.array([b"a"], dtype=object))).as_torch()
    assert caught.value.code == "output.datatype"


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")  # torch's own
def test_what_torch_exports_is_bundled_with_its_data_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")
    model = torch.nn.Linear(300, 300).eval()
    torch.onnx.export(model, (torch.zeros(1, 300),), tmp_path / "model.onnx", verbose=False)
    assert ModelBody.open(tmp_path / "model.onnx").files == ("model.onnx", "model.onnx.data")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with pytest.raises(BlindAIError) as caught:
        ModelBody.open(tmp_path / "model.pt")
    assert caught.value.code == "model.not_onnx"
    assert "torch.onnx.export" in caught.value.hint
