"""A disk that loses what it said it had, and one that is full: nothing is granted on top, and nothing is half done."""

from __future__ import annotations

import os
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from blindai.custody.audit import audit
from blindai.custody.ledger import Ledger
from blindai.custody.views import InstanceState
from blindai.errors import BlindAIError, LeaseStopped
from blindai.web.database import Database
from lease_enclaves import Enclave
from lease_world import World
from postgresql import PostgreSQL

BUDGET = 20

# The form of a write-ahead log (sqlite.org/fileformat2.html, section 4.1).
WAL_HEADER = 32
FRAME_HEADER = 24


@dataclass
class Disk:
    """A world whose disk can lose its last write.

    Attributes:
        forget: lose everything that was written since `remember`, as a power cut does.
    """

    world: World
    remember: Callable[[], None]
    forget: Callable[[], None]


def without_last_commit(wal: bytes) -> bytes:
    """A write-ahead log up to the last but one commit."""
    page_size = struct.unpack_from(">I", wal, 8)[0]
    frame = FRAME_HEADER + page_size
    commits = [
        end
        for end in range(WAL_HEADER + frame, len(wal) + 1, frame)
        if struct.unpack_from(">I", wal, end - frame + 4)[0]
    ]
    return wal[: commits[-2]]


@pytest.fixture(scope="module")
def power_cut() -> Iterator[PostgreSQL]:
    """A server for the tests of this module alone: they end it, and put older files in place of its own."""
    server = PostgreSQL()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "sqlite":
        yield from sqlite_disk(tmp_path)
    else:
        yield from postgresql_disk(tmp_path, request.getfixturevalue("power_cut"))


def sqlite_disk(folder: Path) -> Iterator[Disk]:
    """The last commit is cut off the write-ahead log."""
    world = World(folder)

    def forget() -> None:
        # Before anything is closed, which would write the log into the file.
        lost = folder / "lost.sqlite3"
        shutil.copy(folder / "ledger.sqlite3", lost)
        wal = (folder / "ledger.sqlite3-wal").read_bytes()
        (folder / "lost.sqlite3-wal").write_bytes(without_last_commit(wal))
        world.database.dispose()
        world.database = Database.open(lost)
        world.ledger = Ledger(world.database, world.keys, clock=world.clock)

    yield Disk(world, lambda: None, forget)
    world.close()


def postgresql_disk(folder: Path, server: PostgreSQL) -> Iterator[Disk]:
    """The files of before come back."""
    url = server.create()
    world = World(folder, url)
    kept = server.folder / "kept"

    def remember() -> None:
        server.stop()
        shutil.copytree(server.data, kept, copy_function=shutil.copy2)
        server.start()

    def forget() -> None:
        server.stop(signal.SIGQUIT)
        owner = server.data.stat()
        shutil.rmtree(server.data)
        kept.rename(server.data)
        for file in (server.data, *server.data.rglob("*")):
            os.chown(file, owner.st_uid, owner.st_gid)
        server.start()

    yield Disk(world, remember, forget)
    world.close()
    server.drop(url)


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(BlindAIError) as caught:
        act()
    return caught.value.code


def require_rule(world: World, lease: str) -> None:
    """The rule holds, and the log is whole."""
    picture = world.ledger.lease(lease)
    assert 0 <= picture.spent <= picture.granted <= picture.budget
    assert audit(world.export(lease), custodian=world.keys.public_key).findings == []


def lend(disk: Disk) -> tuple[str, Enclave]:
    lease = disk.world.lend(budget=BUDGET, consumers={"alice": None})
    enclave = disk.world.boot(lease)
    disk.world.renew(enclave, units=5)
    return lease, enclave


def test_lost_grant_is_not_granted_again(disk: Disk) -> None:
    world = disk.world
    lease, enclave = lend(disk)
    disk.remember()
    world.renew(enclave, units=9)
    truly_granted = world.ledger.lease(lease).granted
    disk.forget()
    lost = truly_granted - world.ledger.lease(lease).granted
    assert lost > 0
    # It goes on with what it has, and nobody can take that back. What it has is what it was truly granted.
    spent = enclave.query("alice", 100)
    assert spent == truly_granted <= BUDGET
    with pytest.raises(LeaseStopped) as caught:
        world.ledger.renew(enclave.renewal())
    assert caught.value.code == "lease.forked"
    assert code_of(lambda: world.ledger.renew(enclave.renewal())) == "lease.quarantined"
    (instance,) = world.ledger.lease(lease).instances
    assert instance.state is InstanceState.QUARANTINED
    assert "the ledger has lost what it had promised" in instance.reason
    # Its units stay debited for good, whatever comes after. What was lost is all that can be spent too much.
    other = world.boot(lease)
    for _ in range(10):
        world.later(100)
        world.renew(other, units=BUDGET)
        other.query("alice", BUDGET)
    require_rule(world, lease)
    assert enclave.spent["alice"] + other.spent["alice"] <= BUDGET + lost


