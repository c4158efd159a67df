"""Two control plane processes on one PostgreSQL, at the same keys, members and counts: nothing is lost or doubled."""

from __future__ import annotations

import json
import random
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

import control_plane_worker
from account_world import World, new_name, prepared
from blindai.cloud import tables
from blindai.cloud.accounts import Role
from blindai.web.database import Database
from postgresql import PostgreSQL

# Of each of the two processes; where one is killed, fewer will do.
OPERATIONS = 250
OPERATIONS_OF_KILLED = 100

# Of which each that was done has exactly one entry in the log.
EXACT = {"key.created", "member.invited", "member.joined", "member.removed"}

# What operations at random run into, alone or because the other process was faster.
EXPECTED_REFUSALS = {
    "account.unknown",  # keys by who is no member
    "account.role",  # keys by a viewer
    "account.member",
    "account.member_unknown",
    "fleet.totals",  # a report of the shared enclave that comes after a later one
}

SHARED_KEY = "bai_sk_shared00"

# Until the server has noticed that a process which was killed is gone.
GONE_SECONDS = 30


@dataclass
class Story:
    """What a process said.

    Attributes:
        done: by operation.
        refused: by code.
        entries: that the log must have.
        under_way: the operation that it began last, if it did not say how it ended.
    """

    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    entries: list[tuple[str, ...]] = field(default_factory=list)
    under_way: str = ""

    def hear(self, line: str) -> None:
        said = json.loads(line)
        if "begin" in said:
            self.under_way = said["begin"]
            return
        self.under_way = ""
        if "done" in said:
            self.done[said["done"]] += 1
            self.entries += [tuple(entry) for entry in said["entries"]]
        else:
            self.refused[said["code"]] += 1


