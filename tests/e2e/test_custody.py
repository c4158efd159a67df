"""A model on loan with everything real: custodian and enclave as processes, attested lines, clients, operators.

The faults of 2023 are those of the proof of concept that this design replaces; each has a test of its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import onnx
import pytest

import blindai
from blindai import AsyncConnection, BudgetExhausted, Connection
from blindai.custody.custodian import Custodian
from blindai.custody.views import InstanceState, Lease
from blindai.errors import AuthenticationError, BlindAIError, InvalidInput, LeaseStopped
from blindai.wire import custody as wire
from calling_instance import CallingInstance
from custodian_processes import BorrowerProcess, CustodianProcess
from enclave_server import node_model
from lent_models import OPERATOR, Loan, lend, opened
from memory_scan import halves, needles, scan

pytestmark = pytest.mark.usefixtures("forked")

INPUT = np.ones((1, 256), np.float32)
MODEL = "acme/model"

# What an action needs to reach the enclave, and half a minute more for a machine that does other things.
PATIENCE_SECONDS = 60.0


def random_model() -> tuple[bytes, bytes]:
    """An ONNX file with 256 KB of weights that no other process has, and the weights."""
    weights = np.random.default_rng().normal(size=(256, 256)).astype(np.float32)
    return node_model(onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), size=256, w=weights), weights.tobytes()


class World:
    """One custodian, one borrower, one consumer."""

    def __init__(self, folder: Path, custodian: Custodian, server: CustodianProcess, **terms: Any) -> None:
        self.folder = folder
        self.custodian = custodian
        self.server = server
        self.model, self.weights = random_model()
        self.loan: Loan = lend(custodian, self.model, **terms)
        self._stack = contextlib.ExitStack()
        self.borrower = self.borrow()

    @property
    def ledger(self) -> Any:
        """The operators' side. Another process than the custodian's server, as the command line is."""
        return self.custodian.ledger

    @property
    def lease(self) -> Lease:
        lease: Lease = self.ledger.lease(self.loan.lease)
        return lease

    def borrow(self) -> BorrowerProcess:
        return self._stack.enter_context(BorrowerProcess(self.loan, self.server.enclaves, self.folder / "borrower"))

    def connect(self, token: str | None = None, borrower: BorrowerProcess | None = None) -> Connection:
        api_key = self.loan.tokens["clinic"] if token is None else token or None
        connection = Connection((borrower or self.borrower).address, simulation=True, api_key=api_key, progress=False)
        return self._stack.enter_context(connection)

    def serving(self, client: Connection) -> Connection:
        eventually(lambda: state(client) == "serving")
        return client

    def restart_custodian(self, port: int) -> None:
        """Another process where one was killed."""
        self.server = self._stack.enter_context(CustodianProcess(self.custodian.place.data, enclave_port=port))

    def close(self) -> None:
        self._stack.close()


def state(client: Connection) -> str:
    """The state of the lease as the enclave has it; `waiting` while it does not know who may ask."""
    try:
        return client.lease(MODEL).state
    except BlindAIError as error:
        return error.code.removeprefix("lease.")


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refusal(call: Callable[[], object]) -> BlindAIError:
    with pytest.raises(BlindAIError) as caught:
        call()
    return caught.value


Home = tuple[Custodian, CustodianProcess]
Make = Callable[..., World]


@contextlib.contextmanager
def at_home(folder: Path) -> Iterator[Home]:
    with opened(folder) as custodian, CustodianProcess(folder) as server:
        yield custodian, server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A custodian that serves all tests but those that do something to it."""
    with at_home(tmp_path_factory.mktemp("home") / "custodian") as home:
        yield home


@pytest.fixture
def world(tmp_path: Path, home: Home) -> Iterator[Make]:
    """Makes the world of one test, with a lease of the terms that are given."""
    with contextlib.ExitStack() as stack:

        def make(*, own_custodian: bool = False, **terms: Any) -> World:
            one = stack.enter_context(at_home(tmp_path / "custodian")) if own_custodian else home
            made = World(tmp_path, *one, **terms)
            stack.callback(made.close)
            return made

        yield make


