"""The kernel's configfs-tsm in memory, with the semantics of the real one and faults that can be ordered.

Follows Documentation/ABI/testing/configfs-tsm-report and Documentation/filesystems/configfs.rst of Linux 6.7 to 6.12:

- a folder made below `report` is a request, whose attributes appear with it; without a provider, mkdir ends with ENXIO;
- an attribute can be read or written, never both; the other way ends with EACCES, even for root;
- a binary attribute that was written is committed when it is closed; what the commit answers is lost;
- every commit and every option written raises `generation`, which starts at 0;
- `outblob` is computed when it is read, and kept until something is written; without `inblob` it ends with EINVAL;
- `privlevel`, `privlevel_floor` and `auxblob` are visible with SEV-SNP alone; `auxblob` is empty without certificates.
"""

from __future__ import annotations

import errno
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from blindai.attestation.attesters import certificate_table
from blindai.attestation.attesters.tsm import MAX_PRIVILEGE_LEVEL, REPORTS
from blindai.attestation.evidence import AmdEndorsements
from blindai.attestation.simulated.intel import SimulatedIntel
from fake_machine import refuse

INBLOB_BYTES = 64

_READABLE = frozenset({"generation", "provider", "outblob", "auxblob", "privlevel_floor"})


class Provider(Protocol):
    """A driver that registered itself with configfs-tsm."""

    name: str
    attributes: frozenset[str]
    privlevel_floor: int

    def report(self, inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
        """`outblob` and `auxblob`."""


class TdxGuest:
    """The driver tdx_guest over a simulated processor."""

    name = "tdx_guest"
    attributes = frozenset({"generation", "provider", "inblob", "outblob"})
    privlevel_floor = 0

    def __init__(self, platform: SimulatedIntel, *, padding: int = 0) -> None:
        self._platform = platform
        self._padding = padding

    def report(self, inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
        return self._platform.quote(inblob) + bytes(self._padding), b""


class SnpProcessor(Protocol):
    """What makes SEV-SNP reports."""

    def report(self, report_data: bytes, vmpl: int = 0) -> bytes: ...

    def endorsements(self) -> AmdEndorsements: ...


class SevGuest:
    """The driver sev-guest over a simulated processor, whose host hands out certificates.

    Args:
        platform: the processor.
        table: the certificate table, in place of the host's full one.
        privlevel_floor: the most privileged level that the guest may speak for.
    """

    name = "sev_guest"
    attributes = frozenset({"generation", "provider", "inblob", "outblob", "auxblob", "privlevel", "privlevel_floor"})

    def __init__(self, platform: SnpProcessor, *, table: bytes | None = None, privlevel_floor: int = 0) -> None:
        self._platform = platform
        self._table = table
        self.privlevel_floor = privlevel_floor

    def report(self, inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
        table = full_table(self._platform.endorsements()) if self._table is None else self._table
        return self._platform.report(inblob, vmpl=privlevel), table


class OtherGuest(TdxGuest):
    """A driver that came after this package."""

    name = "arm_cca_guest"


def table_of(entries: Mapping[UUID, bytes]) -> bytes:
    """A certificate table as the GHCB specification lays it out: a head, a closing entry, then the certificates."""
    at = (len(entries) + 1) * 24
    head = b""
    for kind, content in entries.items():
        head += struct.pack("<16sII", kind.bytes, at, len(content))
        at += len(content)
    return head + bytes(24) + b"".join(entries.values())


def full_table(amd: AmdEndorsements, leaf: UUID = certificate_table.VCEK) -> bytes:
    """The table of a host that knows all of `amd`."""
    entries = {leaf: amd.certificate, certificate_table.ASK: amd.authority, certificate_table.ARK: amd.root}
    return table_of(entries | ({certificate_table.CRL: amd.crl} if amd.crl else {}))


@dataclass
class TsmFaults:
    """What goes wrong, each as often as its number says; by default nothing does.

    Attributes:
        other_writer: another process writes its own inblob before the next outblob is read.
        late_writer: another process writes its own inblob right after the next outblob was read.
        dropped: the commit of the next inblob fails, which nobody is told.
        stale: the next outblob is made from the inblob of the first request of all.
        mkdir, read, write: errors of the next calls, in order; of attributes by name. 0 lets one pass.
        read_only: configfs is mounted read-only.
    """

    other_writer: int = 0
    late_writer: int = 0
    dropped: int = 0
    stale: int = 0
    mkdir: list[int] = field(default_factory=list)
    rmdir: list[int] = field(default_factory=list)
    read: dict[str, list[int]] = field(default_factory=dict)
    write: dict[str, list[int]] = field(default_factory=dict)
    read_only: bool = False

    def take(self, name: str) -> bool:
        """Whether a fault that is counted is to happen now."""
        left: int = getattr(self, name)
        if left:
            setattr(self, name, left - 1)
        return left > 0


@dataclass
class _Entry:
    """One request in the kernel."""

    inblob: bytes = b""
    privlevel: int = 0
    written: int = 0
    made: int | None = None
    blobs: tuple[bytes, bytes] = (b"", b"")


class FakeTsm:
    """`/sys/kernel/config/tsm/report`.

    Args:
        provider: the driver behind it; None while no driver is loaded.
        faults: what goes wrong.

    Attributes:
        made: how many requests were made.
        most: how many were there at once.
    """

    def __init__(self, provider: Provider | None, faults: TsmFaults | None = None) -> None:
        self.faults = faults or TsmFaults()
        self.made = 0
        self.most = 0
        self._provider = provider
        self._entries: dict[str, _Entry] = {}
        self._first = b""
        self._kernel = threading.RLock()

    @property
    def entries(self) -> int:
        """How many requests are there now."""
        return len(self._entries)

    def mkdir(self, path: str) -> None:
        with self._kernel:
            self._fail_next(self.faults.mkdir, path)
            self._require_writable(path)
            if self._provider is None:
                raise refuse(errno.ENXIO, path)
            if path in self._entries:
                raise refuse(errno.EEXIST, path)
            parent, _, name = path.rpartition("/")
            if parent != REPORTS or not name:
                raise refuse(errno.EPERM, path)
            self._entries[path] = _Entry()
            self.made += 1
            self.most = max(self.most, len(self._entries))

    def rmdir(self, path: str) -> None:
        with self._kernel:
            self._fail_next(self.faults.rmdir, path)
            self._require_writable(path)
            if path not in self._entries:
                raise refuse(errno.ENOENT, path)
            del self._entries[path]

    def listdir(self, path: str) -> list[str]:
        with self._kernel:
            if path == REPORTS:
                return sorted(name.removeprefix(f"{REPORTS}/") for name in self._entries)
            if path not in self._entries or self._provider is None:
                raise refuse(errno.ENOENT, path)
            return sorted(self._provider.attributes)

    def exists(self, path: str) -> bool:
        parent, _, name = path.rpartition("/")
        if path == REPORTS or path in self._entries:
            return True
        return parent in self._entries and self._provider is not None and name in self._provider.attributes

    def read(self, path: str) -> bytes:
        with self._kernel:
            entry, attribute, provider = self._attribute(path)
            if attribute not in _READABLE:
                raise refuse(errno.EACCES, path)
            self._fail_next(self.faults.read.get(attribute, []), path)
            match attribute:
                case "generation":
                    return b"%d\n" % entry.written
                case "provider":
                    return provider.name.encode() + b"\n"
                case "privlevel_floor":
                    return b"%d\n" % provider.privlevel_floor
            if attribute == "outblob" and self.faults.take("other_writer"):
                self._commit(entry, b"\xee" * INBLOB_BYTES)
            blob = self._blobs(entry, provider, path)[attribute == "auxblob"]
            if attribute == "outblob" and self.faults.take("late_writer"):
                self._commit(entry, b"\xee" * INBLOB_BYTES)
            return blob

    def write(self, path: str, data: bytes) -> None:
        with self._kernel:
            entry, attribute, provider = self._attribute(path)
            if attribute in _READABLE:
                raise refuse(errno.EACCES, path)
            self._require_writable(path)
            self._fail_next(self.faults.write.get(attribute, []), path)
            if attribute == "privlevel":
                self._write_privlevel(entry, provider, data, path)
                return
            if len(data) > INBLOB_BYTES:
                raise refuse(errno.EFBIG, path)
            if not self.faults.take("dropped"):
                self._commit(entry, data)

    def _attribute(self, path: str) -> tuple[_Entry, str, Provider]:
        folder, _, attribute = path.rpartition("/")
        if folder not in self._entries or self._provider is None or attribute not in self._provider.attributes:
            raise refuse(errno.ENOENT, path)
        return self._entries[folder], attribute, self._provider

    def _write_privlevel(self, entry: _Entry, provider: Provider, data: bytes, path: str) -> None:
        text = data.decode().removesuffix("\n")
        if not text.isdecimal() or not provider.privlevel_floor <= int(text) <= MAX_PRIVILEGE_LEVEL:
            raise refuse(errno.EINVAL, path)
        entry.privlevel = int(text)
        entry.written += 1

    def _commit(self, entry: _Entry, inblob: bytes) -> None:
        entry.inblob = inblob
        entry.written += 1

    def _blobs(self, entry: _Entry, provider: Provider, path: str) -> tuple[bytes, bytes]:
        if not entry.inblob or (entry.made != entry.written and len(entry.inblob) != INBLOB_BYTES):
            raise refuse(errno.EINVAL, path)
        if entry.made != entry.written:
            self._first = self._first or entry.inblob
            inblob = self._first if self.faults.take("stale") else entry.inblob
            entry.blobs = provider.report(inblob, entry.privlevel)
            entry.made = entry.written
        return entry.blobs

    def _require_writable(self, path: str) -> None:
        if self.faults.read_only:
            raise refuse(errno.EROFS, path)

    @staticmethod
    def _fail_next(errors: list[int], path: str) -> None:
        if errors and (number := errors.pop(0)):
            raise refuse(number, path)
