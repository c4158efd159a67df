"""The log: nothing in it can be changed, moved, repeated or left out without being found."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from blindai.custody.log import (
    BrokenLog,
    Chain,
    Entry,
    Footer,
    Header,
    Kind,
    SignedEntry,
    SignedFooter,
    detail,
    exported,
    moment,
    parse,
    parse_moment,
    public_key,
    sealed,
)
from blindai.wire.custody import FIRST

LEASE = "lease-abcdefghijklmnop"
OTHER_LEASE = "lease-ponmlkjihgfedcba"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
CUSTODIAN = KEY.public_key().public_bytes_raw().hex()
HEADER = f'{{"custodian":"{CUSTODIAN}","lease":"{LEASE}","v":1}}'
NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def entries(count: int, *, lease: str = LEASE, key: Ed25519PrivateKey = KEY) -> list[SignedEntry]:
    made: list[SignedEntry] = []
    prev = FIRST
    for seq in range(1, count + 1):
        entry = Entry(
            lease=lease,
            seq=seq,
            at=moment(NOW),
            kind=Kind.LEASE_PAUSED,
            by="anna",
            detail=detail({"reason": f"number {seq}"}),
            prev=prev,
        )
        prev = entry.digest
        made.append(sealed(key.sign, entry))
    return made


def export(count: int = 3) -> list[str]:
    return list(exported(KEY.sign, custodian=CUSTODIAN, lease=LEASE, entries=entries(count), at=NOW))


def read(lines: list[str]) -> Chain:
    header = parse(lines[0], Header, number=1)
    chain = Chain(header.lease, public_key(header.custodian))
    for number, line in enumerate(lines[1:-1], 2):
        chain.extend(parse(line, SignedEntry, number=number))
    chain.end(parse(lines[-1], SignedFooter, number=len(lines)))
    return chain


def broken(lines: list[str]) -> str:
    with pytest.raises(BrokenLog) as caught:
        read(lines)
    return caught.value.code


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_was_exported_is_whole(count: int) -> None:
    chain = read(export(count))
    assert chain.count == count
    assert (chain.head == FIRST) == (count == 0)


@pytest.mark.parametrize("index", [1, 2, 3])
def test_removed_entry_is_found(index: int) -> None:
    lines = export()
    del lines[index]
    assert broken(lines) in {"audit.chain", "audit.cut"}


@pytest.mark.parametrize("index", [1, 2, 3])
def test_repeated_entry_is_found(index: int) -> None:
    lines = export()
    lines.insert(index, lines[index])
    assert broken(lines) == "audit.chain"


@pytest.mark.parametrize("index", [1, 2])
def test_swapped_entries_are_found(index: int) -> None:
    lines = export()
    lines[index : index + 2] = reversed(lines[index : index + 2])
    assert broken(lines) == "audit.chain"


def test_cut_tail_is_found() -> None:
    lines = export()
    assert broken([*lines[:2], lines[-1]]) == "audit.cut"
    assert broken(lines[:3]) == "audit.form"


def test_footer_of_an_earlier_export_is_found() -> None:
    assert broken([*export(3)[:-1], export(2)[-1]]) == "audit.cut"


def test_entry_of_another_key_is_found() -> None:
    lines = export()
    forged = entries(3, key=OTHER_KEY)[1]
    lines[2] = json.dumps(
        {"entry": _fields(forged), "signature": forged.signature}, sort_keys=True, separators=(",", ":")
    )
    assert broken(lines) == "audit.signature"


def test_entry_of_another_lease_is_found() -> None:
    chain = Chain(LEASE, KEY.public_key())
    with pytest.raises(BrokenLog) as caught:
        chain.extend(entries(1, lease=OTHER_LEASE)[0])
    assert caught.value.code == "audit.lease"


def test_footer_of_another_lease_or_key_is_found() -> None:
    for lease, key, code in ((OTHER_LEASE, KEY, "audit.lease"), (LEASE, OTHER_KEY, "audit.signature")):
        footer = Footer(lease=lease, count=0, head=FIRST, at=moment(NOW))
        with pytest.raises(BrokenLog) as caught:
            Chain(LEASE, KEY.public_key()).end(SignedFooter(footer, key.sign(footer.message).hex()))
        assert caught.value.code == code


def test_every_flipped_character_is_found() -> None:
    lines = export(1)
    found = 0
    for number, line in enumerate(lines):
        for position, character in enumerate(line):
            changed = line[:position] + chr(ord(character) ^ 1) + line[position + 1 :]
            if number == 0 and '"custodian":"' in line and 14 <= position < 78:
                # The reader must know the key from elsewhere; with another one, no signature holds.
                assert broken([changed, *lines[1:]]) in {"audit.signature", "audit.form"}
            else:
                broken([*lines[:number], changed, *lines[number + 1 :]])
            found += 1
    assert found == sum(map(len, lines))


@pytest.mark.parametrize(
    "line",
    [
        HEADER + " ",
        HEADER.replace(",", ", "),
        '{"v":1,' + HEADER[1:-7] + "}",
        HEADER.replace('"v":1', '"v":1,"v":1'),
        HEADER.replace('"v":1', '"v":1.0'),
        HEADER.replace(',"v":1', ""),
        HEADER.replace('"v":1', '"v":2'),
        HEADER.replace('"v":1', '"v":1,"w":1'),
        HEADER.replace(CUSTODIAN, CUSTODIAN.upper()),
        "[]",
        "",
        "[" * 100_000,
        "\ud800".encode("utf-8", "surrogatepass"),
    ],
)
def test_only_one_spelling_of_a_line_is_taken(line: str | bytes) -> None:
    assert parse(HEADER, Header).custodian == CUSTODIAN
    with pytest.raises(BrokenLog) as caught:
        parse(line, Header, number=7)
    assert caught.value.code == "audit.form"
    assert caught.value.line == 7


def test_signed_entry_that_cannot_have_been_signed_is_refused() -> None:
    entry = Entry(lease=LEASE, seq=1, at=moment(NOW), kind=Kind.LEASE_PAUSED, by="", detail="{}\n", prev=FIRST)
    with pytest.raises(BrokenLog) as caught:
        Chain(LEASE, KEY.public_key()).extend(SignedEntry(entry, "0" * 128))
    assert caught.value.code == "audit.form"


def test_key_that_is_none_is_refused() -> None:
    for text in ("", "zz", "00" * 31):
        with pytest.raises(BrokenLog) as caught:
            public_key(text)
        assert caught.value.code == "audit.form"


def test_detail_holds_whatever_people_write() -> None:
    values = {"reason": 'é "quoted" \\ \n \x7f \u2028 \U0001f600', "amount": 5, "empty": None}
    entry = Entry(lease=LEASE, seq=1, at=moment(NOW), kind=Kind.LEASE_PAUSED, by="", detail=detail(values), prev=FIRST)
    assert entry.values == values
    Chain(LEASE, KEY.public_key()).extend(sealed(KEY.sign, entry))


@pytest.mark.parametrize("text", ["[]", "1", "", '{"a":1,"a":2}', '{"a":{"b":1,"b":1}}', "[" * 100_000])
def test_detail_that_is_no_object_is_refused(text: str) -> None:
    entry = Entry(lease=LEASE, seq=1, at=moment(NOW), kind=Kind.LEASE_PAUSED, by="", detail=text, prev=FIRST)
    with pytest.raises(ValueError):  # noqa: PT011 - json's own error is one
        _ = entry.values


def test_moment_is_told_in_utc_and_read_back() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert moment(there) == "2026-01-02T03:04:05.000006Z"
    assert parse_moment(moment(there)) == NOW


def _fields(signed: SignedEntry) -> dict[str, object]:
    entry = signed.entry
    return {name: getattr(entry, name) for name in entry.__struct_fields__}