class Planes:
    """Control plane processes on one database, and what they may do there.

    Attributes:
        users: addresses by id.
        organisations: the admin of each.
        roles: by organisation and user, before the processes begin.
        instances: one that reports to each process, and one that reports to both.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.seed = secrets.randbits(32)
        self.database = prepared(url)
        world = World(self.database)
        self.users = {user: world.email(user) for user in (world.user() for _ in range(8))}
        self.organisations = {}
        for _ in range(3):
            admin = world.user()
            organisation = world.organisation(admin, new_name())
            self.organisations[organisation] = admin
            # Some are there already, so that not all keys are refused at the beginning.
            for user in list(self.users)[:4]:
                link = world.invite(admin, organisation, self.users[user], Role.DEVELOPER)
                world.accounts.accept(user, link)
        self.roles = self.members()
        self._begun = max(row.id for row in self.rows(tables.audit))
        self.instances = [f"{number:02}" * 32 for number in range(3)]
        with self.database.write() as connection:
            for number, instance in enumerate(self.instances):
                connection.execute(
                    sa.insert(tables.instances).values(
                        id=instance,
                        endpoint=f"https://e{number}.example:443",
                        simulated=True,
                        verdict="{}",
                        current=True,
                        first_seen=int(time.time()),
                        last_seen=int(time.time()),
                    )
                )

    @contextmanager
    def started(self, number: int, operations: int = OPERATIONS) -> Iterator[subprocess.Popen[str]]:
        """Process `number`, which waits for a line before it begins."""
        told = {
            "database": self.url,
            "seed": self.seed + number,
            "operations": operations,
            "organisations": self.organisations,
            "users": self.users,
            "instance": self.instances[number],
            "shared": self.instances[2],
        }
        with subprocess.Popen(
            [sys.executable, control_plane_worker.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(told) + "\n")
                process.stdin.flush()
                assert json.loads(process.stdout.readline()) == "ready"
                yield process
            finally:
                process.kill()

    def rows(self, table: sa.Table) -> list[sa.Row[Any]]:
        with self.database.read() as connection:
            return list(connection.execute(sa.select(table)))

    def log(self) -> list[tuple[str, ...]]:
        """What the processes did, in its order."""
        rows = sorted(self.rows(tables.audit), key=lambda row: row.id)
        return [(row.namespace, row.user, row.action, row.subject) for row in rows if row.id > self._begun]

    def members(self) -> dict[tuple[str, str], str]:
        """The role of each member of the organisations."""
        rows = self.rows(tables.members)
        return {(row.namespace, row.user): row.role for row in rows if row.namespace in self.organisations}


@pytest.fixture
def planes(postgresql: PostgreSQL) -> Iterator[Planes]:
    url = postgresql.create()
    made = Planes(url)
    yield made
    made.database.dispose()
    postgresql.drop(url)


def begin(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def hear(process: subprocess.Popen[str], story: Story, *, lines: int | None = None) -> None:
    """Listen to the end, or for so many lines."""
    assert process.stdout is not None
    for heard, line in enumerate(process.stdout, start=1):
        # The last line of a process that was killed may be half a line.
        if line.endswith("\n"):
            story.hear(line)
        if heard == lines:
            return


def assert_tables_are_what_the_log_says(planes: Planes) -> None:
    """Play the log again, and compare what comes out with the tables."""
    roles = dict(planes.roles)
    address = planes.users
    invited: dict[tuple[str, str], str] = {}
    in_force: set[str] = set()
    for namespace, user, action, subject in planes.log():
        if action == "member.invited":
            role, email = subject.split()
            invited[namespace, email] = role
        elif action == "member.joined":
            assert invited.pop((namespace, address[user])) == subject
            assert (namespace, user) not in roles
            roles[namespace, user] = subject
        elif action == "member.role":
            role, member = subject.split()
            assert roles[namespace, member] != role
            roles[namespace, member] = role
        elif action == "member.removed":
            del roles[namespace, subject]
        elif action == "key.created":
            assert roles[namespace, user] != "viewer"
            assert subject not in in_force
            in_force.add(subject)
        else:
            assert action == "key.revoked"
            in_force.remove(subject)
    assert planes.members() == roles
    assert {(row.namespace, row.email): row.role for row in planes.rows(tables.invitations)} == invited
    keys = [row for row in planes.rows(tables.api_keys) if row.revoked_at is None]
    assert {row.id for row in keys} == in_force
    assert all(roles.get((row.namespace, row.created_by)) in {"developer", "admin"} for row in keys)


def assert_counts_add_up(planes: Planes) -> int:
    """Of every key, the hours are what the enclaves' totals are, and the months what the keys are; queries in all."""
    by_total: Counter[tuple[str, str]] = Counter()
    by_hour: Counter[tuple[str, str]] = Counter()
    for row in planes.rows(tables.totals):
        by_total[row.namespace, row.key_id] += row.queries
    for row in planes.rows(tables.usage):
        by_hour[row.namespace, row.key_id] += row.queries
    assert by_total == by_hour
    assert sum(row.queries for row in planes.rows(tables.months)) == by_total.total()
    return by_total.total()


def reported(stories: list[Story]) -> tuple[Counter[tuple[str, str]], dict[tuple[str, str], int]]:
    """Queries by account and key, and the version of each model, as the processes say."""
    queries: Counter[tuple[str, str]] = Counter()
    models: dict[tuple[str, str], int] = {}
    shared: dict[tuple[str, str], int] = {}
    for number, story in enumerate(stories):
        own: dict[tuple[str, str], int] = {}
        for namespace, key, action, subject in story.entries:
            if action != "report":
                continue
            count, version = (int(word) for word in subject.split())
            if key == SHARED_KEY:
                shared[namespace, key] = max(count, shared.get((namespace, key), 0))
                endpoint = f"{namespace}/shared"
            else:
                own[namespace, key] = count
                endpoint = f"{namespace}/model"
            where = ("2" if key == SHARED_KEY else str(number), endpoint)
            models[where] = max(version, models.get(where, 0))
        queries.update(own)
    queries.update(shared)
    return queries, models


def model_rows(planes: Planes) -> dict[tuple[str, str], int]:
    rows = planes.rows(tables.models)
    found = {(row.endpoint[len("https://e")], f"{row.namespace}/{row.name}"): row.version for row in rows}
    assert len(found) == len(rows), "an old version is still listed"
    return found


