"""A custodian and borrowers as users start them: in processes of their own, which can be killed."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from typer.testing import CliRunner

from blindai.cli.app import app
from lent_models import OPERATOR, PASSWORD, Loan
from nursery import Forked, Nursery

# A process that has not answered by then never will, even on a busy machine.
START_SECONDS = 60.0
STOP_SECONDS = 20.0


class ServerProcess:
    """One of our servers in a process of its own, started with --json.

    Attributes:
        said: what it announced.
        log: file of its log and everything else on its standard error.
        nursery: forks it, where many are started; not where it is given an environment of its own.
    """

    nursery: ClassVar[Nursery | None] = None
    process: subprocess.Popen[str] | Forked

    def __init__(self, *arguments: str | Path, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        command = [*map(str, arguments), "--json", "--log-format", "json"]
        with log.open("ab") as stderr:
            if self.nursery is not None and not environment:
                self.process = self.nursery.start(command, stderr.fileno())
            else:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "blindai", *command],
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    env=os.environ | dict(environment or {}),
                )
        self.said = self._announcement()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOP_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def suspend(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def events(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def _announcement(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        text = ""
        watchdog = threading.Timer(START_SECONDS, self.process.kill)
        watchdog.start()
        try:
            while not text.endswith("}\n"):
                line = self.process.stdout.readline()
                if not line:
                    self.kill()
                    raise AssertionError(f"the server did not start: {text}{self.log.read_text(encoding='utf-8')}")
                text += line
        finally:
            watchdog.cancel()
        said: dict[str, Any] = json.loads(text)
        return said


@contextmanager
def nursed() -> Iterator[None]:
    """Meanwhile, processes are forked from one that has imported everything."""
    if sys.platform != "linux":
        yield
        return
    with Nursery() as nursery:
        ServerProcess.nursery = nursery
        try:
            yield
        finally:
            ServerProcess.nursery = None


class CustodianProcess(ServerProcess):
    """`blindai custodian serve`.

    Args:
        folder: its data.
        database_url: where it is not a file in there. It may hold a password.
        enclave_port, dashboard_port: 0 takes free ones.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str | None = None,
        *,
        enclave_port: int = 0,
        dashboard_port: int = 0,
        log: Path | None = None,
        arguments: tuple[str | Path, ...] = (),
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.database_url = database_url
        super().__init__(
            "custodian",
            "serve",
            *place_options(folder, database_url),
            "--enclave-port",
            str(enclave_port),
            "--dashboard-port",
            str(dashboard_port),
            "--debug",
            *arguments,
            log=log or folder / "serve.log",
        )

    @property
    def enclaves(self) -> str:
        """Where enclaves call: `host:port`."""
        return str(self.said["enclaves"])

    @property
    def enclave_port(self) -> int:
        return int(self.enclaves.rpartition(":")[2])

    @property
    def operators(self) -> str:
        """Where operators look: an https URL."""
        return str(self.said["operators"])

    @property
    def public_key(self) -> str:
        return str(self.said["public_key"])

    def decide(self, *arguments: str | Path) -> Any:
        """Run a `blindai custodian` command on this custodian's database, as `OPERATOR`; what it printed."""
        return decide(self.folder, self.database_url, *arguments)


class BorrowerProcess(ServerProcess):
    """`blindai serve` on simulated TDX, with a model on loan.

    Args:
        loan: what it borrows.
        custodian: `host:port`.
        folder: for its configuration and its log.
    """

    def __init__(
        self, loan: Loan, custodian: str, folder: Path, *, port: int = 0, settings: str = "", log: Path | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / f"{secrets.token_hex(4)}.toml"
        config.write_text(f"{settings}\n{loan.toml(custodian)}", encoding="utf-8")
        super().__init__(
            "serve",
            "--platform",
            "simulated-tdx",
            "--port",
            str(port),
            "--config",
            config,
            log=log or folder / "borrower.log",
        )

    @property
    def address(self) -> str:
        """Where consumers call: an https URL."""
        return str(self.said["address"])


def decide(folder: Path, database_url: str | None, *arguments: str | Path) -> Any:
    """Run a `blindai custodian` command as `OPERATOR`, in this process; the JSON that it printed."""
    password = folder / "password"
    password.write_text(PASSWORD, encoding="utf-8")
    who: list[str | Path] = ["--as", OPERATOR, "--password-file", password, "--json"]
    options = [*place_options(folder, database_url), *who]
    ended = CliRunner().invoke(app, ["custodian", *map(str, (*arguments, *options))])
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.stdout)


def place_options(folder: Path, database_url: str | None = None) -> list[str | Path]:
    """The options of a `blindai custodian` command for this custodian."""
    options: list[str | Path] = ["--data", folder]
    if database_url is not None:
        address = folder / "database-url"
        address.write_text(database_url, encoding="utf-8")
        address.chmod(0o600)
        options += ["--database-file", address]
    return options
