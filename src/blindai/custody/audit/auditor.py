"""Reads an export line by line: first whether it is what the custodian wrote, then whether that can be true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blindai.custody.audit import details
from blindai.custody.audit.findings import Finding
from blindai.custody.audit.instances import State
from blindai.custody.audit.replay import Lease
from blindai.custody.log import (
    MAX_LINE_BYTES,
    BrokenLog,
    Chain,
    Entry,
    Header,
    Kind,
    SignedEntry,
    SignedFooter,
    parse,
    public_key,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

# What a person reads. A file that is none of ours is wrong on every line.
MAX_FINDINGS = 1000

# What no log can tell. Said with every verdict.
UNKNOWABLE = (
    "whether the custodian has shown others another log: compare the head's digest with theirs",
    "whether an enclave was cut off before it could hand in its last record: what was granted to it stays debited",
    "whether the custodian's wall clock was right: times in the log are for reading",
)


@dataclass
class Audit:
    """What came of it.

    Attributes:
        custodian: the public key that signed, in hex; empty where there was no header.
        entries: how many were read; `kinds`, of which kind.
        head: digest of the last one.
        lease: as the log tells it; None where its first entry is missing.
        replayed: the last entry that was held against all before it; those behind a break cannot be.
        findings: what is wrong, the first `MAX_FINDINGS`, by line.
    """

    custodian: str = ""
    lease_id: str = ""
    entries: int = 0
    head: str = ""
    exported_at: str = ""
    lease: Lease | None = None
    replayed: int = 0
    kinds: Counter[Kind] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def simulated(self) -> int:
        """Instances whose evidence proves nothing about hardware."""
        return 0 if self.lease is None else sum(known.simulated for known in self.lease.instances.by_id.values())

    def instances(self, state: State) -> int:
        """Instances that were in `state` at the end."""
        return 0 if self.lease is None else sum(known.state is state for known in self.lease.instances.by_id.values())


def audit(lines: Iterable[bytes], *, custodian: str | None = None) -> Audit:
    """Verify an export: its chain, every signature, every enclave's evidence by the policy, and every unit.

    Args:
        lines: of the file, with or without their ends.
        custodian: the public key that must have signed, in hex; None takes the one in the file, which whoever forged
            all of the file has put there.
    """
    reader = _Reader(custodian)
    number = 0
    # Each line but the last is an entry: which one is the last is known when there is no other.
    before: bytes | None = None
    for line in lines:
        if before is not None:
            number += 1
            reader.line(number, before)
        before = line
    if before is not None:
        number += 1
        reader.last(number, before)
    else:
        reader.note(1, "audit.cut", "the file is empty")
    return reader.result


class _Reader:
    def __init__(self, custodian: str | None) -> None:
        self.result = Audit()
        self._expected = custodian
        self._line = 0
        self._seq = 0
        self._chain: Chain | None = None
        self._key: Ed25519PublicKey | None = None
        self._broken = False

    def note(self, line: int, code: str, message: str, *, seq: int = 0) -> None:
        if len(self.result.findings) < MAX_FINDINGS:
            self.result.findings.append(Finding(line, seq, code, message))

    def line(self, number: int, data: bytes) -> None:
        """A line that is not the last one."""
        self._line, self._seq = number, 0
        try:
            text = _stripped(data)
            if number == 1:
                self._header(parse(text, Header))
            else:
                self._entry(parse(text, SignedEntry))
        except BrokenLog as error:
            self._break(error)

    def last(self, number: int, data: bytes) -> None:
        """The last line."""
        self._line, self._seq = number, 0
        try:
            if number == 1:
                self._header(parse(_stripped(data), Header))
                raise BrokenLog("there is nothing behind the header", code="audit.cut")
            self._footer(parse(_stripped(data), SignedFooter))
        except BrokenLog as error:
            self._break(error)

    def _header(self, header: Header) -> None:
        self._key = public_key(header.custodian)
        self._chain = Chain(header.lease, self._key)
        self.result.custodian, self.result.lease_id = header.custodian, header.lease
        if self._expected is not None and self._expected != header.custodian:
            raise BrokenLog(f"the custodian is {header.custodian}, not {self._expected}", code="audit.custodian")

    def _entry(self, signed: SignedEntry) -> None:
        entry = signed.entry
        self._seq = entry.seq
        self.result.entries += 1
        self.result.kinds[entry.kind] += 1
        if self._chain is None:
            return
        try:
            self._chain.extend(signed)
        except BrokenLog:
            # What follows is held against this entry, so that one fault is not told of every line behind it.
            self._chain.count, self._chain.head = entry.seq, _digest(entry)
            raise
        self._replay(entry)

    def _replay(self, entry: Entry) -> None:
        if self._broken:
            return
        self.result.replayed, self.result.head = entry.seq, entry.digest
        try:
            detail = details.read(entry)
        except ValueError as error:
            raise BrokenLog(f"the detail of {entry.kind} is wrong: {error}", code="audit.detail") from error
        if self.result.lease is not None:
            self.result.lease.take(entry, detail)
        elif isinstance(detail, details.LeaseCreated) and self._key is not None:
            self.result.lease = Lease(entry.lease, self._key, detail, self._fault)
        else:
            raise BrokenLog("the log does not begin with the making of the lease", code="audit.order")

    def _footer(self, signed: SignedFooter) -> None:
        self.result.exported_at = signed.footer.at
        if self._chain is not None:
            self._chain.end(signed)
        if not self.result.entries:
            raise BrokenLog("the log has no entries", code="audit.cut")
        if self.result.lease is not None and not self._broken:
            self.result.lease.end()

    def _fault(self, code: str, message: str) -> None:
        self.note(self._line, code, message, seq=self._seq)

    def _break(self, error: BrokenLog) -> None:
        self._broken = True
        self.note(self._line, error.code, error.message, seq=self._seq)


def _stripped(line: bytes) -> bytes:
    if len(line) > MAX_LINE_BYTES:
        raise BrokenLog(f"the line has more than {MAX_LINE_BYTES} bytes")
    return line.removesuffix(b"\n")


def _digest(entry: Entry) -> str:
    try:
        return entry.digest
    except ValueError:
        return ""
