"""Looking for secrets in the memory of another process, in everything that it can read itself.

A scan that finds nothing proves something only where the same scan has found the same needles before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

NEEDLE_BYTES = 32
"""Eight weights of 32 bits in a row: kernels that reorder weights keep as many together, and chance does not."""

STEP_BYTES = 64
"""From one needle to the next. A page of 4 KiB has 64 of them, so that no part of one stays unseen."""

# Memory that the kernel maps into every process and that /proc/PID/mem does not give out.
_OF_THE_KERNEL = ("[vvar]", "[vvar_vclock]", "[vsyscall]")

_BLOCK_BYTES = 8 << 20
_PREFIX_BYTES = 8

# A needle's first 8 bytes, hashed to so many bits: the table fits into a cache, and few words pass it by chance.
_HASH_BITS = 22
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Needles: TypeAlias = Mapping[str, Sequence[bytes]]


def needles(secret: bytes, *, step: int = STEP_BYTES) -> list[bytes]:
    """Parts of a secret: `NEEDLE_BYTES` every `step`. They must be random, or memory has them by chance."""
    return [secret[start : start + NEEDLE_BYTES] for start in range(0, len(secret) - NEEDLE_BYTES + 1, step)]


def halves(key: bytes) -> list[bytes]:
    """Both halves of a key, so that half of it is found too."""
    return [key[: len(key) // 2], key[len(key) // 2 :]]


@dataclass
class Found:
    """What of one secret was found.

    Attributes:
        needles: how many different ones.
        of: how many there are.
        where: the mappings they are in, with how many each has.
    """

    of: int
    seen: set[bytes] = field(default_factory=set)
    where: dict[str, int] = field(default_factory=dict)

    @property
    def needles(self) -> int:
        return len(self.seen)


def scan(pid: int, secrets: Needles) -> dict[str, Found]:
    """Look for the needles of each secret, at every address, in all of a process that is readable.

    Args:
        pid: a process of this user.
        secrets: their needles, at least 8 bytes long, by name.
    """
    found = {name: Found(len(set(parts))) for name, parts in secrets.items()}
    owners: dict[bytes, dict[bytes, set[str]]] = {}
    for name, parts in secrets.items():
        for part in parts:
            owners.setdefault(part[:_PREFIX_BYTES], {}).setdefault(part, set()).add(name)
    longest = max(len(part) for parts in secrets.values() for part in parts)
    prefixes = np.sort(np.frombuffer(b"".join(owners), "<u8"))
    table = np.zeros(1 << _HASH_BITS, np.bool_)
    table[_hash(prefixes)] = True
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end, name in _mappings(pid):
            for address in range(start, end, _BLOCK_BYTES):
                memory.seek(address)
                try:
                    # What begins in this block may end in the next one.
                    data = memory.read(min(_BLOCK_BYTES + longest - 1, end - address))
                except OSError:
                    continue  # unmapped in the meantime, or a device
                for offset in _candidates(data, prefixes, table):
                    for part, names in owners.get(data[offset : offset + _PREFIX_BYTES], {}).items():
                        if data.startswith(part, offset):
                            for secret in names:
                                hit = found[secret]
                                hit.seen.add(part)
                                hit.where[name] = hit.where.get(name, 0) + 1
    return found


def _mappings(pid: int) -> Iterator[tuple[int, int, str]]:
    for line in Path(f"/proc/{pid}/maps").read_text("utf-8").splitlines():
        addresses, rights, _, _, _, *name = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in addresses.split("-"))
        if rights.startswith("r") and (not name or name[0] not in _OF_THE_KERNEL):
            yield start, end, name[0] if name else "anonymous"


def _candidates(data: bytes, prefixes: NDArray[np.uint64], table: NDArray[np.bool_]) -> Iterator[int]:
    """Offsets at which a needle's first bytes are."""
    for shift in range(_PREFIX_BYTES):
        count = (len(data) - shift) // _PREFIX_BYTES
        if count > 0:
            words = np.frombuffer(data, "<u8", count, shift)
            # The table leaves few words to be looked for among the prefixes, which takes longer.
            likely = np.flatnonzero(table[_hash(words)])
            places = np.searchsorted(prefixes, words[likely]).clip(max=len(prefixes) - 1)
            hits = likely[prefixes[places] == words[likely]]
            yield from (hits * _PREFIX_BYTES + shift).tolist()


def _hash(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return (words * _MULTIPLIER) >> np.uint64(64 - _HASH_BITS)
