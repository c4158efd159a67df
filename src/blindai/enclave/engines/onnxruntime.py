"""ONNX Runtime as an inference engine, on the CPU.

An uploaded model is a stranger's program. It is read from memory only, external data included; operators come from
ONNX Runtime alone, never from a library beside the model; and no setting is taken from the model or from the host's
environment. Time and address space are bounded by whoever calls: see `Cancellation` and the enclave's limits.
"""

from __future__ import annotations

import ctypes
import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from blindai.enclave.engine import Signature, TensorSpec
from blindai.enclave.model_file.onnx_file import inspect, refuse_type
from blindai.errors import BlindAIError, InvalidInput, InvalidModel, QuotaExceeded
from blindai.wire.tensor import Tensor, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from blindai.enclave.engine import Cancellation
    from blindai.enclave.model_file.onnx_file import OnnxFile, ValueSpec
    from blindai.wire.tensor import Buffer

MAX_MESSAGE: Final = 300
"""Characters kept of ONNX Runtime's own words: enough for the cause, too few for a listing of its internals."""

_BFLOAT16: Final = 16  # TensorProto.DataType

_DATATYPES: Final[Mapping[str, str]] = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

# Datatypes of which its arrays are others than those of a tensor.
_CONVERTED: Final = frozenset({"BF16", "BYTES"})

# What its binding raises: a class for each of its status codes, ValueError and RuntimeError for what pybind11 sees.
_ERRORS: Final = (
    native.EngineError,
    native.EPFail,
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NoModel,
    native.NoSuchFile,
    native.NotFound,
    native.NotImplemented,
    native.RuntimeException,
    RuntimeError,
    ValueError,
)
_MODEL_ERRORS: Final = (native.EPFail, native.InvalidGraph, native.InvalidProtobuf, native.NotImplemented)

_NO_MEMORY: Final = re.compile(r"Failed to allocate memory|bad_alloc", re.IGNORECASE)
_TERMINATED: Final = "terminate flag"
_STATUS: Final = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_NODE: Final = re.compile(r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: ")
_ARGUMENTS: Final = r"\((?:[^()]|\([^()]*\))*\)"
_SOURCE: Final = re.compile(
    rf"(?:/\S+:\d+ (?:[^()]*{_ARGUMENTS}(?:::[\w:~]+{_ARGUMENTS})*(?: const)?)? ?|\b\w+\.(?:cc|h|cpp):\d+ \w+ )"
)
_PATH: Final = re.compile(r"""(?<![\w.])/[\w.+-]+(?:/[\w.+-]+)+""")


@cache
def _isolate() -> None:
    """Once in a process: nothing is printed on the host's terminal, reported to anyone, or set by the environment."""
    # With this variable ONNX Runtime takes options from the uploaded model; its native side heeds no argument of ours.
    os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)
    onnxruntime.set_default_logger_severity(4)
    onnxruntime.disable_telemetry_events()


class OnnxRuntimeEngine:
    """Loads ONNX models into ONNX Runtime.

    Args:
        threads: threads of one run. One by default: several requests then run side by side without contention.
    """

    platform = "onnxruntime_onnx"

    def __init__(self, *, threads: int = 1) -> None:
        self._threads = threads
        _isolate()

    def load(self, model: Buffer, external: Mapping[str, Buffer]) -> OnnxRuntimeSession:
        """Loads a model; see `engine.Engine.load`.

        Raises:
            InvalidModel: the codes of `onnx_file.inspect` and `OnnxFile.refuse_missing`;
                `model.unsupported_operator`; `model.invalid` for what else ONNX Runtime refuses.
            QuotaExceeded: `quota.memory`.
        """
        file = inspect(model)
        file.refuse_missing(external)
        files = {name: external[name] for name in file.external}
        try:
            # `files` outlives this call, as it must: the options hold bare addresses until the session is built.
            session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else bytes(model),
                self._options(files),
                providers=["CPUExecutionProvider"],
                enable_fallback=0,
                read_config_from_model=0,
            )
        except native.NotImplemented as error:
            message = f"the model uses what ONNX Runtime does not implement: {_clean(error)}"
            raise InvalidModel(message, code="model.unsupported_operator") from None
        except MemoryError:
            raise _no_memory("load the model") from None
        except _ERRORS as error:
            if _NO_MEMORY.search(str(error)):
                raise _no_memory("load the model") from None
            raise InvalidModel(f"ONNX Runtime refuses the model: {_clean(error)}", code="model.invalid") from None
        # Kept for the case that other execution providers are asked for later. It would hold a model's bytes for good.
        session._model_bytes = None  # noqa: SLF001 - its class has no other way
        try:
            return OnnxRuntimeSession(session, file, len(model) + sum(len(data) for data in files.values()))
        except UnicodeDecodeError:
            # Its binding decodes names only when they are asked for.
            message = "the model holds a name that is not UTF-8"
            raise InvalidModel(message, code="model.damaged", hint="export or copy the model once more") from None

    def _options(self, files: Mapping[str, Buffer]) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # Otherwise the bytes themselves could choose the .ort format, which skips the checks of `inspect`.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if files:
            lengths = [len(data) for data in files.values()]
            options.add_external_initializers_from_files_in_memory(list(files), list(files.values()), lengths)
        return options


