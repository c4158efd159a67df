"""Gramine's /dev/attestation in memory, with the semantics of the real one and faults that can be ordered.

Follows Documentation/attestation.rst of Gramine 1.5 to 1.9 ("Low-level /dev/attestation interface"):

- `user_report_data` is one buffer of 64 bytes for the whole process: what is shorter is filled up with zeros, what is
  longer is cut, and nobody is told; it cannot be read back;
- `quote` is made from it when it is opened; with attestation type "none" there is no such file;
- whatever goes wrong below Gramine ends with EACCES.
"""

from __future__ import annotations

import errno
import threading
from dataclasses import dataclass

from blindai.attestation.attesters.gramine import FOLDER
from blindai.attestation.simulated.intel import SimulatedIntel
from fake_machine import refuse

REPORT_DATA_BYTES = 64


@dataclass
class GramineFaults:
    """What goes wrong. By default nothing does.

    Attributes:
        no_quote: the quoting service does not answer.
        short: only so many bytes of report_data arrive.
        stale: what is written is not kept.
        other_writer: another thread, which takes no lock, writes before every quote.
        quote: what stands in the file in place of a quote.
        padding: what follows the quote.
    """

    no_quote: bool = False
    short: int | None = None
    stale: bool = False
    other_writer: bool = False
    quote: bytes | None = None
    padding: bytes = b""


class FakeGramine:
    """`/dev/attestation` of one enclave.

    Attributes:
        overlaps: how often report_data was written between another write and the quote made from it.
    """

    def __init__(self, platform: SimulatedIntel, *, kind: str = "dcap", faults: GramineFaults | None = None) -> None:
        self.faults = faults or GramineFaults()
        self.overlaps = 0
        self._platform = platform
        self._kind = kind
        self._report_data = bytes(REPORT_DATA_BYTES)
        self._writer: int | None = None
        names = {"attestation_type", "my_target_info", "report", "target_info", "user_report_data"}
        self._names = names if kind == "none" else names | {"quote"}

    def read(self, path: str) -> bytes:
        match self._name(path):
            case "attestation_type":
                return self._kind.encode()
            case "quote":
                return self._quote(path)
            case "user_report_data" | "target_info":
                return b""
            case _:
                raise refuse(errno.EACCES, path)

    def write(self, path: str, data: bytes) -> None:
        if self._name(path) != "user_report_data":
            raise refuse(errno.EACCES, path)
        if self._writer is not None:
            self.overlaps += 1
        self._writer = threading.get_ident()
        if not self.faults.stale:
            self._report_data = data[: self.faults.short].ljust(REPORT_DATA_BYTES, b"\0")[:REPORT_DATA_BYTES]

    def mkdir(self, path: str) -> None:
        raise refuse(errno.EACCES, path)

    def rmdir(self, path: str) -> None:
        raise refuse(errno.EACCES, path)

    def listdir(self, path: str) -> list[str]:
        if path != FOLDER:
            raise refuse(errno.ENOENT, path)
        return sorted(self._names)

    def exists(self, path: str) -> bool:
        return path == FOLDER or path.removeprefix(f"{FOLDER}/") in self._names

    def _name(self, path: str) -> str:
        name = path.removeprefix(f"{FOLDER}/")
        if name not in self._names:
            raise refuse(errno.ENOENT, path)
        return name

    def _quote(self, path: str) -> bytes:
        self._writer = None
        if self.faults.no_quote:
            raise refuse(errno.EACCES, path)
        if self.faults.quote is not None:
            return self.faults.quote
        report_data = b"\xee" * REPORT_DATA_BYTES if self.faults.other_writer else self._report_data
        return self._platform.quote(report_data) + self.faults.padding
