"""Puts the external data of a model back into its file, for an engine that takes one file only.

What ONNX calls external data is an initializer whose bytes are in another file: its field `external_data` says in
which, and where in it. Such an initializer is written anew with the field `raw_data`; all else stays as it is.

Source: onnx.proto (IR version 13), TensorProto; "Protocol Buffers: Encoding".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from blindai.enclave.model_file.protobuf import MESSAGE, VARINT, Fields
from blindai.errors import InvalidModel
from blindai.wire.tensor import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from blindai.wire.tensor import Buffer

MAX_BYTES: Final = 2**31 - 1
"""Of one message of Protocol Buffers, and so of one ONNX file."""

_GRAPH: Final = 7  # ModelProto.graph
_INITIALIZER: Final = 5  # GraphProto.initializer
_RAW_DATA: Final = 9  # TensorProto
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14


def embed(model: Buffer, external: Mapping[str, Buffer]) -> bytes:
    """The same model in one file.

    Args:
        model: an ONNX file that `onnx_file.inspect` has accepted.
        external: its external data files, all that it names.

    Raises:
        InvalidModel: `model.external_data_missing` for data beyond the end of a file; `model.too_complex` where the
            file would be larger than an ONNX file can be.
    """
    with memoryview(model) as data:
        written = _Embedding(data, external).model()
    if len(written) > MAX_BYTES:
        raise InvalidModel("the model with its external data is too large for one file", code="model.too_complex")
    return written


class _Embedding:
    def __init__(self, data: memoryview, external: Mapping[str, Buffer]) -> None:
        self._data = data
        self._fields = Fields(data)
        self._external = external

    def model(self) -> bytes:
        return b"".join(self._rewritten(0, len(self._data), _GRAPH, self._graph))

    def _graph(self, begin: int, stop: int) -> Sequence[Buffer]:
        return self._rewritten(begin, stop, _INITIALIZER, self._tensor)

    def _rewritten(
        self, begin: int, stop: int, wanted: int, write: Callable[[int, int], Sequence[Buffer]]
    ) -> Sequence[Buffer]:
        """The parts of a message, each field `wanted` written by `write`, and all others as they are."""
        parts: list[Buffer] = []
        kept = begin
        for number, wire, start, end in self._fields(begin, stop):
            if number == wanted and wire == MESSAGE:
                parts.append(self._data[kept : self._fields.begin])
                parts += _field(wanted, write(start, end))
                kept = end
        parts.append(self._data[kept:stop])
        return parts

    def _tensor(self, begin: int, stop: int) -> Sequence[Buffer]:
        parts: list[Buffer] = []
        entries: dict[str, str] = {}
        external = False
        begins = []
        for number, wire, start, end in self._fields(begin, stop):
            begins.append((self._fields.begin, number))
            if number == _EXTERNAL_DATA and wire == MESSAGE:
                key, value = self._entry(start, end)
                entries[key] = value
            elif number == _DATA_LOCATION and wire == VARINT:
                external = external or start & 0xFFFFFFFF == 1
        if not external:
            return [self._data[begin:stop]]
        ends = [position for position, _ in begins[1:]] + [stop]
        for (position, number), end in zip(begins, ends, strict=True):
            if number not in {_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION}:
                parts.append(self._data[position:end])
        return [*parts, *_field(_RAW_DATA, [self._content(entries)])]

    def _content(self, entries: Mapping[str, str]) -> memoryview:
        """The bytes that the entries of `external_data` mean."""
        location = "/".join(part for part in entries.get("location", "").split("/") if part != ".")
        with memoryview(self._external[location]) as file:
            offset, length = _number(entries.get("offset", "0")), _number(entries.get("length", ""))
            end = len(file) if length is None else (offset or 0) + length
            if offset is None or not offset <= end <= len(file):
                message = f"the model keeps weights in {quoted(location)} at a place that this file does not have"
                raise InvalidModel(message, code="model.external_data_missing", hint="upload the whole file")
            return file[offset:end]

    def _entry(self, begin: int, stop: int) -> tuple[str, str]:
        texts = {1: "", 2: ""}
        for number, wire, start, end in self._fields(begin, stop):
            if number in texts and wire == MESSAGE:
                texts[number] = self._fields.text(start, end)
        return texts[1], texts[2]


def _number(text: str) -> int | None:
    """A decimal number; None for anything else. No file is longer than 18 digits say."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def _field(number: int, content: Sequence[Buffer]) -> Sequence[Buffer]:
    return [_varint(number << 3 | MESSAGE) + _varint(sum(map(len, content))), *content]


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
