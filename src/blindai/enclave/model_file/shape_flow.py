"""Whether time and memory of a model's runs follow from the shapes of its inputs alone, whatever values they have.

Only such a model may run in the server's own process, and only on shapes that it has proven itself on elsewhere. So
nothing is allowed but what is listed here. An operator is listed where the work and the size of its outputs follow from
the shapes of its operands, except for some operands whose values decide them as well: where a tensor is cut, how often
it is repeated. The values of these must be known beforehand: they come from constants and from shapes, through any
operators.

Division of integers needs that too. ONNX Runtime lets the processor divide, and the smallest integer divided by -1 ends
the process.

Source: Operators.md of ONNX 1.23 (opset 26), ai.onnx.ml 5; ContribOperators.md of ONNX Runtime 1.31.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from blindai.enclave.model_file.protobuf import MESSAGE, VARINT, Cut, Damaged, Fields
from blindai.errors import InvalidModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from blindai.wire.tensor import Buffer

MAX_NODES: Final = 20_000
"""Of a graph that is looked at. The large ones do not take microseconds, so nobody asks whether they may run inline."""

MAX_TEXT_BYTES: Final = 256
"""Of one text among the attributes of a node. Classifiers answer with a label for each row, and the values decide which
one, and so how long it is."""

OVERRIDABLE_IR: Final = 4
"""From this version of ONNX's format on a request may replace an initializer that is listed among the inputs."""

# TensorProto.DataType
_FLOAT: Final = 1
_FLOATS: Final = frozenset({_FLOAT, 10, 11, 16})  # FLOAT16, DOUBLE, BFLOAT16
_STRING: Final = 8
_ENUM: Final = 0xFFFF_FFFF
"""Readers keep so many bits of the number of an element type."""


def _table(names: str) -> dict[str, tuple[int, ...]]:
    """Operators with the positions of the operands that must be known: `Slice:1,2`."""
    table = {}
    for entry in names.split():
        name, _, positions = entry.partition(":")
        table[name] = tuple(int(position) for position in positions.split(",") if position)
    return table


# Their outputs are floats, whatever their operands are.
_MAKE_FLOATS: Final = _table(
    "Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Conv ConvTranspose Cos Cosh "
    "DequantizeLinear Elu Erf Exp Floor Gelu GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization "
    "HardSigmoid HardSwish Hardmax InstanceNormalization LRN LayerNormalization LeakyRelu Log LogSoftmax "
    "LpNormalization LpPool MeanVarianceNormalization Mish RMSNormalization Reciprocal Round Selu Sigmoid "
    "Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu GRU LSTM RNN"
)

# Their output has the type of one of their operands.
_KEEP_TYPE: Final = _table(
    "Abs Add Clip Concat CumSum DepthToSpace Div Dropout Einsum Expand:1 Flatten Gather GatherElements GatherND Gemm "
    "Identity MatMul Max MaxPool Mean Min Mod Mul Neg PRelu Pad:1,3 Pow ReduceL1:1 ReduceL2:1 ReduceLogSum:1 "
    "ReduceLogSumExp:1 ReduceMax:1 ReduceMean:1 ReduceMin:1 ReduceProd:1 ReduceSum:1 ReduceSumSquare:1 Relu Reshape:1 "
    "Resize:1,2,3 ScatterElements ScatterND Shrink Sign Slice:1,2,3,4 SpaceToDepth Split:1 Squeeze:1 Sub Sum Tile:1,2 "
    "TopK:1 Transpose Trilu:1 Unsqueeze:1 Upsample:1 Where"
)

_OTHERS: Final = _table(
    "And ArgMax ArgMin BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Constant ConstantOfShape:0 "
    "ConvInteger DynamicQuantizeLinear Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual MatMulInteger Not "
    "OneHot:1 Or QLinearConv QLinearMatMul QuantizeLinear Range:0,1,2 Shape Size Xor"
)

_CLASSIC: Final = _table(
    "ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LinearClassifier LinearRegressor Normalizer "
    "OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor"
)

