"""What the JSON of a binary message has said before, so that the same JSON is neither parsed nor written again.

Most clients send tensors of the same names, types and shapes again and again, and only their bytes differ. Kept is what
says nothing but that: never a tensor's values, an identifier, or a parameter of the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

import numpy as np

from blindai.wire.datatype import BYTES, DATATYPES, Kind
from blindai.wire.tensor import Tensor, to_binary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blindai.wire.tensor import Buffer

MAX_HEADER_BYTES: Final = 1024
"""JSON that is kept at most, in bytes. It describes some ten tensors; larger messages cost more elsewhere."""

MAX_KEPT: Final = 256
"""Messages that are remembered. Beyond it the memory starts afresh: who floods it costs others some microseconds."""

# The length of a BYTES element is in the data, and a byte of a BOOL may be neither 0 nor 1.
_FIXED: Final = frozenset(
    name for name, datatype in DATATYPES.items() if datatype is not BYTES and datatype.kind is not Kind.BOOL
)

# Data that cost less to copy than to make a view of.
_SMALL_BYTES: Final = 4096

_K = TypeVar("_K")
_V = TypeVar("_V")


class Memory(Generic[_K, _V]):
    """A bounded dictionary. Threads may use it at the same time."""

    __slots__ = ("_kept", "get")

    def __init__(self) -> None:
        self._kept: dict[_K, _V] = {}
        self.get = self._kept.get

    def keep(self, key: _K, value: _V) -> None:
        """Remember `value`."""
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[key] = value


class _Place(NamedTuple):
    name: str
    datatype: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


class Layout:
    """Where the tensors of a message are in its binary data.

    Args:
        tensors: of one message, all of them sent in binary form.

    Attributes:
        size: bytes of binary data.
        names: of the tensors, and their datatypes.
    """

    __slots__ = ("_places", "names", "size")

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.size = 0
        self.names = [(tensor.name, tensor.datatype) for tensor in tensors]
        self._places: list[_Place] = []
        for tensor in tensors:
            self._places.append(_Place(tensor.name, tensor.datatype, tensor.data.dtype, tensor.data.shape, self.size))
            self.size += tensor.data.nbytes

    def tensors(self, body: Buffer, position: int) -> tuple[Tensor, ...]:
        """The tensors of another message of the same JSON: views of `body`, whose binary data begin at `position`."""
        return tuple(
            [
                Tensor(name, datatype, np.ndarray(shape, dtype, body, position + offset))
                for name, datatype, dtype, shape, offset in self._places
            ]
        )

    def arrays(self, body: Buffer, position: int) -> dict[str, np.ndarray[Any, Any]]:
        """As `tensors`, but the arrays alone, by name."""
        return {
            name: np.ndarray(shape, dtype, body, position + offset) for name, _, dtype, shape, offset in self._places
        }


def has_layout(tensors: Sequence[Tensor]) -> bool:
    """Whether the JSON alone says where each of these tensors is, and any bytes are values of theirs."""
    return _FIXED.issuperset([tensor.datatype for tensor in tensors])


def described(tensors: Sequence[Tensor]) -> tuple[object, ...]:
    """All that the JSON says of these tensors, where they are sent in binary form."""
    if len(tensors) == 1:
        tensor = tensors[0]
        data = tensor.data
        return tensor.name, tensor.datatype, data.shape, data.dtype
    return tuple([(tensor.name, tensor.datatype, tensor.data.shape, tensor.data.dtype) for tensor in tensors])


def data_of(tensor: Tensor) -> bytes | memoryview:
    """The binary form of a tensor that has a layout, and whose array is known to be what its datatype says."""
    data = tensor.data
    return data.tobytes() if data.nbytes <= _SMALL_BYTES else to_binary(tensor)
