"""A first look at an uploaded ONNX file, before an engine sees it.

The engine's own parser is C++ and, on some paths, opens files next to the model. So the few things that decide whether
it may see the file at all are read here, in place and without a second copy of the weights: which operators the model
calls for and from which domain, where its external data is, and whether its inputs and outputs can travel as V2
tensors. All other rules of ONNX are left to the engine.

Source: onnx.proto (IR version 13).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import msgspec

from blindai.enclave.model_file.protobuf import MESSAGE, VARINT, Cut, Damaged, Fields
from blindai.errors import InvalidModel
from blindai.wire.model_format import HEAD_BYTES, foreign_format
from blindai.wire.tensor import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blindai.wire.tensor import Buffer

ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator domains that ONNX Runtime implements and documents for inference. Others are experiments or foreign code."""

MAX_DEPTH = 24
"""Graphs within graphs (If, Loop, Scan). Protocol Buffers' own limit of 100 nested messages allows some 30."""

MAX_VALUES = 10_000
"""Inputs of a model, and outputs. Tables and models that carry their states have thousands; an engine takes a minute of
work to load a hundred thousand."""

MAX_LISTED = 8
"""Missing files that an error names."""

# Element types of TensorProto.DataType that V2 has, by number; and the names of the others, for the refusal.
_DATATYPES: Mapping[int, str] = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES", 9: "BOOL",
    10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip
_FOREIGN: Mapping[int, str] = {
    0: "undefined", 14: "complex64", 15: "complex128", 17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2",
    20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1", 24: "float8e8m0", 25: "uint2", 26: "int2",
}  # fmt: skip

_EXPORT = "export the model to ONNX, with torch.onnx.export for example"
_TENSORFLOW = "a TensorFlow SavedModel or graph"

MAX_PRODUCER_NAME = 1024
"""Where ONNX has its producer's name a TensorFlow SavedModel has its whole graph; longer than this is no name."""


class ValueSpec(msgspec.Struct, frozen=True):
    """An input or output as the file declares it.

    Attributes:
        name: its name.
        ranked: whether a shape, even that of a scalar, is declared.
        datatype: V2 datatype; empty for what V2 does not have.
        shape: its dimensions, -1 where none is declared.
        symbols: the names of its dimensions, empty where one has none. What has the same name has the same size.
    """

    name: str
    ranked: bool
    datatype: str = ""
    shape: tuple[int, ...] = ()
    symbols: tuple[str, ...] = ()


class OnnxFile(msgspec.Struct, frozen=True):
    """What was found in the file.

    Attributes:
        inputs, outputs: by name; initializers that old files list among the inputs are here too.
        external: locations of the external data, without `./`.
        optional: those of the inputs that have an initializer, for which a request may send another value.
    """

    inputs: dict[str, ValueSpec]
    outputs: dict[str, ValueSpec]
    external: frozenset[str]
    optional: frozenset[str] = frozenset()

    def refuse_missing(self, external: Mapping[str, Buffer]) -> None:
        """Raises InvalidModel `model.external_data_missing` unless every external data file is in `external`."""
        missing = sorted(self.external - external.keys())
        if missing:
            names = ", ".join(quoted(name) for name in missing[:MAX_LISTED])
            more = f" and {len(missing) - MAX_LISTED} more" if len(missing) > MAX_LISTED else ""
            raise InvalidModel(
                f"the model keeps weights in other files, which were not uploaded: {names}{more}",
                code="model.external_data_missing",
                hint="upload them in one bundle with the model; the client does so when they lie beside it",
            )


def inspect(model: Buffer) -> OnnxFile:
    """Reads an ONNX file as far as said above.

    Raises:
        InvalidModel: `model.empty`; `model.not_onnx`, naming what the file seems to be; `model.truncated`;
            `model.damaged`; `model.too_complex`; `model.op_domain`; `model.unsupported_type`;
            `model.external_data_path` for a location outside the bundle; `model.external_data_nested` for external data
            elsewhere than in the initializers of the main graph, where ONNX Runtime would open a file.
    """
    if not len(model):
        raise InvalidModel("the model file is empty", code="model.empty")
    with memoryview(model) as data:
        _refuse_known_formats(data)
        return _Reader(data).model()


def _refuse_known_formats(data: memoryview) -> None:
    known = foreign_format(bytes(data[:HEAD_BYTES]))
    if known is not None:
        _not_onnx(f"it is {known.what}", known.hint)


def _not_onnx(why: str, hint: str = _EXPORT) -> NoReturn:
    raise InvalidModel(f"the file is not an ONNX model: {why}", code="model.not_onnx", hint=hint)


class _Type(msgspec.Struct):
    """A TypeProto: the V2 datatype or the reason there is none, and whether a shape was declared."""

    foreign: str = ""
    ranked: bool = False
    datatype: str = ""
    shape: tuple[int, ...] = ()
    symbols: tuple[str, ...] = ()


