"""The sealed models on the custodian's disk, read part by part."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from blindai.errors import Unavailable

# Files that stay open between two parts: as many models may be fetched at once without opening one again.
MAX_OPEN_FILES: Final = 64


class _File:
    """An open file; closed when nobody refers to it any more."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        parts: list[bytes] = []
        # The system may give less at once than was asked for.
        while length and (part := os.pread(self._descriptor, length, offset)):
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Artefacts:
    """Reads parts of sealed models. Thread-safe.

    Args:
        path: the file of a lease's sealed model.
    """

    def __init__(self, path: Callable[[str], Path]) -> None:
        self._path = path
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, lease: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer at the end of the file, none behind it.

        Raises:
            Unavailable: `unavailable.artefact`, the file is gone or cannot be read.
        """
        try:
            return self._file(lease).read(offset, length)
        except OSError as error:
            raise Unavailable(
                "the custodian cannot read the sealed model",
                code="unavailable.artefact",
                hint=f"see to the file of {lease} at the custodian: {error.strerror}",
            ) from error

    def _file(self, lease: str) -> _File:
        with self._lock:
            file = self._files.get(lease)
        if file is None:
            file = _File(self._path(lease))
        with self._lock:
            file = self._files.setdefault(lease, file)
            self._files.move_to_end(lease)
            if len(self._files) > MAX_OPEN_FILES:
                self._files.popitem(last=False)
        return file
