"""The database: durable, one writer at a time, and in our words when it fails."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from blindai.errors import BlindAIError, ConfigurationError, Unavailable
from blindai.web import database as module
from blindai.web.database import CONTENDED, MAX_TRIES, POSTGRESQL, SQLITE, Database, retrying
from postgresql import PostgreSQL

# Writes one row, and dies while it writes the second.
WRITER = """
import sys, time
from sqlalchemy import text
from blindai.web.database import Database
database = Database.open(sys.stdin.readline().strip())
with database.write() as connection:
    connection.execute(text("INSERT INTO t VALUES (1)"))
with database.write() as connection:
    connection.execute(text("INSERT INTO t VALUES (2)"))
    print("in the middle", flush=True)
    time.sleep(100)
"""


def rows(database: Database) -> list[int]:
    with database.read() as connection:
        return [row.x for row in connection.execute(text("SELECT x FROM t ORDER BY x"))]


def insert(connection: Connection, x: int) -> None:
    connection.execute(text("INSERT INTO t VALUES (:x)"), {"x": x})


@pytest.fixture
def table(database: Database) -> Database:
    with database.write() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER PRIMARY KEY CHECK (x < 100))"))
    return database


def refused(url: str | Path) -> BlindAIError:
    with pytest.raises(BlindAIError) as caught:
        Database.open(url)
    return caught.value


def test_write_is_there_for_the_next_reader(table: Database) -> None:
    with table.write() as connection:
        insert(connection, 1)
    assert rows(table) == [1]


def test_exception_undoes_the_whole_write(table: Database) -> None:

    def write() -> None:
        with table.write() as connection:
            insert(connection, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert rows(table) == []


def test_broken_rule_of_a_table_is_told_as_it_is(table: Database) -> None:
    with pytest.raises(IntegrityError), table.write() as connection:
        insert(connection, 100)
    assert rows(table) == []


def test_reader_cannot_write(table: Database) -> None:
    with pytest.raises((BlindAIError, DBAPIError)), table.read() as connection:
        insert(connection, 1)
    assert rows(table) == []
    # The connection goes back to the pool, and the next who has it may write.
    with table.write() as connection:
        insert(connection, 1)
    assert rows(table) == [1]


def test_reader_sees_one_moment(table: Database) -> None:
    with table.read() as reader:
        assert reader.execute(text("SELECT count(*) FROM t")).scalar() == 0
        with table.write() as connection:
            insert(connection, 1)
        assert reader.execute(text("SELECT count(*) FROM t")).scalar() == 0
    assert rows(table) == [1]


def test_many_writers_count_without_loss(table: Database) -> None:
    with table.write() as connection:
        connection.execute(text("CREATE TABLE counter (n INTEGER)"))
        connection.execute(text("INSERT INTO counter VALUES (0)"))
    locking = text("SELECT n FROM counter FOR UPDATE" if table.dialect == POSTGRESQL else "SELECT n FROM counter")

    def count(_: int) -> None:
        with table.write() as connection:
            n = connection.execute(locking).scalar_one()
            connection.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(count, range(120)))
    with table.read() as connection:
        assert connection.execute(text("SELECT n FROM counter")).scalar_one() == 120


def test_killed_process_leaves_whole_transactions(table: Database, database_url: str) -> None:
    """The one whose end was told is there, the one in the middle is not, and nobody waits for it."""
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            WRITER,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        child.stdin.write(database_url + "\n")
        child.stdin.flush()
        assert child.stdout.readline() == "in the middle\n"
        child.kill()
    assert rows(table) == [1]
    with table.write() as connection:
        insert(connection, 2)
    assert rows(table) == [1, 2]


def test_sqlite_promises_what_it_has_on_the_disk(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "file")
    with database.read() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "fullfsync")
        }
    database.dispose()
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "fullfsync": 1}


def test_postgresql_promises_what_it_has_on_the_disk(postgresql: PostgreSQL) -> None:
    database = Database.open(postgresql.create())
    with database.read() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar() == "on"
        assert connection.execute(text("SHOW transaction_isolation")).scalar() == "repeatable read"
    with database.write() as connection:
        assert connection.execute(text("SHOW transaction_isolation")).scalar() == "read committed"
    database.dispose()


def test_postgresql_that_keeps_nothing_is_refused(postgresql: PostgreSQL) -> None:
    url = postgresql.create()
    admin = Database.open(postgresql.url("postgres"))
    try:
        with admin._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ALTER SYSTEM SET fsync = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
            while connection.execute(text("SHOW fsync")).scalar() != "off":
                pass
        assert refused(url).code == "configuration.database"
    finally:
        with admin._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ALTER SYSTEM RESET fsync"))
            connection.execute(text("SELECT pg_reload_conf()"))
            while connection.execute(text("SHOW fsync")).scalar() != "on":
                pass
        admin.dispose()


def test_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "file")
    with database.write() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    database.dispose()
    assert modes == {"file": 0o600, "file-wal": 0o600, "file-shm": 0o600}


def test_path_may_hold_what_addresses_may_not(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c %20 é.sqlite3"
    database = Database.open(path)
    database.dispose()
    assert path.is_file()


def test_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database.open("here.sqlite3")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    # A second connection, made from another folder.
    with database.read(), database.write() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    database.dispose()
    assert not (tmp_path / "elsewhere" / "here.sqlite3").exists()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://a:hunter2@b/c",
        "oracle+nonsense://a:hunter2@b/c",
        "sqlite://",
        "sqlite:///:memory:",
        ":memory:",
        "",
        "sqlite://hunter2/file",
        "sqlite:///file?mode=hunter2",
        "postgresql://a:hunter2@host",
        "postgresql://a:hunter2@host:port/c",
        "://hunter2",
        "file\0name",
    ],
)
def test_bad_address_is_refused_without_repeating_it(url: str) -> None:
    error = refused(url)
    assert isinstance(error, ConfigurationError)
    assert error.code == "configuration.database"
    assert "hunter2" not in str(error)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere" / "file").code == "configuration.database"


def test_folder_is_no_database(tmp_path: Path) -> None:
    assert refused(tmp_path).code == "configuration.database"


def test_other_file_is_no_database_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir or Madam, " * 100)
    before = path.read_bytes()
    assert refused(path).code == "configuration.database"
    assert path.read_bytes() == before


def test_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    error = refused("postgresql://a:hunter2@localhost/c")
    assert error.code == "configuration.database_driver"
    assert "blindai[postgresql]" in error.hint


def test_server_that_is_not_there(tmp_path: Path) -> None:
    error = refused(f"postgresql://a:hunter2@/c?host={tmp_path}")
    assert (type(error), error.code) == (Unavailable, "unavailable.database")
    assert "hunter2" not in str(error)


def test_wrong_password(postgresql: PostgreSQL) -> None:
    error = refused(postgresql.url("postgres", password="hunter2"))
    assert (type(error), error.code) == (ConfigurationError, "configuration.database")
    assert "hunter2" not in str(error)


def test_missing_database(postgresql: PostgreSQL) -> None:
    error = refused(postgresql.url("nowhere"))
    assert (type(error), error.code) == (ConfigurationError, "configuration.database")
    assert "createdb" in error.hint


def test_server_that_goes_away_and_comes_back(postgresql: PostgreSQL) -> None:
    database = Database.open(postgresql.create())
    with database.write() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))

    def write() -> None:
        with database.write() as connection:
            insert(connection, 1)
            postgresql.stop(signal.SIGQUIT)

    with pytest.raises(Unavailable) as caught:
        write()
    assert caught.value.code == "unavailable.database"
    with pytest.raises(Unavailable) as caught, database.read():
        pass
    assert caught.value.code == "unavailable.database"
    postgresql.start()
    assert rows(database) == []
    database.dispose()


def test_deadlock_is_broken_and_the_work_repeated(postgresql: PostgreSQL) -> None:
    database = Database.open(postgresql.create())
    with database.write() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER, n INTEGER)"))
        connection.execute(text("INSERT INTO t VALUES (1, 0), (2, 0)"))
    both = threading.Barrier(2)
    tries = []

    @retrying
    def work(first: int, second: int) -> None:
        tries.append(first)
        with database.write() as connection:
            connection.execute(text("UPDATE t SET n = n + 1 WHERE x = :x"), {"x": first})
            if len(tries) <= 2:
                both.wait(30)
            connection.execute(text("UPDATE t SET n = n + 1 WHERE x = :x"), {"x": second})

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, 1, 2), pool.submit(work, 2, 1)]:
            done.result()
    with database.read() as connection:
        assert [row.n for row in connection.execute(text("SELECT n FROM t"))] == [2, 2]
    database.dispose()
    assert len(tries) > 2


def test_work_that_never_gets_through_says_so() -> None:
    tries = []

    @retrying
    def work() -> None:
        tries.append(1)
        raise Unavailable("busy", code=CONTENDED)

    with pytest.raises(Unavailable) as caught:
        work()
    assert caught.value.code == CONTENDED
    assert len(tries) == MAX_TRIES


def test_other_failures_are_not_repeated() -> None:
    tries = []

    @retrying
    def work() -> None:
        tries.append(1)
        raise Unavailable("gone", code="unavailable.database")

    with pytest.raises(Unavailable):
        work()
    assert len(tries) == 1


def test_writing_process_that_does_not_end_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_SECONDS", 0.2)
    database = Database.open(tmp_path / "file")
    other = sqlite3.connect(tmp_path / "file")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as caught, database.write():
        pass
    assert caught.value.code == CONTENDED
    other.close()
    with database.write():
        pass
    database.dispose()


def test_writing_thread_that_does_not_end_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(tmp_path / "file")
    monkeypatch.setattr(module, "LOCK_TIMEOUT_SECONDS", 0.2)

    def write() -> None:
        with database.write():
            pass

    with database.write(), ThreadPoolExecutor(1) as pool, pytest.raises(Unavailable) as caught:
        pool.submit(write).result()
    assert caught.value.code == CONTENDED
    database.dispose()


def test_transaction_within_a_transaction_is_a_mistake(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "file")
    with database.write(), pytest.raises(RuntimeError), database.write():
        pass
    with database.write():
        pass
    database.dispose()


def test_full_disk_is_told_and_nothing_half_done(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "file")
    with database.write() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER, filling BLOB)"))

    def fill() -> None:
        with database.write() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 4}")
            insert_large = text("INSERT INTO t VALUES (:x, zeroblob(4000))")
            for x in range(10):
                connection.execute(insert_large, {"x": x})

    with pytest.raises(Unavailable) as caught:
        fill()
    assert caught.value.code == "unavailable.disk_full"
    assert rows(database) == []
    database.dispose()


def test_more_readers_than_connections_are_told_to_come_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(module, "LOCK_TIMEOUT_SECONDS", 1)
    database = Database.open(database_url)
    with database.read(), pytest.raises(Unavailable) as caught, database.read():
        pass
    assert caught.value.code == CONTENDED
    with database.read():
        pass
    database.dispose()


def test_file_system_without_shared_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def elsewhere(path: str, **settings: Any) -> sqlite3.Connection:
        # SQLite has a file system layer that locks with files, for disks in a network.
        opened: sqlite3.Connection = connect(f"file:{path}?vfs=unix-dotfile", uri=True, **settings)
        return opened

    monkeypatch.setattr(sqlite3.dbapi2, "connect", elsewhere)
    error = refused(tmp_path / "file")
    assert error.code == "configuration.database"
    assert "shared memory" in error.message


def test_damaged_file_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "file"
    database = Database.open(path)
    with database.write() as connection:
        connection.execute(text("CREATE TABLE t (x BLOB)"))
        for _ in range(50):
            connection.execute(text("INSERT INTO t VALUES (zeroblob(3000))"))
    database.dispose()
    damaged = bytearray(path.read_bytes())
    damaged[4096 : 4096 * 5] = bytes([0xFF]) * (4096 * 4)
    path.write_bytes(damaged)

    def read() -> None:
        with database.read() as connection:
            connection.execute(text("SELECT sum(length(x)) FROM t")).scalar()

    with pytest.raises(Unavailable) as caught:
        read()
    assert caught.value.code == "unavailable.database"
    database.dispose()


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("53100", "unavailable.disk_full"),
        ("53300", "unavailable.database"),
        ("57P03", "unavailable.database"),
        ("58030", "unavailable.database"),
        ("25006", "unavailable.database"),
        ("40001", CONTENDED),
        ("55P03", CONTENDED),
        ("42501", "configuration.database"),
        ("28000", "configuration.database"),
        ("3D000", "configuration.database"),
    ],
)
def test_what_a_server_says_is_told_in_our_words(postgresql: PostgreSQL, state: str, code: str) -> None:
    database = Database.open(postgresql.create())
    with pytest.raises(BlindAIError) as caught, database.write() as connection:
        connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'hunter2' USING ERRCODE = '{state}'; END $$"))
    assert caught.value.code == code
    assert "hunter2" not in str(caught.value)
    database.dispose()


def test_mistake_in_a_statement_stays_what_it_is(database: Database) -> None:
    with pytest.raises(DBAPIError), database.read() as connection:
        connection.execute(text("SELECT nonsense"))


def test_name_is_for_logs(tmp_path: Path, postgresql: PostgreSQL) -> None:
    url = postgresql.create()
    database = Database.open(url)
    database.dispose()
    assert database.dialect == POSTGRESQL
    assert postgresql._password not in database.name
    file = Database.open(os.fspath(tmp_path / "file"))
    file.dispose()
    assert (file.dialect, file.name) == (SQLITE, str(tmp_path / "file"))