class _Reader:
    """Walks the messages of one file.

    Where a field that should occur once occurs twice, Protocol Buffers decides: messages merge, the last string wins.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._fields = Fields(data)
        self._functions: set[tuple[str, str]] = set()
        self._calls: set[tuple[str, str]] = set()
        self._initializers: set[str] = set()
        self._external: set[str] = set()
        self._values: tuple[dict[str, _Type], dict[str, _Type]] = ({}, {})
        self._has_graph = False

    def model(self) -> OnnxFile:
        # Every writer puts ir_version, field 1, first: what begins otherwise is another format.
        if self._data[0] != 0x08:
            why = f"it looks like {_TENSORFLOW}" if self._data[0] == 0x0A else "it begins like no ONNX file"
            _not_onnx(why, "convert it with tf2onnx" if self._data[0] == 0x0A else _EXPORT)
        try:
            self._model()
        except Damaged as error:
            raise InvalidModel(f"the model file is damaged: {error}", code="model.damaged") from None
        except Cut as error:
            message = f"the model file is cut short: {error}"
            raise InvalidModel(message, code="model.truncated", hint="upload the whole file") from None
        if not self._has_graph:
            raise InvalidModel("the model file ends before its graph", code="model.truncated")
        if max(len(values) for values in self._values) > MAX_VALUES:
            raise InvalidModel(
                f"the model has more than {MAX_VALUES} inputs or outputs",
                code="model.too_complex",
                hint="put columns of one type together in one input",
            )
        self._refuse_foreign_calls()
        self._refuse_foreign_types()
        inputs, outputs = (
            {
                name: ValueSpec(name, found.ranked, found.datatype, found.shape, found.symbols)
                for name, found in values.items()
            }
            for values in self._values
        )
        return OnnxFile(inputs, outputs, frozenset(self._external), frozenset(inputs.keys() & self._initializers))

    def _refuse_foreign_calls(self) -> None:
        for domain, operator in sorted(self._calls - self._functions):
            if domain not in ALLOWED_DOMAINS:
                raise InvalidModel(
                    f"the model uses the operator {quoted(operator)} of the domain {quoted(domain)}",
                    code="model.op_domain",
                    hint=f"accepted domains: {', '.join(sorted(ALLOWED_DOMAINS - {''}))}; custom operators are not",
                )

    def _refuse_foreign_types(self) -> None:
        for what, values in zip(("input", "output"), self._values, strict=True):
            for name, declared in values.items():
                if declared.foreign and name not in self._initializers:
                    refuse_type(what, name, declared.foreign)

    def _model(self) -> None:
        for number, wire, start, end in self._fields(0, len(self._data)):
            if wire != MESSAGE:
                continue
            if number == 2 and end - start > MAX_PRODUCER_NAME:
                _not_onnx(f"it looks like {_TENSORFLOW}", "convert it with tf2onnx")
            elif number in {7, 25}:
                try:
                    if number == 7:
                        self._has_graph = True
                        self._graph(start, end, depth=0)
                    else:
                        self._function(start, end)
                except Cut as error:
                    # The file went on, so nothing was cut off: a length within is wrong.
                    raise Damaged(str(error)) from None

    def _graph(self, begin: int, stop: int, *, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise InvalidModel(f"graphs are nested more than {MAX_DEPTH} deep", code="model.too_complex")
        for number, wire, start, end in self._fields(begin, stop):
            if wire != MESSAGE:
                continue
            if number == 1:
                self._node(start, end, depth=depth)
            elif number == 5:
                self._tensor(start, end, main=depth == 0)
            elif number == 15:
                self._sparse_tensor(start, end)
            elif number in {11, 12} and depth == 0:
                self._value(start, end, self._values[number - 11])

    def _function(self, begin: int, stop: int) -> None:
        name = domain = ""
        for number, wire, start, end in self._fields(begin, stop):
            if wire != MESSAGE:
                continue
            if number == 1:
                name = self._fields.text(start, end)
            elif number == 10:
                domain = self._fields.text(start, end)
            elif number == 7:
                self._node(start, end, depth=1)
            elif number == 11:
                self._attribute(start, end, depth=1)
        self._functions.add((domain, name))

    def _node(self, begin: int, stop: int, *, depth: int) -> None:
        operator = domain = ""
        for number, wire, start, end in self._fields(begin, stop):
            if wire != MESSAGE:
                continue
            if number == 4:
                operator = self._fields.text(start, end)
            elif number == 7:
                domain = self._fields.text(start, end)
            elif number == 5:
                self._attribute(start, end, depth=depth)
        self._calls.add((domain, operator))

    def _attribute(self, begin: int, stop: int, *, depth: int) -> None:
        for number, wire, start, end in self._fields(begin, stop):
            if wire != MESSAGE:
                continue
            if number in {5, 10}:
                self._tensor(start, end, main=False)
            elif number in {6, 11}:
                self._graph(start, end, depth=depth + 1)
            elif number in {22, 23}:
                self._sparse_tensor(start, end)

    def _sparse_tensor(self, begin: int, stop: int) -> None:
        for number, wire, start, end in self._fields(begin, stop):
            if wire == MESSAGE and number in {1, 2}:
                self._tensor(start, end, main=False)

    def _tensor(self, begin: int, stop: int, *, main: bool) -> None:
        name = ""
        external = False
        locations = []
        for number, wire, start, end in self._fields(begin, stop):
            if number == 14 and wire == VARINT:
                # Readers cut an enum to 32 bits and skip values they do not know, so one EXTERNAL is enough.
                external = external or start & 0xFFFFFFFF == 1
            elif number == 13 and wire == MESSAGE:
                key, value = self._entry(start, end)
                if key == "location":
                    locations.append(value)
            elif number == 8 and wire == MESSAGE:
                name = self._fields.text(start, end)
        if main:
            self._initializers.add(name)
        if external:
            self._external_tensor(name, locations, main=main)

    def _external_tensor(self, name: str, locations: list[str], *, main: bool) -> None:
        for location in locations or [""]:
            parts = location.split("/")
            if "" in parts or ".." in parts or any(character in location for character in "\\:*\0"):
                message = f"tensor {quoted(name)} keeps its data at {quoted(location)}, outside the model's own files"
                raise InvalidModel(
                    message,
                    code="model.external_data_path",
                    hint="save the model again with a plain relative file name for its external data",
                )
            self._external.add("/".join(part for part in parts if part != "."))
        if not main:
            raise InvalidModel(
                f"tensor {quoted(name)} within a subgraph, function or attribute keeps its data in another file",
                code="model.external_data_nested",
                hint="save the model with only the initializers of its main graph as external data",
            )

    def _entry(self, begin: int, stop: int) -> tuple[str, str]:
        key = value = ""
        for number, wire, start, end in self._fields(begin, stop):
            if wire == MESSAGE and number == 1:
                key = self._fields.text(start, end)
            elif wire == MESSAGE and number == 2:
                value = self._fields.text(start, end)
        return key, value

    def _value(self, begin: int, stop: int, into: dict[str, _Type]) -> None:
        name = ""
        declared = _Type()
        for number, wire, start, end in self._fields(begin, stop):
            if wire == MESSAGE and number == 1:
                name = self._fields.text(start, end)
            elif wire == MESSAGE and number == 2:
                self._type(start, end, declared)
        into[name] = declared

    def _type(self, begin: int, stop: int, declared: _Type) -> None:
        others = {4: "a sequence", 5: "a map", 8: "a sparse tensor", 9: "an optional value"}
        for number, wire, start, end in self._fields(begin, stop):
            if wire == MESSAGE and number == 1:
                self._tensor_type(start, end, declared)
            elif wire == MESSAGE and number in others:
                declared.foreign = others[number]

    def _tensor_type(self, begin: int, stop: int, declared: _Type) -> None:
        for number, wire, start, end in self._fields(begin, stop):
            if number == 1 and wire == VARINT:
                declared.datatype = _DATATYPES.get(start, "")
                if not declared.datatype:
                    declared.foreign = f"a tensor of {_FOREIGN.get(start, f'type {start}')}"
            elif number == 2 and wire == MESSAGE:
                declared.ranked = True
                for dimension in self._dimensions(start, end):
                    declared.shape += (dimension[0],)
                    declared.symbols += (dimension[1],)

    def _dimensions(self, begin: int, stop: int) -> Iterator[tuple[int, str]]:
        for number, wire, start, end in self._fields(begin, stop):
            if number != 1 or wire != MESSAGE:
                continue
            size, symbol = -1, ""
            for inner, kind, value, inner_end in self._fields(start, end):
                if inner == 1 and kind == VARINT:
                    # The value is signed: what is negative has its highest bit set.
                    size, symbol = (value if value < 1 << 63 else -1), ""
                elif inner == 2 and kind == MESSAGE:
                    size, symbol = -1, self._fields.text(value, inner_end)
            yield size, symbol


def refuse_type(what: str, name: str, kind: str) -> NoReturn:
    """Raises InvalidModel `model.unsupported_type` for the input or output `name`, which is `kind`."""
    hint = "give it a tensor type that the Open Inference Protocol has"
    if kind.startswith(("a sequence", "a map")) and what == "output":
        hint = 'if it is a classifier of scikit-learn, convert it with options={"zipmap": False}'
    message = f"the model's {what} {quoted(name)} is {kind}, which the Open Inference Protocol cannot carry"
    raise InvalidModel(message, code="model.unsupported_type", hint=hint)