_CONTRIBUTED: Final = _table(
    "BiasGelu DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul Gelu MatMulIntegerToFloat MatMulNBits "
    "QLinearAdd QLinearGlobalAveragePool QLinearMul QuickGelu SkipLayerNormalization"
)

_ALLOWED: Final[Mapping[str, Mapping[str, tuple[int, ...]]]] = {
    "": _MAKE_FLOATS | _KEEP_TYPE | _OTHERS,
    "ai.onnx.ml": _CLASSIC,
    "com.microsoft": _CONTRIBUTED,
}

_ASK_SHAPES: Final = frozenset({"Shape", "Size"})
_DIVIDE: Final = frozenset({"Div", "Mod"})

# Operators whose first operand does not have the type of their output.
_TYPED_BY: Final[Mapping[str, int]] = {"Where": 1}


class _Node(msgspec.Struct):
    """A NodeProto.

    Attributes:
        attributes: their names.
        nested: an attribute is a graph, or text as a value, or text that is long.
        to: the element type that the attributes `to` or `value` give the output; 0 where there is neither.
    """

    operator: str = ""
    domain: str = ""
    operands: list[str] = msgspec.field(default_factory=list)
    results: list[str] = msgspec.field(default_factory=list)
    attributes: set[str] = msgspec.field(default_factory=set)
    nested: bool = False
    to: int = 0


def is_bounded(model: Buffer) -> bool:
    """Whether time and memory of a run follow from the shapes of the inputs alone.

    Args:
        model: an ONNX file that `onnx_file.inspect` has accepted; what it would refuse is not bounded.
    """
    with memoryview(model) as data:
        try:
            return _Graph(Fields(data), len(data)).is_bounded()
        except (_Unbounded, Damaged, Cut, InvalidModel):
            return False


class _Unbounded(Exception):
    """Something that settles the question was met."""


