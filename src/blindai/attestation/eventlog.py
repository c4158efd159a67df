"""The event log of a measured boot, and its replay: into the RTMRs of a trust domain, or into the PCRs of a TPM.

The log is not evidence: its keeper may write what it likes. It becomes believable when its replay gives the registers
of a verified quote, for then every event that was measured is in it, in order.

Both logs have the crypto-agile format of the TCG. That of a trust domain (CCEL) is read for its SHA-384 digests, that
of a TPM for those of the SHA-256 bank.

Sources: TCG PC Client Platform Firmware Profile 1.06, section 10 (event log structure) and 10.4.5.3 (startup locality);
UEFI 2.10, section 38 (EFI_CC_MEASUREMENT_PROTOCOL); UAPI group, Linux TPM PCR registry.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

import msgspec

from blindai.errors import AttestationError

# A guest's firmware reserves 64 KB to 256 KB for the log; an entry is rarely above 1 KB.
MAX_EVENT_LOG_BYTES = 4 << 20
# A log that travels with evidence. Its firmware reserved 64 KB to 256 KB, most of it for the lists of Secure Boot.
MAX_BOOT_LOG_BYTES = 1 << 19
MAX_DIGESTS = 8  # algorithms per event

TPM_ALG_SHA256 = 0x000B
TPM_ALG_SHA384 = 0x000C
_DIGEST_BYTES = {0x0004: 20, TPM_ALG_SHA256: 32, TPM_ALG_SHA384: 48, 0x000D: 64, 0x0012: 32}  # TCG Algorithm Registry
_NAMES = {TPM_ALG_SHA256: "SHA-256", TPM_ALG_SHA384: "SHA-384"}

EV_NO_ACTION = 0x03  # never extended: a note about the log itself
RTMR_COUNT = 4
RTMR_BYTES = 48

# PCRs 17 to 22 belong to a dynamic launch, which keeps a log of its own; 16 and 23 can be reset by anyone.
BOOT_PCRS = range(16)
PCR_COUNT = 24
PCR_BYTES = 32
# What runs after the boot extends these without an entry in this log: IMA (10), systemd (11, 15).
EXTENDED_LATER = frozenset({10, 11, 15})

SPECIFICATION = b"Spec ID Event03\0"
STARTUP_LOCALITY = b"StartupLocality\0"

_LEGACY_EVENT = struct.Struct("<II20sI")
_EVENT = struct.Struct("<III")
_ALGORITHM = struct.Struct("<H")
_SIZE = struct.Struct("<I")

# What fills the unused rest of the reserved memory, where an index stood. No event is for MRTD; many are for PCR 0.
_CCEL_END_MARKS = (0x00000000, 0xFFFFFFFF)
_BOOT_END_MARKS = (0xFFFFFFFF,)


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One measured event.

    Attributes:
        register: in a CCEL 0 for MRTD, 1 to 4 for RTMR0 to RTMR3 (UEFI 2.10, 38.4.1); in a TPM's log the PCR.
        kind: the TCG event type.
        digest: SHA-384 (CCEL) or SHA-256 (TPM) of what was measured.
        data: what the firmware or kernel says about it; not covered by the digest for every kind.
    """

    register: int
    kind: int
    digest: bytes
    data: bytes


class BootLog(msgspec.Struct, frozen=True):
    """A TPM's log.

    Attributes:
        events: in the order in which they were measured, without notes about the log.
        startup_locality: from where the TPM was started: 0, 3, or 4; it is where PCR 0 begins.
    """

    events: tuple[Event, ...]
    startup_locality: int = 0

    def replay(self) -> dict[int, bytes]:
        """The PCRs of the SHA-256 bank that result, by number; only those of `BOOT_PCRS` for which there are events."""
        registers: dict[int, bytes] = {}
        for event in self.events:
            if event.register not in BOOT_PCRS:
                continue
            start = self.startup_locality if event.register == 0 else 0
            value = registers.get(event.register, start.to_bytes(PCR_BYTES))
            registers[event.register] = hashlib.sha256(value + event.digest).digest()
        return registers


class _Malformed(ValueError):
    """The reason why a log cannot be parsed."""


