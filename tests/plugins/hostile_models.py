"""Models made to harm whoever runs them, small enough to be uploaded by anyone, and what must become of each.

Most are a few hundred bytes. An attack ends at the upload, refused with a code; or the model is taken, and each query
is refused; or both are answered, for what looks hostile but is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from enclave_server import looping_model, node_model
from onnx_models import model, value

EIGHT_GIB: Final = 8 << 30


@dataclass(frozen=True)
class Attack:
    """One of them.

    Attributes:
        name: what it does.
        build: makes the file.
        query: an input that sets it off, where the upload does not.
        upload: codes with which the upload may be refused; empty where it must be taken.
        run: codes with which the query may be refused; empty where it must be answered.
    """

    name: str
    build: Callable[[], bytes]
    query: NDArray[Any] | None = None
    upload: frozenset[str] = frozenset()
    run: frozenset[str] = frozenset()


def _floats(*values: float) -> NDArray[np.float32]:
    return np.array([values], np.float32)


def _memory_at_load() -> bytes:
    """y = x + the first of 8 GiB of zeros, which an optimizer computes when it loads the model."""
    return node_model(
        helper.make_node("ConstantOfShape", ["dims"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["x", "zero"], ["y"]),
        dims=np.array([EIGHT_GIB // 4], np.int64),
    )


def _memory_at_run() -> bytes:
    """As many bytes as the input says."""
    return node_model(
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["count"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["count", "one"], ["dims"]),
        helper.make_node("ConstantOfShape", ["dims"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["x", "zero"], ["y"]),
        one=np.array([1], np.int64),
    )


def _square_of_input() -> bytes:
    """The product of the input with itself, n x n: its memory grows with the square of what is sent."""
    return node_model(
        helper.make_node("Transpose", ["x"], ["column"], perm=[1, 0]),
        helper.make_node("MatMul", ["column", "x"], ["square"]),
        helper.make_node("ReduceMax", ["square"], ["y"]),
    )


def _strings() -> bytes:
    """A gigabyte of text, from one string of a kilobyte."""
    text = TensorProto(name="text", dims=[1], data_type=TensorProto.STRING, string_data=[b"a" * 1024])
    count = numpy_helper.from_array(np.array([1 << 20], np.int64), "count")
    nodes = [helper.make_node("Tile", ["text", "count"], ["many"]), helper.make_node("Identity", ["x"], ["y"])]
    return model(nodes, outputs=[value("y"), value("many", "BYTES", None)], initializers=[text, count])


def _endless_at_load() -> bytes:
    """A loop of 2^62 turns, whatever it is sent."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Cos", ["in"], ["out"])],
        "body",
        [value("i", "INT64", ()), value("go", "BOOL", ()), value("in", "FP32", None)],
        [value("on", "BOOL", ()), value("out", "FP32", None)],
    )
    return node_model(
        helper.make_node("Loop", ["turns", "always", "x"], ["y"], body=body),
        turns=np.array(1 << 62, np.int64),
        always=np.array(True),
    )


def _many_inputs(count: int = 100_000) -> bytes:
    return model([helper.make_node("Identity", ["x0"], ["y"])], inputs=[value(f"x{number}") for number in range(count)])


def _huge_graph(count: int = 300_000) -> bytes:
    names = ["x", *(f"v{number}" for number in range(count - 1)), "y"]
    return model([helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)])


def _cycle() -> bytes:
    return model([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Add", ["x", "a"], ["b"]),
                  helper.make_node("Add", ["a", "b"], ["y"])])  # fmt: skip


def _nested(depth: int) -> bytes:
    """Loops in loops."""
    names = ("i", "go", "in")
    graph: onnx.GraphProto | None = None
    for level in range(depth):
        node = (
            helper.make_node("Neg", [f"in{level}"], [f"out{level}"])
            if graph is None
            else helper.make_node("Loop", ["", f"go{level}", f"in{level}"], [f"out{level}"], body=graph)
        )
        i, go, given = (f"{name}{level}" for name in names)
        graph = helper.make_graph(
            [helper.make_node("Identity", [go], [f"on{level}"]), node],
            f"g{level}",
            [value(i, "INT64", ()), value(go, "BOOL", ()), value(given, "FP32", None)],
            [value(f"on{level}", "BOOL", ()), value(f"out{level}", "FP32", None)],
        )
    return node_model(helper.make_node("Loop", ["", "go", "x"], ["y"], body=graph), go=np.array(False))


