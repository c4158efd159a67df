"""The transport that the inner protocol writes plaintext to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from blindai.channel.tls import RECORD_BYTES, pieces


class BulkProtocol(asyncio.Protocol):
    """An inner protocol that may know where the next bytes belong: they are put there, instead of being passed to it.

    Attributes:
        space: where the next bytes belong, not empty; None where they are for `data_received`.
    """

    space: memoryview | None = None

    def space_filled(self, size: int) -> None:
        """The first `size` bytes of `space` have come."""


class Outer(Protocol):
    """The protocol that owns the TLS connection."""

    def send(self, data: bytes | bytearray | memoryview) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class PlaintextTransport(asyncio.Transport):
    """What the inner protocol writes to: an asyncio transport whose other side is the TLS connection."""

    def __init__(self, outer: Outer, lower: asyncio.Transport) -> None:
        super().__init__()
        self._outer = outer
        self._lower = lower
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        # Servers ask for this only to learn that the scheme is https.
        return True if name == "sslcontext" else self._lower.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._outer.send(data)

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        if isinstance(parts, list) and sum(map(len, parts)) <= RECORD_BYTES:
            self._outer.send(b"".join(parts))
            return
        for piece in pieces(parts):
            self._outer.send(piece)

    def is_closing(self) -> bool:
        return self._closing or self._lower.is_closing()

    def close(self) -> None:
        self._closing = True
        self._outer.finish()

    def abort(self) -> None:
        self._closing = True
        self._outer.abort()

    def pause_reading(self) -> None:
        self._outer.pause_reading()

    def resume_reading(self) -> None:
        self._outer.resume_reading()

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self._lower.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._lower.set_write_buffer_limits(high, low)
