"""The onnx package's node tests: the cases, a direct run of each in ONNX Runtime, and the same run through an enclave.

The direct run is the reference. It uses ONNX Runtime alone and none of this project's code, so that a fault of ours
cannot hide on both sides.
"""

from __future__ import annotations

import ctypes
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as native

import blindai

Outputs: TypeAlias = list[NDArray[Any]]

# What the Open Inference Protocol has a datatype for.
_CARRIED = frozenset(
    {"BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"}
    | {"FLOAT16", "BFLOAT16", "FLOAT", "DOUBLE", "STRING"}
)

_NATIVE_ERRORS = (
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.NotImplemented,
    native.RuntimeException,
)

# Why ONNX Runtime itself cannot run a case: what its message holds, and how it is counted.
_REASONS = (
    (r"Unsupported model IR version", "the model format is newer than ONNX Runtime reads"),
    (r"official support for domain", "the operator set is newer than ONNX Runtime supports"),
    (r"not a registered function/op|Unrecognized attribute", "ONNX Runtime does not know the operator or an attribute"),
    (r"NOT_IMPLEMENTED", "ONNX Runtime's CPU has no such operator for these types"),
    (r"locale", "this machine does not have the locale"),
    (r"Batchwise recurrent operations|Type Error: Type parameter", "ONNX Runtime refuses the model"),
    (r"while running \w+ node", "ONNX Runtime refuses the values"),
)


@dataclass(frozen=True)
class Case:
    """One node test.

    Attributes:
        name: onnx's name for it.
        model_id: where it is uploaded to; onnx's names are longer and have capitals.
        model: the file.
        inputs: by name. Empty where `foreign` is not.
        expected: the outputs as onnx expects them, each in its tolerance.
        foreign: types among the inputs and outputs that the Open Inference Protocol cannot carry.
        tolerance: (relative, absolute).
    """

    name: str
    model_id: str
    model: bytes
    inputs: Mapping[str, NDArray[Any]]
    expected: Sequence[Any]
    foreign: frozenset[str]
    tolerance: tuple[float, float]


@dataclass(frozen=True)
class Direct:
    """What ONNX Runtime makes of a case.

    Attributes:
        refusal: why it cannot run the case; empty where it can.
        outputs: what it answers; text as UTF-8, which is how the Open Inference Protocol carries it.
        repeatable: whether a second run answers the same. Where chance or a state decides, nothing can be compared.
        as_expected: whether the outputs are what onnx expects, in the case's tolerance.
    """

    refusal: str = ""
    outputs: Sequence[NDArray[Any]] = ()
    repeatable: bool = True
    as_expected: bool = False


def collect() -> list[Case]:
    """All node tests of the onnx package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it computes some expectations with overflows and divisions by zero
        from onnx.backend.test.loader import load_node_model_tests

        found = load_node_model_tests()
    return [_case(number, case) for number, case in enumerate(found)]


def run_directly(case: Case) -> Direct:
    """Load and run a case in ONNX Runtime, with the settings that the enclave has by default."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the order of additions, and so the last bits, depend on it
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(case.model, options, providers=["CPUExecutionProvider"])
        if case.foreign:
            return Direct()
        outputs, again = _run(session, case.inputs), _run(session, case.inputs)
    except _NATIVE_ERRORS as error:
        return Direct(refusal=_reason(str(error)))
    encoded = [_encoded(output) for output in outputs]
    repeatable = not difference([_encoded(output) for output in again], encoded)
    return Direct(outputs=encoded, repeatable=repeatable, as_expected=_as_expected(case, outputs))


def run_in_enclave(client: blindai.Connection, case: Case) -> tuple[Outputs | blindai.BlindAIError, ...]:
    """Upload a case, run it in binary and in JSON mode, and delete it: the outputs or the refusal of each mode."""
    try:
        client.upload_model(case.model, model_id=case.model_id, progress=False)
    except blindai.BlindAIError as error:
        return error, error
    try:
        return _predict(client, case, binary=True), _predict(client, case, binary=False)
    finally:
        client.delete_model(case.model_id)


