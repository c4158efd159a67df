"""Histories of leases between processes that are killed, cloned, cut off and stopped, and what must hold at the end.

The custodian's processes, the enclaves and the line between them are what users run. What was truly spent is known from
outside: every query that a client got an answer to. A killed enclave may have spent more than that, never less.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Self

import numpy as np
from onnx import helper

import onnx_models
from blindai.attestation.measure.local import local_policy
from blindai.attestation.policy import Policy
from blindai.client.connection import Connection
from blindai.custody.audit import Finding, State, audit
from blindai.custody.log import Kind
from blindai.errors import BlindAIError
from blindai.wire.custody import LeaseState
from custodian_processes import BorrowerProcess, CustodianProcess
from lent_models import OPERATOR, Loan, lend, opened
from lossy_line import TURNS, LossyLine, Turn

MODEL_ID: Final = "acme/model"
CONSUMERS: Final = ("alice", "bob")

# Short, so that a history in which everything has to expire is short too.
SOFT_MS: Final = 1500
TTL_MS: Final = 2500

# What must not happen: more was spent than granted, or granted than there was; a record or a grant that was given is
# not there any more; anything else.
OVERSPENT: Final = "overspent"
LOST: Final = "lost"
WRONG: Final = "wrong otherwise"
FAULTS: Final = (OVERSPENT, LOST, WRONG)

_SETTLE_SECONDS: Final = 30.0
_ASK_SECONDS: Final = 5.0

_ONES: Final = np.ones(4, np.float32)


@cache
def _policy() -> Policy:
    return local_policy()


@cache
def _model() -> bytes:
    return onnx_models.model([helper.make_node("Identity", ["x"], ["y"])])


class Site:
    """One custodian in one database, served by one process or more, and a line that enclaves reach it through.

    Attributes:
        happened: what has happened in all histories here.
        findings: what must not have.
    """

    def __init__(self, folder: Path, database_url: str | None, *, processes: int, chance: random.Random) -> None:
        self.folder = folder
        self.database_url = database_url
        self.happened: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
        self.findings: list[str] = []
        self.custodian = opened(folder, database_url)
        self.custodians: list[CustodianProcess | None] = [None] * processes
        self.line = LossyLine(chance=chance)
        self._started = 0
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        self._cleanup.enter_context(self.custodian)
        self._cleanup.enter_context(self.line)
        self._cleanup.callback(self._stop)
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    @property
    def dialect(self) -> str:
        return self.custodian.database.dialect

    def mend(self) -> None:
        """Start the processes that are not there, and heal the line."""
        for number, process in enumerate(self.custodians):
            if process is None:
                log = self.folder / f"serve-{self._started}.log"
                self._started += 1
                self.custodians[number] = CustodianProcess(self.folder, self.database_url, log=log)
        self.line.targets = [process.enclave_port for process in self.custodians if process is not None]
        self.line.heal()

    def kill(self, number: int) -> None:
        """End a process of the custodian with kill -9."""
        process = self.custodians[number]
        if process is not None:
            process.kill()
            self.custodians[number] = None
            self.line.targets = [other.enclave_port for other in self.custodians if other is not None]
            self.happened["custodians killed"] += 1

    def found(self, fault: str, what: str) -> None:
        """Note what must not be. `fault`: one of `FAULTS`."""
        self.happened[fault] += 1
        self.findings.append(f"{fault.upper()}: {self.dialect}, {what}")
        print(self.findings[-1], flush=True)  # noqa: T201  # a campaign is long, and somebody waits

    def number(self) -> str:
        """A new one, for names of files."""
        self._started += 1
        return str(self._started)

    def _stop(self) -> None:
        for process in self.custodians:
            if process is not None:
                process.stop()


@dataclass
class Enclave:
    """A process that serves the model, and those who ask it.

    Attributes:
        answered: queries by consumer, which is the truth.
        closed: it has ended in good order, and its custodian knows.
    """

    process: BorrowerProcess
    loan: Loan
    answered: Counter[str] = field(default_factory=Counter)
    alive: bool = True
    closed: bool = False
    _clients: dict[str, Connection] = field(default_factory=dict)

    def ask(self, consumer: str, queries: int, *, at_once: int) -> Iterator[tuple[float, BlindAIError | None]]:
        """Ask so many times. When each was begun, and what it was refused with."""

        def one(_: int) -> tuple[float, BlindAIError | None]:
            begun = time.monotonic()
            try:
                client.predict(MODEL_ID, _ONES)
            except BlindAIError as error:
                return begun, error
            return begun, None

        try:
            client = self._client(consumer)
        except BlindAIError as refusal:
            yield time.monotonic(), refusal
            return
        with ThreadPoolExecutor(at_once) as pool:
            for begun, error in pool.map(one, range(queries)):
                self.answered[consumer] += error is None
                yield begun, error

    def kill(self) -> None:
        """End it with kill -9."""
        self._hang_up()
        self.process.kill()
        self.alive = False

    def end(self) -> None:
        """Ask it to end."""
        self._hang_up()
        self.process.stop()
        self.alive = False
        self.closed = any(event.get("event") == "lease_closed" for event in self.process.events())

    def _client(self, consumer: str) -> Connection:
        client = self._clients.get(consumer)
        if client is None:
            client = self._clients[consumer] = Connection(
                self.process.address,
                api_key=self.loan.tokens[consumer],
                policy=_policy(),
                timeout=_ASK_SECONDS,
                progress=False,
            )
        return client

    def _hang_up(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()


class History:
    """One lease, from its making to its end.

    Args:
        site: where.
        chance: decides everything that is left to chance.
        name: for findings: what repeats it.
    """

    def __init__(self, site: Site, chance: random.Random, name: str, *, budget: int | None = None) -> None:
        self.site = site
        self.chance = chance
        self.name = name
        self.ledger = site.custodian.ledger
        self.enclaves: list[Enclave] = []
        self.loan = lend(
            site.custodian,
            _model(),
            model_id=MODEL_ID,
            policy=_policy().to_toml(),
            budget=budget or chance.randint(5, 60),
            consumers={"alice": chance.choice([None, chance.randint(1, 30)]), "bob": None},
            soft_ms=SOFT_MS,
            ttl_ms=TTL_MS,
            max_instances=chance.choice([1, 1, 2]),
            tranche_max=chance.choice([3, 10_000]),
        )
        self._halted: float | None = None
        self._count("histories")

    # What happens by chance.

    def live(self, steps: int) -> None:
        """Let so many things happen."""
        self.boot()
        self.settle()
        self.query()
        for _ in range(steps):
            what = self.chance.choices(list(_CHANCES), list(_CHANCES.values()))[0]
            what(self)
            self.query()

    def boot(self) -> Enclave:
        """Start an enclave."""
        folder = self.site.folder / "enclaves"
        process = BorrowerProcess(
            self.loan,
            f"127.0.0.1:{self.site.line.port}",
            folder,
            log=folder / f"{self.site.number()}.log",
        )
        enclave = Enclave(process, self.loan)
        self.enclaves.append(enclave)
        self._count("enclaves")
        return enclave

    @property
    def alive(self) -> list[Enclave]:
        return [enclave for enclave in self.enclaves if enclave.alive]

    def query(self) -> None:
        """A few queries, of everybody's or one's."""
        for enclave in self.alive:
            for consumer in CONSUMERS:
                queries = self.chance.choice([0, 1, 3, 8])
                self.ask(enclave, consumer, queries, at_once=self.chance.choice([1, 4]))

    def ask(self, enclave: Enclave, consumer: str, queries: int, *, at_once: int = 1) -> int:
        """Ask so many times; how many were answered."""
        answered = 0
        for begun, error in enclave.ask(consumer, queries, at_once=at_once):
            if error is not None:
                self._count(f"refused: {error.code}")
                continue
            answered += 1
            if self._halted is not None and begun > self._halted + SOFT_MS / 1000:
                self._found(WRONG, "a query was answered after a stop and the soft expiry")
        self._count("queries answered", answered)
        return answered

    def until_served(self) -> None:
        """Wait until an enclave answers, as one must again when all is mended."""
        until = time.monotonic() + _SETTLE_SECONDS
        enclave = (self.alive or [self.boot()])[-1]
        while not self.ask(enclave, "bob", 1):
            if time.monotonic() > until:
                self._found(WRONG, "nothing was served any more although nothing was broken")
                return
            time.sleep(0.1)

    def settle(self) -> None:
        """Wait until an enclave answers, if it does: its predecessor's grant may have to run out first."""
        until = time.monotonic() + TTL_MS / 1000 + 1
        while time.monotonic() < until and self._halted is None:
            if any(self.ask(enclave, "bob", 1) for enclave in self.alive):
                return
            time.sleep(0.05)

    def crash(self) -> None:
        for enclave in self.alive[:1]:
            enclave.kill()
            self._count("enclaves killed")
            self.boot()

    def clone(self) -> None:
        if len(self.alive) < 2:
            self.boot()
            self._count("clones")

    def leave(self) -> None:
        for enclave in self.alive[:1]:
            enclave.end()
            self.boot()

    def crash_custodian(self) -> None:
        self.site.kill(self.chance.randrange(len(self.site.custodians)))
        if self.chance.random() < 0.5:
            self.query()
        self.site.mend()

    def cut(self) -> None:
        self.site.line.cut()
        self._count("cuts")

    def cut_for_a_while(self) -> None:
        self.site.line.refusing = True
        self.cut()
        self._pause()
        self.query()
        self.site.line.refusing = False

    def fall_silent(self) -> None:
        """The line is half open: nothing comes through, and nobody is told."""
        self.site.line.silent = True
        self._count("silences")
        self._pause()
        self.query()
        self.site.line.silent = False
        if self.chance.random() < 0.5:
            self.cut()

    def slow_down(self) -> None:
        self.site.line.delay_seconds = self.chance.choice([0.0, 0.02, 0.2])
        self._count("delays")

    def repeat(self) -> None:
        self.site.line.repeating = True
        self._count("repeated connections")
        self.cut()

    def kill_in_the_middle(self) -> None:
        """Stop the line at some turn of some connection, and kill one end there."""
        turn, up = self.chance.randint(1, 14), self.chance.random() < 0.5
        hold = self.site.line.hold(lambda at: at.number >= turn and at.up is up)
        if self.chance.random() < 0.5:
            self.cut()
        self.query()
        if hold.reached.wait(1.0):
            self._count("kills in the middle")
            self.crash() if self.chance.random() < 0.7 else self.crash_custodian()
        self.site.line.release()

    def halt(self) -> None:
        act = self.ledger.stop if self.chance.random() < 0.5 else self.ledger.pause
        try:
            act(self.loan.lease, by=OPERATOR, reason="enough")
        except BlindAIError as error:
            self._expect(error, "lease.state")
        else:
            self._halted = time.monotonic() if self._halted is None else self._halted
            self._count("stops and pauses")
        self._pause()
        self.query()
        if self.chance.random() < 0.6:
            self.resume()

    def resume(self) -> None:
        if self._halted is not None:
            self._halted = None
            self.ledger.resume(self.loan.lease, by=OPERATOR)
            self._count("resumes")
            self._pause()

    def decide(self) -> None:
        """Answer what is asked for, or raise the budget."""
        for request in self.ledger.lease(self.loan.lease).requests:
            if request.decided_at is None:
                if self.chance.random() < 0.7:
                    self.ledger.approve(request.id, amount=self.chance.randint(1, 10), by=OPERATOR)
                else:
                    self.ledger.deny(request.id, by=OPERATOR, reason="no")
                self._count("requests decided")
                return
        self.ledger.raise_budget(self.loan.lease, consumer=None, amount=self.chance.randint(1, 10), by=OPERATOR)

    def _pause(self) -> None:
        time.sleep(self.chance.choice([0.0, 0.1, 0.5, 1.0]))

    # What must hold.

    def end(self) -> None:
        """End everything in good order, and look at what is left."""
        self.site.mend()
        with ThreadPoolExecutor() as pool:
            list(pool.map(Enclave.end, self.alive))
        self._check()

    def _check(self) -> None:
        lease = self.ledger.lease(self.loan.lease)
        answered = sum((enclave.answered for enclave in self.enclaves), Counter[str]())
        told = sum((enclave.answered for enclave in self.enclaves if enclave.closed), Counter[str]())
        if not lease.spent <= lease.granted <= lease.budget:
            self._found(OVERSPENT, f"{lease.spent} of {lease.granted} of {lease.budget}")
        for account in lease.accounts:
            consumer = account.consumer
            if not account.spent <= account.granted <= (lease.budget if account.budget is None else account.budget):
                self._found(OVERSPENT, str(account))
            if answered[consumer] > account.granted:
                self._found(OVERSPENT, f"{answered[consumer]} queries of {consumer} ran, {account.granted} granted")
            if told[consumer] > account.spent:
                self._found(LOST, f"{told[consumer]} queries of {consumer} were reported, {account.spent} are known")
        result = audit(self._exported(), custodian=self.site.custodian.keys.public_key)
        self._found_all(result.findings)
        # Nobody forked: an enclave that the ledger does not follow any more shows that the ledger has lost something.
        if result.instances(State.QUARANTINED):
            self._found(LOST, f"{result.instances(State.QUARANTINED)} honest instances are in quarantine")
        if lease.state is LeaseState.ACTIVE and self._halted is not None:
            self._found(WRONG, "a lease was halted and runs")
        self._count("units granted", lease.granted)
        self._count("units spent", lease.spent)
        self._count("grants", result.kinds[Kind.GRANT_ISSUED])
        self._count("records", result.kinds[Kind.RECORD_ACCEPTED])
        self._count("closings", result.kinds[Kind.INSTANCE_CLOSED])

    def _exported(self) -> Iterator[bytes]:
        for line in self.ledger.export(self.loan.lease):
            yield line.encode()

    def _found_all(self, findings: list[Finding]) -> None:
        for found in findings:
            self._found(WRONG, f"the log is wrong: line {found.line} {found.code} {found.message}")

    def _found(self, fault: str, what: str) -> None:
        self.site.found(fault, f"history {self.name}: {what} ({self.loan.lease})")

    def _count(self, what: str, times: int = 1) -> None:
        self.site.happened[what] += times

    @staticmethod
    def _expect(error: BlindAIError, code: str) -> None:
        if error.code != code:
            raise error