class _Graph:
    """The graph of a model."""

    def __init__(self, fields: Fields, length: int) -> None:
        self._fields = fields
        self._nodes: list[_Node] = []
        self._inputs: dict[str, int] = {}
        self._initializers: dict[str, int] = {}
        self._version = 0
        for number, wire, start, end in fields(0, length):
            if number == 1 and wire == VARINT:
                self._version = start
            elif number == 7 and wire == MESSAGE:
                self._graph(start, end)
            elif number == 25:
                raise _Unbounded  # what functions call would have to be followed

    def is_bounded(self) -> bool:
        if _STRING in self._inputs.values() or _STRING in self._initializers.values():
            return False  # the length of a text is no part of its shape
        replaceable = self._inputs.keys() if self._version >= OVERRIDABLE_IR else set[str]()
        known = {"", *(self._initializers.keys() - replaceable)}
        defined = known | self._inputs.keys() | self._initializers.keys()
        floats = {name for name, kind in (self._inputs | self._initializers).items() if kind in _FLOATS}
        for node in self._nodes:
            if not _is_bounded(node, known, floats) or not defined.isdisjoint(node.results):
                return False
            defined.update(node.results)
            if node.operator in _ASK_SHAPES or known.issuperset(node.operands):
                known.update(node.results)
            if _makes_floats(node, floats):
                # Further results may be indices, as those of TopK and MaxPool.
                floats.update(node.results if node.operator == "Split" else node.results[:1])
            # A result that is left out has an empty name, and so has an operand.
            defined.discard("")
            floats.discard("")
        return True

    def _graph(self, begin: int, stop: int) -> None:
        for number, wire, start, end in self._fields(begin, stop):
            if wire != MESSAGE:
                continue
            if number == 1:
                if len(self._nodes) == MAX_NODES:
                    raise _Unbounded
                self._nodes.append(self._node(start, end))
            elif number == 5:
                name, kind = self._tensor(start, end)
                self._initializers[name] = kind
            elif number == 11:
                name, kind = self._value(start, end)
                self._inputs[name] = kind
            elif number == 15:
                raise _Unbounded  # sparse initializers, which nobody exports

    def _node(self, begin: int, stop: int) -> _Node:
        node = _Node()
        for number, wire, start, end in self._fields(begin, stop):
            if wire != MESSAGE:
                continue
            if number == 1:
                node.operands.append(self._fields.text(start, end))
            elif number == 2:
                node.results.append(self._fields.text(start, end))
            elif number == 4:
                node.operator = self._fields.text(start, end)
            elif number == 7:
                domain = self._fields.text(start, end)
                node.domain = "" if domain == "ai.onnx" else domain
            elif number == 5:
                self._attribute(start, end, node)
        return node

    def _attribute(self, begin: int, stop: int, node: _Node) -> None:
        name = ""
        number_value = kind = 0
        for number, wire, start, end in self._fields(begin, stop):
            if number == 1 and wire == MESSAGE:
                name = self._fields.text(start, end)
            elif number == 3 and wire == VARINT:
                number_value = start & _ENUM
            elif number == 5 and wire == MESSAGE:
                if kind:
                    raise _Unbounded  # two tensors become one, of which either may say the type
                _, kind = self._tensor(start, end)
            elif number in {6, 10, 11, 22, 23} or (
                number in {4, 9} and wire == MESSAGE and end - start > MAX_TEXT_BYTES
            ):
                node.nested = True
        if name in node.attributes:
            raise _Unbounded  # which of the two an engine heeds, nobody says
        node.attributes.add(name)
        if name == "to":
            node.to = number_value
        elif name == "value":
            node.to = kind
        elif name in {"value_float", "value_floats"}:
            node.to = _FLOAT
        # Strings as constants: no operator that takes them is listed, but those that compare or move anything.
        node.nested = node.nested or kind == _STRING or name in {"value_string", "value_strings"}

    def _tensor(self, begin: int, stop: int) -> tuple[str, int]:
        name = ""
        kind = 0
        for number, wire, start, end in self._fields(begin, stop):
            if number == 2 and wire == VARINT:
                kind = start & _ENUM
            elif number == 8 and wire == MESSAGE:
                name = self._fields.text(start, end)
        return name, kind

    def _value(self, begin: int, stop: int) -> tuple[str, int]:
        """Name and element type of an input; 0 for what is no tensor, which `onnx_file` refuses."""
        name = ""
        kind = 0
        for number, wire, start, end in self._fields(begin, stop):
            if number == 1 and wire == MESSAGE:
                name = self._fields.text(start, end)
            elif number == 2 and wire == MESSAGE:
                kind = self._element_type(start, end) or kind
        return name, kind

    def _element_type(self, begin: int, stop: int) -> int:
        kind = 0
        for number, wire, start, end in self._fields(begin, stop):
            if number == 1 and wire == MESSAGE:
                for inner, inner_wire, value, _ in self._fields(start, end):
                    if inner == 1 and inner_wire == VARINT:
                        kind = value & _ENUM
        return kind


def _is_bounded(node: _Node, known: set[str], floats: set[str]) -> bool:
    """Whether this node may stand in a bounded graph, where these values are known and these are floats."""
    positions = _ALLOWED.get(node.domain, {}).get(node.operator)
    if positions is None or node.nested or (node.operator in {"Cast", "CastLike"} and node.to == _STRING):
        return False
    if node.operator == "Dropout" and any(node.operands[2:]):
        return False  # in training it draws at random, so that what is computed of it differs from load to load
    if node.operator in _DIVIDE and floats.isdisjoint(node.operands) and not known.issuperset(node.operands):
        return False
    return known.issuperset(node.operands[position] for position in positions if position < len(node.operands))


def _makes_floats(node: _Node, floats: Iterable[str]) -> bool:
    if node.domain:
        return False
    if node.operator in _MAKE_FLOATS:
        return True
    if node.operator in {"Cast", "Constant", "ConstantOfShape"}:
        return node.to in _FLOATS
    position = _TYPED_BY.get(node.operator, 0)
    return node.operator in _KEEP_TYPE and position < len(node.operands) and node.operands[position] in floats