def test_lost_record_is_seen(disk: Disk) -> None:
    """What was acknowledged is gone, and the instance, which has dropped it, shows that."""
    world = disk.world
    lease, enclave = lend(disk)
    assert enclave.query("alice", 3) == 3
    disk.remember()
    world.renew(enclave, units=0)
    disk.forget()
    assert enclave.query("alice", 1) == 1
    assert code_of(lambda: world.ledger.renew(enclave.renewal())) == "lease.forked"
    require_rule(world, lease)


def test_lost_answer_to_a_renewal_that_is_repeated_is_given_again(disk: Disk) -> None:
    """The power went before the answer left: then nobody has seen anything, and the same renewal is a new one."""
    world = disk.world
    lease, enclave = lend(disk)
    disk.remember()
    enclave.want("alice", 4)
    world.ledger.renew(enclave.renewal())
    granted = world.ledger.lease(lease).granted
    disk.forget()
    enclave.take(world.ledger.renew(enclave.renewal()))
    assert world.ledger.lease(lease).granted == granted
    require_rule(world, lease)


def test_lost_admission_is_made_again(disk: Disk) -> None:
    world = disk.world
    lease, _ = lend(disk)
    disk.remember()
    enclave = world.boot(lease)
    disk.forget()
    enclave.want("alice", 2)
    assert code_of(lambda: world.ledger.renew(enclave.renewal())) == "lease.not_admitted"
    transcript, result = world.platform.admission(enclave.keyset, enclave.config)
    world.ledger.admit(lease, transcript, result)
    world.renew(enclave, units=0)
    assert enclave.query("alice", 2) == 2
    require_rule(world, lease)


def test_lost_closing_is_sent_again_or_its_units_stay_debited(disk: Disk) -> None:
    world = disk.world
    lease, enclave = lend(disk)
    enclave.query("alice", 2)
    disk.remember()
    closing = enclave.closing()
    assert closing is not None
    world.ledger.close(closing)
    disk.forget()
    assert world.ledger.lease(lease).granted == 5
    world.ledger.close(closing)
    assert (world.ledger.lease(lease).granted, world.ledger.lease(lease).spent) == (2, 2)
    require_rule(world, lease)


def test_lost_stop_is_not_undone_in_the_enclave(disk: Disk) -> None:
    world = disk.world
    lease, enclave = lend(disk)
    disk.remember()
    world.ledger.stop(lease, by="anna", reason="enough")
    enclave.hear(world.ledger.status(lease, enclave.instance))
    disk.forget()
    # This ledger says that all is well, and grants. The enclave remembers.
    enclave.hear(world.ledger.status(lease, enclave.instance))
    assert enclave.query("alice") == 0
    answer = world.ledger.renew(enclave.renewal(empty=True))
    enclave.take(answer)
    assert enclave.query("alice") == 0
    assert not enclave.has_weights
    require_rule(world, lease)


def test_full_disk_leaves_nothing_half_done(tmp_path: Path) -> None:
    world = World(tmp_path)
    lease = world.lend(budget=10_000, consumers={"alice": None})
    enclave = world.boot(lease)
    world.renew(enclave)
    with world.database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    room = {"pages": pages + 3}

    @sa.event.listens_for(world.database._engine, "begin")
    def limit(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {room['pages']}")

    def live() -> None:
        for _ in range(1000):
            enclave.query("alice", 1)
            world.renew(enclave, units=1)

    assert code_of(live) == "unavailable.disk_full"
    before = world.ledger.lease(lease)
    entries = world.ledger.entries()[lease]
    assert code_of(lambda: world.ledger.renew(enclave.renewal())) == "unavailable.disk_full"
    assert world.ledger.lease(lease) == before
    assert world.ledger.entries()[lease] == entries
    require_rule(world, lease)
    # There is room again, and the renewal that was refused is answered.
    room["pages"] = 1 << 20
    enclave.take(world.ledger.renew(enclave.renewal()))
    assert world.ledger.entries()[lease] > entries
    require_rule(world, lease)
    world.close()
