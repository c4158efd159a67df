from __future__ import annotations

import hashlib
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.attestation.eventlog import (
    EV_NO_ACTION,
    MAX_BOOT_LOG_BYTES,
    MAX_EVENT_LOG_BYTES,
    SPECIFICATION,
    STARTUP_LOCALITY,
    Event,
    parse,
    parse_boot_log,
    replay,
)
from blindai.errors import AttestationError

SHA384, SHA256 = 0x000C, 0x000B
DIGEST = hashlib.sha384(b"event").digest()
HEAD = struct.pack("<II20sI", 1, EV_NO_ACTION, bytes(20), 4) + b"Spec"


def entry(
    register: int = 1, kind: int = 13, digests: tuple[tuple[int, bytes], ...] = ((SHA384, DIGEST),), data: bytes = b"d"
) -> bytes:
    listed = b"".join(struct.pack("<H", algorithm) + digest for algorithm, digest in digests)
    return struct.pack("<III", register, kind, len(digests)) + listed + struct.pack("<I", len(data)) + data


def refused(log: bytes) -> str:
    with pytest.raises(AttestationError) as caught:
        parse(log)
    assert (caught.value.step, caught.value.code) == ("hardware", "eventlog.malformed")
    return caught.value.got


@pytest.mark.parametrize("end", [b"", bytes(64), b"\xff" * 64, b"\0\0"], ids=["nothing", "zeros", "ones", "a rest"])
def test_a_log_ends_with_its_buffer_or_its_mark(end: bytes) -> None:
    events = parse(HEAD + entry(1) + entry(2, data=b"") + end)
    assert events == (
        Event(register=1, kind=13, digest=DIGEST, data=b"d"),
        Event(register=2, kind=13, digest=DIGEST, data=b""),
    )


def test_the_sha384_digest_is_taken_of_several() -> None:
    (event,) = parse(HEAD + entry(digests=((SHA256, bytes(32)), (SHA384, DIGEST))))
    assert event.digest == DIGEST


def test_replay_extends_each_register_in_order() -> None:
    one, two = hashlib.sha384(b"1").digest(), hashlib.sha384(b"2").digest()
    log = HEAD + entry(1, digests=((SHA384, one),)) + entry(4) + entry(1, digests=((SHA384, two),))
    registers = replay(parse(log))
    step = hashlib.sha384(bytes(48) + one).digest()
    assert registers == {
        "rtmr0": hashlib.sha384(step + two).hexdigest(),
        "rtmr1": "00" * 48,
        "rtmr2": "00" * 48,
        "rtmr3": hashlib.sha384(bytes(48) + DIGEST).hexdigest(),
    }


def test_notes_about_the_log_are_not_extended() -> None:
    assert replay(parse(HEAD + entry(1, kind=EV_NO_ACTION))) == {f"rtmr{index}": "00" * 48 for index in range(4)}


@pytest.mark.parametrize("register", [0, 5, 77])
def test_an_event_for_a_register_that_does_not_exist_is_refused(register: int) -> None:
    with pytest.raises(AttestationError) as caught:
        replay((Event(register=register, kind=13, digest=DIGEST, data=b""),))
    assert caught.value.code == "eventlog.malformed"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (b"", "ends inside"),
        (HEAD[:20], "ends inside"),
        (struct.pack("<II20sI", 1, 13, bytes(20), 0), "does not begin"),
        (HEAD + entry()[:-1], "ends inside"),
        (HEAD + entry()[:20], "ends inside"),
        (HEAD + entry()[:13], "ends inside"),
        (HEAD + entry(digests=()), "0 digests"),
        (HEAD + entry(digests=((SHA384, DIGEST),) * 9), "9 digests"),
        (HEAD + entry(digests=((0x7777, DIGEST),)), "unknown algorithm 0x7777"),
        (HEAD + entry(digests=((SHA256, bytes(32)),)), "no SHA-384"),
        (bytes(MAX_EVENT_LOG_BYTES + 1), "larger"),
    ],
)
def test_a_log_that_is_not_one_is_refused(log: bytes, reason: str) -> None:
    assert reason in refused(log)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_parsed_or_refused(data: bytes) -> None:
    for log in (data, HEAD + data):
        with suppress(AttestationError):
            assert all(len(event.digest) == 48 for event in parse(log))


# The log of a TPM.

BOOT_HEAD = struct.pack("<II20sI", 0, EV_NO_ACTION, bytes(20), len(SPECIFICATION)) + SPECIFICATION
ONE, TWO = hashlib.sha256(b"1").digest(), hashlib.sha256(b"2").digest()


def boot_entry(pcr: int, digest: bytes = ONE, **options: Any) -> bytes:
    return entry(pcr, digests=((0x0004, bytes(20)), (SHA256, digest)), **options)


def locality(value: bytes) -> bytes:
    return entry(0, EV_NO_ACTION, ((SHA256, bytes(32)),), STARTUP_LOCALITY + value)


def boot_log_refused(log: bytes) -> str:
    with pytest.raises(AttestationError) as caught:
        parse_boot_log(log)
    assert (caught.value.step, caught.value.code) == ("evidence", "evidence.event_log")
    return caught.value.got


def test_a_boot_log_extends_each_pcr_in_order() -> None:
    log = BOOT_HEAD + boot_entry(0) + boot_entry(4) + boot_entry(0, TWO) + boot_entry(15) + boot_entry(16)
    step = hashlib.sha256(bytes(32) + ONE).digest()
    assert parse_boot_log(log).replay() == {
        0: hashlib.sha256(step + TWO).digest(),
        4: step,
        15: step,
    }


@pytest.mark.parametrize("start", [0, 3, 4])
def test_pcr_0_begins_at_the_locality_of_the_start(start: int) -> None:
    log = parse_boot_log(BOOT_HEAD + locality(bytes([start])) + boot_entry(0) + boot_entry(1))
    assert log.startup_locality == start
    assert log.replay() == {
        0: hashlib.sha256(bytes(31) + bytes([start]) + ONE).digest(),
        1: hashlib.sha256(bytes(32) + ONE).digest(),
    }


def test_other_notes_in_a_boot_log_are_not_extended() -> None:
    assert parse_boot_log(BOOT_HEAD + boot_entry(0, kind=EV_NO_ACTION, data=b"note")).replay() == {}


def test_a_boot_log_may_end_with_a_mark() -> None:
    assert len(parse_boot_log(BOOT_HEAD + boot_entry(0) + b"\xff" * 64).events) == 1


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (b"", "ends inside"),
        (HEAD, "not in the crypto-agile format"),
        (BOOT_HEAD + boot_entry(24), "PCR 24"),
        (BOOT_HEAD + entry(0), "no SHA-256"),
        (BOOT_HEAD + boot_entry(0)[:-1], "ends inside"),
        (BOOT_HEAD + boot_entry(0) + bytes(12), "0 digests"),
        (BOOT_HEAD + locality(b""), "where the TPM was started"),
        (BOOT_HEAD + locality(b"\1"), "where the TPM was started"),
        (BOOT_HEAD + locality(b"\3\0"), "where the TPM was started"),
        (BOOT_HEAD + locality(b"\3") + locality(b"\0"), "where the TPM was started"),
        (bytes(MAX_BOOT_LOG_BYTES + 1), "larger"),
    ],
)
def test_a_boot_log_that_is_not_one_is_refused(log: bytes, reason: str) -> None:
    assert reason in boot_log_refused(log)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_boot_log_or_refused(data: bytes) -> None:
    for log in (data, BOOT_HEAD + data):
        with suppress(AttestationError):
            assert all(len(value) == 32 for value in parse_boot_log(log).replay().values())
