"""Renewals: debit before grant, once for each renewal, and never on top of what the ledger does not know."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from blindai.custody import tables
from blindai.custody.keys import CustodianKeys
from blindai.custody.ledger import Ledger
from blindai.custody.ledger.grants import Answered, fork, renewal_digest
from blindai.errors import InvalidInput, LeaseStopped, PermissionDenied, Unavailable
from blindai.web.database import Database
from blindai.wire.custody import FIRST, Grant, Renewal, Unit, Usage
from lending import MODEL_DIGEST, MODEL_KEY, Custodian, Instance, assert_sound, terms


def test_a_grant_says_what_was_asked_and_agreed(custodian: Custodian) -> None:
    lease = custodian.lend(consumers={"alice": 40, "bob": None})
    custodian.ledger.revoke_tokens(lease, "bob", by="ann")
    instance = custodian.instance(lease)
    renewal = instance.next_renewal({"alice": 10, "bob": 0})
    answer = custodian.ledger.renew(renewal)
    assert answer.grant == Grant(
        lease=lease,
        instance=instance.id,
        seq=1,
        prev=FIRST,
        challenge=renewal.challenge,
        unit=Unit.QUERIES,
        quantities={"alice": 10},
        consumers={"alice": 0, "bob": 1},
        soft_ms=45_000,
        ttl_ms=60_000,
        model_digest=MODEL_DIGEST,
        policy_digest=custodian.ledger.policy(lease).digest,
        stop_epoch=0,
        record_seq=0,
        record_head=FIRST,
    )
    custodian.keys.public.verify(bytes.fromhex(answer.signature), answer.grant.message)
    assert answer.version == custodian.ledger.versions()[lease]
    assert {name: (standing.spent, standing.budget) for name, standing in answer.standings.items()} == {
        "alice": (0, 40),
        "bob": (0, 100),
    }


def test_the_debit_is_in_the_ledger_when_the_answer_leaves(custodian: Custodian) -> None:
    lease = custodian.lend(consumers={"alice": 40})
    custodian.instance(lease).renew({"alice": 10})
    picture = custodian.ledger.lease(lease)
    assert (picture.granted, picture.accounts[0].granted) == (10, 10)
    assert picture.instances[0].outstanding == {"alice": 10}
    assert custodian.last(lease).kind == "grant.issued"


def test_the_models_key_travels_only_when_asked_for_and_opens_with_its_grant_alone(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend())
    assert instance.renew().key is None
    answer = instance.renew(key=True)
    assert answer.key is not None
    assert instance.keyset.open_sealed(answer.key, answer.grant.key_info) == MODEL_KEY
    other = instance.renew(key=True)
    with pytest.raises(ValueError, match="not sealed"):
        instance.keyset.open_sealed(answer.key, other.grant.key_info)


def test_the_models_key_rests_wrapped(custodian: Custodian) -> None:
    custodian.lend()
    with custodian.database.read() as connection:
        kept = connection.execute(tables.leases.select()).one().model_key
    assert MODEL_KEY not in kept


def test_no_more_is_granted_than_the_lease_has(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend(budget=15))
    assert instance.renew({"alice": 10}).grant.quantities == {"alice": 10}
    assert instance.renew({"alice": 10}).grant.quantities == {"alice": 5}
    assert instance.renew({"alice": 10}).grant.quantities == {}


def test_no_more_is_granted_than_the_account_has(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend(consumers={"alice": 3, "bob": None}))
    assert instance.renew({"alice": 10, "bob": 10}).grant.quantities == {"alice": 3, "bob": 10}
    assert instance.renew({"alice": 1}).grant.quantities == {}


def test_an_instance_holds_no_more_than_a_tranche(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend(tranche_max=8))
    assert instance.renew({"alice": 50}).grant.quantities == {"alice": 8}
    assert instance.renew({"alice": 50}).grant.quantities == {}
    instance.spend("alice", 5)
    assert instance.renew({"alice": 50}).grant.quantities == {"alice": 5}


def test_two_instances_share_a_budget_that_comes_to_its_end(custodian: Custodian) -> None:
    lease = custodian.lend(budget=10, max_instances=2)
    first, second = custodian.instance(lease), custodian.instance(lease)
    first.renew()
    assert second.renew({"alice": 10}).grant.quantities == {"alice": 5}
    assert first.renew({"alice": 10}).grant.quantities == {"alice": 2}


def test_consumers_share_a_lease_that_comes_to_its_end(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend(budget=9, consumers=dict.fromkeys(("alice", "bob", "carol"))))
    assert instance.renew({"alice": 9, "bob": 9, "carol": 1}).grant.quantities == {"alice": 3, "bob": 3, "carol": 1}


def test_a_lease_open_to_anyone_has_one_account(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend(open_to_anyone=True))
    answer = instance.renew({"": 10})
    assert (answer.grant.quantities, answer.grant.consumers) == ({"": 10}, {"": 0})


@pytest.mark.parametrize("stranger", ["mallory", ""])
def test_a_consumer_who_is_not_on_the_lease_gets_nothing(custodian: Custodian, stranger: str) -> None:
    lease = custodian.lend()
    with pytest.raises(InvalidInput) as refused:
        custodian.instance(lease).renew({"alice": 1, stranger: 1})
    assert refused.value.code == "lease.consumer"
    assert custodian.ledger.lease(lease).granted == 0


def test_an_instance_that_was_not_admitted_gets_nothing(custodian: Custodian) -> None:
    with pytest.raises(PermissionDenied) as refused:
        custodian.unknown(custodian.lend()).renew({"alice": 1})
    assert refused.value.code == "lease.not_admitted"


def test_an_instance_of_another_lease_gets_nothing(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend())
    with pytest.raises(PermissionDenied) as refused:
        custodian.ledger.renew(msgspec.structs.replace(instance.next_renewal(), lease=custodian.lend()))
    assert refused.value.code == "lease.not_admitted"


def test_a_lease_that_is_not_here_is_unknown(custodian: Custodian) -> None:
    instance = custodian.unknown("lease-aaaaaaaaaaaaaaaa")
    with pytest.raises(InvalidInput) as refused:
        instance.renew()
    assert refused.value.code == "lease.unknown"


# Replays, forks, and a ledger that forgets.


def test_the_same_renewal_gets_the_same_answer_and_is_debited_once(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 5}, key=True)
    assert instance.renewal is not None
    assert custodian.ledger.renew(instance.renewal) == instance.answer
    assert custodian.ledger.lease(lease).granted == 5
    assert custodian.kinds(lease) == ["instance.attested", "grant.issued"]


def test_a_renewal_that_comes_twice_with_its_records_counts_them_once(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 5})
    instance.spend("alice", 3)
    instance.renew({"alice": 5})
    assert instance.renewal is not None
    assert custodian.ledger.renew(instance.renewal) == instance.answer
    assert custodian.ledger.lease(lease).spent == 3


def test_an_old_renewal_that_comes_late_is_refused_and_harms_nobody(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend())
    instance.renew({"alice": 5})
    late = instance.renewal
    assert late is not None
    instance.renew({"alice": 5})
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.renew(late)
    assert refused.value.code == "lease.superseded"
    assert instance.renew({"alice": 5}).grant.seq == 3


def test_two_renewals_with_one_number_are_a_fork(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    one, other = instance.next_renewal({"alice": 5}), instance.next_renewal({"alice": 5})
    custodian.ledger.renew(one)
    with pytest.raises(LeaseStopped) as refused:
        custodian.ledger.renew(other)
    assert refused.value.code == "lease.forked"
    # Both of them: nobody can tell which is the clone.
    for renewal in (one, other):
        with pytest.raises(LeaseStopped) as refused:
            custodian.ledger.renew(renewal)
        assert refused.value.code == "lease.quarantined"
    assert custodian.ledger.lease(lease).granted == 5
    assert custodian.last(lease).kind == "instance.quarantined"
    assert custodian.ledger.status(lease, instance.id).quarantined


def test_a_fork_is_seen_however_late_it_comes(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend())
    fork_of_the_first = instance.next_renewal()
    for _ in range(3):
        instance.renew()
    with pytest.raises(LeaseStopped) as refused:
        custodian.ledger.renew(fork_of_the_first)
    assert refused.value.code == "lease.forked"


def test_a_ledger_that_lost_its_last_write_never_grants_on_top(tmp_path: Path) -> None:
    """A disk that lost power, or an old backup: the instance shows a grant that this ledger does not know."""
    keys = CustodianKeys.generate()
    file = tmp_path / "ledger.sqlite3"
    database = Database.open(file)
    with database.write() as connection:
        tables.metadata.create_all(connection)
    ledger = Ledger(database, keys)
    lease = ledger.create(terms(tmp_path), model_key=MODEL_KEY, by="ann").id
    instance = Instance(ledger, lease, keys.public_key).admit()
    instance.renew({"alice": 5})
    database.dispose()
    shutil.copy(file, tmp_path / "backup")
    database = Database.open(file)
    instance.ledger = Ledger(database, keys)
    instance.renew({"alice": 5})
    database.dispose()
    for name in (file.name, f"{file.name}-wal", f"{file.name}-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "backup").rename(file)
    database = Database.open(file)
    instance.ledger = Ledger(database, keys)
    with pytest.raises(LeaseStopped, match="lost what it had promised") as refused:
        instance.renew({"alice": 5})
    assert refused.value.code == "lease.forked"
    (picture,) = instance.ledger.lease(lease).instances
    assert "lost what it had promised" in picture.reason
    assert instance.ledger.lease(lease).granted == 5
    database.dispose()


def test_a_full_disk_grants_nothing_and_loses_nothing(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "ledger.sqlite3")
    with database.write() as connection:
        tables.metadata.create_all(connection)
    custodian = Custodian(database, tmp_path)
    lease = custodian.lend(budget=10_000)
    instance = custodian.instance(lease)
    instance.renew({"alice": 5})
    with database.write() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 8}")

    def fill() -> None:
        while True:
            instance.renew({"alice": 1})

    with pytest.raises(Unavailable) as refused:
        fill()
    assert refused.value.code == "unavailable.disk_full"
    promised = instance.held["alice"]
    assert custodian.ledger.lease(lease).granted == promised > 5
    with database.write() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages * 10}")
    # The very same renewal, as if its answer had been lost on the way.
    assert instance.renewal is not None
    instance.take(custodian.ledger.renew(instance.renewal))
    assert custodian.ledger.lease(lease).granted == promised + 1 == instance.held["alice"]
    assert_sound(database, custodian.keys.public_key, lease)
    database.dispose()


def test_a_renewal_whose_prev_is_not_our_latest_grant_is_quarantined(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 5})
    with pytest.raises(LeaseStopped, match="follows a grant that is not in this ledger") as refused:
        custodian.ledger.renew(msgspec.structs.replace(instance.next_renewal(), prev="11" * 32))
    assert refused.value.code == "lease.forked"
    assert custodian.ledger.lease(lease).granted == 5


def test_a_fork_still_brings_its_records(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 5})
    instance.spend("alice", 2)
    with pytest.raises(LeaseStopped):
        custodian.ledger.renew(msgspec.structs.replace(instance.next_renewal(), prev="11" * 32))
    assert custodian.ledger.lease(lease).spent == 2
    # And so does an instance that is in quarantine already.
    instance.spend("alice", 1)
    with pytest.raises(LeaseStopped) as refused:
        custodian.ledger.renew(instance.next_renewal())
    assert refused.value.code == "lease.quarantined"
    assert custodian.ledger.lease(lease).spent == 3


def test_a_fork_with_records_that_an_honest_instance_would_be_refused_for_brings_none(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 5})
    instance.record({}, seq=7)
    with pytest.raises(LeaseStopped) as refused:
        custodian.ledger.renew(msgspec.structs.replace(instance.next_renewal(), prev="11" * 32))
    assert refused.value.code == "lease.forked"
    assert custodian.ledger.lease(lease).instances[0].record_seq == 0


# Records that come with a renewal.


def test_a_grant_acknowledges_the_records_that_came_with_its_renewal(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend())
    instance.renew({"alice": 5})
    signed = instance.spend("alice", 2)
    answer = instance.renew()
    assert (answer.grant.record_seq, answer.grant.record_head) == (1, signed.record.digest)
    assert answer.standings["alice"].spent == 2
    assert instance.pending == []


def test_more_than_was_held_is_quarantined_and_nothing_is_granted(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 5})
    instance.spend("alice", 2)
    instance.record({"alice": Usage(units=4, queries=4)})
    with pytest.raises(LeaseStopped) as refused:
        instance.renew({"alice": 5})
    assert refused.value.code == "lease.overspent"
    picture = custodian.ledger.lease(lease)
    assert (picture.spent, picture.granted) == (2, 5)
    assert custodian.kinds(lease)[-2:] == ["record.accepted", "instance.quarantined"]


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_a_refused_renewal_still_brings_its_records(custodian: Custodian, state: str) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 5})
    {"paused": custodian.ledger.pause, "stopped": custodian.ledger.stop}[state](lease, by="ann", reason="an incident")
    instance.spend("alice", 2)
    with pytest.raises(LeaseStopped, match="an incident") as refused:
        instance.renew({"alice": 5})
    assert refused.value.code == f"lease.{state}"
    assert (custodian.ledger.lease(lease).spent, custodian.ledger.lease(lease).granted) == (2, 5)
    custodian.ledger.resume(lease, by="ann")
    answer = instance.renew({"alice": 5})
    assert (answer.grant.record_seq, answer.grant.seq) == (1, 2)


def test_an_answer_that_was_not_taken_is_withheld_while_the_lease_is_stopped(custodian: Custodian) -> None:
    """A grant of before a stop, asked for once more after it, would start queries that the stop forbids."""
    lease = custodian.lend()
    instance = custodian.instance(lease)
    renewal = instance.next_renewal({"alice": 5})
    answer = custodian.ledger.renew(renewal)
    custodian.ledger.stop(lease, by="ann", reason="")
    with pytest.raises(LeaseStopped) as refused:
        custodian.ledger.renew(renewal)
    assert refused.value.code == "lease.stopped"
    custodian.ledger.resume(lease, by="ann")
    assert custodian.ledger.renew(renewal) == answer
    assert answer.grant.stop_epoch < custodian.ledger.status(lease, instance.id).stop_epoch


def test_a_renewal_with_a_bad_record_changes_nothing(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 5})
    instance.spend("alice", 2)
    instance.record({}, seq=4)
    with pytest.raises(InvalidInput) as refused:
        instance.renew({"alice": 5})
    assert refused.value.code == "lease.record_gap"
    assert (custodian.ledger.lease(lease).spent, custodian.ledger.lease(lease).granted) == (0, 5)


def test_a_renewal_after_a_closing_is_refused(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend())
    instance.renew({"alice": 5})
    instance.close()
    instance.pending.clear()
    with pytest.raises(InvalidInput) as refused:
        instance.renew()
    assert refused.value.code == "lease.closed"


# How many at once.


def test_a_second_clone_beyond_the_limit_is_refused_and_told_when_to_try_again(custodian: Custodian) -> None:
    lease = custodian.lend()
    first, clone = custodian.instance(lease), custodian.instance(lease)
    first.renew({"alice": 5})
    custodian.clocks.sleep(20)
    with pytest.raises(Unavailable) as refused:
        clone.renew({"alice": 5})
    assert refused.value.code == "lease.instances"
    assert "41 s" in refused.value.hint
    custodian.clocks.sleep(41)
    assert clone.renew({"alice": 5}).grant.quantities == {"alice": 5}
    # The first one's turn to wait.
    with pytest.raises(Unavailable):
        first.renew({"alice": 5})


def test_an_instance_that_holds_a_grant_is_counted_once(custodian: Custodian) -> None:
    lease = custodian.lend(max_instances=2)
    first, second, third = (custodian.instance(lease) for _ in range(3))
    for _ in range(3):
        first.renew()
        second.renew()
    with pytest.raises(Unavailable):
        third.renew()


def test_one_that_closed_leaves_its_place_at_once(custodian: Custodian) -> None:
    lease = custodian.lend()
    first, second = custodian.instance(lease), custodian.instance(lease)
    first.renew({"alice": 5})
    first.close()
    second.renew({"alice": 5})


def test_one_in_quarantine_keeps_its_place_until_its_grant_has_run_out(custodian: Custodian) -> None:
    lease = custodian.lend()
    first, second = custodian.instance(lease), custodian.instance(lease)
    forked = first.next_renewal()
    first.renew()
    with pytest.raises(LeaseStopped):
        custodian.ledger.renew(forked)
    with pytest.raises(Unavailable) as refused:
        second.renew()
    assert refused.value.code == "lease.instances"
    custodian.clocks.sleep(61)
    second.renew()


@pytest.mark.parametrize("days", [-365, 365])
def test_the_wall_clock_decides_nothing(custodian: Custodian, days: int) -> None:
    lease = custodian.lend()
    first, second = custodian.instance(lease), custodian.instance(lease)
    first.renew()
    custodian.clocks.wall = custodian.clocks.wall.replace(year=custodian.clocks.wall.year + (days > 0) - (days < 0))
    with pytest.raises(Unavailable) as refused:
        second.renew()
    assert refused.value.code == "lease.instances"
    custodian.clocks.ms += 61_000
    second.renew()


def test_after_a_restart_of_the_machine_a_grant_counts_for_its_whole_length_again(custodian: Custodian) -> None:
    lease = custodian.lend()
    first, second = custodian.instance(lease), custodian.instance(lease)
    first.renew()
    custodian.clocks.boot, custodian.clocks.ms = "boot 2", 5_000
    with pytest.raises(Unavailable):
        second.renew()
    custodian.clocks.ms += 61_000
    second.renew()


# The pure decision.


def renewal(**changes: object) -> Renewal:
    fields = {"lease": "lease-aaaaaaaaaaaaaaaa", "instance": FIRST, "seq": 2, "prev": "22" * 32, "challenge": FIRST}
    return msgspec.convert(fields | changes, Renewal)


def test_the_next_renewal_is_no_fork() -> None:
    assert fork(renewal(), grant_seq=1, grant_head="22" * 32, answered=None) is None


def test_the_very_same_renewal_is_no_fork() -> None:
    answered = Answered(renewal_digest(renewal()), None)
    assert fork(renewal(), grant_seq=2, grant_head="33" * 32, answered=answered) is None


@pytest.mark.parametrize(
    ("changes", "grant_seq", "words"),
    [({"seq": 4}, 1, "where 2 is next"), ({"seq": 1}, 1, "where 2 is next"), ({"prev": FIRST}, 1, "two enclaves")],
)
def test_any_other_renewal_is_a_fork_or_a_loss(changes: dict[str, object], grant_seq: int, words: str) -> None:
    fault = fork(renewal(**changes), grant_seq=grant_seq, grant_head="22" * 32, answered=None)
    assert fault is not None
    assert (fault.code, words in fault.reason) == ("lease.forked", True)


@pytest.mark.parametrize(
    "changes", [{"challenge": "44" * 32}, {"prev": FIRST}, {"wanted": {"alice": 1}}, {"key": True}]
)
def test_a_renewal_with_one_thing_changed_is_another(changes: dict[str, object]) -> None:
    answered = Answered(renewal_digest(renewal()), b"")
    fault = fork(renewal(**changes), grant_seq=2, grant_head=FIRST, answered=answered)
    assert fault is not None
    assert fault.code == "lease.forked"
