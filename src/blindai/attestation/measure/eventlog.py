"""The confidential computing event log (CCEL) of a trust domain, and its replay into RTMRs.

The log is not evidence: its keeper may write what it likes. It becomes believable when its replay gives the RTMRs of
a verified quote, for then every event that was measured is in it, in order.

Sources: UEFI 2.10, section 38 (EFI_CC_MEASUREMENT_PROTOCOL); TCG PC Client Platform Firmware Profile 1.06,
section 10 (event log structure).
"""

from __future__ import annotations

import hashlib
import struct

import msgspec

from blindai.errors import AttestationError

# A guest's firmware reserves 64 KB to 256 KB for the log; an entry is rarely above 1 KB.
MAX_EVENT_LOG_BYTES = 4 << 20
MAX_DIGESTS = 8  # algorithms per event

TPM_ALG_SHA384 = 0x000C
_DIGEST_BYTES = {0x0004: 20, 0x000B: 32, TPM_ALG_SHA384: 48, 0x000D: 64, 0x0012: 32}  # TCG Algorithm Registry

EV_NO_ACTION = 0x03  # never extended: a note about the log itself
RTMR_COUNT = 4
RTMR_BYTES = 48

_LEGACY_EVENT = struct.Struct("<II20sI")
_EVENT = struct.Struct("<III")
_ALGORITHM = struct.Struct("<H")
_SIZE = struct.Struct("<I")

_END_MARKS = (0x00000000, 0xFFFFFFFF)  # what fills the unused rest of the reserved memory, where an index stood


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One measured event.

    Attributes:
        register: 0 for MRTD, 1 to 4 for RTMR0 to RTMR3 (UEFI 2.10, 38.4.1).
        kind: the TCG event type.
        digest: SHA-384 of what was measured.
        data: what the firmware or kernel says about it; not covered by the digest for every kind.
    """

    register: int
    kind: int
    digest: bytes
    data: bytes


def parse(log: bytes) -> tuple[Event, ...]:
    """Parse a log in the crypto-agile format, up to its end mark or the end of the buffer.

    Raises:
        AttestationError: `eventlog.malformed`, step `hardware`.
    """
    if len(log) > MAX_EVENT_LOG_BYTES:
        raise _malformed(f"it is larger than {MAX_EVENT_LOG_BYTES} bytes")
    try:
        _, kind, _, size = _LEGACY_EVENT.unpack_from(log)
        at = _LEGACY_EVENT.size + size
        if kind != EV_NO_ACTION:
            raise _malformed("it does not begin with the event that describes the log")
        events = []
        while at + _SIZE.size <= len(log) and _SIZE.unpack_from(log, at)[0] not in _END_MARKS:
            event, at = _event(log, at)
            events.append(event)
    except struct.error as error:
        raise _malformed("it ends inside an event") from error
    return tuple(events)


def _event(log: bytes, at: int) -> tuple[Event, int]:
    register, kind, count = _EVENT.unpack_from(log, at)
    at += _EVENT.size
    if not 0 < count <= MAX_DIGESTS:
        raise _malformed(f"an event has {count} digests")
    digest = b""
    for _ in range(count):
        (algorithm,) = _ALGORITHM.unpack_from(log, at)
        if algorithm not in _DIGEST_BYTES:
            raise _malformed(f"an event uses the unknown algorithm {algorithm:#06x}")
        at += _ALGORITHM.size
        end = at + _DIGEST_BYTES[algorithm]
        if algorithm == TPM_ALG_SHA384:
            digest = log[at:end]
        at = end
    (size,) = _SIZE.unpack_from(log, at)
    at += _SIZE.size
    data = log[at : at + size]
    if len(data) != size:
        raise _malformed("it ends inside an event")
    if len(digest) != RTMR_BYTES:
        raise _malformed("an event has no SHA-384 digest")
    return Event(register=register, kind=kind, digest=digest, data=data), at + size


def replay(events: tuple[Event, ...]) -> dict[str, str]:
    """The RTMRs that result from `events`: `rtmr0` to `rtmr3`, lower-case hex.

    Raises:
        AttestationError: `eventlog.malformed`, step `hardware`; an event is for a register that does not exist.
    """
    registers = [bytes(RTMR_BYTES)] * RTMR_COUNT
    for event in events:
        if event.kind == EV_NO_ACTION:
            continue
        index = event.register - 1
        if not 0 <= index < RTMR_COUNT:
            raise _malformed(f"an event is for register {event.register}")
        registers[index] = hashlib.sha384(registers[index] + event.digest).digest()
    return {f"rtmr{index}": value.hex() for index, value in enumerate(registers)}


def _malformed(reason: str) -> AttestationError:
    return AttestationError(
        f"the event log cannot be parsed: {reason}", code="eventlog.malformed", step="hardware", got=reason
    )