def test_two_processes_lose_and_double_nothing(planes: Planes, figures: Callable[[str], None]) -> None:
    stories = [Story(), Story()]
    with ExitStack() as stack:
        processes = [stack.enter_context(planes.started(number)) for number in range(2)]
        begin(*processes)
        for process, story in zip(processes, stories, strict=True):
            hear(process, story)
            assert process.wait() == 0
    assert [story.done.total() + story.refused.total() for story in stories] == [OPERATIONS] * 2
    refused = stories[0].refused + stories[1].refused
    assert refused.keys() <= EXPECTED_REFUSALS, f"seed {planes.seed}"

    recorded = [entry for story in stories for entry in story.entries]
    log = planes.log()
    exact = Counter(entry for entry in log if entry[2] in EXACT)
    assert exact == Counter(entry for entry in recorded if entry[2] in EXACT), f"seed {planes.seed}"
    assert Counter(entry for entry in log if entry[2] == "member.role") <= Counter(recorded)
    assert_tables_are_what_the_log_says(planes)

    keys = {row.id: row for row in planes.rows(tables.api_keys)}
    assert keys.keys() == {entry[3] for entry in recorded if entry[2] == "key.created"}
    assert len({row.digest for row in keys.values()}) == len(keys)
    assert all(keys[entry[3]].revoked_at for entry in recorded if entry[2] == "key.revoked")

    queries, models = reported(stories)
    by_key: Counter[tuple[str, str]] = Counter()
    for row in planes.rows(tables.usage):
        by_key[row.namespace, row.key_id] += row.queries
    assert by_key == queries, f"seed {planes.seed}"
    assert model_rows(planes) == models
    total = assert_counts_add_up(planes)

    done = stories[0].done + stories[1].done
    figures(f"{2 * OPERATIONS} operations of 2 processes: {done.total()} done, {refused.total()} refused, 0 failed")
    figures(f"  done: {', '.join(f'{name} {count}' for name, count in sorted(done.items()))}")
    figures(f"  keys {len(keys)}, members {len(planes.members())}, log {len(log)} entries: as recorded")
    figures(f"  queries {total}, models {len(models)}: as reported, with every third report sent twice")


def test_what_a_killed_process_did_is_there_wholly_or_not_at_all(
    planes: Planes, figures: Callable[[str], None]
) -> None:
    killed, other = Story(), Story()
    chance = random.Random(planes.seed)
    with planes.started(0, OPERATIONS_OF_KILLED) as first, planes.started(1, OPERATIONS_OF_KILLED) as second:
        begin(first, second)
        # The line is said when an operation begins, or ends; how far it is when it is killed is left to chance.
        hear(first, killed, lines=chance.randrange(20, OPERATIONS_OF_KILLED))
        time.sleep(chance.uniform(0.0, 0.01))
        first.kill()
        hear(first, killed)
        hear(second, other)
        assert second.wait() == 0
    # The other one was not held up by it.
    assert other.done.total() + other.refused.total() == OPERATIONS_OF_KILLED
    assert other.refused.keys() <= EXPECTED_REFUSALS
    wait_until_gone(planes.url, planes.database)

    # What it had said is there, and of what it had not said one operation at the most.
    log = Counter(entry for entry in planes.log() if entry[2] in EXACT)
    recorded = Counter(entry for entry in (*killed.entries, *other.entries) if entry[2] in EXACT)
    assert recorded <= log, f"seed {planes.seed}"
    unsaid = log - recorded
    expected = {"create": {"key.created"}, "invite": {"member.invited", "member.joined"}, "remove": {"member.removed"}}
    assert {entry[2] for entry in unsaid} <= expected.get(killed.under_way, set()), f"seed {planes.seed}"
    assert unsaid.total() <= 2
    assert_tables_are_what_the_log_says(planes)

    said, _ = reported([killed, other])
    total = assert_counts_add_up(planes)
    assert total >= said.total()
    assert total == said.total() or killed.under_way in {"report", "shared"}
    figures(
        f"killed after {killed.done.total()} operations, in the middle of {killed.under_way or 'nothing'}: "
        f"{unsaid.total()} entries of it in the log; the other did all of its {OPERATIONS_OF_KILLED}"
    )


def wait_until_gone(url: str, database: Database) -> None:
    """Until the server has ended the transaction of the process that was killed, one way or the other."""
    database.dispose()
    end = time.monotonic() + GONE_SECONDS
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(others).fetchone() != (0,):
            assert time.monotonic() < end, "the server still has connections of a process that is gone"
            time.sleep(0.02)