class OnnxRuntimeCancellation:
    """Stops one run; see `engine.Cancellation`.

    Attributes:
        options: of the run, until it has ended: making them costs as much as to run a small model, so they are used
            again by another run, and whoever cancels late must not stop that one.
        cancelled: set before `options` are looked at, as they are taken away before this is looked at.
    """

    __slots__ = ("cancelled", "options")

    def __init__(self, options: Any) -> None:
        self.options: Any = options
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        options = self.options
        if options is not None:
            options.terminate = True


class OnnxRuntimeSession:
    """One loaded model; see `engine.Session`."""

    def __init__(self, session: Any, file: OnnxFile, memory: int) -> None:
        self.inputs = tuple(_specs("input", session.get_inputs(), file.inputs))
        self.outputs = tuple(_specs("output", session.get_outputs(), file.outputs))
        self.memory = memory
        optional = [value for value in session.get_overridable_initializers() if value.type in _DATATYPES]
        self.optional = tuple(_specs("input", optional, file.inputs, required=False))
        accepted = (*self.inputs, *self.optional)
        self._signature = Signature(accepted, self.outputs)
        self._session = session
        self._spare: list[Any] = []  # options of runs that have ended
        # What its class checks in Python before each run, the signature has checked; small models cost less than that.
        self._native = session._sess  # noqa: SLF001 - its class has no other way
        self._bfloat16 = frozenset(spec.name for spec in self.outputs if spec.datatype == "BF16")
        if self._bfloat16 and any(spec.datatype == "BYTES" for spec in accepted):
            # The binding makes no OrtValue of text, and no array of bfloat16.
            message = "the model takes text and answers in bfloat16, which ONNX Runtime for Python cannot do in one run"
            hint = "cast the outputs to float32 in the model"
            raise InvalidModel(message, code="model.unsupported_type", hint=hint)
        # Which outputs come back as an array that is already what a tensor of theirs holds.
        self._converted = frozenset(spec.name for spec in self.outputs if spec.datatype in _CONVERTED)

    def cancellation(self) -> OnnxRuntimeCancellation:
        try:
            options = self._spare.pop()
        except IndexError:
            options = onnxruntime.RunOptions()
        return OnnxRuntimeCancellation(options)

    def close(self) -> None:
        self._session = self._native = None

    def run(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str] = (),
        *,
        cancellation: Cancellation | None = None,
    ) -> list[Tensor]:
        """Runs the model; see `engine.Session.run`."""
        signature = self._signature
        signature.check_inputs(inputs)
        names = signature.select_outputs(outputs)
        feeds = {name: _to_native(tensor) for name, tensor in inputs.items()}
        results = self.run_checked(names, feeds, cancellation)
        return [
            Tensor(name, signature.output(name).datatype, _from_native(result) if name in self._converted else result)
            for name, result in zip(names, results, strict=True)
        ]

    def repetition(self, inputs: Sequence[tuple[str, str]], outputs: Sequence[str]) -> OnnxRuntimeRepetition | None:
        """As `engine.Repeatable.repetition`."""
        names = self._signature.select_outputs(outputs)
        if not self._converted.isdisjoint(names) or any(datatype in _CONVERTED for _, datatype in inputs):
            return None
        return OnnxRuntimeRepetition(self, names)

    def run_checked(self, names: list[str], feeds: Mapping[str, Any], cancellation: Cancellation | None) -> list[Any]:
        """Run on what ONNX Runtime takes, and return what it gives: these outputs."""
        switch = cancellation if isinstance(cancellation, OnnxRuntimeCancellation) else None
        options = switch and switch.options
        try:
            if not self._bfloat16 or self._bfloat16.isdisjoint(names):
                results: list[Any] = self._native.run(names, feeds, options)
            else:
                results = self._run_with_ort_values(names, feeds, options)
        except UnicodeDecodeError:
            message = "the model answers with text that is not UTF-8, which ONNX Runtime cannot hand out"
            raise InvalidModel(message, code="model.run") from None
        except MemoryError:
            raise _no_memory("run the model on this input") from None
        except _ERRORS as error:
            raise _run_error(error) from None
        finally:
            if switch is not None and options is not None:
                switch.options = None
                if not switch.cancelled:
                    self._spare.append(options)
        return results

    def _run_with_ort_values(self, names: list[str], feeds: Mapping[str, Any], options: Any) -> list[Any]:
        """Runs with values instead of arrays: NumPy has no bfloat16, so the binding cannot make an array of one."""
        held = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(feed) if isinstance(feed, np.ndarray) else feed
            for name, feed in feeds.items()
        }
        values = self._session.run_with_ort_values(names, held, options)
        return [value if value.element_type() == _BFLOAT16 else value.numpy() for value in values]


