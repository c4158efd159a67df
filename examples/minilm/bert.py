"""BERT as an ONNX graph, from weights in a safetensors file, without PyTorch.

The graph is that of BERT's encoder (Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2018), with
the weights named as Hugging Face Transformers names them. Two things are arranged differently, and give the same
numbers: the three projections of attention are one matrix, and the division by the root of the head's size is done to
the weights once. A classifier has the pooler and one more layer behind it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Weights = Mapping[str, NDArray[np.float32]]

OPSET = 20  # the first with Gelu
IR_VERSION = 10
MASKED = np.finfo(np.float32).min

_HEADER_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Shape:
    """What the weights do not say themselves.

    Attributes:
        heads: of attention.
        epsilon: of the layer normalisations.
    """

    heads: int
    epsilon: float = 1e-12


def read_safetensors(content: bytes) -> dict[str, NDArray[np.float32]]:
    """The tensors of a safetensors file of float32, by name; integers in it are left out.

    Format: 8 bytes with the length of a JSON header, the header, the data that it gives places in.
    """
    (length,) = _HEADER_LENGTH.unpack_from(content)
    start = _HEADER_LENGTH.size + length
    header: dict[str, Any] = json.loads(content[_HEADER_LENGTH.size : start])
    weights = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        begin, end = (start + offset for offset in entry["data_offsets"])
        weights[name] = np.frombuffer(content[begin:end], "<f4").reshape(entry["shape"])
    return weights


def write_safetensors(weights: Weights) -> bytes:
    """A safetensors file of these tensors."""
    header, data = {}, bytearray()
    for name, array in weights.items():
        begin = len(data)
        data += np.ascontiguousarray(array, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [begin, len(data)]}
    encoded = json.dumps(header).encode()
    return _HEADER_LENGTH.pack(len(encoded)) + encoded + bytes(data)


def random_weights(
    generator: np.random.Generator,
    *,
    words: int,
    size: int,
    layers: int,
    inner: int,
    positions: int = 64,
    labels: int = 0,
) -> dict[str, NDArray[np.float32]]:
    """Weights of a small encoder for tests, with a classifier behind it where there are `labels`."""

    def normal(*shape: int, scale: float = 0.2, about: float = 0.0) -> NDArray[np.float32]:
        return (about + scale * generator.standard_normal(shape)).astype(np.float32)

    def linear(name: str, rows: int, columns: int) -> dict[str, NDArray[np.float32]]:
        return {f"{name}.weight": normal(rows, columns), f"{name}.bias": normal(rows)}

    def norm(name: str) -> dict[str, NDArray[np.float32]]:
        return {f"{name}.weight": normal(size, about=1.0), f"{name}.bias": normal(size)}

    weights = {
        "embeddings.word_embeddings.weight": normal(words, size, scale=1.0),
        "embeddings.position_embeddings.weight": normal(positions, size),
        "embeddings.token_type_embeddings.weight": normal(2, size),
        **norm("embeddings.LayerNorm"),
    }
    for index in range(layers):
        layer = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            weights |= linear(f"{layer}.attention.self.{part}", size, size)
        weights |= linear(f"{layer}.attention.output.dense", size, size)
        weights |= norm(f"{layer}.attention.output.LayerNorm")
        weights |= linear(f"{layer}.intermediate.dense", inner, size)
        weights |= linear(f"{layer}.output.dense", size, inner)
        weights |= norm(f"{layer}.output.LayerNorm")
    if labels:
        weights |= linear("pooler.dense", size, size) | linear("classifier", labels, size)
    return weights


def build(weights: Weights, shape: Shape) -> onnx.ModelProto:
    """The model: INT64 `input_ids`, `attention_mask` and `token_type_ids` [batch, sequence] in.

    Out comes `last_hidden_state` [batch, sequence, size], or `logits` [batch, labels] where there is a classifier.
    """
    graph = _Graph(weights, shape)
    hidden = graph.embeddings()
    bias = graph.mask_bias()
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))
    for index in range(layers):
        hidden = graph.layer(f"encoder.layer.{index}", hidden, bias)
    classifies = "classifier.weight" in weights
    if classifies:
        graph.add("Identity", [graph.classifier(hidden)], output="logits")
        output = ("logits", ["batch", weights["classifier.weight"].shape[0]])
    else:
        graph.add("Identity", [hidden], output="last_hidden_state")
        output = ("last_hidden_state", ["batch", "sequence", graph.size])
    return graph.model(*output)


class _Graph:
    """Nodes and initializers as they are added."""

    def __init__(self, weights: Weights, shape: Shape) -> None:
        self._weights = weights
        self._shape = shape
        self.size = weights["embeddings.word_embeddings.weight"].shape[1]
        self._head = self.size // shape.heads
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def add(self, operator: str, inputs: Sequence[str], *, output: str = "", **attributes: Any) -> str:
        """One node with one output; its name."""
        output = output or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """An initializer; one of the same name is the same."""
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self._weights[name])

    def linear(self, value: str, name: str, *, activation: str = "") -> str:
        """Value times the transposed weight, as PyTorch keeps it, plus bias."""
        weight = self.constant(f"{name}.weight.T", self._weights[f"{name}.weight"].T)
        value = self.add("Add", [self.add("MatMul", [value, weight]), self.weight(f"{name}.bias")])
        return self.add(activation, [value]) if activation else value

    def norm(self, value: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("LayerNormalization", [value, scale, bias], axis=-1, epsilon=self._shape.epsilon)

    def embeddings(self) -> str:
        length = self.add("Shape", ["input_ids"], start=1, end=2)
        table = self.weight("embeddings.position_embeddings.weight")
        # A text of more tokens than there are positions has no sum with so few rows: it is refused at the addition.
        positions = self.add("Slice", [table, self.constant("first", np.array([0])), length])
        words = self.add("Gather", [self.weight("embeddings.word_embeddings.weight"), "input_ids"])
        types = self.add("Gather", [self.weight("embeddings.token_type_embeddings.weight"), "token_type_ids"])
        return self.norm(self.add("Add", [self.add("Add", [words, types]), positions]), "embeddings.LayerNorm")

    def mask_bias(self) -> str:
        """What is added to the scores of attention: 0, or for a masked token the least number."""
        axes = self.constant("axes", np.array([1, 2]))
        mask = self.add("Cast", [self.add("Unsqueeze", ["attention_mask", axes])], to=TensorProto.FLOAT)
        absent = self.add("Sub", [self.constant("one_float", np.array(1, np.float32)), mask])
        return self.add("Mul", [absent, self.constant("masked", np.array(MASKED, np.float32))])

    def layer(self, name: str, hidden: str, bias: str) -> str:
        attended = self.linear(self.attention(name, hidden, bias), f"{name}.attention.output.dense")
        hidden = self.norm(self.add("Add", [attended, hidden]), f"{name}.attention.output.LayerNorm")
        inner = self.linear(hidden, f"{name}.intermediate.dense", activation="Gelu")
        outer = self.linear(inner, f"{name}.output.dense")
        return self.norm(self.add("Add", [outer, hidden]), f"{name}.output.LayerNorm")

    def attention(self, name: str, hidden: str, bias: str) -> str:
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        scales = (1.0 / np.sqrt(self._head), 1.0, 1.0)
        weight = [self._weights[f"{part}.weight"].T * scale for part, scale in zip(parts, scales, strict=True)]
        added = [self._weights[f"{part}.bias"] * scale for part, scale in zip(parts, scales, strict=True)]
        matrix = self.constant(f"{name}.qkv.weight", np.concatenate(weight, axis=1).astype(np.float32))
        vector = self.constant(f"{name}.qkv.bias", np.concatenate(added).astype(np.float32))
        joined = self.add("Add", [self.add("MatMul", [hidden, matrix]), vector])
        thirds = [f"{name}.{part}" for part in ("query", "key", "value")]
        self._nodes.append(helper.make_node("Split", [joined], thirds, axis=-1, num_outputs=3))
        heads = self.constant("heads", np.array([0, 0, self._shape.heads, self._head]))
        query, key, value = (self.add("Reshape", [third, heads]) for third in thirds)
        query = self.add("Transpose", [query], perm=[0, 2, 1, 3])
        key = self.add("Transpose", [key], perm=[0, 2, 3, 1])
        value = self.add("Transpose", [value], perm=[0, 2, 1, 3])
        scores = self.add("Add", [self.add("MatMul", [query, key]), bias])
        mixed = self.add("MatMul", [self.add("Softmax", [scores], axis=-1), value])
        whole = self.constant("whole", np.array([0, 0, self.size]))
        return self.add("Reshape", [self.add("Transpose", [mixed], perm=[0, 2, 1, 3]), whole])

    def classifier(self, hidden: str) -> str:
        first = self.add("Gather", [hidden, self.constant("zero", np.array(0))], axis=1)
        return self.linear(self.linear(first, "pooler.dense", activation="Tanh"), "classifier")

    def model(self, output: str, dimensions: Sequence[int | str]) -> onnx.ModelProto:
        names = ("input_ids", "attention_mask", "token_type_ids")
        graph = helper.make_graph(
            self._nodes,
            "bert",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in names],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, dimensions)],
            list(self._initializers.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model
