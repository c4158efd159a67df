"""One tensor, and its two forms on the wire: raw bytes after the JSON header, or values inside it.

Sources: Open Inference Protocol V2, REST, "Tensor Data"; Triton, "Binary tensor data extension".

Decoding is strict: sizes and counts must match exactly, and no value is coerced into another type. An integer stays an
integer (1.5 and 300 are no INT8, true is no integer); an integer is accepted where a float is due. FP16 and BF16, which
Triton refuses in JSON, are accepted here: each of their values is exactly a JSON number, so writing one and reading it
back loses nothing, and a number between two of them goes to the nearest, as it does for FP32.
"""

from __future__ import annotations

import re
import struct
from functools import cache
from itertools import chain
from types import GenericAlias
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from blindai.errors import InvalidInput
from blindai.wire.datatype import BYTES, DATATYPES, Kind, bfloat16_from_float, bfloat16_to_float, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blindai.wire.datatype import Datatype

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_RANK = 32
"""Dimensions of one tensor. ONNX operators stay far below; NumPy stops at 64."""

MAX_ELEMENTS = 2**48
"""Elements of one tensor, an empty dimension counted as 1. No body holds that many; the bound keeps the strides that
NumPy computes, even for an empty tensor such as [0, 2**62], inside 64 bits."""

MAX_QUOTED = 80
"""Characters of a name that an error repeats: the name is the peer's, the message must stay a message."""

_LENGTH = struct.Struct("<I")
_OPENING = re.compile(rb"[\[\s]+")
_NULL = re.compile(rb"(?:^|[\[,])\s*null\b")
_ELEMENT: dict[Kind, Any] = {Kind.BOOL: bool, Kind.INTEGER: int, Kind.FLOAT: float, Kind.BYTES: str}
_ENCODER = msgspec.json.Encoder()
_USE_BINARY = "use binary tensor data for it: parameters.binary_data_size in, parameters.binary_data out"


class Tensor(msgspec.Struct, frozen=True, eq=False):
    """A named array with its V2 datatype.

    Attributes:
        name: the model's name for it.
        datatype: the V2 datatype, a key of `blindai.wire.datatype.DATATYPES`.
        data: the values, in the tensor's shape and with the dtype that `DATATYPES` gives: BYTES is an object array of
            `bytes`, BF16 a `uint16` array of raw bits. A decoded binary tensor is a view of the received body, perhaps
            read-only, perhaps unaligned.
    """

    name: str
    datatype: str
    data: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @classmethod
    def from_array(cls, name: str, array: NDArray[Any]) -> Tensor:
        """The tensor that carries `array`, whose dtype decides the datatype. Numbers in native order are not copied.

        Text becomes UTF-8 BYTES; `ml_dtypes.bfloat16` becomes BF16.

        Raises:
            InvalidInput: `input.datatype` for a dtype V2 does not have (complex, dates, records, float128), and for an
                array of objects that are neither `str` nor `bytes`.
        """
        datatype = name_of(array.dtype)
        if datatype is None:
            message = f"tensor {quoted(name)}: arrays of {array.dtype} have no Open Inference Protocol datatype"
            raise InvalidInput(message, code="input.datatype", hint=f"convert it to one of {', '.join(DATATYPES)}")
        if datatype == "BYTES":
            return cls(name, datatype, _array_of_bytes(name, array.ravel().tolist(), array.shape))
        if datatype == "BF16":
            return cls(name, datatype, array.view(np.uint16))
        return cls(name, datatype, array.astype(DATATYPES[datatype].dtype, copy=False))


def quoted(name: str) -> str:
    """A peer's name as an error message shows it: quoted, escaped, and shortened to `MAX_QUOTED` characters."""
    return repr(name if len(name) <= MAX_QUOTED else f"{name[:MAX_QUOTED]}...")


def datatype_of(name: str, datatype: str) -> Datatype:
    """Looks the datatype of tensor `name` up. Raises InvalidInput `input.datatype` for an unknown one."""
    try:
        return DATATYPES[datatype]
    except KeyError:
        message = f"tensor {quoted(name)}: unknown datatype {quoted(datatype)}, expected one of {', '.join(DATATYPES)}"
        raise InvalidInput(message, code="input.datatype") from None


def element_count(name: str, shape: Sequence[int]) -> int:
    """The number of elements of a tensor of this shape.

    Raises:
        InvalidInput: `input.shape` for a negative dimension, more than `MAX_RANK` of them or more than `MAX_ELEMENTS`
            elements.
    """
    if len(shape) > MAX_RANK:
        message = f"tensor {quoted(name)}: {len(shape)} dimensions, at most {MAX_RANK} are accepted"
        raise InvalidInput(message, code="input.shape")
    count = extent = 1
    for dimension in shape:
        if dimension < 0:
            message = f"tensor {quoted(name)}: negative dimension in shape {_show(shape)}"
            raise InvalidInput(message, code="input.shape", hint="-1 stands for a variable dimension in metadata only")
        count *= dimension
        extent *= dimension or 1
    if extent > MAX_ELEMENTS:
        message = f"tensor {quoted(name)}: shape {_show(shape)} is larger than any accepted body"
        raise InvalidInput(message, code="input.shape")
    return count