class OnnxRuntimeRepetition:
    """Runs a session again; see `engine.Repetition`.

    Args:
        session: what runs.
        outputs: what is computed.
    """

    __slots__ = ("_outputs", "_session")

    def __init__(self, session: OnnxRuntimeSession, outputs: list[str]) -> None:
        self._session = session
        self._outputs = outputs

    def run(
        self,
        inputs: dict[str, NDArray[Any]],
        outputs: Sequence[str] = (),
        *,
        cancellation: Cancellation | None = None,
    ) -> list[NDArray[Any]]:
        for name, data in inputs.items():
            if not data.flags.aligned:
                inputs[name] = data.copy()  # as `_to_native`
        return self._session.run_checked(self._outputs, inputs, cancellation)


def _specs(
    what: str, values: Iterable[Any], declared: Mapping[str, ValueSpec], *, required: bool = True
) -> Iterable[TensorSpec]:
    for value in values:
        datatype = _DATATYPES.get(value.type)
        if datatype is None:
            refuse_type(what, value.name, _kind(value.type))
        # A name such as "batch" and None both stand for a size that the request decides.
        shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in value.shape)
        # ONNX Runtime shows a scalar and a tensor of unknown rank alike; the file tells them apart.
        in_file = declared.get(value.name)
        ranked = bool(shape) or in_file is None or in_file.ranked
        yield TensorSpec(value.name, datatype, shape if ranked else (-1,), ranked, required)


def _kind(native_type: str) -> str:
    for prefix, kind in (("seq", "a sequence"), ("map", "a map"), ("optional", "an optional value")):
        if native_type.startswith(prefix):
            return kind
    return f"a {native_type}"


def _to_native(tensor: Tensor) -> Any:
    """What ONNX Runtime takes for a checked tensor: an array, or an OrtValue for bfloat16."""
    data = tensor.data
    if tensor.datatype == "BYTES":
        return _to_text(tensor)
    flags = data.flags
    if not (flags.aligned and flags.c_contiguous):
        # Its kernels are compiled for aligned elements; a peer chooses where in a body its tensor begins.
        data = data.copy()
    if tensor.datatype == "BF16":
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(data, _BFLOAT16)
    return data


def _to_text(tensor: Tensor) -> NDArray[Any]:
    """Strings, which is what ONNX has for BYTES. Given bytes, the binding would pass on their Python notation."""
    text: NDArray[Any] = np.empty(tensor.data.size, dtype=object)
    for index, item in enumerate(tensor.data.ravel().tolist()):
        try:
            text[index] = item.decode()
        except UnicodeDecodeError:
            message = f"input {quoted(tensor.name)}: element {index} is not UTF-8, and ONNX strings are text"
            raise InvalidInput(message, code="input.bytes") from None
    return text.reshape(tensor.data.shape)


def _from_native(result: Any) -> NDArray[Any]:
    if isinstance(result, np.ndarray):
        text: NDArray[Any] = np.empty(result.size, dtype=object)
        for index, item in enumerate(result.ravel().tolist()):
            text[index] = item.encode()
        return text.reshape(result.shape)
    bits = ctypes.string_at(result.data_ptr(), result.tensor_size_in_bytes())
    return np.frombuffer(bits, dtype=np.uint16).reshape(result.shape())


def _run_error(error: Exception) -> BlindAIError:
    text = str(error)
    if _TERMINATED in text:
        return QuotaExceeded("the run was stopped: it took too long", code="quota.run_time")
    if _NO_MEMORY.search(text):
        return _no_memory("run the model on this input")
    if isinstance(error, _MODEL_ERRORS):
        return InvalidModel(f"the model cannot run: {_clean(error)}", code="model.run")
    return InvalidInput(f"the model cannot run on this input: {_clean(error)}", code="input.run")


def _no_memory(what: str) -> QuotaExceeded:
    return QuotaExceeded(f"there is not enough memory to {what}", code="quota.memory")


def _clean(error: Exception) -> str:
    """ONNX Runtime's message without its source lines, paths and line breaks."""
    text = _STATUS.sub("", str(error))
    text = _NODE.sub(lambda node: f"{node[1]} {node[2]}".strip() + ": ", text)
    text = _PATH.sub("...", _SOURCE.sub("", text))
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."
