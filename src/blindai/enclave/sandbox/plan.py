"""What is the same in every run of the same shapes, worked out once: where tensors lie, and the structure that says so.

Both sides keep such plans. What the server keeps of a process's answers was checked as any answer is, and is found
again by the very bytes that were checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from blindai.wire.datatype import DATATYPES
from blindai.wire.tensor import Tensor, to_binary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blindai.enclave.sandbox.messages import TensorHead

MOST_PLANS: Final = 64
"""Plans that are kept for one model; beyond, it is as if none had been. Models are called with few shapes."""

MOST_BYTES: Final = 4096
"""Of the structure of a plan that is kept: a process chooses how long those of its answers are."""

Key: TypeAlias = tuple[object, ...]


class Plan(NamedTuple):
    """Where the tensors of one message lie.

    Attributes:
        starts: of each tensor.
        end: where the structure begins.
        header: the structure.
    """

    starts: Sequence[int]
    end: int
    header: bytes

    def write(self, view: memoryview, tensors: Iterable[Tensor]) -> None:
        """Write tensors, which must be those of the plan, and the structure. `view` must be long enough for both.

        Raises:
            InvalidInput: as `wire.tensor.to_binary`.
        """
        for start, tensor in zip(self.starts, tensors, strict=True):
            part = to_binary(tensor)
            view[start : start + len(part)] = part
        view[self.end : self.end + len(self.header)] = self.header


class Plans:
    """The plans of the messages that one side sends."""

    __slots__ = ("_plans",)

    def __init__(self) -> None:
        self._plans: dict[Key, Plan] = {}

    def find(self, key: Key) -> Plan | None:
        """The plan of `key_of` a message."""
        return self._plans.get(key)

    def keep(self, key: Key, heads: Sequence[TensorHead], end: int, header: bytes) -> None:
        """Keep the plan of a message that was sent, if its shapes say how long its tensors are."""
        if len(header) > MOST_BYTES or any(head.datatype == "BYTES" for head in heads):
            return
        if len(self._plans) >= MOST_PLANS:
            self._plans.clear()
        self._plans[key] = Plan([head.offset for head in heads], end, header)


def key_of(tensors: Iterable[Tensor], wanted: Sequence[str] = ()) -> Key:
    """What the plan of a message follows from."""
    return (*wanted, None, *[(tensor.name, tensor.datatype, tensor.data.shape) for tensor in tensors])


class KnownAnswer:
    """An answer to a run of one request as it was checked once: names, datatypes, shapes and places.

    Args:
        heads: of its tensors, in fixed-size datatypes of which every value is one, each of the size of its shape.
    """

    __slots__ = ("_parts", "end", "names")

    def __init__(self, heads: Sequence[TensorHead]) -> None:
        self.names = [head.name for head in heads]
        self.end = max((head.offset + head.size for head in heads), default=0)
        self._parts = [
            (head.name, head.datatype, head.shape, DATATYPES[head.datatype].dtype, head.offset, head.offset + head.size)
            for head in heads
        ]

    def read(self, view: memoryview) -> list[Tensor]:
        """Copies of its tensors. `view` must reach to `end`."""
        return [
            Tensor(name, datatype, np.ndarray(shape, dtype, bytes(view[start:end])))
            for name, datatype, shape, dtype, start, end in self._parts
        ]


def fixed(heads: Iterable[TensorHead]) -> bool:
    """Whether such tensors need no look at their values: text has lengths, and a BOOL byte may be neither 0 nor 1."""
    return all(head.datatype not in {"BYTES", "BOOL"} for head in heads)