def from_binary(name: str, datatype: str, shape: tuple[int, ...], payload: Buffer) -> Tensor:
    """The tensor whose binary form is `payload`.

    Fixed-size elements are not copied: the array is a view of `payload`, which must not change while it is used.

    Raises:
        InvalidInput: `input.datatype`, `input.shape`; `input.size` when `payload` is not as long as the shape needs or
            a BYTES length runs past its end; `input.value` for a BOOL byte other than 0 and 1.
    """
    known = datatype_of(name, datatype)
    count = element_count(name, shape)
    if known is BYTES:
        return Tensor(name, datatype, _split(name, shape, count, payload))
    if len(payload) != count * known.size:
        expected = f"{datatype} of shape {_show(shape)} takes {count * known.size} bytes"
        message = f"tensor {quoted(name)}: {expected}, binary_data_size is {len(payload)}"
        raise InvalidInput(message, code="input.size")
    array: NDArray[Any] = np.ndarray(shape, known.dtype, payload)
    # A C++ bool that is neither 0 nor 1 is undefined behaviour in whatever reads it next.
    if known.kind is Kind.BOOL and count and array.view(np.uint8).max() > 1:
        message = f"tensor {quoted(name)}: a BOOL byte must be 0 or 1, got {array.view(np.uint8).max()}"
        raise InvalidInput(message, code="input.value")
    return Tensor(name, datatype, array)


def to_binary(tensor: Tensor) -> bytes | memoryview:
    """The binary form: a view of the tensor's own memory where that is contiguous, else a copy.

    Raises:
        InvalidInput: `input.datatype` when the array's dtype is not the one of its datatype; `input.value` when a BYTES
            element is not `bytes`.
    """
    data = _checked(tensor)
    if tensor.datatype == "BYTES":
        return b"".join(chain.from_iterable((_LENGTH.pack(len(item)), item) for item in _items(tensor)))
    if not data.size:
        return b""
    return np.ascontiguousarray(data).data.cast("B")


def from_json(name: str, datatype: str, shape: tuple[int, ...], raw: Buffer) -> Tensor:
    """The tensor whose JSON form is `raw`: one flat row-major list, or lists nested as the shape says.

    A scalar (shape []) may also stand alone, without a list.

    Raises:
        InvalidInput: `input.datatype`, `input.shape`; `input.data` when the number or nesting of the elements is not
            that of the shape; `input.value` for an element of another type or outside the datatype's range;
            `input.nan_in_json` for a null, which is how many JSON writers spell NaN.
    """
    known = datatype_of(name, datatype)
    count = element_count(name, shape)
    rank = len(shape)
    brackets = _OPENING.match(raw)
    if brackets and brackets[0].count(b"[") == 1:
        rank = 1
    try:
        values = _decoder(known.kind, rank).decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if known.kind is Kind.FLOAT and _NULL.search(raw):
            raise nan_in_json(name) from None
        message = f"tensor {quoted(name)}: data is not {datatype} of shape {_show(shape)}: {error}"
        raise InvalidInput(message, code="input.value") from None
    flat = _flatten(name, values, shape, count, rank)
    if known is BYTES:
        return Tensor(name, datatype, _array_of_bytes(name, flat, shape))
    return Tensor(name, datatype, _array_of_numbers(name, known, flat).reshape(shape))


def to_json(tensor: Tensor) -> msgspec.Raw:
    """The JSON form: one flat row-major list.

    Raises:
        InvalidInput: `input.datatype`; `input.nan_in_json` for NaN and infinities, which JSON cannot write;
            `input.bytes_in_json` for BYTES that are no UTF-8 text.
    """
    data = _checked(tensor)
    if tensor.datatype == "BYTES":
        try:
            return msgspec.Raw(_ENCODER.encode([item.decode() for item in _items(tensor)]))
        except UnicodeDecodeError:
            message = f"tensor {quoted(tensor.name)}: a BYTES element is not UTF-8, which JSON cannot carry"
            raise InvalidInput(message, code="input.bytes_in_json", hint=_USE_BINARY) from None
    if tensor.datatype == "BF16":
        data = bfloat16_to_float(data)
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise nan_in_json(tensor.name)
    return msgspec.Raw(_ENCODER.encode(data.ravel().tolist()))


