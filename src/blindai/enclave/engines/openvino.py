"""OpenVINO as an inference engine, on the CPU: for a model where it is faster and gives the same answers.

A model reaches it from memory only and through its reader of ONNX alone. That reader opens files where a model has
external data, and takes a certain name of such a file for an address in memory; so external data is put into the model
first, and `onnx_file` refuses such names. It has neither text nor optional inputs, which are refused here.

It does not check while it runs that shapes go together. Where they do not, some of its operators give an empty tensor
and no error. So it is given no model whose outputs may be empty for another reason, an empty output is an error, and
dimensions that the model gives one name must be equal. What remains shows in the trial.
"""

from __future__ import annotations

import io
import re
import threading
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import openvino
from openvino.frontend import (
    FrontEndManager,
    GeneralFailure,
    InitializationFailure,
    NotImplementedFailure,
    OpConversionFailure,
    OpValidationFailure,
)

from blindai.enclave.engine import MAX_LISTED, Signature, TensorSpec
from blindai.enclave.model_file.external_data import embed
from blindai.enclave.model_file.onnx_file import inspect
from blindai.enclave.model_file.shape_flow import is_bounded
from blindai.errors import BlindAIError, InvalidInput, InvalidModel, QuotaExceeded
from blindai.wire.datatype import DATATYPES
from blindai.wire.metadata import VARIABLE
from blindai.wire.tensor import Tensor, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from blindai.enclave.engine import Cancellation
    from blindai.enclave.model_file.onnx_file import OnnxFile, ValueSpec
    from blindai.wire.tensor import Buffer

MAX_MESSAGE: Final = 300
"""Characters kept of OpenVINO's own words."""

_TYPES: Final[Mapping[str, Any]] = {
    "BOOL": openvino.Type.boolean,
    "INT8": openvino.Type.i8,
    "INT16": openvino.Type.i16,
    "INT32": openvino.Type.i32,
    "INT64": openvino.Type.i64,
    "UINT8": openvino.Type.u8,
    "UINT16": openvino.Type.u16,
    "UINT32": openvino.Type.u32,
    "UINT64": openvino.Type.u64,
    "FP16": openvino.Type.f16,
    "BF16": openvino.Type.bf16,
    "FP32": openvino.Type.f32,
    "FP64": openvino.Type.f64,
}

_HINTS: Final[Mapping[str, str]] = {"float32": "f32", "bfloat16": "bf16"}

_ERRORS: Final = (
    GeneralFailure,
    InitializationFailure,
    NotImplementedFailure,
    OpConversionFailure,
    OpValidationFailure,
    RuntimeError,
    TypeError,
    ValueError,
)

_NO_MEMORY: Final = re.compile(r"bad_alloc|failed to allocate|out of memory", re.IGNORECASE)
_CANCELLED: Final = re.compile(r"cancel", re.IGNORECASE)
_SOURCE: Final = re.compile(r"Exception from \S+:|Check '[^\n]*' failed at \S+:|\S+\.(?:cpp|hpp|h):\d+:?")
_PATH: Final = re.compile(r"""(?<![\w.])/[\w.+-]+(?:/[\w.+-]+)+""")


@cache
def _core() -> tuple[Any, Any]:
    """Once in a process: the library, and its reader of ONNX."""
    core = openvino.Core()
    return core, FrontEndManager().load_by_framework("onnx")


