"""A SQL database behind two context managers, one that reads and one that writes: SQLite in a file, or PostgreSQL.

A committed write is on the disk when `write()` returns: what is promised to others afterwards may rest on it.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from blindai.errors import BlindAIError, ConfigurationError, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"

# How long a transaction waits for one of another process. Ours last milliseconds; this is for a disk that stalls.
LOCK_TIMEOUT_SECONDS: Final = 15

# A process that died in the middle of a transaction, without its connection being closed, blocks the others so long.
IDLE_TIMEOUT_SECONDS: Final = 30

CONNECT_TIMEOUT_SECONDS: Final = 5

# Of one process. PostgreSQL allows 100 in all as it comes.
MAX_CONNECTIONS: Final = 20

# Of a transaction that lost a deadlock. Locks are taken in one order, so that even the second is not expected.
MAX_TRIES: Final = 5

CONTENDED: Final = "unavailable.database_contended"

# SQLSTATE classes and codes (PostgreSQL documentation, appendix A).
_RETRY_STATES: Final = frozenset({"40001", "40P01", "55P03"})
_FULL_STATES: Final = frozenset({"53100"})
_SETTING_CLASSES: Final = ("28", "3D", "3F", "42501")
_UNAVAILABLE_CLASSES: Final = ("08", "53", "57", "58", "25006", "25P03")

# Primary result codes (sqlite.org/rescode.html).
_FULL_RESULTS: Final = frozenset({sqlite3.SQLITE_FULL})
_BUSY_RESULTS: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SETTING_RESULTS: Final = frozenset(
    {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}
)
_DISK_RESULTS: Final = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT})

_BEGIN: Final = "blindai_begin"


class Database:
    """A database that has been reached once. Thread-safe.

    Attributes:
        dialect: `SQLITE` or `POSTGRESQL`.
        name: the address without its password, for messages and logs.
    """

    def __init__(self, engine: Engine) -> None:
        self.dialect = engine.dialect.name
        self.name = _shown(engine.url)
        self._engine = engine
        if self.dialect == SQLITE:
            self._reading = engine.execution_options(**{_BEGIN: ("PRAGMA query_only = ON", "BEGIN")})
            self._writing = engine.execution_options(**{_BEGIN: ("PRAGMA query_only = OFF", "BEGIN IMMEDIATE")})
        else:
            self._reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._writing = engine.execution_options(isolation_level="READ COMMITTED")
        # SQLite makes writers of one file wait by sleeping and asking again; in one process they can queue instead.
        self._writer = threading.Lock()
        self._owner: int | None = None

    @classmethod
    def open(cls, url: str | os.PathLike[str]) -> Database:
        """Reach the database at `url`: the path of a SQLite file, which is made if need be, or postgresql://...

        Raises:
            ConfigurationError: `configuration.database`, if the address, the file or the server's settings are wrong;
                `configuration.database_driver`, if the PostgreSQL driver is not installed.
            Unavailable: `unavailable.database`, if the server cannot be reached; `unavailable.disk_full`.
        """
        address = _address(url)
        engine = _sqlite(address) if address.drivername == SQLITE else _postgresql(address)
        database = cls(engine)
        try:
            with database.read():
                pass
        except BaseException:
            engine.dispose()
            raise
        return database

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the database and cannot change it.

        Raises:
            Unavailable: as `write`.
        """
        with self._translated(), self._reading.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: all of it is on the disk at the end, or, with an exception, nothing.

        On SQLite nobody else writes from its beginning on. On PostgreSQL it is READ COMMITTED: lock the rows that a
        decision rests on.

        Raises:
            Unavailable: `unavailable.database`, if the database cannot be reached or went away, and then the write may
                have been done or not; `CONTENDED`, if others hold the locks for too long or a deadlock was broken
                (see `retrying`); `unavailable.disk_full`, and then nothing was written.
            RuntimeError: this thread is writing already.
        """
        with self._translated(), self._alone(), self._writing.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self.dialect != SQLITE:
            yield
            return
        if self._owner == threading.get_ident():
            raise RuntimeError("this thread is in a writing transaction already")
        if not self._writer.acquire(timeout=LOCK_TIMEOUT_SECONDS):
            raise _contended(self.name)
        self._owner = threading.get_ident()
        try:
            yield
        finally:
            self._owner = None
            self._writer.release()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            ours = _translation(error, self.name)
            if ours is None:
                raise
            # Without its cause: the driver's own words may hold the password, and the statement's values.
            raise ours from None
        except PoolTimeout:
            raise _contended(self.name) from None


def retrying(work: Callable[P, T]) -> Callable[P, T]:
    """Repeat `work`, which is one whole transaction, when it lost a deadlock or waited too long for a lock."""

    @functools.wraps(work)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(MAX_TRIES - 1):
            try:
                return work(*args, **kwargs)
            except Unavailable as error:
                if error.code != CONTENDED:
                    raise
        return work(*args, **kwargs)

    return repeated


def _address(url: str | os.PathLike[str]) -> URL:
    """`url` with the driver that we use."""
    text = os.fspath(url)
    if "://" not in text:
        return URL.create(SQLITE, database=text)
    try:
        address = make_url(text)
    except (ArgumentError, ValueError):
        # Not in the words of the library, which repeat the address.
        raise _bad_address("the address of the database cannot be read") from None
    scheme = address.drivername
    if scheme == SQLITE:
        if address.host or address.query:
            raise _bad_address("the address of a SQLite file has a path and nothing else")
        return address
    if scheme in {POSTGRESQL, "postgres"}:
        if not address.database:
            raise _bad_address("the address names no database")
        return address.set(drivername="postgresql+psycopg")
    raise _bad_address(f"{scheme}:// is no kind of database that is supported")


def _bad_address(message: str) -> ConfigurationError:
    return ConfigurationError(
        message,
        code="configuration.database",
        hint="give the path of a SQLite file, or postgresql://user:password@host/database",
    )


def _shown(url: URL) -> str:
    if url.drivername == SQLITE:
        return str(url.database)
    # Options may hold secrets too, as `sslpassword` does.
    return url.set(drivername=POSTGRESQL, query={}).render_as_string(hide_password=True)


def _sqlite(address: URL) -> Engine:
    path = address.database or ""
    if not path or path == ":memory:":
        raise _bad_address("a database in memory would forget what it promised")
    try:
        # SQLite gives the files beside it the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a name of a file"
        raise ConfigurationError(
            f"{path} cannot be opened: {reason}",
            code="configuration.database",
            hint="give a file in a folder that exists and may be written to",
        ) from error
    engine = create_engine(
        # Absolute: the connections of later must find the same file.
        address.set(database=str(Path(path).absolute())),
        connect_args={"timeout": LOCK_TIMEOUT_SECONDS, "check_same_thread": False},
        pool_size=MAX_CONNECTIONS,
        max_overflow=0,
        pool_timeout=LOCK_TIMEOUT_SECONDS,
        hide_parameters=True,  # wrapped keys and digests of passwords have no place in a traceback
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        # Transactions begin where `begin` says, not where the driver guesses.
        connection.isolation_level = None
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigurationError(
                f"{path} lies on a file system without shared memory",
                code="configuration.database",
                hint="give a file on a local disk",
            )
        # In WAL mode, less than FULL may lose committed transactions with the power (sqlite.org/pragma.html).
        connection.execute("PRAGMA synchronous = FULL")
        # On macOS, fsync leaves data in the disk's cache; without effect elsewhere.
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        for statement in connection.get_execution_options().get(_BEGIN, ("BEGIN",)):
            connection.exec_driver_sql(statement)

    return engine


def _postgresql(address: URL) -> Engine:
    try:
        engine = create_engine(
            address,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                # A peer that vanished is noticed in a minute, not in two hours.
                "keepalives_idle": 20,
                "keepalives_interval": 10,
                "keepalives_count": 3,
            },
            pool_size=MAX_CONNECTIONS,
            max_overflow=0,
            pool_timeout=LOCK_TIMEOUT_SECONDS,
            # The server may have been restarted since the connection was last used.
            pool_pre_ping=True,
            hide_parameters=True,
        )
    except (ImportError, NoSuchModuleError) as error:
        raise ConfigurationError(
            "PostgreSQL needs the driver psycopg, which is not installed",
            code="configuration.database_driver",
            hint="pip install 'blindai[postgresql]'",
        ) from error

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SHOW fsync")
            if cursor.fetchone()[0] != "on":
                raise ConfigurationError(
                    f"the server of {_shown(address)} does not write to its disk: fsync is off",
                    code="configuration.database",
                    hint="set fsync = on in postgresql.conf",
                )
            cursor.execute("SET synchronous_commit = 'on'")
            cursor.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_TIMEOUT_SECONDS}s'")
            cursor.execute("SET TIME ZONE 'UTC'")
        connection.commit()

    return engine


def _translation(error: DBAPIError, name: str) -> BlindAIError | None:
    """What `error` means to a person; None if it is about a statement, and so ours to handle or a bug."""
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_translation(error.orig, name)
    return _postgresql_translation(error, name)


def _sqlite_translation(error: sqlite3.Error, name: str) -> BlindAIError | None:
    # The low byte is the primary result code.
    result = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if result in _BUSY_RESULTS:
        return _contended(name)
    if result in _FULL_RESULTS:
        return _full(name)
    if result in _SETTING_RESULTS:
        return ConfigurationError(
            f"{name} cannot be used as a database: {error}",
            code="configuration.database",
            hint="give a file that this program made, in a folder that may be written to",
        )
    if result in _DISK_RESULTS:
        return _unreachable(name, str(error))
    return None


def _postgresql_translation(error: DBAPIError, name: str) -> BlindAIError | None:
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        # libpq's own: no server, no route, a broken connection, or a password that is wrong.
        words = _first_line(error)
        if "password" in words or "authentication" in words:
            return _not_let_in(name)
        if '" does not exist' in words:
            return _no_database(name)
        return _unreachable(name, "no connection") if _is_connection_error(error) else None
    if state in _RETRY_STATES:
        return _contended(name)
    if state in _FULL_STATES:
        return _full(name)
    if state.startswith(_SETTING_CLASSES):
        return _no_database(name) if state.startswith("3D") else _not_let_in(name)
    if state.startswith(_UNAVAILABLE_CLASSES) or error.connection_invalidated:
        return _unreachable(name, f"SQLSTATE {state}")
    return None


def _is_connection_error(error: DBAPIError) -> bool:
    return error.connection_invalidated or type(error.orig).__name__ in {"OperationalError", "ConnectionTimeout"}


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).lower()


def _contended(name: str) -> Unavailable:
    return Unavailable(f"others keep {name} busy", code=CONTENDED, hint="try again")


def _full(name: str) -> Unavailable:
    return Unavailable(
        f"the disk of {name} is full: nothing was written",
        code="unavailable.disk_full",
        hint="make room, and try again",
    )


def _unreachable(name: str, words: str) -> Unavailable:
    return Unavailable(
        f"the database {name} does not answer: {words}",
        code="unavailable.database",
        hint="see whether its server runs, and its disk is well",
    )


def _not_let_in(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"the server of {name} refuses this user", code="configuration.database", hint="check user, password and rights"
    )


def _no_database(name: str) -> ConfigurationError:
    return ConfigurationError(f"there is no database {name}", code="configuration.database", hint="make it: createdb")
