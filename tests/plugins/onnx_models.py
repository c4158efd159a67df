"""Tiny ONNX models, for the tests of what loads, serves and uploads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

ELEMENT_TYPES: dict[str, int] = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def value(name: str, datatype: str | int = "FP32", shape: Sequence[int | str] | None = (4,)) -> onnx.ValueInfoProto:
    """A tensor that goes in or out; a shape of None leaves the rank open. Other types go by their ONNX number."""
    kind = ELEMENT_TYPES[datatype] if isinstance(datatype, str) else datatype
    return helper.make_tensor_value_info(name, kind, shape)


def external(name: str, location: str | None, **entries: int) -> onnx.TensorProto:
    """Four floats that are in another file; `entries` are their offset and length in it."""
    tensor = TensorProto(name=name, dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, text in () if location is None else (("location", location), *entries.items()):
        tensor.external_data.add(key=key, value=str(text))
    return tensor


def model(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    initializers: Sequence[onnx.TensorProto] = (),
    domains: Sequence[str] = (),
    opset: int = 21,
    ir_version: int = 10,
    **members: Any,
) -> bytes:
    """A serialised model from x to y, four FP32 each unless `inputs` and `outputs` say otherwise."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x")] if inputs is None else inputs,
        [value("y")] if outputs is None else outputs,
        initializers,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, **members)
    return bytes(made.SerializeToString())


def identity(datatype: str | int = "FP32", shape: Sequence[int | str] | None = ("n",)) -> bytes:
    """A model that answers with its input."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return model(nodes, inputs=[value("x", datatype, shape)], outputs=[value("y", datatype, shape)])
