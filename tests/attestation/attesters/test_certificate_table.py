from __future__ import annotations

import struct
from contextlib import suppress
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.attestation.attesters.certificate_table import ARK, ASK, CRL, MAX_ENTRIES, VCEK, VLEK, endorsements, parse
from blindai.attestation.evidence import AmdEndorsements
from blindai.errors import Unavailable
from fake_tsm import table_of

OTHER = UUID("00112233-4455-6677-8899-aabbccddeeff")
FULL = {VCEK: b"vcek", ASK: b"ask", ARK: b"ark", CRL: b"crl"}


def refused(table: bytes) -> str:
    with pytest.raises(Unavailable) as caught:
        parse(table)
    assert caught.value.code == "attester.certificate_table"
    return caught.value.message


def entry(kind: UUID, offset: int, length: int) -> bytes:
    return struct.pack("<16sII", kind.bytes, offset, length)


@pytest.mark.parametrize("entries", [{}, FULL, {OTHER: b""}, {OTHER: b"x" * 5000, **FULL}])
def test_what_was_laid_out_is_found(entries: dict[UUID, bytes]) -> None:
    assert parse(table_of(entries)) == entries


def test_an_empty_table_has_no_entries() -> None:
    assert parse(b"") == {}
    assert parse(bytes(4096)) == {}


def test_a_known_table_byte_by_byte() -> None:
    """GUIDs stand in the order in which they are written, numbers are little-endian."""
    table = bytes.fromhex(
        "63da758de6644564adc5f4b93be8accd 30000000 03000000"  # VCEK at 48, 3 bytes
        "00000000000000000000000000000000 00000000 00000000"
        "aabbcc"
    )
    assert parse(table) == {VCEK: bytes.fromhex("aabbcc")}


@pytest.mark.parametrize(
    "table",
    [
        b"x",
        bytes(23),
        entry(VCEK, 24, 0),
        entry(VCEK, 24, 0) + bytes(23),
        b"".join(entry(UUID(int=number), 4000, 0) for number in range(1, MAX_ENTRIES + 3)) + bytes(4000),
    ],
    ids=["one byte", "short entry", "no closing entry", "short closing entry", "too many"],
)
def test_a_table_without_its_closing_entry(table: bytes) -> None:
    assert "no closing entry" in refused(table)


@pytest.mark.parametrize(
    ("offset", "length"), [(48, 4), (51, 1), (52, 0), (0, 3), (47, 3), (0xFFFFFFFF, 1), (48, 0xFFFFFFFF)]
)
def test_an_entry_outside_of_the_table_or_over_its_head(offset: int, length: int) -> None:
    assert "lies at" in refused(entry(VCEK, offset, length) + bytes(24) + b"abc")


def test_a_kind_that_comes_twice() -> None:
    assert "two entries" in refused(entry(VCEK, 72, 1) + entry(VCEK, 73, 1) + bytes(24) + b"ab")


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda data: table_of(FULL)[: len(data)] + data))
def test_any_bytes_give_entries_or_a_refusal(table: bytes) -> None:
    with suppress(Unavailable):
        assert all(content in table for content in parse(table).values())


def test_the_certificate_of_the_key_that_signed_is_taken() -> None:
    table = table_of({**FULL, VLEK: b"vlek"})
    by_vcek, by_vlek = (endorsements(table, signing_key=key) for key in ("vcek", "vlek"))
    assert by_vcek == AmdEndorsements(certificate=b"vcek", authority=b"ask", root=b"ark", crl=b"crl")
    assert by_vlek == AmdEndorsements(certificate=b"vlek", authority=b"ask", root=b"ark", crl=b"crl")


def test_without_the_certificate_of_the_key_that_signed_there_are_no_endorsements() -> None:
    assert endorsements(table_of(FULL), signing_key="vlek") is None
    assert endorsements(table_of({**FULL, VCEK: b""}), signing_key="vcek") is None
    assert endorsements(b"", signing_key="vcek") is None


def test_a_host_may_hand_out_the_certificate_alone() -> None:
    alone = AmdEndorsements(certificate=b"vlek", authority=b"", root=b"")
    assert endorsements(table_of({VLEK: b"vlek", CRL: b""}), signing_key="vlek") == alone
