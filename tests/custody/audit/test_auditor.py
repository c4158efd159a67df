"""The audit: what was changed is found, whoever changed it, and what was not passes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from blindai.custody.audit import State, audit, auditor
from blindai.custody.log import (
    Entry,
    Kind,
    SignedEntry,
    detail,
    exported,
    parse,
    parse_moment,
    sealed,
)
from blindai.wire.custody import FIRST
from lease_world import World

STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)

Values = dict[str, Any]
Edit = Callable[[list[tuple[Kind, str, Values]]], None]


def codes(lines: list[bytes], world: World) -> set[str]:
    return {finding.code for finding in audit(lines, custodian=world.keys.public_key).findings}


def entries(lines: list[bytes]) -> list[Entry]:
    return [parse(line[:-1], SignedEntry).entry for line in lines[1:-1]]


def retold(
    world: World, lines: list[bytes], edit: Edit, *, sign: Callable[[bytes], bytes] | None = None
) -> list[bytes]:
    """The log as the custodian would have written it, had it lived what `edit` makes of it."""
    told = [(entry.kind, entry.by, entry.values) for entry in entries(lines)]
    edit(told)
    return written(world, lines, told, sign=sign or world.keys.sign)


def written(
    world: World,
    lines: list[bytes],
    told: list[tuple[Kind, str, Values]],
    *,
    sign: Callable[[bytes], bytes],
    custodian: str | None = None,
) -> list[bytes]:
    first = entries(lines)[0]
    prev = FIRST
    signed = []
    for seq, (kind, by, values) in enumerate(told, 1):
        entry = Entry(lease=first.lease, seq=seq, at=first.at, kind=kind, by=by, detail=detail(values), prev=prev)
        prev = entry.digest
        signed.append(sealed(sign, entry))
    out = exported(
        sign,
        custodian=custodian or world.keys.public_key,
        lease=first.lease,
        entries=signed,
        at=parse_moment(first.at),
    )
    return [line.encode() + b"\n" for line in out]


def find(told: list[tuple[Kind, str, Values]], kind: Kind, nth: int = 0) -> Values:
    return [values for found, _, values in told if found is kind][nth]


def index(told: list[tuple[Kind, str, Values]], kind: Kind, nth: int = 0) -> int:
    return [position for position, (found, _, _) in enumerate(told) if found is kind][nth]


def test_untouched_export_passes(life: tuple[World, list[bytes]]) -> None:
    world, lines = life
    result = audit(lines, custodian=world.keys.public_key)
    assert result.findings == []
    assert result.entries == result.replayed == len(lines) - 2
    assert result.kinds.keys() == set(Kind), "an entry of every kind stands in it"
    assert result.lease is not None
    books = result.lease.books
    picture = world.ledger.lease(result.lease_id)
    assert (books.budget, books.granted, books.spent) == (picture.budget, picture.granted, picture.spent)
    for account in picture.accounts:
        own = books.accounts[account.consumer]
        assert (own.budget, own.granted, own.spent) == (account.budget, account.granted, account.spent)
    assert result.head == world.ledger.events(result.lease_id)[-1].digest
    assert (result.instances(State.CLOSED), result.instances(State.QUARANTINED)) == (1, 1)
    assert result.simulated == 2


def test_lines_without_their_ends_are_the_same(life: tuple[World, list[bytes]]) -> None:
    world, lines = life
    assert audit([line[:-1] for line in lines], custodian=world.keys.public_key).findings == []


def test_log_told_again_as_it_was_passes(life: tuple[World, list[bytes]]) -> None:
    world, lines = life
    assert codes(retold(world, lines, lambda told: None), world) == set()


def line_edits(lines: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """Every change of whole lines."""
    for number in range(len(lines)):
        yield "removed", lines[:number] + lines[number + 1 :]
        yield "repeated", lines[: number + 1] + lines[number:]
        if number:
            yield "cut off from here on", lines[:number]
        if number + 1 < len(lines):
            yield "swapped", [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]


def test_every_change_of_lines_is_found(life: tuple[World, list[bytes]], figures: Callable[[str], None]) -> None:
    world, lines = life
    tried: dict[str, int] = {}
    for what, changed in line_edits(lines):
        assert codes(changed, world), what
        tried[what] = tried.get(what, 0) + 1
    figures(f"edits of an export of {len(lines)} lines, all found: {tried}")


def fields(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every leaf of a JSON value."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from fields(item, (*path, name))
    else:
        yield path


def flipped(value: Any) -> Any:
    if isinstance(value, int):
        return value ^ 1
    middle = len(value) // 2
    return value[:middle] + ("b" if value[middle : middle + 1] == "a" else "a") + value[middle + 1 :]


def test_every_changed_field_is_found_on_its_line(
    life: tuple[World, list[bytes]], figures: Callable[[str], None]
) -> None:
    world, lines = life
    tried = 0
    for number, line in enumerate(lines):
        content = json.loads(line)
        for path in fields(content):
            changed = json.loads(line)
            holder = changed
            for name in path[:-1]:
                holder = holder[name]
            holder[path[-1]] = flipped(holder[path[-1]])
            text = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode() + b"\n"
            result = audit([*lines[:number], text, *lines[number + 1 :]], custodian=world.keys.public_key)
            assert result.findings, path
            # Another lease or key in the header is told by the entries, which are not of it.
            assert result.findings[0].line == number + 1 or number == 0, path
            tried += 1
    figures(f"changed fields of an export of {len(lines)} lines, all found: {tried}")


def test_every_flipped_byte_is_found(life: tuple[World, list[bytes]], figures: Callable[[str], None]) -> None:
    world, lines = life
    tried = 0
    for number, line in enumerate(lines):
        for position in range(0, len(line) - 1, 1 + len(line) // 10):
            changed = line[:position] + bytes([line[position] ^ 1]) + line[position + 1 :]
            assert codes([*lines[:number], changed, *lines[number + 1 :]], world), (number, position)
            tried += 1
    figures(f"flipped bytes in an export, all found: {tried}")


def test_every_entry_signed_by_a_stranger_is_found(
    life: tuple[World, list[bytes]], figures: Callable[[str], None]
) -> None:
    world, lines = life
    for number in range(1, len(lines) - 1):
        signed = parse(lines[number][:-1], SignedEntry)
        forged = json.loads(lines[number]) | {"signature": STRANGER.sign(signed.entry.message).hex()}
        text = json.dumps(forged, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        assert codes([*lines[:number], text, *lines[number + 1 :]], world) == {"audit.signature"}
    figures(f"entries signed by a stranger, all found: {len(lines) - 2}")


def test_file_forged_as_a_whole_is_found_by_who_knows_the_custodian(life: tuple[World, list[bytes]]) -> None:
    world, lines = life
    key = STRANGER.public_key().public_bytes_raw().hex()
    told = [(entry.kind, entry.by, entry.values) for entry in entries(lines)]
    forged = written(world, lines, told, sign=STRANGER.sign, custodian=key)
    assert "audit.custodian" in codes(forged, world)
    # And even by who does not: enclaves attested the configuration that names the custodian.
    assert {finding.code for finding in audit(forged).findings} >= {"audit.attestation", "audit.grant"}


def test_log_of_another_lease_does_not_fit_in(world: World) -> None:
    one, other = world.export(world.lend()), world.export(world.lend())
    assert codes([one[0], *other[1:]], world) >= {"audit.lease"}
    assert codes([*one[:-1], other[-1]], world) == {"audit.lease"}


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], "audit.cut"),
        ([b""], "audit.form"),
        ([b"\n"], "audit.form"),
        ([b"{}\n", b"{}\n", b"{}\n"], "audit.form"),
        ([b"\xff\xfe\n"] * 3, "audit.form"),
        ([b"[" * 100_000], "audit.form"),
    ],
)
def test_other_files_are_no_logs(lines: list[bytes], code: str) -> None:
    findings = audit(lines).findings
    assert {finding.code for finding in findings} == {code}


def test_header_alone_is_no_log(life: tuple[World, list[bytes]]) -> None:
    world, lines = life
    assert codes(lines[:1], world) == {"audit.cut"}
    assert codes([lines[0], lines[0]], world) == {"audit.form"}


def test_log_without_entries_is_no_log(life: tuple[World, list[bytes]]) -> None:
    world, lines = life
    assert "audit.cut" in codes(
        [
            line.encode() + b"\n"
            for line in exported(
                world.keys.sign,
                custodian=world.keys.public_key,
                lease=entries(lines)[0].lease,
                entries=(),
                at=world.clock.now(),
            )
        ],
        world,
    )


def test_line_of_no_end_is_not_read(life: tuple[World, list[bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    world, lines = life
    monkeypatch.setattr(auditor, "MAX_LINE_BYTES", 300)
    assert codes(lines, world) == {"audit.form"}


def test_findings_are_not_endless(life: tuple[World, list[bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditor, "MAX_FINDINGS", 7)
    assert len(audit([b"{}\n"] * 100).findings) == 7


# What follows is signed by the custodian itself, link by link: a custodian, or somebody with its key, who lies.


def drop(kind: Kind, nth: int = 0) -> Edit:
    def edit(told: list[tuple[Kind, str, Values]]) -> None:
        del told[index(told, kind, nth)]

    return edit


def put(kind: Kind, *path: str, value: Any, nth: int = 0) -> Edit:
    def edit(told: list[tuple[Kind, str, Values]]) -> None:
        holder = find(told, kind, nth)
        for name in path[:-1]:
            holder = holder[name]
        assert path[-1] in holder
        holder[path[-1]] = value(holder[path[-1]]) if callable(value) else value

    return edit


def repeat(kind: Kind, nth: int = 0) -> Edit:
    def edit(told: list[tuple[Kind, str, Values]]) -> None:
        position = index(told, kind, nth)
        told.insert(position, told[position])

    return edit


def by(kind: Kind, who: str, nth: int = 0) -> Edit:
    def edit(told: list[tuple[Kind, str, Values]]) -> None:
        position = index(told, kind, nth)
        told[position] = (told[position][0], who, told[position][2])

    return edit


def move(kind: Kind, to: Kind, nth: int = 0) -> Edit:
    def edit(told: list[tuple[Kind, str, Values]]) -> None:
        entry = told.pop(index(told, kind, nth))
        told.insert(index(told, to), entry)

    return edit


LIES: dict[str, tuple[Edit, str]] = {
    "the budget was never that large": (put(Kind.LEASE_CREATED, "budget", value=10), "audit.money"),
    "a consumer's budget was never that large": (put(Kind.LEASE_CREATED, "consumers", "alice", value=3), "audit.money"),
    "a consumer never was": (drop(Kind.CONSUMER_ADDED), "audit.consumer"),
    "one operator gave a new consumer a budget": (put(Kind.CONSUMER_ADDED, "budget", value=5), "audit.approvals"),
    "a consumer came twice": (repeat(Kind.CONSUMER_ADDED), "audit.consumer"),
    "the lease was made twice": (repeat(Kind.LEASE_CREATED), "audit.order"),
    "the lease was never made": (drop(Kind.LEASE_CREATED), "audit.order"),
    "another policy": (put(Kind.LEASE_CREATED, "policy", value=lambda text: text + "# changed"), "audit.policy"),
    "no policy": (put(Kind.LEASE_CREATED, "policy", value="nonsense"), "audit.policy"),
    "another model": (put(Kind.LEASE_CREATED, "model_digest", value="cd" * 32), "audit.grant"),
    "a longer lease": (put(Kind.LEASE_CREATED, "ttl_ms", value=99_000), "audit.grant"),
    "a smaller tranche": (put(Kind.LEASE_CREATED, "tranche_max", value=1), "audit.grant"),
    "fewer must agree": (put(Kind.LEASE_CREATED, "approvals", value=1), "audit.approvals"),
    "more must agree": (put(Kind.LEASE_CREATED, "approvals", value=3), "audit.approvals"),
    "an instance never attested itself": (drop(Kind.INSTANCE_ATTESTED), "audit.instance"),
    "an instance attested itself twice": (repeat(Kind.INSTANCE_ATTESTED), "audit.instance"),
    "evidence of another instance": (
        put(Kind.INSTANCE_ATTESTED, "instance", value=lambda _: secrets.token_hex(32)),
        "audit.attestation",
    ),
    "evidence of another connection": (
        put(Kind.INSTANCE_ATTESTED, "transcript", "statement", "nonce", value="00" * 32),
        "audit.attestation",
    ),
    "evidence for another role": (
        put(Kind.INSTANCE_ATTESTED, "transcript", "statement", "role", value="server"),
        "audit.attestation",
    ),
    "evidence of another configuration": (
        put(Kind.INSTANCE_ATTESTED, "transcript", "config", "custody", "lease", value="lease-" + "a" * 16),
        "audit.attestation",
    ),
    "other receipt keys": (
        put(Kind.INSTANCE_ATTESTED, "transcript", "keyset", "receipt_key", value="ab" * 32),
        "audit.attestation",
    ),
    "a receipt key that is none": (
        put(Kind.INSTANCE_ATTESTED, "transcript", "keyset", "receipt_key", value="zz"),
        "audit.attestation",
    ),
    "a keyset of no time": (
        put(Kind.INSTANCE_ATTESTED, "transcript", "keyset", "not_after", value=2**60),
        "audit.attestation",
    ),
    "evidence that had expired": (
        put(Kind.INSTANCE_ATTESTED, "transcript", "at", value="2051-01-01T00:00:00Z"),
        "audit.attestation",
    ),
    "no transcript": (put(Kind.INSTANCE_ATTESTED, "transcript", value={}), "audit.detail"),
    "a grant left out": (drop(Kind.GRANT_ISSUED), "audit.grant"),
    "a grant given twice": (repeat(Kind.GRANT_ISSUED), "audit.grant"),
    "a larger grant": (put(Kind.GRANT_ISSUED, "grant", "quantities", "alice", value=9), "audit.grant"),
    "a grant beyond the budget": (put(Kind.GRANT_ISSUED, "grant", "quantities", "alice", value=500), "audit.money"),
    "a grant to a stranger": (put(Kind.GRANT_ISSUED, "grant", "quantities", value={"eve": 1}), "audit.consumer"),
    "a grant signed by nobody": (put(Kind.GRANT_ISSUED, "signature", value="00" * 64), "audit.grant"),
    "a grant to another lease": (put(Kind.GRANT_ISSUED, "grant", "lease", value="lease-" + "a" * 16), "audit.grant"),
    "a grant that cannot be": (put(Kind.GRANT_ISSUED, "grant", "ttl_ms", value=-1), "audit.detail"),
    "a grant after quarantine": (move(Kind.INSTANCE_QUARANTINED, Kind.RECORD_ACCEPTED), "audit.instance"),
    "a grant while stopped": (drop(Kind.LEASE_RESUMED), "audit.state"),
    "a stop left out": (drop(Kind.LEASE_STOPPED), "audit.state"),
    "a pause left out": (drop(Kind.LEASE_PAUSED), "audit.state"),
    "a record left out": (drop(Kind.RECORD_ACCEPTED), "audit.record"),
    "a record counted twice": (repeat(Kind.RECORD_ACCEPTED), "audit.record"),
    "a record of less": (
        put(Kind.RECORD_ACCEPTED, "record", "counts", "alice", "units", value=1),
        "audit.record",
    ),
    "a record of more than was held": (
        put(Kind.RECORD_ACCEPTED, "record", "counts", "alice", "units", value=50),
        "audit.money",
    ),
    "a record of a stop to come": (put(Kind.RECORD_ACCEPTED, "record", "stop_epoch", value=7), "audit.record"),
    "a record of a grant to come": (put(Kind.RECORD_ACCEPTED, "record", "grant", value=7), "audit.record"),
    "a record of the time before": (put(Kind.RECORD_ACCEPTED, "record", "opened_ms", value=10**9), "audit.record"),
    "a record of failures alone": (
        put(Kind.RECORD_ACCEPTED, "record", "counts", "alice", "failed", value=10**6),
        "audit.record",
    ),
    "a record by a stranger's count": (
        put(Kind.RECORD_ACCEPTED, "record", "counts", value={"eve": {"failed": 0, "queries": 1, "units": 1}}),
        "audit.consumer",
    ),
    "a record after the end": (
        lambda told: told.append(told[index(told, Kind.RECORD_ACCEPTED, -1)]),
        "audit.record",
    ),
    "a quarantine of nobody": (
        put(Kind.INSTANCE_QUARANTINED, "instance", value=lambda _: "00" * 32),
        "audit.instance",
    ),
    "a final record without an end": (drop(Kind.INSTANCE_CLOSED), "audit.instance"),
    "an end without a final record": (drop(Kind.RECORD_ACCEPTED, -1), "audit.instance"),
    "a larger refund": (put(Kind.INSTANCE_CLOSED, "refunded", value={"alice": 59}), "audit.money"),
    "no refund": (put(Kind.INSTANCE_CLOSED, "refunded", value={}), "audit.money"),
    "an end twice": (repeat(Kind.INSTANCE_CLOSED), "audit.instance"),
    "tokens of an epoch to come": (put(Kind.TOKEN_ISSUED, "epoch", value=9), "audit.consumer"),
    "revoked tokens that live again": (drop(Kind.TOKENS_REVOKED), "audit.consumer"),
    "tokens of a stranger": (put(Kind.TOKENS_REVOKED, "consumer", value="eve"), "audit.consumer"),
    "a request filed twice": (repeat(Kind.REQUEST_FILED), "audit.request"),
    "a request that nobody filed": (drop(Kind.REQUEST_FILED), "audit.request"),
    "a request approved twice": (repeat(Kind.REQUEST_APPROVED), "audit.request"),
    "a request denied twice": (repeat(Kind.REQUEST_DENIED), "audit.request"),
    "more than was approved": (put(Kind.REQUEST_APPROVED, "account_raised", value=8), "audit.money"),
    "an approval that nobody proposed": (drop(Kind.PROPOSAL_MADE), "audit.approvals"),
    "an approval of another amount": (put(Kind.REQUEST_APPROVED, "amount", value=8), "audit.approvals"),
    "an agreement left out": (drop(Kind.PROPOSAL_AGREED), "audit.approvals"),
    "an agreement by the proposer": (by(Kind.PROPOSAL_AGREED, "anna"), "audit.approvals"),
    "an agreement that led to nothing": (drop(Kind.BUDGET_RAISED), "audit.approvals"),
    "a proposal made twice": (repeat(Kind.PROPOSAL_MADE), "audit.approvals"),
    "a proposal that fewer need": (put(Kind.PROPOSAL_MADE, "needed", value=1), "audit.approvals"),
    "a proposal of nonsense": (put(Kind.PROPOSAL_MADE, "arguments", value={"x": 1}), "audit.detail"),
    "a proposal dropped twice": (repeat(Kind.PROPOSAL_WITHDRAWN), "audit.approvals"),
    "a raise by one": (put(Kind.BUDGET_RAISED, "agreed", value=["anna"]), "audit.approvals"),
    "a raise by another": (by(Kind.BUDGET_RAISED, "eve"), "audit.approvals"),
    "a raise of more": (put(Kind.BUDGET_RAISED, "account_raised", value=21), "audit.approvals"),
    "a raise of both": (put(Kind.BUDGET_RAISED, "lease_raised", value=21), "audit.money"),
    "a raise of nothing": (put(Kind.BUDGET_RAISED, "account_raised", value=0), "audit.money"),
    "a raise of what does not exist": (put(Kind.BUDGET_RAISED, "consumer", value="bob"), "audit.money"),
    "a stop by two": (put(Kind.LEASE_STOPPED, "agreed", value=["anna", "bert"]), "audit.approvals"),
    "a stop epoch left out": (put(Kind.LEASE_STOPPED, "stop_epoch", value=2), "audit.state"),
    "a version of the past": (put(Kind.LEASE_PAUSED, "version", value=1), "audit.state"),
    "a resume of what runs": (repeat(Kind.LEASE_RESUMED), "audit.state"),
    "a pause of what is stopped": (move(Kind.LEASE_PAUSED, Kind.STOP_ACKNOWLEDGED), "audit.state"),
    "a stop acknowledged twice": (repeat(Kind.STOP_ACKNOWLEDGED), "audit.instance"),
    "a stop acknowledged before it was": (move(Kind.STOP_ACKNOWLEDGED, Kind.LEASE_STOPPED), "audit.state"),
    "a stop acknowledged by a stranger": (
        put(Kind.STOP_ACKNOWLEDGED, "instance", value=lambda _: "00" * 32),
        "audit.instance",
    ),
    "a grant by an operator": (by(Kind.GRANT_ISSUED, "anna"), "audit.author"),
    "a stop by nobody": (by(Kind.LEASE_STOPPED, ""), "audit.author"),
    "a field too many": (lambda told: find(told, Kind.TOKEN_ISSUED).update(more=1), "audit.detail"),
    "a field too few": (lambda told: find(told, Kind.TOKEN_ISSUED).pop("epoch") and None, "audit.detail"),
}


@pytest.mark.parametrize("lie", LIES)
def test_custodian_cannot_tell_another_story(life: tuple[World, list[bytes]], lie: str) -> None:
    world, lines = life
    edit, code = LIES[lie]
    assert code in codes(retold(world, lines, edit), world)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"instance":"' + "00" * 32 + '","transcript":{"config":{"a":' + "[" * 100_000, "audit.detail"),
        ("[" * 100_000, "audit.detail"),
        ("", "audit.detail"),
        ("{}\n", "audit.form"),
    ],
)
def test_detail_that_nobody_writes_is_refused(life: tuple[World, list[bytes]], text: str, code: str) -> None:
    world, lines = life
    first = entries(lines)[0]
    entry = Entry(lease=first.lease, seq=1, at=first.at, kind=Kind.INSTANCE_ATTESTED, by="", detail=text, prev=FIRST)
    signature = sealed(world.keys.sign, entry).signature if text.isprintable() else "00" * 64
    line = msgspec.json.encode(SignedEntry(entry, signature), order="sorted")
    assert code in codes([lines[0], line, lines[-1]], world)
