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


class Artefact:
    """An open file of a sealed model; closed when nobody refers to it any more."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, where it cannot be opened."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def available(self, offset: int, length: int) -> int:
        """How many of `length` bytes from `offset` there are: fewer at the end of the file, none behind it."""
        return max(0, min(length, os.fstat(self._descriptor).st_size - offset))

    def read(self, offset: int, length: int) -> bytes:
        """Some of `length` bytes from `offset`, at least one.

        Raises:
            Unavailable: `unavailable.artefact`, they are not there any more.
        """
        try:
            part = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise _lost(error.strerror) from error
        if not part:
            raise _lost("it has become shorter")
        return part


class Artefacts:
    """The sealed models of all leases. Thread-safe.

    Args:
        path: the file of a lease's sealed model.
    """

    def __init__(self, path: Callable[[str], Path]) -> None:
        self._path = path
        self._files: OrderedDict[str, Artefact] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, lease: str) -> Artefact:
        """The sealed model of a lease.

        Raises:
            Unavailable: `unavailable.artefact`, the file is gone or cannot be read.
        """
        with self._lock:
            file = self._files.get(lease)
        if file is None:
            try:
                file = Artefact(self._path(lease))
            except OSError as error:
                raise _lost(error.strerror) from error
        with self._lock:
            file = self._files.setdefault(lease, file)
            self._files.move_to_end(lease)
            if len(self._files) > MAX_OPEN_FILES:
                self._files.popitem(last=False)
        return file


def _lost(why: str | None) -> Unavailable:
    return Unavailable(
        f"the custodian cannot read the sealed model: {why}",
        code="unavailable.artefact",
        hint="see to the folder of sealed models at the custodian",
    )
