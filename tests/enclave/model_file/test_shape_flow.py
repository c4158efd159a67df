from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from blindai.enclave.model_file import protobuf, shape_flow
from blindai.enclave.model_file.shape_flow import is_bounded
from enclave_server import looping_model
from onnx_models import identity, model, value

node = helper.make_node


def ints(*values: int, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def floats(*shape: int, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def graph(*nodes: onnx.NodeProto, inputs: Sequence[str] = (), **members: Any) -> bytes:
    """A model of x, FP32 [n, 8], and of `inputs`, INT64 [1] each."""
    takes = [value("x", "FP32", ("n", 8)), *(value(name, "INT64", (1,)) for name in inputs)]
    return model(list(nodes), inputs=takes, outputs=[value("y", "FP32", None)], **members)


def test_a_perceptron_is_bounded() -> None:
    layers = [
        node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "w2"], ["l"]),
        node("Softmax", ["l"], ["y"]),
    ]
    weights = [floats(16, 8, name="w1"), floats(16, name="b1"), floats(16, 4, name="w2")]
    assert is_bounded(graph(*layers, initializers=weights))


def test_a_convolutional_network_of_the_oldest_format_is_bounded() -> None:
    """Where initializers are listed as inputs, and none can be replaced."""
    layers = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2]),
        node("Reshape", ["p", "shape"], ["f"]),
        node("Div", ["f", "scale"], ["y"]),
    ]
    inputs = [value("x", "FP32", ("n", 1, 8, 8)), value("w", "FP32", (4, 1, 3, 3)), value("shape", "INT64", (2,))]
    weights = [floats(4, 1, 3, 3, name="w"), ints(0, -1, name="shape"), floats(1, name="scale")]
    made: dict[str, Any] = {"inputs": inputs, "outputs": [value("y", "FP32", None)], "initializers": weights}
    assert is_bounded(model(layers, ir_version=3, **made))
    assert not is_bounded(model(layers, ir_version=4, **made)), "a request may replace the shape"


