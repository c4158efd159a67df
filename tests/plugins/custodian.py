"""A real custodian for tests, in a thread or in processes of its own; models that it lends; and who borrows them.

In a thread (`RunningCustodian`) tests reach into it; as processes (`CustodianProcess`, `BorrowerProcess`) they are what
users start, and can be killed. `CallingInstance` speaks to either over the real gate, without an enclave's server.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import msgspec
import pytest
from argon2 import PasswordHasher
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.measure.local import local_policy
from blindai.channel.calling import AttestedCall, CallingEnd
from blindai.channel.flow import BlockingStream
from blindai.channel.http1 import Answer, request_head
from blindai.channel.listening import listen
from blindai.custody.certificate import OperatorsTls
from blindai.custody.clock import SYSTEM_LEDGER_CLOCK, LedgerClock
from blindai.custody.custodian import Custodian, Place
from blindai.custody.operators import Operators, Role
from blindai.custody.sealing import seal
from blindai.custody.server import Addresses, CustodianServer
from blindai.custody.terms import Terms
from blindai.custody.unlocking import KeyFile
from blindai.web.passwords import Passwords
from blindai.wire import custody as wire
from blindai.wire.bundle import ONNX_TYPE
from blindai.wire.problems import error_from
from lending import Instance
from nursery import Forked, Nursery

T = TypeVar("T")

OPERATOR = "alice"
PASSWORD = "correct horse battery staple"

# Enough to sign in with, and no second of every test.
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

# A process that has not answered by then never will, even on a busy machine.
START_SECONDS = 60.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Loan:
    """A model that was lent.

    Attributes:
        lease: its id.
        key: of the sealed model.
        tokens: by consumer.
        public_key: the custodian's.
    """

    lease: str
    model_id: str
    model: bytes
    key: bytes
    artefact: Path
    tokens: Mapping[str, str]
    public_key: str

    def config(self, address: str) -> dict[str, str]:
        """The table [custody] of the borrower's enclave; `address` is where it finds the custodian."""
        return {
            "address": address,
            "public_key": self.public_key,
            "lease": self.lease,
            "model_id": self.model_id,
        }

    def toml(self, address: str) -> str:
        return "\n".join(["[custody]", *(f'{name} = "{value}"' for name, value in self.config(address).items()), ""])


def opened(folder: Path, database_url: str | None = None, *, clock: LedgerClock = SYSTEM_LEDGER_CLOCK) -> Custodian:
    """The custodian in `folder`, with one operator, `OPERATOR`. Whoever opens it closes it."""
    place = Place.at(folder, database_url)
    custodian = Custodian.open(place, lambda lock: KeyFile(place.key_file), clock=clock)
    operators = Operators(custodian.database, passwords=Passwords(CHEAP))
    if not operators.all():
        operators.add(OPERATOR, Role.ADMIN, PASSWORD)
    return custodian


def lend(custodian: Custodian, model: bytes = b"a model", **changes: Any) -> Loan:
    """Seal a model and lend it to the simulated platform of this installation: 100 queries of the consumer `clinic`.

    `changes` are of `Terms`.
    """
    key = secrets.token_bytes(32)
    folder = custodian.place.artefacts
    folder.mkdir(exist_ok=True)
    sealed = seal(
        [model],
        size=len(model),
        model_digest=hashlib.sha256(model).hexdigest(),
        content_type=ONNX_TYPE,
        target=folder / f"{secrets.token_hex(8)}.sealed",
        key=key,
    )
    settings: dict[str, Any] = {
        "name": "A model",
        "borrower": "A hospital",
        "model_id": "acme/model",
        "model_digest": sealed.header.model_digest,
        "artefact": sealed.path,
        "policy": local_policy().to_toml(),
        "budget": 100,
        "consumers": {} if changes.get("open_to_anyone") else {"clinic": None},
        "any_chip": True,
    }
    terms = Terms(**(settings | changes))
    lease = custodian.ledger.create(terms, model_key=key, by=OPERATOR)
    tokens = {name: custodian.ledger.issue_token(lease.id, name, by=OPERATOR) for name in terms.consumers}
    return Loan(lease.id, terms.model_id, model, key, sealed.path, tokens, custodian.keys.public_key)


