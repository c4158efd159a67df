"""The three parties, each in a process of its own: the custodian, the borrower's enclave, the hospital."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Self, cast

import msgspec

from blindai.demo.custody.hospital import Access, Answer, Look, Question
from blindai.demo.enclaves import stop
from blindai.demo.processes import Program, start
from blindai.errors import Unavailable


class Custodian(Program):
    """`blindai custodian serve`.

    Args:
        data: its folder: database, key file, sealed models.
    """

    def __init__(self, data: Path, log: Path) -> None:
        ports = ["--enclave-port", "0", "--dashboard-port", "0"]
        super().__init__(["custodian", "serve", "--data", str(data), *ports, "--json", "--log-format", "json"], log)

    @property
    def port(self) -> int:
        """Where it listens for enclaves."""
        return int(str(self.announcement["enclaves"]).rpartition(":")[2])

    @property
    def dashboard(self) -> str:
        """Where it listens for operators."""
        return str(self.announcement["operators"])


class Enclave(Program):
    """`blindai serve` at the borrower's, with a model on loan.

    Args:
        config: its measured configuration.
        sealed_model: the file that the custodian shipped.
    """

    def __init__(self, config: Path, sealed_model: Path, log: Path, *, package_parent: Path | None = None) -> None:
        options = ["--platform", "simulated-tdx", "--config", str(config), "--sealed-model", str(sealed_model)]
        super().__init__(
            ["serve", "--port", "0", *options, "--json", "--log-format", "json"], log, package_parent=package_parent
        )

    @property
    def address(self) -> str:
        """Where it listens for consumers."""
        return str(self.announcement["address"])


class Hospital:
    """The consumer: see `hospital`. A context manager."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = start(["-m", "blindai.demo.custody.hospital"], errors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        stop(self._process)

    def at(self, address: str, *, policy: Path, token: str, model_id: str) -> None:
        """Ask that enclave from now on."""
        self._say(Access(address, str(policy), token, model_id))

    def begin(self, patient: int, *, wait_seconds: float | None = None) -> None:
        """Ask; `answer` comes later."""
        self._say(Question(patient, wait_seconds))

    def answer(self) -> Answer:
        """The answer to the question that was begun.

        Raises:
            Unavailable: `unavailable.start`, the process has ended.
        """
        line = cast("IO[str]", self._process.stdout).readline()
        if not line:
            raise Unavailable(f"the hospital's process ended; {self._log} says why", code="unavailable.start")
        return msgspec.json.decode(line, type=Answer)

    def ask(self, patient: int, *, wait_seconds: float | None = None) -> Answer:
        """Diagnose one patient."""
        self.begin(patient, wait_seconds=wait_seconds)
        return self.answer()

    def look(self) -> Answer:
        """How the lease stands, as the enclave says."""
        self._say(Look())
        return self.answer()

    def _say(self, message: msgspec.Struct) -> None:
        pipe = cast("IO[str]", self._process.stdin)
        pipe.write(msgspec.json.encode(message).decode() + "\n")
        pipe.flush()