# The faults of 2023, one test each.


def test_budget_behind_unauthenticated_routes(world: Make) -> None:
    lent = world()
    client = lent.serving(lent.connect())
    client.predict(MODEL, INPUT)
    other = lend(lent.custodian, b"another model")
    for token in ("", "bct_", lent.loan.tokens["clinic"][:-2], other.tokens["clinic"]):
        stranger = lent.connect(token)
        for call in (lambda: stranger.predict(MODEL, INPUT), lambda: stranger.lease(MODEL)):  # noqa: B023 - called at once
            error = refusal(call)
            assert isinstance(error, AuthenticationError)
            assert error.code == "authentication.token"
    # Without attestation, the port for enclaves has an answer to nothing; and nothing at it raises a budget.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for path in (wire.RENEWALS, wire.BUDGET_REQUESTS, wire.ARTEFACTS, "/v1/budgets"):
        request = Request(f"https://{lent.server.enclaves}{path}", b"{}", {"Content-Type": "application/json"})
        with pytest.raises((URLError, ssl.SSLError)):
            urlopen(request, timeout=20, context=context)  # noqa: S310 - https, to a server of this test
    assert lent.lease.budget == 100


def test_check_and_decrement_in_two_calls(world: Make) -> None:
    lent = world(budget=1)
    clients = [lent.serving(lent.connect()) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(outcome, clients))
    assert sorted(answers) == ["answered"] + ["lease.budget_exhausted"] * 7
    lent.borrower.stop()
    assert (lent.lease.spent, lent.lease.granted) == (1, 1)


def outcome(client: Connection) -> str:
    try:
        client.predict(MODEL, INPUT)
    except BudgetExhausted as error:
        return error.code
    return "answered"


def test_ran_the_model_at_zero_budget_anyway(world: Make) -> None:
    lent = world(budget=3)
    client = lent.serving(lent.connect())
    assert [outcome(client) for _ in range(10)] == ["answered"] * 3 + ["lease.budget_exhausted"] * 7
    lent.borrower.stop()
    lease = lent.lease
    assert (lease.spent, lease.granted, lease.budget) == (3, 3, 3)


def test_committed_private_keys(world: Make, tmp_path: Path) -> None:
    lent = world()
    lent.serving(lent.connect())
    for path in Path(blindai.__file__).parent.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert b"PRIVATE KEY-----" not in path.read_bytes(), path
    # Every custodian makes a key of its own.
    with opened(tmp_path / "another") as another:
        assert another.keys.public_key != lent.custodian.keys.public_key
    # What is at rest is locked, and nobody else on the machine can read what opens it.
    place = lent.custodian.place
    assert place.key_file.stat().st_mode & 0o077 == 0
    for path in place.data.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert lent.loan.key not in content, path
            assert lent.loan.key.hex().encode() not in content, path


def test_forgot_the_stop_on_restart(world: Make) -> None:
    lent = world(own_custodian=True, soft_ms=500, ttl_ms=1000)
    client = lent.serving(lent.connect())
    lent.ledger.stop(lent.loan.lease, by=OPERATOR, reason="enough")
    eventually(lambda: state(client) == "stopped")
    port = lent.server.enclave_port
    lent.server.kill()
    lent.restart_custodian(port)
    lent.borrower.kill()
    reborn = lent.borrow()
    client = lent.connect(borrower=reborn)
    eventually(lambda: refusal(lambda: client.predict(MODEL, INPUT)).code == "lease.stopped")
    time.sleep(0.5)
    assert refusal(lambda: client.predict(MODEL, INPUT)).code == "lease.stopped"
    lent.ledger.resume(lent.loan.lease, by=OPERATOR, reason="again")
    lent.serving(client).predict(MODEL, INPUT)