class OpenVinoEngine:
    """Loads ONNX models into OpenVINO.

    Args:
        threads: threads of one run.
        lanes: runs at once that its sessions will be asked for; more of them wait for each other.
        precision: `float32` for all bits that a model says, or `bfloat16`.
    """

    platform = "openvino_onnx"

    def __init__(self, *, threads: int = 1, lanes: int = 1, precision: str = "float32") -> None:
        core, _ = _core()
        self._precision = precision
        self._options = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "EXECUTION_MODE_HINT": "ACCURACY" if precision == "float32" else "PERFORMANCE",
            "INFERENCE_NUM_THREADS": threads * lanes,
            "NUM_STREAMS": lanes,
            # Several servers and models share the cores: whoever takes the first ones for itself is in the way.
            "ENABLE_CPU_PINNING": False,
            "PERF_COUNT": False,
        }
        self._capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def load(self, model: Buffer, external: Mapping[str, Buffer]) -> OpenVinoSession:
        """Loads a model; see `engine.Engine.load`.

        Raises:
            InvalidModel: the codes of `onnx_file.inspect` and `OnnxFile.refuse_missing`; `model.unsupported_type` for
                text and for optional inputs; `model.unsupported_operator`, also for all that `shape_flow` does not
                list; `model.invalid` for what else OpenVINO refuses, or where the processor does not calculate with the
                wanted precision.
            QuotaExceeded: `quota.memory`.
        """
        if self._precision == "bfloat16" and "BF16" not in self._capabilities:
            raise InvalidModel("the processor does not calculate in bfloat16", code="model.invalid")
        file = inspect(model)
        file.refuse_missing(external)
        _refuse_unsupported(file)
        if not is_bounded(model):
            message = "what the model needs or answers is not decided by the shapes of its inputs, as OpenVINO wants it"
            raise InvalidModel(message, code="model.unsupported_operator")
        core, reader = _core()
        try:
            whole = embed(model, external) if file.external else model
            converted = reader.convert(reader.load(io.BytesIO(whole)))
            compiled = core.compile_model(converted, "CPU", self._options)
            return OpenVinoSession(compiled, file, len(model) + sum(len(external[name]) for name in file.external))
        except MemoryError:
            raise _no_memory("load the model") from None
        except _ERRORS as error:
            if _NO_MEMORY.search(str(error)):
                raise _no_memory("load the model") from None
            unsupported = isinstance(error, (NotImplementedFailure, OpConversionFailure))
            code = "model.unsupported_operator" if unsupported else "model.invalid"
            raise InvalidModel(f"OpenVINO refuses the model: {_clean(error)}", code=code) from None


def _refuse_unsupported(file: OnnxFile) -> None:
    for value in (*file.inputs.values(), *file.outputs.values()):
        if value.datatype == "BYTES":
            message = f"the model's {quoted(value.name)} is text, which is not given to OpenVINO"
            raise InvalidModel(message, code="model.unsupported_type")
    if file.optional:
        message = "the model has inputs with values of their own, which OpenVINO makes constants"
        raise InvalidModel(message, code="model.unsupported_type")


class OpenVinoCancellation:
    """Stops one run; see `engine.Cancellation`."""

    __slots__ = ("_cancelled", "_lock", "_request")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._request: Any = None

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._request is not None:
                self._request.cancel()

    def attach(self, request: Any) -> None:
        """From now on this is what is stopped; None for nothing. Raises QuotaExceeded `quota.run_time` if it was."""
        with self._lock:
            self._request = request
            if self._cancelled and request is not None:
                raise _stopped()

    @property
    def cancelled(self) -> bool:
        return self._cancelled