class RunningCustodian:
    """Both ports of a custodian, on a thread of this process.

    Attributes:
        custodian: what is served; its ledger may be used directly.
    """

    def __init__(self, custodian: Custodian, *, enclave_port: int = 0) -> None:
        self.custodian = custodian
        self._enclave_port = enclave_port
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(START_SECONDS)
        if self._failure is not None:
            raise self._failure

    @property
    def enclaves(self) -> str:
        """Where enclaves call: `host:port`."""
        return f"127.0.0.1:{self.addresses.enclaves[1]}"

    @property
    def operators(self) -> str:
        """Where operators look: an https URL."""
        return f"https://127.0.0.1:{self.addresses.operators[1]}"

    def lend(self, model: bytes = b"a model", **changes: Any) -> Loan:
        return lend(self.custodian, model, **changes)

    def call(self, function: Callable[[], T]) -> T:
        """The result of `function`, called on the server's event loop."""

        async def wrapped() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result(STOP_SECONDS)

    def eventually(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition`, looked at on the server's event loop, holds."""

        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.005)

        asyncio.run_coroutine_threadsafe(wait(), self._loop).result(STOP_SECONDS)

    def close(self) -> None:
        """Stop the server in good order; the custodian itself stays open."""
        with contextlib.suppress(RuntimeError):  # the loop may have ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised again where it can be seen
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.server = CustodianServer(self.custodian, OperatorsTls.own_in(self.custodian.place.tls, "127.0.0.1"))
        try:
            self.addresses: Addresses = await self.server.start(
                enclaves=lambda: listen("127.0.0.1", self._enclave_port), operators=lambda: listen("127.0.0.1", 0)
            )
            self._ready.set()
            await self._stop.wait()
        finally:
            await self.server.stop()


class ServerProcess:
    """One of our servers in a process of its own, started with --json.

    Attributes:
        said: what it announced.
        log: file of its log and everything else on its standard error.
        nursery: forks it, where many are started.
    """

    nursery: ClassVar[Nursery | None] = None
    process: subprocess.Popen[str] | Forked

    def __init__(self, *arguments: str | Path, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        command = [*map(str, arguments), "--json", "--log-format", "json"]
        with log.open("ab") as stderr:
            if self.nursery is not None:
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
    """Run a `blindai custodian` command as `OPERATOR`, in a process of its own; the JSON that it printed."""
    password = folder / "password"
    password.write_text(PASSWORD, encoding="utf-8")
    who: list[str | Path] = ["--as", OPERATOR, "--password-file", password, "--json"]
    options = [*place_options(folder, database_url), *who]
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "blindai", "custodian", *arguments, *options],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
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


@dataclass
class Line:
    """One attested connection of an instance to a custodian. It has the methods of a `Ledger` that enclaves reach."""

    end: CallingEnd
    address: str
    public_key: str
    lease: str
    _call: AttestedCall = field(init=False)
    _stream: BlockingStream = field(init=False)

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        self._stream = BlockingStream(host, int(port), connect_seconds=10, seconds=60)
        custodian = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
        self._call = AttestedCall(self.end, self.address, custodian, self.lease)
        try:
            self._stream.run(self._call.open())
        except BaseException:
            self._stream.close()
            raise

    def post(self, path: str, body: bytes) -> Answer:
        """One request, whatever is in it."""
        fields = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        head = request_head("POST", path, self.address, fields)
        return self._stream.run(self._call.exchange(head, [body], max_answer_bytes=1 << 24))

    def ask(self, path: str, message: msgspec.Struct, kind: type[T]) -> T:
        """The answer to a message. A refusal is raised."""
        return msgspec.json.decode(self._answer(path, message), type=kind)

    def renew(self, renewal: wire.Renewal) -> wire.GrantAnswer:
        return self.ask(wire.RENEWALS, renewal, wire.GrantAnswer)

    def watch(self, *, known: int = 0, applied: int = 0, wait_ms: int = 20_000) -> wire.LeaseStatus:
        message = wire.Watch(
            lease=self.lease, instance=self.end.instance, known=known, applied=applied, wait_ms=wait_ms
        )
        return self.ask(wire.WATCHES, message, wire.LeaseStatus)

    def request_budget(self, asked: wire.BudgetRequest) -> wire.RequestStatus:
        return self.ask(wire.BUDGET_REQUESTS, asked, wire.RequestStatus)

    def close(self, closing: wire.Closing) -> wire.Closed:
        return self.ask(wire.CLOSINGS, closing, wire.Closed)

    def part(self, offset: int, length: int) -> bytes:
        """A part of the sealed model."""
        return self._answer(wire.ARTEFACTS, wire.ArtefactRange(lease=self.lease, offset=offset, length=length))

    def hang_up(self) -> None:
        self._stream.close()

    def _answer(self, path: str, message: msgspec.Struct) -> bytes:
        answer = self.post(path, msgspec.json.encode(message))
        if answer.status != 200:
            raise error_from(answer.status, answer.body)
        return answer.body


class CallingInstance(Instance):
    """An enclave's instance that speaks to a custodian over the gate, attested on the simulated platform.

    Attributes:
        end: its keys and its evidence.
        line: its connection; `call` makes another.
    """

    def __init__(self, loan: Loan, address: str) -> None:
        super().__init__(None, loan.lease, loan.public_key)  # type: ignore[arg-type] # `call` sets it
        self.loan = loan
        self.address = address
        self.config = {"custody": loan.config(address)}
        self.end = CallingEnd(SimulatedAttester(), self.config)
        self.keyset = self.end.keyset
        self.id = self.end.instance
        self.line: Line | None = None
        self._lines: list[Line] = []

    def call(self, address: str | None = None) -> Self:
        """Open a connection, and use it from now on."""
        line = Line(self.end, address or self.address, self.loan.public_key, self.lease)
        self._lines.append(line)
        self.line = self.ledger = line  # type: ignore[assignment] # it has the methods that an instance needs
        return self

    def another_line(self, address: str | None = None) -> Line:
        """Open a connection beside the one in use."""
        line = Line(self.end, address or self.address, self.loan.public_key, self.lease)
        self._lines.append(line)
        return line

    def watch(self, *, known: int = 0, applied: int = 0, wait_ms: int = 20_000) -> wire.LeaseStatus:
        assert self.line is not None
        return self.line.watch(known=known, applied=applied, wait_ms=wait_ms)

    def part(self, offset: int, length: int) -> bytes:
        assert self.line is not None
        return self.line.part(offset, length)

    def key_of(self, answer: wire.GrantAnswer) -> bytes:
        """The model's key in an answer."""
        assert answer.key is not None
        return self.keyset.open_sealed(answer.key, answer.grant.key_info)

    def record(self, counts: Mapping[str, wire.Usage], **changes: Any) -> wire.SignedRecord:
        """As `Instance.record`, about the model that was lent."""
        digest = hashlib.sha256(self.loan.model).hexdigest() if self.answer is not None else wire.FIRST
        return super().record(counts, **({"model_digest": digest} | changes))

    def hang_up(self) -> None:
        """Close all its connections."""
        while self._lines:
            self._lines.pop().hang_up()


@pytest.fixture
def custodian_folder(tmp_path: Path) -> Path:
    """Where the custodian's files are."""
    return tmp_path / "custodian"


@pytest.fixture
def custodian(custodian_folder: Path, database_url: str) -> Iterator[Custodian]:
    """A custodian with one operator, on SQLite and on PostgreSQL; nothing is served."""
    with opened(custodian_folder, database_url) as one:
        yield one


@pytest.fixture
def running(custodian: Custodian) -> Iterator[RunningCustodian]:
    """Both ports of `custodian`, in a thread."""
    one = RunningCustodian(custodian)
    yield one
    one.close()


@pytest.fixture
def borrow() -> Iterator[Callable[[Loan, str], CallingInstance]]:
    """Makes instances that call a custodian at an address, with a first connection."""
    instances: list[CallingInstance] = []

    def make(loan: Loan, address: str) -> CallingInstance:
        instances.append(CallingInstance(loan, address))
        return instances[-1].call()

    yield make
    for one in instances:
        one.hang_up()


@pytest.fixture
def start_custodian(custodian_folder: Path, database_url: str) -> Iterator[Callable[..., CustodianProcess]]:
    """Starts processes of one custodian: the same folder, the same database."""
    started: list[CustodianProcess] = []

    def start(**options: Any) -> CustodianProcess:
        log = custodian_folder / f"serve-{len(started)}.log"
        started.append(CustodianProcess(custodian_folder, database_url, log=log, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
