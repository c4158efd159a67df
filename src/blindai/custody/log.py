"""The log of a lease: entries in a hash chain, each signed by the custodian, and a file form to be checked offline.

An export is one JSON value to a line, each in its canonical encoding, so that no byte of it can be other than it was:

    {"custodian": ..., "lease": ..., "v": 1}                                   whose log it is
    {"entry": {"seq": 1, "prev": "00...", ...}, "signature": ...}              one line for each entry
    {"footer": {"count": ..., "head": ..., "lease": ..., ...}, "signature": ...}   how many there were

The custodian signs the footer when it exports. Without it a log that lost its last entries would still be a chain.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.crypto.digests import tagged, tagged_sha256
from blindai.errors import BlindAIError
from blindai.wire.custody import FIRST, Hex32, Hex64, LeaseId

VERSION: Final = 1

EVENT_DOMAIN: Final = "blindai/event/v1"
FOOTER_DOMAIN: Final = "blindai/log-footer/v1"

# The longest entries hold a transcript: evidence of a platform with eight GPUs, and its endorsements.
MAX_LINE_BYTES: Final = 8 << 20

Seq = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
Version = Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
At = Annotated[
    str, msgspec.Meta(pattern=r"\A[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z\Z")
]

_S = TypeVar("_S", bound=msgspec.Struct)


class Kind(StrEnum):
    """What an entry says has happened."""

    LEASE_CREATED = "lease.created"
    CONSUMER_ADDED = "consumer.added"
    TOKEN_ISSUED = "token.issued"  # noqa: S105 - the name of an event
    TOKENS_REVOKED = "tokens.revoked"
    INSTANCE_ATTESTED = "instance.attested"
    INSTANCE_CLOSED = "instance.closed"
    INSTANCE_QUARANTINED = "instance.quarantined"
    GRANT_ISSUED = "grant.issued"
    RECORD_ACCEPTED = "record.accepted"
    REQUEST_FILED = "request.filed"
    REQUEST_APPROVED = "request.approved"
    REQUEST_DENIED = "request.denied"
    BUDGET_RAISED = "budget.raised"
    LEASE_PAUSED = "lease.paused"
    LEASE_STOPPED = "lease.stopped"
    LEASE_RESUMED = "lease.resumed"
    PROPOSAL_MADE = "proposal.made"
    PROPOSAL_AGREED = "proposal.agreed"
    PROPOSAL_WITHDRAWN = "proposal.withdrawn"
    STOP_ACKNOWLEDGED = "stop.acknowledged"


class BrokenLog(BlindAIError):
    """A log is not what the custodian wrote.

    Attributes:
        line: of the file, from 1; 0 where it is about none.
    """

    default_code = "audit.form"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "", line: int = 0) -> None:
        super().__init__(message, code=code, hint=hint)
        self.line = line


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that has happened.

    Attributes:
        seq: from 1, without gaps.
        at: by the custodian's wall clock, in UTC (RFC 3339, microseconds).
        by: the operator, or "" for what an enclave did.
        detail: JSON in printable ASCII, made by `detail`: a string, because it holds what the canonical encoding does
            not take, such as evidence.
        prev: digest of the entry before; `wire.custody.FIRST` for the first.
    """

    v: Version = VERSION
    lease: LeaseId
    seq: Seq
    at: At
    kind: Kind
    by: Annotated[str, msgspec.Meta(pattern=r"\A[ -~]{0,100}\Z")]
    detail: str
    prev: Hex32

    @property
    def message(self) -> bytes:
        """What the custodian signs.

        Raises:
            ValueError: `detail` is not printable ASCII.
        """
        return tagged(EVENT_DOMAIN, msgspec.to_builtins(self))

    @property
    def digest(self) -> str:
        """`prev` of the next entry."""
        return tagged_sha256(EVENT_DOMAIN, msgspec.to_builtins(self))

    @property
    def values(self) -> dict[str, Any]:
        """`detail`, read.

        Raises:
            ValueError: it is not a JSON object, or a name stands in it twice.
        """
        try:
            values = json.loads(self.detail, object_pairs_hook=_once)
        except RecursionError as error:
            raise ValueError("the detail is too deep") from error
        if not isinstance(values, dict):
            raise ValueError("the detail is not an object")
        return values


class SignedEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry with the custodian's signature (Ed25519)."""

    entry: Entry
    signature: Hex64


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first line of an export.

    Attributes:
        custodian: its public key (Ed25519). The reader must know it from elsewhere: whoever forges a log has a key too.
    """

    v: Version = VERSION
    custodian: Hex32
    lease: LeaseId


class Footer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The last line of an export.

    Attributes:
        count: of the entries.
        head: digest of the last entry; `FIRST` where there is none.
        at: when it was exported.
    """

    v: Version = VERSION
    lease: LeaseId
    count: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    head: Hex32
    at: At

    @property
    def message(self) -> bytes:
        """What the custodian signs."""
        return tagged(FOOTER_DOMAIN, msgspec.to_builtins(self))