def test_shapes_computed_from_shapes_are_known() -> None:
    """As exporters write attention: the new shape is put together from the dimensions of the input."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "first"], ["rows"]),
        node("Div", ["rows", "two"], ["half"]),
        node("Mul", ["half", "two"], ["even"]),
        node("Concat", ["even", "minus"], ["new"], axis=0),
        node("Reshape", ["x", "new"], ["r"]),
        node("Expand", ["r", "new"], ["e"]),
        node("ConstantOfShape", ["new"], ["zeros"]),
        node("Range", ["none", "count", "one"], ["range"]),
        node("Slice", ["e", "first", "minus"], ["y"]),
    ]
    constants = [
        ints(0, name="first"),
        ints(2, name="two"),
        ints(-1, name="minus"),
        *(numpy_helper.from_array(np.array(number), name) for number, name in ((0, "none"), (8, "count"), (1, "one"))),
    ]
    assert is_bounded(graph(*nodes, initializers=constants))


def test_a_forest_is_bounded() -> None:
    tree = node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values=[0.5, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights=[1.0, 2.0],
    )
    assert is_bounded(graph(tree, domains=["ai.onnx.ml"]))


def test_the_operand_that_decides_may_be_a_constant_of_the_graph() -> None:
    shape = node("Constant", [], ["s"], value=ints(-1, 4, name="s"))
    assert is_bounded(graph(shape, node("Reshape", ["x", "s"], ["y"])))


@pytest.mark.parametrize(
    "made",
    [
        node("Reshape", ["x", "v"], ["y"]),
        node("Expand", ["x", "v"], ["y"]),
        node("ConstantOfShape", ["v"], ["y"]),
        node("Range", ["v", "c", "c"], ["y"]),
        node("Range", ["c", "v", "c"], ["y"]),
        node("Range", ["c", "c", "v"], ["y"]),
        node("Tile", ["x", "v"], ["y"]),
        node("Slice", ["x", "v", "c"], ["y"]),
        node("Slice", ["x", "c", "v"], ["y"]),
        node("Slice", ["x", "c", "c", "v"], ["y"]),
        node("Slice", ["x", "c", "c", "c", "v"], ["y"]),
        node("Pad", ["x", "v"], ["y"]),
        node("Pad", ["x", "c", "", "v"], ["y"]),
        node("Resize", ["x", "", "v"], ["y"]),
        node("Resize", ["x", "", "", "v"], ["y"]),
        node("Upsample", ["x", "v"], ["y"]),
        node("OneHot", ["x", "v", "c"], ["y"]),
        node("TopK", ["x", "v"], ["y", "i"]),
        node("Split", ["x", "v"], ["y", "z"]),
        node("Squeeze", ["x", "v"], ["y"]),
        node("Unsqueeze", ["x", "v"], ["y"]),
        node("ReduceSum", ["x", "v"], ["y"]),
    ],
    ids=lambda made: f"{made.op_type}-{list(made.input).index('v')}",
)
def test_an_operand_that_decides_and_comes_with_the_request_is_unbounded(made: onnx.NodeProto) -> None:
    constant = [ints(1, name="c")]
    assert not is_bounded(graph(made, inputs=["v"], initializers=constant))
    known = onnx.NodeProto()
    known.CopyFrom(made)
    known.input[:] = ["c" if name == "v" else name for name in made.input]
    assert is_bounded(graph(known, initializers=constant)), "the same with a constant is bounded"


def test_a_value_of_the_request_stays_one_through_any_operators() -> None:
    nodes = [
        node("Identity", ["v"], ["a"]),
        node("Concat", ["c", "a"], ["b"], axis=0),
        node("Abs", ["b"], ["s"]),
        node("ConstantOfShape", ["s"], ["y"]),
    ]
    assert not is_bounded(graph(*nodes, inputs=["v"], initializers=[ints(1, name="c")]))


@pytest.mark.parametrize(
    "made",
    [
        node("NonZero", ["x"], ["y"]),
        node("Compress", ["x", "c"], ["y"]),
        node("Unique", ["x"], ["y"]),
        node("NonMaxSuppression", ["x", "x"], ["y"]),
        node("RandomNormalLike", ["x"], ["y"]),
        node("RoiAlign", ["x", "x", "c"], ["y"]),
        node("SplitToSequence", ["x"], ["y"]),
        node("StringNormalizer", ["x"], ["y"]),
        node("NoSuchOperator", ["x"], ["y"]),
        node("BeamSearch", ["x"], ["y"], domain="com.microsoft"),
        node("Relu", ["x"], ["y"], domain="com.microsoft"),
        node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml"),
        node("Cast", ["x"], ["y"], to=TensorProto.STRING),
        node("Constant", [], ["y"], value_string=b"text"),
    ],
    ids=lambda made: made.op_type,
)
def test_what_is_not_listed_is_unbounded(made: onnx.NodeProto) -> None:
    assert not is_bounded(graph(made, initializers=[ints(1, name="c")]))


def test_control_flow_is_unbounded() -> None:
    assert not is_bounded(looping_model())


def test_text_is_unbounded() -> None:
    assert not is_bounded(identity("BYTES"))


@pytest.mark.parametrize("operator", ["Div", "Mod"])
def test_division_of_integers_of_the_request_is_unbounded(operator: str) -> None:
    """The smallest integer divided by -1 ends the process: ONNX Runtime leaves it to the processor."""
    assert not is_bounded(graph(node(operator, ["v", "w"], ["y"]), inputs=["v", "w"]))
    assert not is_bounded(graph(node(operator, ["v", "c"], ["y"]), inputs=["v"], initializers=[ints(-1, name="c")]))


def test_division_of_floats_is_bounded() -> None:
    assert is_bounded(graph(node("Exp", ["x"], ["e"]), node("Div", ["x", "e"], ["y"])))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("TopK", ["x", "c"], ["values", "i"])],
        [node("MaxPool", ["x"], ["pooled", "i"], kernel_shape=[1])],
        [node("Cast", ["x"], ["i"], to=TensorProto.INT64)],
        [node("ArgMax", ["x"], ["i"])],
        [node("Where", ["x", "v", "v"], ["i"])],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_integers_made_of_floats_are_not_divided(nodes: list[onnx.NodeProto]) -> None:
    made = graph(*nodes, node("Div", ["i", "i"], ["y"]), inputs=["v"], initializers=[ints(1, name="c")])
    assert not is_bounded(made)


def test_functions_within_the_model_are_unbounded() -> None:
    function = helper.make_function("", "Relu", ["a"], ["b"], [node("NonZero", ["a"], ["b"])], [])
    assert not is_bounded(graph(node("Relu", ["x"], ["y"]), functions=[function]))


def test_a_name_that_is_given_twice_is_unbounded() -> None:
    nodes = [node("Identity", ["v"], ["c"]), node("ConstantOfShape", ["c"], ["y"])]
    assert not is_bounded(graph(*nodes, inputs=["v"], initializers=[ints(1, name="c")]))


def test_an_attribute_that_is_given_twice_is_unbounded() -> None:
    cast = node("Cast", ["x"], ["f"], to=TensorProto.INT64)
    cast.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    assert not is_bounded(graph(cast, node("Relu", ["f"], ["y"])))


def test_a_node_whose_operator_comes_after_its_attributes_is_read_alike() -> None:
    """Protocol Buffers let fields come in any order."""
    text = node("Cast", ["x"], ["y"], to=TensorProto.STRING)
    ahead = onnx.NodeProto(input=text.input, output=text.output, attribute=text.attribute).SerializeToString()
    behind = onnx.NodeProto(op_type="Cast").SerializeToString()
    whole = graph(node("Cast", ["x"], ["y"], to=TensorProto.STRING))
    assert text.SerializeToString() in whole
    assert not is_bounded(whole.replace(text.SerializeToString(), ahead + behind))


def test_an_initializer_that_a_request_may_replace_is_not_known() -> None:
    inputs = [value("x", "FP32", ("n", 8)), value("s", "INT64", (1,))]
    made = model(
        [node("Reshape", ["x", "s"], ["y"])],
        inputs=inputs,
        outputs=[value("y", "FP32", None)],
        initializers=[ints(-1, name="s")],
    )
    assert not is_bounded(made)


def test_what_is_damaged_or_too_large_is_unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    good = graph(node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["y"]))
    assert is_bounded(good)
    assert not is_bounded(good[:-3])
    assert not is_bounded(b"\x0b" + good)
    monkeypatch.setattr(shape_flow, "MAX_NODES", 1)
    assert not is_bounded(good)
    monkeypatch.undo()
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 5)
    assert not is_bounded(good)


def test_sparse_initializers_are_unbounded() -> None:
    sparse = helper.make_sparse_tensor(floats(1, name="s"), ints(0, name="i"), [4])
    made = onnx.load_from_string(graph(node("Relu", ["x"], ["y"])))
    made.graph.sparse_initializer.append(sparse)
    assert not is_bounded(made.SerializeToString())


def raw_field(number: int, content: bytes | int, *, more: int = 0) -> bytes:
    """A field as bytes: of a number or of a message; `more` is added to its key."""
    wire = 0 if isinstance(content, int) else 2
    key = varint((number << 3 | wire) + more)
    return key + (varint(content) if isinstance(content, int) else varint(len(content)) + content)


def varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def raw_model(*parts: bytes, kind: int = TensorProto.FLOAT) -> bytes:
    """A model of x, of the element type `kind` and shape [1], whose graph has these fields besides."""
    tensor = raw_field(1, kind) + raw_field(2, raw_field(1, raw_field(1, 1)))
    takes = raw_field(1, b"x") + raw_field(2, raw_field(1, tensor))
    inside = b"".join(parts) + raw_field(2, b"g") + raw_field(11, takes) + raw_field(12, raw_field(1, b"y"))
    return raw_field(1, 9) + raw_field(7, inside) + raw_field(8, raw_field(2, 18))


def raw_node(operator: bytes, attribute: bytes = b"") -> bytes:
    node = raw_field(1, b"x") + raw_field(2, b"y") + raw_field(4, operator)
    return node + (raw_field(5, attribute) if attribute else b"")


def test_a_field_that_only_another_reader_finds_is_refused() -> None:
    """Protocol Buffers for C++ keep 32 bits of a key: behind this one ONNX Runtime finds a node."""
    hidden = raw_node(b"NonZero")
    seen = raw_node(b"Relu")
    assert is_bounded(raw_model(raw_field(1, seen)))
    assert not is_bounded(raw_model(raw_field(1, hidden)))
    assert not is_bounded(raw_model(raw_field(1, hidden, more=1 << 32)))


@pytest.mark.parametrize("more", [0, 1 << 32, 1 << 64], ids=["text", "in 32 bits", "in 64 bits"])
def test_text_is_unbounded_however_its_number_is_written(more: int) -> None:
    assert not is_bounded(raw_model(raw_field(1, raw_node(b"Identity")), kind=TensorProto.STRING + more))
    to = raw_field(1, b"to") + raw_field(3, TensorProto.STRING + more)
    assert not is_bounded(raw_model(raw_field(1, raw_node(b"Cast", to))))


def test_the_type_of_a_constant_that_is_written_in_two_parts_is_not_lost() -> None:
    text = raw_field(1, 1) + raw_field(2, TensorProto.STRING) + raw_field(6, b"text")
    constant = raw_field(2, b"y") + raw_field(4, b"Constant")
    for value_field in (raw_field(5, text), raw_field(5, text) + raw_field(5, b"")):
        attribute = raw_field(1, b"value") + value_field
        assert not is_bounded(raw_model(raw_field(1, constant + raw_field(5, attribute))))


def test_labels_of_a_classifier_are_bounded_while_they_are_short() -> None:
    """The values decide which label a row gets: a long one would make the answer as much longer."""

    def classifier(label: str) -> bytes:
        made = node(
            "LinearClassifier",
            ["x"],
            ["label", "y"],
            domain="ai.onnx.ml",
            coefficients=[1.0] * 16,
            classlabels_strings=["no", label],
        )
        return graph(made)

    assert is_bounded(classifier("y" * shape_flow.MAX_TEXT_BYTES))
    assert not is_bounded(classifier("y" * (shape_flow.MAX_TEXT_BYTES + 1)))


def test_a_size_that_is_drawn_at_random_is_unbounded() -> None:
    """A constant for the whole load, and another one at the next: that of the copy in the server may be any."""
    nodes = [
        node("Dropout", ["one", "ratio", "train"], ["d"]),
        node("Cast", ["d"], ["s"], to=TensorProto.INT64),
        node("ConstantOfShape", ["s"], ["y"]),
    ]
    constants = [
        floats(1, name="one"),
        numpy_helper.from_array(np.array(0.5, np.float32), "ratio"),
        numpy_helper.from_array(np.array(True), "train"),
    ]
    assert not is_bounded(graph(*nodes, initializers=constants))
    assert is_bounded(graph(node("Dropout", ["x"], ["y"]))), "without training it is nothing"
