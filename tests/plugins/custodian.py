"""A real custodian in a thread, where tests reach into it; and fixtures for custodians of all kinds."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from argon2 import extract_parameters

from blindai.channel.listening import listen
from blindai.custody.custodian import Custodian
from blindai.custody.server import Addresses, CustodianServer
from blindai.web import passwords
from blindai.web.certificate import PagesTls
from calling_instance import CallingInstance
from custodian_processes import START_SECONDS, STOP_SECONDS, BorrowerProcess, CustodianProcess, ServerProcess
from lent_models import CHEAP, Loan, lend, opened
from nursery import Nursery

T = TypeVar("T")


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
        self.server = CustodianServer(self.custodian, PagesTls.own_in(self.custodian.place.tls, "127.0.0.1"))
        try:
            self.addresses: Addresses = await self.server.start(
                enclaves=lambda: listen("127.0.0.1", self._enclave_port), operators=lambda: listen("127.0.0.1", 0)
            )
            self._ready.set()
            await self._stop.wait()
        finally:
            await self.server.stop()


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


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery | None]:
    """Where processes are forked; none but on Linux."""
    if sys.platform != "linux":
        yield None
        return
    with Nursery() as one:
        yield one


@pytest.fixture(scope="module")
def forked(nursery: Nursery | None) -> Iterator[None]:
    """The processes of a module are forked from one that has imported everything, which saves each its two seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServerProcess, "nursery", nursery)
        yield


@pytest.fixture
def borrower_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one test of such a module, borrowers start as users start them: nobody else had their memory before."""
    monkeypatch.setattr(BorrowerProcess, "nursery", None)


@pytest.fixture
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed by the program as `CHEAP` does: the command line checks one with each decision."""
    monkeypatch.setattr(passwords, "RFC_9106_LOW_MEMORY", extract_parameters(CHEAP.hash("")))
