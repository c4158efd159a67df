"""The model and the requests that are measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from blindai.wire import v2

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL = "bench/tiny"


def tiny_model() -> bytes:
    """A model that takes any number of floats and looks at the first sixteen: its run costs the same at every size.

    What is left when that run is subtracted is the price of getting the tensor there.
    """
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["x", "start", "end", "axis"], ["head"]),
            helper.make_node("MatMul", ["head", "weights"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [
            numpy_helper.from_array(np.array([0]), "start"),
            numpy_helper.from_array(np.array([16]), "end"),
            numpy_helper.from_array(np.array([1]), "axis"),
            numpy_helper.from_array(np.linspace(-1, 1, 32, dtype=np.float32).reshape(16, 2), "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    onnx.checker.check_model(model)
    return content


def session(model: bytes) -> Any:
    """ONNX Runtime with one thread for each run, as the enclave has it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Size:
    """A size of input."""

    label: str
    elements: int

    def values(self) -> NDArray[np.float32]:
        return np.random.default_rng(7).standard_normal((1, self.elements), dtype=np.float32)


SIZES = (Size("4 KB", 1_000), Size("600 KB", 150_000), Size("4 MB", 1_000_000))


def http_request(size: Size, path: str, *, binary: bool = True) -> bytes:
    """A whole inference request, head and body in one buffer."""
    buffers, header_length = v2.encode_request([v2.Tensor.from_array("x", size.values())], binary=binary)
    body = b"".join(buffers)
    kind = "application/json" if header_length is None else "application/octet-stream"
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    if header_length is not None:
        lines.append(f"Inference-Header-Content-Length: {header_length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body