def _other_shape() -> bytes:
    """Says that it answers with as many numbers as it is sent, and answers with two more."""
    nodes = [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)]
    return model(nodes, inputs=[value("x", "FP32", ["n"])], outputs=[value("y", "FP32", ["n"])])


def _flood_of_nan() -> bytes:
    """0/0 for each number."""
    return node_model(
        helper.make_node("Sub", ["x", "x"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["y"]),
    )


def _negative_dimension() -> bytes:
    return node_model(helper.make_node("Reshape", ["x", "dims"], ["y"]), dims=np.array([-3, -5], np.int64))


def _zero_size() -> bytes:
    """An answer of no numbers at all."""
    return node_model(
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["y"]),
        start=np.array([0]),
        end=np.array([0]),
        axis=np.array([1]),
    )


def _foreign_operator() -> bytes:
    return model([helper.make_node("Own", ["x"], ["y"], domain="org.example")], domains=["org.example"])


def _division() -> bytes:
    """The smallest integer, divided by the number that is sent: -1 is an exception of the processor, and no error."""
    return node_model(
        helper.make_node("Cast", ["x"], ["by"], to=TensorProto.INT64),
        helper.make_node("Div", ["smallest", "by"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["y"], to=TensorProto.FLOAT),
        smallest=np.array([np.iinfo(np.int64).min], np.int64),
    )


def _file_outside() -> bytes:
    """Weights in a file of the host."""
    weights = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="../../../../etc/passwd")
    return model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[weights])


_ANY_MEMORY: Final = frozenset({"quota.run_memory", "quota.memory", "model.crashed"})
_ANY_TIME: Final = frozenset({"quota.run_time", "quota.load_time"})
_TOO_MUCH: Final = frozenset({"model.too_complex", "quota.load_time"})

ATTACKS: Final[Sequence[Attack]] = (
    Attack("8 GiB when it is loaded", _memory_at_load, upload=_ANY_MEMORY),
    Attack("8 GiB when it is run", _memory_at_run, query=_floats(float(EIGHT_GIB // 4)), run=_ANY_MEMORY),
    Attack("memory as the square of the input", _square_of_input, query=np.ones((1, 60_000), np.float32),
           run=_ANY_MEMORY),
    Attack("a gigabyte of text", _strings, upload=_ANY_MEMORY | _ANY_TIME | {"model.run"}),
    Attack("a loop without end, when it is loaded", _endless_at_load, upload=_ANY_TIME),
    Attack("a loop without end, when it is run", looping_model, query=_floats(1e18), run=_ANY_TIME),
    Attack("100,000 inputs", _many_inputs, upload=_TOO_MUCH | {"model.invalid"}),
    Attack("300,000 operators", _huge_graph, upload=_TOO_MUCH | {"quota.run_memory"}),
    Attack("operators in a circle", _cycle, upload=frozenset({"model.invalid"})),
    Attack("30 loops in one another", lambda: _nested(30), upload=frozenset({"model.too_complex", "model.damaged"})),
    Attack("another shape than it says", _other_shape, query=np.ones(4, np.float32)),
    Attack("a flood of NaN", _flood_of_nan, query=np.ones((1, 100_000), np.float32)),
    Attack("a negative dimension", _negative_dimension, upload=frozenset({"model.invalid", "model.run"}),
           query=_floats(1.0), run=frozenset({"input.run", "model.run"})),
    Attack("an answer of no numbers", _zero_size, query=_floats(1.0, 2.0)),
    Attack("an operator of its own", _foreign_operator, upload=frozenset({"model.op_domain"})),
    Attack("a file of the host as weights", _file_outside, upload=frozenset({"model.external_data_path"})),
    Attack("a division that kills the process", _division, query=_floats(-1.0), upload=frozenset({"model.crashed"}),
           run=frozenset({"model.crashed"})),
    Attack("no model at all", lambda: bytes(range(8, 256)) * 40, upload=frozenset({"model.damaged", "model.invalid"})),
)  # fmt: skip
