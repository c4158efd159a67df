"""What the ledger shows of itself: leases, events, usage, exports; and what it takes to open one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from blindai.custody.ledger import Ledger, ledger, pictures
from blindai.custody.log import Chain, Header, SignedEntry, SignedFooter, parse
from blindai.errors import ConfigurationError, InvalidInput, LeaseStopped
from lending import MODEL_KEY, POLICY, Custodian, terms

MISSING = "lease-aaaaaaaaaaaaaaaa"


def test_a_new_lease_is_what_its_terms_say(custodian: Custodian) -> None:
    wanted = terms(custodian.folder, consumers={"alice": 40, "bob": None}, max_instances=3, approvals=2)
    lease = custodian.ledger.create(wanted, model_key=MODEL_KEY, by="ann")
    assert (lease.name, lease.borrower, lease.model_id) == (wanted.name, wanted.borrower, wanted.model_id)
    assert (lease.budget, lease.granted, lease.spent, lease.state) == (100, 0, 0, "active")
    assert (lease.max_instances, lease.approvals, lease.stop_epoch) == (3, 2, 0)
    assert [(account.consumer, account.budget) for account in lease.accounts] == [("alice", 40), ("bob", None)]
    assert (lease.instances, lease.requests, lease.proposals) == ((), (), ())
    assert lease.created_at == custodian.clocks.wall
    (event,) = custodian.ledger.events(lease.id)
    assert (event.kind, event.by, event.detail["policy"]) == ("lease.created", "ann", POLICY)


def test_the_policy_of_a_lease_is_the_manifest_of_its_terms(custodian: Custodian) -> None:
    lease = custodian.lend()
    policy = custodian.ledger.policy(lease)
    assert (policy.text, policy.digest) == (POLICY, custodian.ledger.lease(lease).policy_digest)


def test_the_artefact_is_found_from_anywhere(custodian: Custodian, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(custodian.folder)
    lease = custodian.lend(artefact=Path("model.sealed"))
    monkeypatch.chdir("/")
    assert custodian.ledger.artefact(lease) == (custodian.folder / "model.sealed").resolve()


def test_a_sealed_model_that_is_not_there_is_not_lent(custodian: Custodian) -> None:
    with pytest.raises(ConfigurationError) as refused:
        custodian.lend(artefact=custodian.folder / "nothing.sealed")
    assert refused.value.code == "lease.artefact"
    assert custodian.ledger.leases() == ()


@pytest.mark.parametrize("key", [b"", b"k" * 31, b"k" * 33])
def test_a_key_of_another_length_is_none(custodian: Custodian, key: bytes) -> None:
    with pytest.raises(ConfigurationError) as refused:
        custodian.ledger.create(terms(custodian.folder), model_key=key, by="ann")
    assert refused.value.code == "lease.model_key"


def test_a_lease_is_opened_by_somebody(custodian: Custodian) -> None:
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.create(terms(custodian.folder), model_key=MODEL_KEY, by="")
    assert refused.value.code == "lease.operator"


@pytest.mark.parametrize(
    "ask",
    [
        lambda books: books.lease(MISSING),
        lambda books: books.policy(MISSING),
        lambda books: books.artefact(MISSING),
        lambda books: books.status(MISSING, "11" * 32),
        lambda books: books.events(MISSING),
        lambda books: books.usage(MISSING),
        lambda books: books.export(MISSING),
        lambda books: books.stop(MISSING, by="ann", reason=""),
        lambda books: books.resume(MISSING, by="ann", reason=""),
        lambda books: books.add_consumer(MISSING, "bob", None, by="ann"),
    ],
)
def test_what_is_not_here_is_unknown(custodian: Custodian, ask: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        ask(custodian.ledger)
    assert refused.value.code == "lease.unknown"


def test_all_leases_are_listed_the_newest_first(custodian: Custodian) -> None:
    older = custodian.lend(name="older")
    custodian.clocks.sleep(1)
    newer = custodian.lend(name="newer")
    assert [lease.id for lease in custodian.ledger.leases()] == [newer, older]
    assert custodian.ledger.leases()[0] == custodian.ledger.lease(newer)
    assert custodian.ledger.versions() == {older: 1, newer: 1}


def test_every_entry_shows_in_the_length_of_the_log(custodian: Custodian) -> None:
    lease = custodian.lend()
    before = custodian.ledger.entries()[lease]
    custodian.instance(lease).renew({"alice": 1})
    assert custodian.ledger.entries()[lease] == before + 2 == len(custodian.ledger.events(lease))


# Instances, as people see them.


def test_the_countdown_of_an_instance_goes_by_the_clock_that_decides(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    (waiting,) = custodian.ledger.lease(lease).instances
    assert (waiting.state, waiting.grant_seq, waiting.expires_by) == ("silent", 0, None)
    instance.renew({"alice": 5})
    granted_at = custodian.clocks.wall
    # A wall clock that was set: the countdown still says how long it takes.
    custodian.clocks.ms += 20_000
    custodian.clocks.wall += timedelta(days=365)
    (serving,) = custodian.ledger.lease(lease).instances
    assert (serving.state, serving.outstanding) == ("active", {"alice": 5})
    assert serving.expires_by == custodian.clocks.wall + timedelta(seconds=40, milliseconds=60)
    custodian.clocks.sleep(3600)
    (silent,) = custodian.ledger.lease(lease).instances
    assert silent.state == "silent"
    assert silent.expires_by == granted_at + timedelta(seconds=60, milliseconds=60)


def test_a_wall_clock_set_back_shows_no_expiry_in_the_future(custodian: Custodian) -> None:
    lease = custodian.lend()
    custodian.instance(lease).renew()
    custodian.clocks.ms += 61_000
    custodian.clocks.wall -= timedelta(days=365)
    (silent,) = custodian.ledger.lease(lease).instances
    assert silent.expires_by == custodian.clocks.wall


def test_an_instance_in_quarantine_is_shown_with_the_reason(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    forked = instance.next_renewal()
    instance.renew()
    with pytest.raises(LeaseStopped):
        custodian.ledger.renew(forked)
    (picture,) = custodian.ledger.lease(lease).instances
    assert (picture.state, picture.reason) == ("quarantined", "renewal 1 came a second time, with other content")
    assert picture.expires_by is not None


def test_of_many_instances_the_latest_are_shown_and_all_that_may_serve(
    custodian: Custodian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "SHOWN_INSTANCES", 2)
    lease = custodian.lend()
    serving = custodian.instance(lease)
    serving.renew()
    for _ in range(3):
        custodian.clocks.sleep(1)
        custodian.instance(lease)
    shown = custodian.ledger.lease(lease).instances
    assert [picture.id == serving.id for picture in shown] == [False, False, True]
    monkeypatch.setattr(pictures, "LISTED_INSTANCES", 1)
    (listed,) = custodian.ledger.leases()
    assert [picture.id == serving.id for picture in listed.instances] == [False, True]


def test_of_many_requests_and_proposals_all_that_wait_are_shown(
    custodian: Custodian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "SHOWN_REQUESTS", 1)
    monkeypatch.setattr(pictures, "SHOWN_PROPOSALS", 1)
    lease = custodian.lend(consumers=dict.fromkeys(("alice", "bob", "carol")), approvals=2)
    instance = custodian.instance(lease)
    first = instance.request("alice").id
    custodian.ledger.deny(instance.request("bob").id, by="ann", reason="no")
    last = instance.request("carol").id
    for amount in (1, 2, 3):
        custodian.ledger.raise_budget(lease, consumer=None, amount=amount, by="ann", reason="")
    picture = custodian.ledger.lease(lease)
    assert [request.id for request in picture.requests] == [last, first]
    assert [proposal.detail["amount"] for proposal in picture.proposals] == [3, 2, 1]


def test_usage_is_what_records_said(custodian: Custodian, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = custodian.lend(consumers={"alice": None, "bob": None})
    instance = custodian.instance(lease)
    instance.renew({"alice": 10, "bob": 10})
    for consumer, units in (("alice", 3), ("bob", 2), ("alice", 1)):
        custodian.clocks.sleep(5)
        instance.spend(consumer, units)
        instance.renew()
    points = custodian.ledger.usage(lease)
    assert [(point.consumer, point.units) for point in points] == [("alice", 3), ("bob", 2), ("alice", 1)]
    assert points[2].at - points[0].at == timedelta(seconds=10)
    monkeypatch.setattr(ledger, "MAX_USAGE_POINTS", 2)
    assert custodian.ledger.usage(lease) == points[1:]


# The log.


def test_events_are_read_from_anywhere(custodian: Custodian) -> None:
    lease = custodian.lend()
    for _ in range(3):
        custodian.ledger.stop(lease, by="ann", reason="")
    events = custodian.ledger.events(lease)
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert custodian.ledger.events(lease, after=2) == events[2:]
    assert custodian.ledger.events(lease, after=1, limit=2) == events[1:3]
    assert custodian.ledger.events(lease, after=4) == []


def test_an_export_is_the_whole_signed_log(custodian: Custodian, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "PAGE_EVENTS", 2)
    lease = custodian.lend()
    custodian.instance(lease).renew({"alice": 3})
    custodian.ledger.stop(lease, by="ann", reason="")
    custodian.ledger.resume(lease, by="ann", reason="")
    lines = iter(custodian.ledger.export(lease))
    header = parse(next(lines), Header)
    # What happens from now on is in the next export.
    custodian.ledger.stop(lease, by="ann", reason="")
    chain = Chain(header.lease, custodian.keys.public)
    *entries, footer = lines
    for line in entries:
        chain.extend(parse(line, SignedEntry))
    chain.end(parse(footer, SignedFooter))
    assert (header.custodian, header.lease) == (custodian.keys.public_key, lease)
    assert (chain.count, chain.head) == (5, custodian.ledger.events(lease)[4].digest)


def test_a_second_ledger_on_one_database_sees_and_does_the_same(custodian: Custodian) -> None:
    lease = custodian.lend()
    other = Ledger(custodian.database, custodian.keys, clock=custodian.clocks)
    instance = custodian.instance(lease)
    instance.renew({"alice": 5})
    instance.ledger = other
    instance.renew({"alice": 5})
    assert other.lease(lease) == custodian.ledger.lease(lease)