def test_sent_weights_in_clear_over_tls(world: Make) -> None:
    lent = world()
    lent.serving(lent.connect())
    sealed = lent.loan.artefact.read_bytes()
    # An enclave that got past the gate gets no more than the file that anyone may have.
    instance = CallingInstance(lent.loan, lent.server.enclaves).call()
    try:
        received = b"".join(instance.part(offset, 1 << 16) for offset in range(0, len(sealed), 1 << 16))
    finally:
        instance.hang_up()
    assert received == sealed
    assert not any(part in received for part in needles(lent.weights))
    for path in lent.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(part in content for part in needles(lent.weights)), path


def test_approve_and_deny_that_nothing_read(world: Make) -> None:
    lent = world(budget=1)
    client = lent.serving(lent.connect())
    client.predict(MODEL, INPUT)
    error = refusal(lambda: client.predict(MODEL, INPUT))
    assert isinstance(error, BudgetExhausted)
    assert (error.used, error.granted, error.state) == (1, 1, "pending")
    (request,) = lent.lease.requests
    assert request.id == error.request_id

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: client.predict(MODEL, INPUT, wait_for_budget=PATIENCE_SECONDS))
        lent.ledger.approve(request.id, amount=1, by=OPERATOR, reason="one more")
        assert waiting.result().output[0].shape == (1, 256)
        error = refusal(lambda: client.predict(MODEL, INPUT))
        assert isinstance(error, BudgetExhausted)
        assert error.request_id != request.id
        waiting = pool.submit(lambda: client.predict(MODEL, INPUT, wait_for_budget=PATIENCE_SECONDS))
        lent.ledger.deny(error.request_id, by=OPERATOR, reason="not this month")
        denied = waiting.exception()
    assert isinstance(denied, BudgetExhausted)
    assert (denied.state, denied.reason) == ("denied", "not this month")
    assert lent.lease.spent <= lent.lease.granted == lent.lease.budget == 2


# The lease, from end to end.


def test_stop_and_resume_without_a_restart(world: Make) -> None:
    lent = world()
    client = lent.serving(lent.connect())
    client.predict(MODEL, INPUT)
    lent.ledger.stop(lent.loan.lease, by=OPERATOR, reason="enough")
    eventually(lambda: lent.lease.instances[0].acknowledged_version == lent.lease.version)
    error = refusal(lambda: client.predict(MODEL, INPUT))
    assert isinstance(error, LeaseStopped)
    assert "enough" in error.message
    eventually(lambda: lent.lease.spent == 1)
    lent.ledger.resume(lent.loan.lease, by=OPERATOR, reason="again")
    assert lent.serving(client).predict(MODEL, INPUT).output[0].shape == (1, 256)


@pytest.mark.usefixtures("borrower_not_forked")  # whose memory is searched
def test_neither_key_nor_weights_are_in_memory_after_a_stop(world: Make) -> None:
    lent = world()
    client = lent.serving(lent.connect())
    for _ in range(20):
        client.predict(MODEL, INPUT)
    secrets = {"key": halves(lent.loan.key), "weights": needles(lent.weights)}
    pid = lent.borrower.process.pid
    before = scan(pid, secrets)
    assert before["key"].needles == 0
    assert before["weights"].needles == before["weights"].of
    lent.ledger.stop(lent.loan.lease, by=OPERATOR, reason="enough")
    eventually(lambda: lent.lease.instances[0].acknowledged_version == lent.lease.version)
    after = scan(pid, secrets)
    assert {name: (found.needles, found.where) for name, found in after.items()} == {
        "key": (0, {}),
        "weights": (0, {}),
    }


@pytest.mark.usefixtures("borrower_not_forked")  # whose memory is searched
def test_with_the_custodian_gone_it_expires_and_comes_back(world: Make) -> None:
    lent = world(own_custodian=True, soft_ms=1000, ttl_ms=2000)
    client = lent.serving(lent.connect())
    client.predict(MODEL, INPUT)
    port = lent.server.enclave_port
    lent.server.kill()
    eventually(lambda: state(client) == "expired")
    assert refusal(lambda: client.predict(MODEL, INPUT)).code == "lease.expired"
    secrets = {"weights": needles(lent.weights)}
    eventually(lambda: scan(lent.borrower.process.pid, secrets)["weights"].needles == 0)
    lent.restart_custodian(port)
    assert lent.serving(client).predict(MODEL, INPUT).output[0].shape == (1, 256)