def nan_in_json(name: str) -> InvalidInput:
    """The refusal of a NaN or infinity in JSON mode, in either direction. `name` is empty where it is not known."""
    where = f"tensor {quoted(name)}" if name else "the message"
    message = f"{where} contains NaN or Infinity, which JSON cannot carry"
    return InvalidInput(message, code="input.nan_in_json", hint=_USE_BINARY)


def _show(shape: Sequence[int]) -> str:
    return quoted(str(list(shape)))[1:-1]


@cache
def _decoder(kind: Kind, rank: int) -> msgspec.json.Decoder[Any]:
    expected: Any = _ELEMENT[kind]
    for _ in range(rank):
        expected = GenericAlias(list, expected)
    return msgspec.json.Decoder(expected)


def _flatten(name: str, values: Any, shape: tuple[int, ...], count: int, rank: int) -> list[Any]:
    """Unrolls `values`, lists nested `rank` deep, after checking that they have the shape."""
    if rank == 0:
        return [values]
    # A flat list stands for any shape: only the total counts.
    for extent in (count,) if rank != len(shape) else shape[:1]:
        if len(values) != extent:
            raise _wrong_count(name, shape, extent, len(values))
    for extent in shape[1:rank]:
        for row in values:
            if len(row) != extent:
                raise _wrong_count(name, shape, extent, len(row))
        values = list(chain.from_iterable(values))
    flat: list[Any] = values
    return flat


def _wrong_count(name: str, shape: tuple[int, ...], expected: int, got: int) -> InvalidInput:
    message = f"tensor {quoted(name)}: shape {_show(shape)} needs a list of {expected} elements, got {got}"
    return InvalidInput(message, code="input.data")


def _array_of_numbers(name: str, datatype: Datatype, flat: list[Any]) -> NDArray[Any]:
    if datatype.kind is not Kind.FLOAT:
        try:
            return np.array(flat, dtype=datatype.dtype)
        except OverflowError as error:
            raise InvalidInput(f"tensor {quoted(name)}: {error}", code="input.value") from None
    wide = np.array(flat, dtype=np.float64)
    if datatype.name == "BF16":
        array: NDArray[Any] = bfloat16_from_float(wide)
        finite = np.isfinite(bfloat16_to_float(array))
    else:
        with np.errstate(over="ignore"):
            array = wide.astype(datatype.dtype, copy=False)
        finite = np.isfinite(array)
    if not finite.all():
        message = f"tensor {quoted(name)}: {wide[np.argmin(finite)]} is out of bounds for {datatype.name}"
        raise InvalidInput(message, code="input.value")
    return array


def _array_of_bytes(name: str, items: list[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    array: NDArray[Any] = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        if isinstance(item, str):
            array[index] = item.encode()
        elif isinstance(item, bytes):
            array[index] = item
        else:
            message = f"tensor {quoted(name)}: BYTES elements are str or bytes, got {type(item).__name__}"
            raise InvalidInput(message, code="input.datatype")
    return array.reshape(shape)


def _split(name: str, shape: tuple[int, ...], count: int, payload: Buffer) -> NDArray[Any]:
    """Reads `count` length-prefixed elements that must fill `payload` exactly."""
    end = len(payload)
    # Checked before anything is allocated: each element costs at least its length prefix.
    if end < count * _LENGTH.size:
        message = f"tensor {quoted(name)}: {count} BYTES elements do not fit in binary_data_size {end}"
        raise InvalidInput(message, code="input.size")
    array: NDArray[Any] = np.empty(count, dtype=object)
    position = 0
    for index in range(count):
        if end - position < _LENGTH.size:
            message = f"tensor {quoted(name)}: binary data ends before the length of BYTES element {index}"
            raise InvalidInput(message, code="input.size")
        (length,) = _LENGTH.unpack_from(payload, position)
        position += _LENGTH.size
        if length > end - position:
            message = f"tensor {quoted(name)}: BYTES element {index} claims {length} bytes, {end - position} are left"
            raise InvalidInput(message, code="input.size")
        array[index] = bytes(payload[position : position + length])
        position += length
    if position != end:
        message = f"tensor {quoted(name)}: {end - position} bytes are left after the last of {count} BYTES elements"
        raise InvalidInput(message, code="input.size")
    return array.reshape(shape)


def _checked(tensor: Tensor) -> NDArray[Any]:
    expected = datatype_of(tensor.name, tensor.datatype).dtype
    if tensor.data.dtype != expected:
        message = f"tensor {quoted(tensor.name)}: {tensor.datatype} is an array of {expected}, got {tensor.data.dtype}"
        raise InvalidInput(message, code="input.datatype")
    return tensor.data


def _items(tensor: Tensor) -> list[bytes]:
    items: list[Any] = tensor.data.ravel().tolist()
    for item in items:
        if not isinstance(item, bytes):
            message = f"tensor {quoted(tensor.name)}: BYTES elements must be bytes, got {type(item).__name__}"
            raise InvalidInput(message, code="input.value")
    return items