_CHANCES: Final[dict[Callable[[History], None], int]] = {
    History.settle: 6,
    History.crash: 3,
    History.clone: 3,
    History.leave: 1,
    History.crash_custodian: 2,
    History.kill_in_the_middle: 4,
    History.cut: 4,
    History.cut_for_a_while: 2,
    History.fall_silent: 2,
    History.slow_down: 2,
    History.repeat: 2,
    History.halt: 2,
    History.resume: 4,
    History.decide: 4,
}


@dataclass(frozen=True)
class Step:
    """A moment of the protocol at which one of the two is killed.

    Attributes:
        connection: 1 asks for grants, 2 listens, 3 fetches the model.
        turn: of that connection; 0 for the closing.
        up: of the closing: whether it was on its way, or its answer.
        victim: who is killed.
    """

    connection: int
    turn: int
    up: bool
    victim: str

    def __str__(self) -> str:
        what = TURNS[self.turn] if self.turn else ("the closing" if self.up else "its answer")
        name = {1: "grants", 2: "news", 3: "model"}[self.connection]
        return f"the {self.victim} at {what} on the line for {name}"


def steps() -> list[Step]:
    """Every step of the protocol, for both ends."""
    places = [(1, turn, bool(turn % 2)) for turn in TURNS]
    places += [(2, turn, bool(turn % 2)) for turn in TURNS if turn > 6]
    places += [(3, turn, bool(turn % 2)) for turn in TURNS if turn > 6]
    places += [(1, 0, True), (1, 0, False)]
    return [Step(*place, victim) for place in places for victim in ("enclave", "custodian")]