def parse(log: bytes) -> tuple[Event, ...]:
    """Parse the log of a trust domain, up to its end mark or the end of the buffer.

    Raises:
        AttestationError: `eventlog.malformed`, step `hardware`.
    """
    try:
        _, at = _description(log, MAX_EVENT_LOG_BYTES)
        return tuple(_events(log, at, TPM_ALG_SHA384, _CCEL_END_MARKS))
    except _Malformed as error:
        raise _refusal(str(error)) from error


def parse_boot_log(log: bytes) -> BootLog:
    """Parse the log of a TPM (`binary_bios_measurements` of Linux), up to its end mark or the end of the buffer.

    Raises:
        AttestationError: `evidence.event_log`, step `evidence`.
    """
    try:
        description, at = _description(log, MAX_BOOT_LOG_BYTES)
        if not description.startswith(SPECIFICATION):
            raise _Malformed("it is not in the crypto-agile format")
        measured, localities = [], set()
        for event in _events(log, at, TPM_ALG_SHA256, _BOOT_END_MARKS):
            if event.kind != EV_NO_ACTION:
                if event.register >= PCR_COUNT:
                    raise _Malformed(f"an event is for PCR {event.register}")
                measured.append(event)
            elif event.data.startswith(STARTUP_LOCALITY):
                localities.add(event.data[len(STARTUP_LOCALITY) :])
        if len(localities) > 1 or not localities <= {b"\0", b"\3", b"\4"}:
            raise _Malformed("it does not say where the TPM was started")
    except _Malformed as error:
        raise AttestationError(
            f"the boot log cannot be parsed: {error}", code="evidence.event_log", step="evidence", got=str(error)
        ) from error
    return BootLog(tuple(measured), localities.pop()[0] if localities else 0)


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
            raise _refusal(f"an event is for register {event.register}")
        registers[index] = hashlib.sha384(registers[index] + event.digest).digest()
    return {f"rtmr{index}": value.hex() for index, value in enumerate(registers)}


def _description(log: bytes, limit: int) -> tuple[bytes, int]:
    """What the first entry, which describes the log, holds; and where the next one begins."""
    if len(log) > limit:
        raise _Malformed(f"it is larger than {limit} bytes")
    if len(log) < _LEGACY_EVENT.size:
        raise _Malformed("it ends inside an event")
    _, kind, _, size = _LEGACY_EVENT.unpack_from(log)
    if kind != EV_NO_ACTION:
        raise _Malformed("it does not begin with the event that describes the log")
    at = _LEGACY_EVENT.size + size
    return log[_LEGACY_EVENT.size : at], at


def _events(log: bytes, at: int, algorithm: int, end_marks: tuple[int, ...]) -> Iterator[Event]:
    try:
        while at + _SIZE.size <= len(log) and _SIZE.unpack_from(log, at)[0] not in end_marks:
            event, at = _event(log, at, algorithm)
            yield event
    except struct.error as error:
        raise _Malformed("it ends inside an event") from error


def _event(log: bytes, at: int, wanted: int) -> tuple[Event, int]:
    register, kind, count = _EVENT.unpack_from(log, at)
    at += _EVENT.size
    if not 0 < count <= MAX_DIGESTS:
        raise _Malformed(f"an event has {count} digests")
    digest = b""
    for _ in range(count):
        (algorithm,) = _ALGORITHM.unpack_from(log, at)
        if algorithm not in _DIGEST_BYTES:
            raise _Malformed(f"an event uses the unknown algorithm {algorithm:#06x}")
        at += _ALGORITHM.size
        end = at + _DIGEST_BYTES[algorithm]
        if algorithm == wanted:
            digest = log[at:end]
        at = end
    (size,) = _SIZE.unpack_from(log, at)
    at += _SIZE.size
    data = log[at : at + size]
    if len(data) != size:
        raise _Malformed("it ends inside an event")
    if len(digest) != _DIGEST_BYTES[wanted]:
        raise _Malformed(f"an event has no {_NAMES[wanted]} digest")
    return Event(register=register, kind=kind, digest=digest, data=data), at + size


def _refusal(reason: str) -> AttestationError:
    return AttestationError(
        f"the event log cannot be parsed: {reason}", code="eventlog.malformed", step="hardware", got=reason
    )