def difference(got: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> str:
    """Where two lists of outputs are not the same bit for bit, NaNs included; empty where they are."""
    if len(got) != len(expected):
        return f"{len(got)} outputs instead of {len(expected)}"
    for index, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            return f"output {index}: {ours.dtype} {ours.shape} instead of {theirs.dtype} {theirs.shape}"
        same = ours.tolist() == theirs.tolist() if ours.dtype == object else ours.tobytes() == theirs.tobytes()
        if not same:
            return f"output {index} differs"
    return ""


def has_number_for_all(arrays: Iterable[NDArray[Any]]) -> bool:
    """Whether JSON can write every element: it has no NaN and no infinity."""
    numbers = (array.astype(np.float32) if array.dtype.name == "bfloat16" else array for array in arrays)
    return all(array.dtype.kind != "f" or np.isfinite(array).all() for array in numbers)


def _case(number: int, case: Any) -> Case:
    graph = case.model.graph
    ((inputs, outputs),) = case.data_sets
    foreign = frozenset().union(*(_foreign(value.type) for value in (*graph.input, *graph.output)))
    slug = re.sub("[^a-z0-9]+", "-", case.name.removeprefix("test_").lower())[:50].strip("-")
    return Case(
        name=case.name,
        model_id=f"onnx/{number}-{slug}",
        model=case.model.SerializeToString(),
        inputs={} if foreign else {value.name: _array(given) for value, given in zip(graph.input, inputs, strict=True)},
        expected=[] if foreign else [_array(output) for output in outputs],
        foreign=foreign,
        tolerance=(case.rtol, case.atol),
    )


def _foreign(declared: TypeProto) -> set[str]:
    kind = str(declared.WhichOneof("value"))
    if kind != "tensor_type":
        return {kind.removesuffix("_type")}
    return {TensorProto.DataType.Name(declared.tensor_type.elem_type)} - _CARRIED


def _array(value: Any) -> NDArray[Any]:
    """A tensor as an array: onnx gives some as messages, and scalars as NumPy's scalars."""
    return np.asarray(numpy_helper.to_array(value) if isinstance(value, TensorProto) else value)


def _run(session: Any, inputs: Mapping[str, NDArray[Any]]) -> Outputs:
    # Its arrays know no bfloat16 and its values no text; no case has both.
    if any(value.dtype == object for value in inputs.values()):
        outputs: Outputs = session.run(None, dict(inputs))
        return outputs
    values = {name: _ort_value(array) for name, array in inputs.items()}
    return [_from_ort_value(value) for value in session.run_with_ort_values(None, values)]


def _ort_value(array: NDArray[Any]) -> Any:
    if array.dtype.name == "bfloat16":
        bits = array.view(np.uint16)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _from_ort_value(value: Any) -> NDArray[Any]:
    if value.element_type() == TensorProto.BFLOAT16:
        bits = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
        dtype = onnx.helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
        return np.frombuffer(bits, dtype).reshape(value.shape())
    array: NDArray[Any] = value.numpy()
    return array


def _encoded(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype != object:
        return array
    encoded: NDArray[Any] = np.empty(array.size, dtype=object)
    encoded[:] = [text.encode() for text in array.ravel()]
    return encoded.reshape(array.shape)


def _reason(message: str) -> str:
    return next((reason for pattern, reason in _REASONS if re.search(pattern, message)), message)


def _as_expected(case: Case, outputs: Sequence[NDArray[Any]]) -> bool:
    from onnx.backend.test.runner import Runner

    relative, absolute = case.tolerance
    try:
        Runner.assert_similar_outputs(case.expected, outputs, relative, absolute)
    except AssertionError:
        return False
    return True


def _predict(client: blindai.Connection, case: Case, *, binary: bool) -> Outputs | blindai.BlindAIError:
    try:
        return [output.as_numpy() for output in client.predict(case.model_id, case.inputs, binary=binary).output]
    except blindai.BlindAIError as error:
        return error