def killed_at(site: Site, step: Step, chance: random.Random) -> bool:
    """A history in which somebody is killed at `step`; everything works again afterwards. False: it was not reached."""
    history = History(site, chance, str(step), budget=1000)
    before = site.line.connections
    if step.turn:
        hold = site.line.hold(_at(before + step.connection, step))
        enclave = history.boot()
        if (step.connection, step.turn) == (2, 10):
            # Whoever listens hears nothing until there is something to hear.
            history.until_served()
            history.ledger.raise_budget(history.loan.lease, consumer=None, amount=1, by=OPERATOR)
    else:
        enclave = history.boot()
        history.until_served()
        enclave.process.process.terminate()
        hold = site.line.hold(lambda at: at.connection == before + 1 and at.up is step.up)
    reached = hold.reached.wait(5.0)
    if reached:
        site.happened["kills at a step"] += 1
    if step.victim == "enclave":
        enclave.kill()
        site.happened["enclaves killed"] += 1
    else:
        for number in range(len(site.custodians)):
            site.kill(number)
    site.line.release()
    site.line.cut()
    site.mend()
    if not step.turn:
        history.enclaves[0].end()
    history.until_served()
    history.end()
    return reached


def _at(connection: int, step: Step) -> Callable[[Turn], bool]:
    return lambda at: at.connection == connection and at.number == step.turn