class SignedFooter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A footer with the custodian's signature (Ed25519)."""

    footer: Footer
    signature: Hex64


class Chain:
    """Checks entries one after the other: their signatures, and that none is missing, repeated or out of order.

    Attributes:
        count: of the entries so far.
        head: digest of the last one; `FIRST` before the first.
    """

    def __init__(self, lease: str, custodian: Ed25519PublicKey, *, count: int = 0, head: str = FIRST) -> None:
        self.lease = lease
        self.count = count
        self.head = head
        self._custodian = custodian

    def extend(self, signed: SignedEntry) -> Entry:
        """Take the next entry.

        Raises:
            BrokenLog: `audit.signature`, `audit.lease` (of another lease's log), `audit.chain`.
        """
        entry = signed.entry
        try:
            _verify(self._custodian, signed.signature, entry.message)
        except ValueError as error:
            raise BrokenLog(f"entry {entry.seq} holds what cannot be signed: {error}", code="audit.form") from error
        except InvalidSignature as error:
            raise BrokenLog(f"entry {entry.seq} is not signed by the custodian", code="audit.signature") from error
        if entry.lease != self.lease:
            raise BrokenLog(f"entry {entry.seq} is of the log of {entry.lease}", code="audit.lease")
        if entry.seq != self.count + 1:
            raise BrokenLog(f"entry {entry.seq} stands where entry {self.count + 1} must", code="audit.chain")
        if entry.prev != self.head:
            raise BrokenLog(f"entry {entry.seq} does not follow the entry before it", code="audit.chain")
        self.count += 1
        self.head = entry.digest
        return entry

    def end(self, signed: SignedFooter) -> None:
        """Take the footer.

        Raises:
            BrokenLog: `audit.signature`, `audit.lease`, `audit.cut`.
        """
        footer = signed.footer
        try:
            _verify(self._custodian, signed.signature, footer.message)
        except InvalidSignature as error:
            raise BrokenLog("the footer is not signed by the custodian", code="audit.signature") from error
        if footer.lease != self.lease:
            raise BrokenLog(f"the footer is of the log of {footer.lease}", code="audit.lease")
        if (footer.count, footer.head) != (self.count, self.head):
            raise BrokenLog(
                f"the log was exported with {footer.count} entries, of which {self.count} are here", code="audit.cut"
            )


def detail(values: Mapping[str, Any]) -> str:
    """`values` as the detail of an entry: one JSON object in ASCII, keys in order, no white space.

    Raises:
        ValueError: a number is infinite or none.
    """
    return json.dumps(values, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False).replace(
        "\x7f", "\\u007f"
    )


def moment(at: datetime) -> str:
    """`at`, which has a time zone, as entries tell it."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def parse_moment(at: str) -> datetime:
    """The inverse of `moment`.

    Raises:
        ValueError: it is not a time.
    """
    return datetime.fromisoformat(at)


def sealed(sign: Callable[[bytes], bytes], entry: Entry) -> SignedEntry:
    """`entry`, signed."""
    return SignedEntry(entry, sign(entry.message).hex())


def exported(
    sign: Callable[[bytes], bytes], *, custodian: str, lease: str, entries: Iterable[SignedEntry], at: datetime
) -> Iterator[str]:
    """The lines of an export, without their ends.

    Args:
        sign: with the custodian's key.
        custodian: its public key in hex.
        entries: of the lease, all of them, in order.
    """
    yield _line(Header(custodian=custodian, lease=lease))
    count, head = 0, FIRST
    for signed in entries:
        yield _line(signed)
        count, head = signed.entry.seq, signed.entry.digest
    footer = Footer(lease=lease, count=count, head=head, at=moment(at))
    yield _line(SignedFooter(footer, sign(footer.message).hex()))


def parse(line: str | bytes, form: type[_S], *, number: int = 0) -> _S:
    """One line of an export.

    Raises:
        BrokenLog: `audit.form`: it is no `form`, or not in the one encoding that there is of it.
    """
    data = line.encode() if isinstance(line, str) else line
    try:
        value = msgspec.json.decode(data, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenLog(f"line {number} is no {form.__name__}: {error}", code="audit.form", line=number) from error
    if _line(value).encode() != data:
        raise BrokenLog(f"line {number} is not in its canonical encoding", code="audit.form", line=number)
    return value


def public_key(custodian: str) -> Ed25519PublicKey:
    """The custodian's key from its hex.

    Raises:
        BrokenLog: `audit.form`.
    """
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(custodian))
    except ValueError as error:
        raise BrokenLog("the custodian's key is no Ed25519 key in hex", code="audit.form") from error


def _verify(key: Ed25519PublicKey, signature: str, message: bytes) -> None:
    key.verify(bytes.fromhex(signature), message)


def _line(value: msgspec.Struct) -> str:
    return _ENCODER.encode(value).decode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return values


_ENCODER: Final = msgspec.json.Encoder(order="sorted")
