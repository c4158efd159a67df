"""Databases for tests: every test that asks for `database_url` runs on SQLite and on a real PostgreSQL.

The server is one of this machine's own programs, in a folder of its own, reached through a socket in that folder. It
starts with the first test that needs it, one for each worker process. It writes to the disk as in production.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from blindai.web.database import Database

# Debian keeps the server's programs out of PATH, a folder for each version.
DEBIAN = Path("/usr/lib/postgresql")

START_SECONDS = 60

# Runs the server, and ends it when the process that started it is gone, however that ended.
_UNTIL_STDIN_ENDS = """
exec 3<&0
"$@" 3<&- &
server=$!
(cat <&3 >/dev/null; kill -INT $server 2>/dev/null) &
wait $server
"""


def program(name: str) -> Path | None:
    """The newest of this machine's PostgreSQL programs of that name."""
    found = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]), reverse=True)
    if found:
        return found[0]
    in_path = shutil.which(name)
    return Path(in_path) if in_path else None


def _user() -> str | None:
    """Whom the server runs as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class PostgreSQL:
    """A server with its data in a new folder.

    Attributes:
        folder: holds `data` and the socket.
    """

    USER = "custodian"

    def __init__(self) -> None:
        initdb, postgres = program("initdb"), program("postgres")
        if initdb is None or postgres is None:
            raise FileNotFoundError("no PostgreSQL server on this machine: initdb and postgres were not found")
        self._postgres = postgres
        # Not in pytest's folder, where no other user can go, and short: a socket's path has 107 bytes at the most.
        self.folder = Path(tempfile.mkdtemp(prefix="blindai-pg-"))
        self.data = self.folder / "data"
        self._as_user = _user()
        self._process: subprocess.Popen[bytes] | None = None
        self._password = secrets.token_hex(16)
        password_file = self.folder / "password"
        password_file.write_text(self._password)
        if self._as_user is not None:
            shutil.chown(self.folder, self._as_user)
            shutil.chown(password_file, self._as_user)
        self._run(
            initdb,
            f"--pgdata={self.data}",
            f"--username={self.USER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            # What initdb makes is not on the disk before it is used; what the server writes is.
            "--no-sync",
        )

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "/bin/sh",
                    "-c",
                    _UNTIL_STDIN_ENDS,
                    "sh",
                    self._postgres,
                    f"-D{self.data}",
                    f"-cunix_socket_directories={self.folder}",
                    "-clisten_addresses=",
                    "-cshared_buffers=32MB",
                    "-cmax_connections=100",
                    "-crecovery_init_sync_method=syncfs",
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                user=self._as_user,
                cwd=self.folder,
            )
        pg_isready = self._postgres.with_name("pg_isready")
        waiting: list[Path | str] = [pg_isready, "--quiet", f"--host={self.folder}", f"--timeout={START_SECONDS}"]
        while subprocess.run(waiting, check=False).returncode != 0:
            if self._process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: at once and in good order, or like a power cut with SIGQUIT."""
        if self._process is not None:
            if self._process.poll() is None:
                os.kill(int((self.data / "postmaster.pid").read_text().splitlines()[0]), how)
                self._process.wait(START_SECONDS)
            self._hang_up()

    def _hang_up(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

    def create(self) -> str:
        """The address of a new, empty database."""
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def drop(self, url: str) -> None:
        """Delete a database that `create` made, whoever uses it."""
        name = urlsplit(url).path.removeprefix("/")
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def url(self, database: str, *, password: str | None = None) -> str:
        return f"postgresql://{self.USER}:{password or self._password}@/{database}?host={self.folder}"

    def remove(self) -> None:
        """Stop it and delete its data."""
        self.stop()
        shutil.rmtree(self.folder)

    def _run(self, *command: Path | str) -> None:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            user=self._as_user,
            cwd=self.folder,
            timeout=START_SECONDS,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed: {done.stderr}")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server of this worker process; without its programs, the test is skipped."""
    try:
        server = PostgreSQL()
    except FileNotFoundError as error:
        pytest.skip(f"{error} (Debian: apt install postgresql)")
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a new, empty database; the test runs once for each kind."""
    if request.param == "sqlite":
        yield str(tmp_path / "database.sqlite3")
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    url = server.create()
    yield url
    server.drop(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """As `database_url`, opened."""
    opened = Database.open(database_url)
    yield opened
    opened.dispose()
