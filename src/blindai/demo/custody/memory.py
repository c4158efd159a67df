"""The memory of a running process, searched from outside: what an administrator of its machine would do."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

# So many bytes of a weight matrix occur nowhere else by chance.
WINDOW_BYTES: Final = 32

_BLOCK_BYTES: Final = 4 << 20
_MAPPING: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r[w-][x-]p \S+ \S+ \S+\s*(.*)")

# `AttributeProto.floats` (onnx.proto): field 7 of wire type I32, one tag before each number. A matrix in a row.
_FLOATS: Final = re.compile(rb"(?:\x3d.{4}){16,}", re.DOTALL)
_FLOAT_BYTES: Final = 4


def searchable() -> bool:
    """Whether a search is of use: memory can be read on Linux, and wiped where glibc frees it."""
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def weights(model: bytes) -> list[bytes]:
    """Windows of the weights of a classifier that keeps them in attributes: as in the file, and as in memory."""
    runs = [match.group() for match in _FLOATS.finditer(model)]
    numbers = [b"".join(run[at : at + _FLOAT_BYTES] for at in range(1, len(run), 1 + _FLOAT_BYTES)) for run in runs]
    return [
        row[at : at + WINDOW_BYTES]
        for row in (*runs, *numbers)
        for at in range(0, len(row) - WINDOW_BYTES + 1, WINDOW_BYTES)
    ]


def occurrences(process: int, needles: Sequence[bytes]) -> int:
    """How many times any of `needles` lies in the memory of `process`. Linux only.

    Raises:
        FileNotFoundError, ProcessLookupError: the process is gone.
        PermissionError: this system lets nobody look.
    """
    overlap = max(map(len, needles)) - 1
    found = 0
    with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        for start, end in _private_mappings(process):
            carried = b""
            for at in range(start, end, _BLOCK_BYTES):
                try:
                    memory.seek(at)
                    block = memory.read(min(_BLOCK_BYTES, end - at))
                except OSError:
                    break  # unmapped meanwhile, or of a device
                data = carried + block
                found += sum(data.count(needle) for needle in needles)
                # What lies within it was counted: only what begins here and ends in the next block is not.
                carried = data[-overlap:]
    return found


def _private_mappings(process: int) -> Iterator[tuple[int, int]]:
    """What is the process's own: not shared, and not what the kernel shows to all."""
    for line in Path(f"/proc/{process}/maps").read_text(encoding="utf-8").splitlines():
        mapping = _MAPPING.match(line)
        if mapping and mapping[3] not in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
            yield int(mapping[1], 16), int(mapping[2], 16)
