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


def distilbert(*, layers: int = 6, heads: int = 12) -> bytes:
    """An encoder of the shape of DistilBERT (Sanh et al. 2019): 768 wide, 12 heads, 3072 in between; random weights.

    Its vocabulary has 1000 words instead of 30522: an embedding is a look-up, and costs the same for any of them.

    Args:
        layers: 6 in DistilBERT.
        heads: 12 in DistilBERT; each is 64 wide. With fewer, an enclave tries it out in no time.
    """
    width, words, positions = 64 * heads, 1000, 512
    inner = 4 * width
    random = np.random.default_rng(7)
    weights: dict[str, NDArray[Any]] = {
        "words": _random(random, words, width),
        "positions": _random(random, positions, width),
        "scale": np.array(np.sqrt(width // heads), np.float32),
        "half": np.array(0.5, np.float32),
        "one": np.array(1, np.float32),
        "root_two": np.array(np.sqrt(2), np.float32),
        "split": np.array([0, 0, heads, width // heads]),
        "join": np.array([0, 0, width]),
        "first": np.array(0),
        "step": np.array(1),
        "length_axis": np.array(1),
        "gamma": np.ones(width, np.float32),
        "beta": np.zeros(width, np.float32),
    }
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "length_axis"], ["length"]),
        helper.make_node("Range", ["first", "length", "step"], ["places"]),
        helper.make_node("Gather", ["words", "input_ids"], ["word_vectors"]),
        helper.make_node("Gather", ["positions", "places"], ["place_vectors"]),
        helper.make_node("Add", ["word_vectors", "place_vectors"], ["embedded"]),
        helper.make_node("LayerNormalization", ["embedded", "gamma", "beta"], ["h0"]),
    ]

    def linear(source: str, target: str, size: tuple[int, int]) -> None:
        weights[f"{target}_w"] = _random(random, *size)
        weights[f"{target}_b"] = np.zeros(size[1], np.float32)
        nodes.append(helper.make_node("MatMul", [source, f"{target}_w"], [f"{target}_m"]))
        nodes.append(helper.make_node("Add", [f"{target}_m", f"{target}_b"], [target]))

    for layer in range(layers):
        into = f"h{layer}"
        for part in "qkv":
            linear(into, f"{part}{layer}", (width, width))
            nodes.append(helper.make_node("Reshape", [f"{part}{layer}", "split"], [f"{part}{layer}_s"]))
            order = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
            nodes.append(helper.make_node("Transpose", [f"{part}{layer}_s"], [f"{part}{layer}_t"], perm=order))
        nodes += [
            helper.make_node("MatMul", [f"q{layer}_t", f"k{layer}_t"], [f"scores{layer}"]),
            helper.make_node("Div", [f"scores{layer}", "scale"], [f"scaled{layer}"]),
            helper.make_node("Softmax", [f"scaled{layer}"], [f"attention{layer}"], axis=-1),
            helper.make_node("MatMul", [f"attention{layer}", f"v{layer}_t"], [f"mixed{layer}"]),
            helper.make_node("Transpose", [f"mixed{layer}"], [f"turned{layer}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"turned{layer}", "join"], [f"joined{layer}"]),
        ]
        linear(f"joined{layer}", f"out{layer}", (width, width))
        nodes.append(helper.make_node("Add", [into, f"out{layer}"], [f"sum{layer}"]))
        nodes.append(helper.make_node("LayerNormalization", [f"sum{layer}", "gamma", "beta"], [f"normed{layer}"]))
        linear(f"normed{layer}", f"wide{layer}", (width, inner))
        nodes += [
            helper.make_node("Div", [f"wide{layer}", "root_two"], [f"erf_in{layer}"]),
            helper.make_node("Erf", [f"erf_in{layer}"], [f"erf{layer}"]),
            helper.make_node("Add", [f"erf{layer}", "one"], [f"gate{layer}"]),
            helper.make_node("Mul", [f"wide{layer}", f"gate{layer}"], [f"gated{layer}"]),
            helper.make_node("Mul", [f"gated{layer}", "half"], [f"gelu{layer}"]),
        ]
        linear(f"gelu{layer}", f"narrow{layer}", (inner, width))
        nodes.append(helper.make_node("Add", [f"normed{layer}", f"narrow{layer}"], [f"total{layer}"]))
        nodes.append(helper.make_node("LayerNormalization", [f"total{layer}", "gamma", "beta"], [f"h{layer + 1}"]))
    nodes.append(helper.make_node("Gather", [f"h{layers}", "first"], ["beginning"], axis=1))
    linear("beginning", "logits", (width, 2))
    graph = helper.make_graph(
        nodes,
        "distilbert",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def _random(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return (random.standard_normal(shape, dtype=np.float32) * 0.02).astype(np.float32)


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
