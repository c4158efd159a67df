"""Memory that the server and the process of a model both see: what the tensors of a run travel in.

The file behind it is sealed so that neither side can change its size: reading it can then never fail. The other side
may write to it at any time, though, so the server takes a copy of what it reads before it looks at it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from blindai.enclave.running.batch import UNBATCHABLE
from blindai.enclave.sandbox.messages import ProtocolError, TensorHead
from blindai.errors import InvalidInput, InvalidModel
from blindai.wire.tensor import Tensor, from_binary, quoted, to_binary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blindai.wire.tensor import Buffer

ALIGNMENT: Final = 64
"""Where a tensor begins: at a multiple of the largest element and of a cache line."""

MIN_BYTES: Final = 64 << 10
"""A new slot: the tensors of small models fit, and a thousand models take little."""

KEPT_BYTES: Final = 8 << 20
"""Up to here used memory is overwritten and kept; beyond, it is given back to the system, which takes longer later."""

_ZEROS: Final = memoryview(bytes(MIN_BYTES))


class Slot:
    """The server's end.

    Args:
        size: bytes that it must hold at least.

    Attributes:
        size: bytes that it holds.
        view: all of it.
    """

    __slots__ = ("_descriptor", "_map", "size", "view")

    def __init__(self, size: int) -> None:
        self.size = max(MIN_BYTES, 1 << (size - 1).bit_length()) if size > 0 else MIN_BYTES
        self._descriptor = os.memfd_create("blindai-slot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._descriptor, self.size)
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, seals)
            self._map = mmap.mmap(self._descriptor, self.size)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.view = memoryview(self._map)

    def fileno(self) -> int:
        """The file, to hand to the process."""
        return self._descriptor

    def clear(self, used: int) -> None:
        """Leave nothing of what the first `used` bytes have held."""
        if used > KEPT_BYTES:
            self._map.madvise(mmap.MADV_REMOVE)
        elif used > len(_ZEROS):
            self.view[:used] = bytes(used)
        else:
            self.view[:used] = _ZEROS[:used]

    def close(self) -> None:
        """Give it back. The process may keep its own end for a while: nothing may be left in it. Once only."""
        self._map.madvise(mmap.MADV_REMOVE)
        self.view.release()
        self._map.close()
        os.close(self._descriptor)


class Layout:
    """Tensors as they will lie in a slot, one behind the other, and a structure behind them.

    Attributes:
        heads: of the tensors.
        end: where the last one ends.
    """

    __slots__ = ("_parts", "end", "heads")

    def __init__(self) -> None:
        self.heads: list[TensorHead] = []
        self.end = 0
        self._parts: list[tuple[int, Buffer]] = []

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Place a tensor, or several that become one: they are alike in all but the first dimension."""
        first = tensors[0]
        parts = [to_binary(tensor) for tensor in tensors]
        sizes = [len(part) for part in parts]
        offset = -(-self.end // ALIGNMENT) * ALIGNMENT
        shape = first.data.shape
        if len(tensors) > 1:
            shape = (sum(tensor.data.shape[0] for tensor in tensors), *shape[1:])
        total = sum(sizes)
        self.heads.append(TensorHead(first.name, first.datatype, shape, offset, total))
        for start, part in zip(accumulate(sizes, initial=offset), parts, strict=False):
            self._parts.append((start, part))
        self.end = offset + total

    def write(self, view: memoryview, header: bytes) -> int:
        """Write everything; where the header begins. `view` must be as long as `end` and the header together."""
        for start, part in self._parts:
            view[start : start + len(part)] = part
        view[self.end : self.end + len(header)] = header
        return self.end


def read_tensor(view: memoryview, head: TensorHead, rows: Sequence[int] = ()) -> list[Tensor]:
    """Copies of a tensor that a process has left in a slot, cut into as many `rows` each; of all of it when empty.

    Raises:
        ProtocolError: no such tensor can lie there.
        InvalidModel: `model.batch`, it does not have the rows of the batch.
    """
    if head.offset < 0 or head.size < 0 or head.offset + head.size > len(view):
        raise ProtocolError("a tensor of its answer lies outside of its memory")
    try:
        if len(rows) <= 1:
            return [_copied(head, head.shape, view[head.offset : head.offset + head.size])]
        if not head.shape or head.shape[0] != sum(rows):
            message = f"output {quoted(head.name)} of a batch of {sum(rows)} rows has shape {list(head.shape)}"
            raise InvalidModel(message, code=UNBATCHABLE)
        if head.datatype == "BYTES":
            whole = _copied(head, head.shape, view[head.offset : head.offset + head.size])
            ends = list(accumulate(rows))
            return [
                Tensor(whole.name, whole.datatype, whole.data[end - count : end])
                for end, count in zip(ends, rows, strict=True)
            ]
        row, rest = divmod(head.size, head.shape[0])
        if rest:
            raise ProtocolError("its answer has rows of different size")
        starts = accumulate((count * row for count in rows), initial=head.offset)
        return [
            _copied(head, (count, *head.shape[1:]), view[start : start + count * row])
            for count, start in zip(rows, starts, strict=False)
        ]
    except InvalidInput as error:
        raise ProtocolError("a tensor of its answer is damaged") from error


def _copied(head: TensorHead, shape: tuple[int, ...], part: memoryview) -> Tensor:
    return from_binary(head.name, head.datatype, shape, bytes(part))
