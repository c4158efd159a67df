"""Many at once, in threads and in processes, and processes that are killed: the books balance, no promise is lost."""

from __future__ import annotations

import contextlib
import random
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import pytest

import ledger_worker
import nursery
from blindai.custody.keys import CustodianKeys
from blindai.custody.ledger import Ledger
from blindai.custody.tables import metadata
from blindai.errors import BlindAIError
from blindai.web.database import Database
from blindai.wire.custody import Closing
from lending import MODEL_KEY, Custodian, Instance, assert_sound, terms

T = TypeVar("T")

THREADS = 8


def at_once(*work: Callable[[], T]) -> list[T | BlindAIError]:
    """Do all of `work` at the same time; what was refused is returned as it is."""
    barrier = Barrier(len(work))

    def one(do: Callable[[], T]) -> T | BlindAIError:
        barrier.wait()
        try:
            return do()
        except BlindAIError as error:
            return error

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(one, work))


def codes(results: list[T | BlindAIError]) -> list[str]:
    return sorted(result.code if isinstance(result, BlindAIError) else "" for result in results)


def test_two_hundred_renewals_at_once_share_a_small_budget(custodian: Custodian) -> None:
    lease = custodian.lend(budget=50, consumers={"alice": 45}, max_instances=THREADS)

    def serve() -> int:
        instance, got = custodian.instance(lease), 0
        for _ in range(200 // THREADS):
            instance.renew({"alice": 3})
            got += instance.held.get("alice", 0)
            if instance.held.get("alice"):
                instance.spend("alice", instance.held["alice"])
        instance.renew()
        return got

    results = at_once(*[serve] * THREADS)
    assert codes(results) == [""] * THREADS
    picture = custodian.ledger.lease(lease)
    assert sum(got for got in results if isinstance(got, int)) == picture.granted == picture.spent == 45


def test_eight_at_once_on_a_budget_of_one_get_one(custodian: Custodian) -> None:
    """The predecessor checked the budget and counted it down in two calls: all eight ran."""
    lease = custodian.lend(budget=1, max_instances=8)
    instances = [custodian.instance(lease) for _ in range(8)]
    at_once(*[partial(instance.renew, {"alice": 1}) for instance in instances])
    assert sorted(instance.held.get("alice", 0) for instance in instances) == [0] * 7 + [1]


def test_one_renewal_sent_many_times_at_once_is_debited_once(custodian: Custodian) -> None:
    lease = custodian.lend()
    renewal = custodian.instance(lease).next_renewal({"alice": 5}, key=True)
    first, *others = at_once(*[lambda: custodian.ledger.renew(renewal)] * THREADS)
    assert others == [first] * (THREADS - 1)
    assert custodian.ledger.lease(lease).granted == 5


def test_of_clones_that_renew_at_once_one_is_answered_and_all_are_quarantined(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    clones = [instance.next_renewal({"alice": 5}) for _ in range(4)]
    results = at_once(*[partial(custodian.ledger.renew, renewal) for renewal in clones])
    assert codes(results) == ["", "lease.forked", "lease.quarantined", "lease.quarantined"]
    assert custodian.ledger.lease(lease).granted == 5


def test_of_instances_that_come_at_once_as_many_are_served_as_the_lease_says(custodian: Custodian) -> None:
    lease = custodian.lend(max_instances=3)
    results = at_once(*[custodian.instance(lease).renew for _ in range(THREADS)])
    assert codes(results) == [""] * 3 + ["lease.instances"] * (THREADS - 3)


def test_requests_filed_at_once_are_one(custodian: Custodian) -> None:
    lease = custodian.lend()
    instances = [custodian.instance(lease) for _ in range(4)]
    results = at_once(*[partial(instance.request, "alice") for instance in instances])
    assert results == [results[0]] * 4
    assert len(custodian.ledger.lease(lease).requests) == 1


def test_a_proposal_agreed_to_by_many_at_once_is_carried_out_once(custodian: Custodian) -> None:
    lease = custodian.lend(approvals=3)
    proposal = custodian.ledger.raise_budget(lease, consumer=None, amount=5, by="op0", reason="")
    assert proposal is not None
    names = [f"op{number}" for number in range(THREADS)]
    results = at_once(*[partial(custodian.ledger.agree, proposal.id, by=name) for name in names])
    assert "lease.proposal_state" in codes(results)
    assert custodian.ledger.lease(lease).budget == 105


def test_an_approval_given_twice_at_once_is_given_once(custodian: Custodian) -> None:
    lease = custodian.lend()
    request = custodian.instance(lease).request("alice", 7)
    results = at_once(*[lambda: custodian.ledger.approve(request.id, by="ann", reason="")] * 4)
    assert codes(results) == ["", "lease.request_state", "lease.request_state", "lease.request_state"]
    assert custodian.ledger.lease(lease).budget == 107


def test_a_closing_and_a_renewal_at_once_leave_nothing_in_the_hands_of_the_closed(custodian: Custodian) -> None:
    lease = custodian.lend()

    def close(closing: Closing) -> None:
        custodian.ledger.close(closing)

    for _ in range(5):
        instance = custodian.instance(lease)
        instance.renew({"alice": 5})
        renewal, closing = instance.next_renewal({"alice": 5}), instance.closing()
        at_once(partial(custodian.ledger.renew, renewal), partial(close, closing))
        assert custodian.ledger.lease(lease).granted == 0


# Processes.


class Worker:
    """A custodian process that waits for a word before it begins."""

    def __init__(self, task: ledger_worker.Task) -> None:
        context = nursery.of_functions()
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=ledger_worker.work, args=(task, theirs))
        self._process.start()
        theirs.close()
        assert self._line.recv() == ledger_worker.READY

    def begin(self) -> None:
        self._line.send("go")

    def kill(self) -> None:
        self._process.kill()

    def heard(self) -> dict[str, int]:
        """Every answer that it had, until it ended: the digest of the grant, and the units."""
        answers = {}
        # The last answer of a process that was killed may be half an answer.
        with contextlib.suppress(EOFError, OSError):
            while True:
                digest, units = self._line.recv()
                answers[digest] = units
        return answers

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._line.close()


class Workers:
    """Custodian processes on one database."""

    def __init__(self, url: str, folder: Path) -> None:
        seed, wrapping = secrets.token_bytes(32), secrets.token_bytes(32)
        self.keys = CustodianKeys(seed, wrapping)
        self.database = Database.open(url)
        with self.database.write() as connection:
            metadata.create_all(connection)
        self.ledger = Ledger(self.database, self.keys)
        self.folder = folder
        self._task = partial(ledger_worker.Task, url, seed, wrapping)

    @contextmanager
    def started(self, lease: str, *, renewals: int) -> Iterator[Worker]:
        with contextlib.closing(Worker(self._task(lease, renewals))) as worker:
            yield worker

    def promised(self, lease: str) -> set[str]:
        """The digests of all grants in the ledger."""
        with self.database.read() as connection:
            return set(connection.execute(metadata.tables["grants"].select()).scalars(4))


@pytest.fixture
def workers(database_url: str, tmp_path: Path) -> Iterator[Workers]:
    made = Workers(database_url, tmp_path)
    yield made
    made.database.dispose()


def test_two_custodian_processes_on_one_database_never_overspend(workers: Workers) -> None:
    lease = workers.ledger.create(terms(workers.folder, budget=50, max_instances=2), model_key=MODEL_KEY, by="ann").id
    with workers.started(lease, renewals=60) as one, workers.started(lease, renewals=60) as other:
        one.begin()
        other.begin()
        answers = [one.heard(), other.heard()]
    assert all(len(of_one) == 60 for of_one in answers)
    assert sum(units for of_one in answers for units in of_one.values()) == 50
    assert workers.ledger.lease(lease).granted == 50
    assert_sound(workers.database, workers.keys.public_key, lease)


def test_a_custodian_killed_at_any_moment_loses_nothing_that_it_has_promised(workers: Workers) -> None:
    seed = secrets.randbits(32)
    chance = random.Random(seed)
    lease = workers.ledger.create(
        terms(workers.folder, budget=100_000, max_instances=100), model_key=MODEL_KEY, by="ann"
    ).id
    promised: set[str] = set()
    units = 0
    for _ in range(8):
        with workers.started(lease, renewals=10_000) as worker:
            worker.begin()
            time.sleep(chance.uniform(0.0, 0.25))
            worker.kill()
            answers = worker.heard()
        promised |= answers.keys()
        units += sum(answers.values())
        # What the process had not yet said may be in the ledger; what it had said must be.
        assert promised <= workers.promised(lease), f"seed {seed}"
        assert units <= workers.ledger.lease(lease).granted, f"seed {seed}"
        assert_sound(workers.database, workers.keys.public_key, lease)
    assert promised
    # And the ledger still works.
    Instance(workers.ledger, lease, workers.keys.public_key).admit().renew({"alice": 1})
