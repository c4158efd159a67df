"""Reads the fields of Protocol Buffers in place, from bytes that a stranger wrote.

Source: "Protocol Buffers: Encoding". Groups, long out of use, are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from blindai.errors import InvalidModel

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FIELDS = 4_000_000
"""Fields read in one file. The largest exported graphs have about a million; a hostile file has one in 2 bytes."""

VARINT: Final = 0
FIXED64: Final = 1
MESSAGE: Final = 2
FIXED32: Final = 5

_MAX_KEY: Final = 2**32 - 1
_MAX_VALUE: Final = 2**64 - 1


class Damaged(Exception):
    """The bytes are no protocol buffer."""


class Cut(Exception):
    """A field goes on where its message has ended."""


class Fields:
    """The messages in `data`.

    Attributes:
        data: the bytes, of which nothing is copied but text.
        begin: where the field that was given last begins, its key included.
    """

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.begin = 0
        self._left = MAX_FIELDS

    def __call__(self, position: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """The fields of the message at `position`: number, wire type, then start and end, or the value of a varint.

        Raises:
            InvalidModel: `model.too_complex`, more than `MAX_FIELDS` in all messages together.
            Damaged, Cut: see there.
        """
        data = self.data
        while position < stop:
            self._left -= 1
            if self._left < 0:
                message = f"the model file has more than {MAX_FIELDS} fields"
                raise InvalidModel(message, code="model.too_complex")
            begin = position
            key, position = self._varint(position, stop)
            # Other readers keep 32 bits of a key: behind a longer one they would find another field than is found here.
            if not 8 <= key <= _MAX_KEY:
                raise Damaged(f"the key of a field at byte {begin} is none")
            wire = key & 7
            self.begin = begin
            if wire == MESSAGE:
                length, position = self._varint(position, stop)
                end = position + length
                if end > stop:
                    raise Cut(f"a field goes on to byte {end}, the message around it ends at {stop}")
                yield key >> 3, wire, position, end
                position = end
            elif wire == VARINT:
                value, position = self._varint(position, stop)
                yield key >> 3, wire, value, 0
            elif wire in {FIXED32, FIXED64}:
                position += 4 if wire == FIXED32 else 8
                if position > stop:
                    raise Cut(f"a number goes on to byte {position}, the message around it ends at {stop}")
            else:
                raise Damaged(f"wire type {wire} at byte {position} of {len(data)}")

    def text(self, start: int, end: int) -> str:
        """A string field. Raises Damaged where it is not UTF-8."""
        try:
            return str(self.data[start:end], "utf-8")
        except UnicodeDecodeError:
            raise Damaged("a name in it is not UTF-8") from None

    def _varint(self, position: int, stop: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= stop:
                raise Cut(f"a number goes on beyond byte {stop}, where the message around it ends")
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value > _MAX_VALUE:
                    break  # other readers keep 64 bits
                return value, position
        raise Damaged(f"a number of more than 64 bits before byte {position}")
