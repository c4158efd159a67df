"""Which other files an ONNX file needs, found without reading its weights.

The file is walked as what it is, protobuf fields, and everything but the way to the tensors is skipped: a model of
2 GB costs a few seeks and no memory, where a protobuf library would hold it twice.

Sources: onnx.proto3 (field numbers; `TensorProto.external_data`); "Protocol Buffers, Encoding" (the wire format).
"""

from __future__ import annotations

import os
from typing import BinaryIO, Final

from blindai.errors import InvalidModel

MAX_DEPTH: Final = 100
"""Messages inside messages: the limit of the protobuf libraries, so nothing deeper could be loaded anyway."""

_MAX_VARINT_BYTES: Final = 10
_AGAIN: Final = "export or download it once more"
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5

# For each message on the way to a tensor: the fields that lead on, and the message they hold.
_LEADS: Final[dict[str, dict[int, str]]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "StringStringEntry"},
    "StringStringEntry": {},
}
_MODEL_GRAPH: Final = 7
_TENSOR_DATA_LOCATION: Final = 14
_EXTERNAL: Final = 1
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


def external_data(file: BinaryIO, size: int) -> dict[str, int]:
    """The files that hold tensors of a model, and the bytes that each must have at least.

    Args:
        file: the ONNX file, at its beginning.
        size: its length in bytes.

    Returns:
        Locations as the model gives them but for a leading `./`, unchecked: they may lead anywhere.

    Raises:
        InvalidModel: `model.truncated`, the file ends inside a field or before its graph; `model.damaged`, it is not
            made of protobuf fields, or says nonsense about its tensors; `model.too_complex`.
    """
    walk = _Walk(file)
    walk.message("Model", size, 0)
    if not walk.has_graph:
        raise _truncated()
    return walk.needed


class _Walk:
    """One pass over a file, forwards only."""

    def __init__(self, file: BinaryIO) -> None:
        self.needed: dict[str, int] = {}
        self.has_graph = False
        self._file = file
        self._position = 0

    def message(self, kind: str, end: int, depth: int) -> None:
        """Walk the message of this kind that goes on to `end`."""
        if depth > MAX_DEPTH:
            message = f"the model's graphs are nested too deep: more than {MAX_DEPTH} messages"
            raise InvalidModel(message, code="model.too_complex")
        leads = _LEADS[kind]
        entries: dict[str, str] = {}
        external = False
        while self._position < end:
            key = self._varint()
            field, wire_type = key >> 3, key & 7
            if wire_type == _VARINT:
                value = self._varint()
                if kind == "Tensor" and field == _TENSOR_DATA_LOCATION:
                    external = value == _EXTERNAL
            elif wire_type == _LENGTH_DELIMITED:
                stop = self._varint()
                stop += self._position
                self._require_inside(stop, end)
                lead = leads.get(field)
                if lead is None:
                    self._skip_to(stop)
                elif lead == "StringStringEntry":
                    name, text = self._entry(stop)
                    entries[name] = text
                else:
                    self.has_graph |= kind == "Model" and field == _MODEL_GRAPH
                    self.message(lead, stop, depth + 1)
            elif wire_type in {_FIXED64, _FIXED32}:
                stop = self._position + (8 if wire_type == _FIXED64 else 4)
                self._require_inside(stop, end)
                self._skip_to(stop)
            else:
                raise _damaged("it is not made of protobuf fields")
        self._require_inside(self._position, end)
        if external:
            self._need(entries)

    def _need(self, entries: dict[str, str]) -> None:
        location = entries.get("location", "").removeprefix("./")
        if not location:
            raise _damaged("a tensor is in another file without a name")
        try:
            needed = _number(entries.get("offset", "0")) + _number(entries.get("length", "0"))
        except ValueError:
            raise _damaged("the place of a tensor in another file is not a number") from None
        self.needed[location] = max(needed, self.needed.get(location, 0))

    def _entry(self, end: int) -> tuple[str, str]:
        """A key and its value, both text."""
        texts = {_ENTRY_KEY: "", _ENTRY_VALUE: ""}
        while self._position < end:
            key = self._varint()
            if key & 7 != _LENGTH_DELIMITED:
                raise _damaged("it is not made of protobuf fields")
            length = self._varint()
            self._require_inside(self._position + length, end)
            try:
                texts[key >> 3] = self._read(length).decode()
            except UnicodeDecodeError:
                raise _damaged("a name in it is not text") from None
        return texts[_ENTRY_KEY], texts[_ENTRY_VALUE]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
            byte = self._read(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise _damaged("it is not made of protobuf fields")

    def _read(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            raise _truncated()
        self._position += length
        return data

    def _skip_to(self, position: int) -> None:
        self._file.seek(position - self._position, os.SEEK_CUR)
        self._position = position

    def _require_inside(self, position: int, end: int) -> None:
        if position > end:
            raise _truncated()


def _number(text: str) -> int:
    # int() alone would take "+1", "1_0" and digits of every script.
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(2**63)):
        raise ValueError(text)
    return int(text)


def _damaged(reason: str) -> InvalidModel:
    return InvalidModel(f"the model is no intact ONNX file: {reason}", code="model.damaged", hint=_AGAIN)


def _truncated() -> InvalidModel:
    return InvalidModel("the model's ONNX file ends too early", code="model.truncated", hint=_AGAIN)