def test_a_custodian_that_hangs_is_as_good_as_gone(world: Make) -> None:
    lent = world(own_custodian=True, soft_ms=1000, ttl_ms=2000)
    client = lent.serving(lent.connect())
    lent.server.suspend()
    try:
        eventually(lambda: state(client) == "expired")
    finally:
        lent.server.resume()
    lent.serving(client).predict(MODEL, INPUT)


def test_an_end_in_good_order_gives_the_rest_back(world: Make) -> None:
    lent = world()
    client = lent.serving(lent.connect())
    for _ in range(3):
        client.predict(MODEL, INPUT)
    assert lent.borrower.stop() == 0
    lease = lent.lease
    assert (lease.spent, lease.granted) == (3, 3)
    assert [instance.state for instance in lease.instances] == [InstanceState.CLOSED]


def test_what_a_killed_enclave_held_stays_debited(world: Make) -> None:
    lent = world(soft_ms=500, ttl_ms=1000)
    client = lent.serving(lent.connect())
    client.predict(MODEL, INPUT)
    granted = lent.lease.granted
    assert granted > 1
    lent.borrower.kill()
    reborn = lent.borrow()
    client = lent.connect(borrower=reborn)
    # Another instance, and no place for it before the first one's time has run out.
    lent.serving(client).predict(MODEL, INPUT)
    lease = lent.lease
    assert len(lease.instances) == 2
    assert lease.granted > granted


def test_the_model_on_loan_is_not_the_borrowers_to_change(world: Make) -> None:
    lent = world()
    client = lent.serving(lent.connect())
    assert client.model(MODEL).leased
    for call in (
        lambda: client.delete_model(MODEL),
        lambda: client.unload_model(MODEL),
        lambda: client.load_model(MODEL),
        lambda: client.upload_model(lent.model, model_id=MODEL),
        lambda: client.upload_model(lent.model, model_id=MODEL, version="2"),
    ):
        error = refusal(call)
        assert isinstance(error, InvalidInput)
        assert error.code == "lease.managed"
    client.upload_model(lent.model, model_id="acme/own")
    assert not client.model("acme/own").leased
    assert refusal(lambda: client.lease("acme/own")).code == "lease.none"
    lent.connect("").predict("acme/own", INPUT)
    client.predict(MODEL, INPUT)
    assert refusal(lambda: client.predict(MODEL, INPUT, version="2")).code == "model.not_found"


def test_the_same_for_asyncio(world: Make) -> None:
    lent = world(budget=1)
    lent.serving(lent.connect())

    async def main() -> None:
        token = lent.loan.tokens["clinic"]
        async with AsyncConnection(lent.borrower.address, simulation=True, api_key=token, progress=False) as client:
            await client.predict(MODEL, INPUT)
            assert (await client.lease(MODEL)).left == 0
            waiting = asyncio.create_task(client.predict(MODEL, INPUT, wait_for_budget=PATIENCE_SECONDS))
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not lent.lease.requests:
                    await asyncio.sleep(0.02)
            lent.ledger.approve(lent.lease.requests[0].id, amount=5, by=OPERATOR, reason="")
            assert (await waiting).output[0].shape == (1, 256)

    asyncio.run(main())


def test_an_enclave_of_another_custodian_gets_nothing(world: Make, tmp_path: Path) -> None:
    lent = world()
    with at_home(tmp_path / "impostor") as (impostor, server):
        lend(impostor)
        misled = BorrowerProcess(lent.loan, server.enclaves, tmp_path / "misled")
        lent._stack.enter_context(misled)
        client = lent.connect(borrower=misled)
        eventually(lambda: any(event.get("code") == "custodian.signature" for event in misled.events()))
        assert refusal(lambda: client.predict(MODEL, INPUT)).code == "lease.waiting"