class OpenVinoSession:
    """One loaded model; see `engine.Session`."""

    def __init__(self, compiled: Any, file: OnnxFile, memory: int) -> None:
        self.inputs = tuple(_specs(file.inputs.values()))
        self.optional: tuple[TensorSpec, ...] = ()
        self.outputs = tuple(_specs(file.outputs.values()))
        self.memory = memory
        self._signature = Signature(self.inputs, self.outputs)
        # An input that nothing reads is not in the compiled model.
        self._feeds = [
            (spec.name, port) for spec in self.inputs if (port := _port(compiled.inputs, spec.name)) is not None
        ]
        self._results: dict[str, Any] = {}
        for spec in self.outputs:
            port = _port(compiled.outputs, spec.name)
            if port is None:
                raise InvalidModel(f"OpenVINO does not give the output {quoted(spec.name)}", code="model.invalid")
            self._results[spec.name] = port
        self._same_size = list(_same_size(file.inputs.values()))
        self._compiled = compiled
        self._lock = threading.Lock()
        self._free: list[Any] = []

    def cancellation(self) -> OpenVinoCancellation:
        return OpenVinoCancellation()

    def close(self) -> None:
        with self._lock:
            self._free.clear()
            self._feeds.clear()
            self._results.clear()
            self._compiled = None

    def run(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str] = (),
        *,
        cancellation: Cancellation | None = None,
    ) -> list[Tensor]:
        """Runs the model; see `engine.Session.run`."""
        self._signature.check_inputs(inputs)
        for group in self._same_size:
            _refuse_unequal(inputs, group)
        names = self._signature.select_outputs(outputs)
        stop = cancellation if isinstance(cancellation, OpenVinoCancellation) else OpenVinoCancellation()
        try:
            request = self._take()
            stop.attach(request)
            # The tensors are views of the request's arrays, which live until the run has ended.
            feeds = {port: _to_native(inputs[name]) for name, port in self._feeds}
            # A run that was not begun as one to wait for cannot be stopped.
            request.start_async(feeds, share_inputs=True)
            request.wait()
            answers = [self._answer(request, name) for name in names]
            if any(not answer.data.size for answer in answers) and all(given.data.size for given in inputs.values()):
                message = "the model cannot run on this input: an output is empty, the shapes do not go together"
                raise InvalidInput(message, code="input.run")
        except MemoryError:
            raise _no_memory("run the model on this input") from None
        except _ERRORS as error:
            raise _run_error(error, cancelled=stop.cancelled) from None
        finally:
            stop.attach(None)
        # A request that has failed is not used again.
        with self._lock:
            self._free.append(request)
        return answers

    def _take(self) -> Any:
        with self._lock:
            return self._free.pop() if self._free else self._compiled.create_infer_request()

    def _answer(self, request: Any, name: str) -> Tensor:
        spec = self._signature.output(name)
        tensor = request.get_tensor(self._results[name])
        if tensor.element_type != _TYPES[spec.datatype]:
            message = f"output {quoted(name)} is {tensor.element_type.get_type_name()} instead of {spec.datatype}"
            raise InvalidModel(message, code="model.run")
        # The next run of this request writes where this answer is.
        return Tensor(name, spec.datatype, tensor.data.view(DATATYPES[spec.datatype].dtype).copy())


def _specs(values: Iterable[ValueSpec]) -> Iterable[TensorSpec]:
    for value in values:
        yield TensorSpec(value.name, value.datatype, value.shape if value.ranked else (VARIABLE,), value.ranked)


def _same_size(values: Iterable[ValueSpec]) -> Iterable[list[tuple[str, int]]]:
    """The dimensions that must be equal: inputs and axes for each name of a dimension that comes twice."""
    found: dict[str, list[tuple[str, int]]] = {}
    for value in values:
        for axis, symbol in enumerate(value.symbols):
            if symbol:
                found.setdefault(symbol, []).append((value.name, axis))
    return (group for group in found.values() if len(group) > 1)


def _refuse_unequal(inputs: Mapping[str, Tensor], group: Sequence[tuple[str, int]]) -> None:
    if len({inputs[name].data.shape[axis] for name, axis in group}) > 1:
        named = ", ".join(f"{quoted(name)} axis {axis}" for name, axis in group[:MAX_LISTED])
        raise InvalidInput(f"these dimensions must have the same size: {named}", code="input.shape")


def _port(ports: Iterable[Any], name: str) -> Any:
    return next((port for port in ports if name in port.names), None)


def _to_native(tensor: Tensor) -> Any:
    data = tensor.data
    if not (data.flags.aligned and data.flags.c_contiguous and data.flags.writeable):
        # Its kernels are compiled for aligned elements, and it takes no array that must not be written.
        data = np.array(data, order="C")
    if tensor.datatype == "BF16":
        return openvino.Tensor(data, openvino.Shape(data.shape), openvino.Type.bf16)
    return openvino.Tensor(data, shared_memory=True)


def _run_error(error: Exception, *, cancelled: bool) -> BlindAIError:
    text = str(error)
    if cancelled and _CANCELLED.search(text):
        return _stopped()
    if _NO_MEMORY.search(text):
        return _no_memory("run the model on this input")
    return InvalidInput(f"the model cannot run on this input: {_clean(error)}", code="input.run")


def _stopped() -> QuotaExceeded:
    return QuotaExceeded("the run was stopped: it took too long", code="quota.run_time")


def _no_memory(what: str) -> QuotaExceeded:
    return QuotaExceeded(f"there is not enough memory to {what}", code="quota.memory")


def _clean(error: Exception) -> str:
    """OpenVINO's message without its source lines, paths and line breaks."""
    text = _PATH.sub("...", _SOURCE.sub("", str(error)))
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."
