"""What a query costs: a unit if the model was executed for it, nothing otherwise; behind a shut gate nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from blindai.enclave.clock import elapsed_ns
from blindai.enclave.engine import Cancellation
from blindai.enclave.lease.gate import Charge, Gate, exhausted
from blindai.enclave.lease.meter import Account, Meter
from blindai.enclave.lease.state import Terms
from blindai.errors import BlindAIError, InvalidInput, InvalidModel, QuotaExceeded
from blindai.wire.custody import LeaseState, RequestState, RequestStatus, Standing
from blindai.wire.tensor import Tensor

from .conftest import INSTANCE, LEASE, SECOND, Signer, status


class Switch:
    """As `engine.Cancellation`."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Session:
    """As `engine.Session`: does what it is told, and fails as it is told."""

    inputs = optional = outputs = ()
    memory = 0

    def __init__(self, act: Callable[[Switch], None] = lambda _: None) -> None:
        self.act = act
        self.runs = 0

    def cancellation(self) -> Switch:
        return Switch()

    def run(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = (), *, cancellation: Cancellation | None = None
    ) -> list[Tensor]:
        self.runs += 1
        assert isinstance(cancellation, Switch)
        self.act(cancellation)
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def terms(signer: Signer) -> Terms:
    terms = Terms(LEASE, INSTANCE, signer.public)
    now = elapsed_ns()
    renewal = terms.renewal(now, challenge=bytes(32), wanted={}, key=False, records=())
    terms.accept(signer.answer(renewal))
    terms.loaded = True
    return terms


@pytest.fixture
def gate(terms: Terms) -> Gate:
    # Nothing here goes as far as inference, tokens or the custodian.
    made = Gate(terms, Meter(lambda: None), None, None, None, refused=lambda _: None, places=1)  # type: ignore[arg-type] # as above
    made.until_ns = elapsed_ns() + 60 * SECOND
    return made


@pytest.fixture
def account(gate: Gate) -> Account:
    account = gate._meter.account("alice")
    gate._meter.credit({"alice": 4}, {"alice": 4}, {}, settled=True)
    assert gate._meter.reserve(account)
    return account


def run(gate: Gate, account: Account, session: Session) -> BlindAIError | None:
    charge = Charge(gate, account, session)
    error = None
    try:
        charge.run({}, cancellation=charge.cancellation())
    except BlindAIError as caught:
        error = caught
    charge.settle(failed=error is not None)
    return error


def failing(error: BlindAIError) -> Session:
    def act(_: Switch) -> None:
        raise error

    return Session(act)


def test_a_run_costs_a_unit(gate: Gate, account: Account) -> None:
    assert run(gate, account, Session()) is None
    assert (account.credit, account.total, account.failed, account.held) == (3, 1, 0, 3)
    assert not gate.running


@pytest.mark.parametrize("code", ["input.name", "input.missing", "input.datatype", "input.shape", "input.bytes"])
def test_an_input_that_was_refused_before_the_run_costs_nothing(gate: Gate, account: Account, code: str) -> None:
    error = run(gate, account, failing(InvalidInput("no", code=code)))
    assert error
    assert error.code == code
    assert (account.credit, account.total, account.held) == (4, 0, 4)


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("x", code="input.run"),
        InvalidModel("x", code="model.run"),
        QuotaExceeded("x", code="quota.memory"),
        QuotaExceeded("x", code="quota.run_time"),
    ],
    ids=lambda error: error.code,
)
def test_a_run_that_failed_costs_a_unit(gate: Gate, account: Account, error: BlindAIError) -> None:
    assert run(gate, account, failing(error)) is error
    assert (account.credit, account.total, account.failed) == (3, 1, 1)


def test_a_query_that_never_got_to_the_model_costs_nothing(gate: Gate, account: Account) -> None:
    Charge(gate, account, Session()).settle(failed=True)
    assert (account.credit, account.total) == (4, 0)


def test_a_run_that_is_begun_again_costs_one_unit(gate: Gate, account: Account) -> None:
    session = failing(QuotaExceeded("x", code="quota.run_time"))
    charge = Charge(gate, account, session)
    with pytest.raises(QuotaExceeded):
        charge.run({}, cancellation=Switch())
    session.act = lambda _: None
    charge.run({}, cancellation=Switch())
    charge.settle(failed=False)
    assert (account.credit, account.total) == (3, 1)


def test_behind_a_shut_gate_nothing_runs(gate: Gate, account: Account, terms: Terms) -> None:
    terms.hear(status(2, LeaseState.STOPPED, stop_epoch=1))
    gate.shut()
    session = Session()
    error = run(gate, account, session)
    assert error
    assert (error.code, session.runs) == ("lease.stopped", 0)
    assert (account.credit, account.total) == (4, 0)


def test_nothing_runs_once_its_time_is_over_though_the_gate_was_not_shut(gate: Gate, account: Account) -> None:
    gate.until_ns = elapsed_ns()
    session = Session()
    assert run(gate, account, session)
    assert session.runs == 0


def test_shutting_the_gate_stops_what_runs(gate: Gate, account: Account, terms: Terms) -> None:
    stopped: list[bool] = []

    def act(switch: Switch) -> None:
        assert gate.running == {switch}
        terms.hear(status(2, LeaseState.STOPPED, stop_epoch=1))
        gate.shut()
        stopped.append(switch.cancelled)
        raise QuotaExceeded("the run was stopped", code="quota.run_time")

    error = run(gate, account, Session(act))
    assert stopped == [True]
    assert error
    assert error.code == "lease.stopped"
    assert (account.total, account.failed) == (1, 1)
    assert not gate.running


@pytest.mark.parametrize(
    ("request_state", "state", "words"),
    [
        (None, "", "cannot be reached"),
        (RequestState.PENDING, "pending", "wait_for_budget"),
        (RequestState.DENIED, "denied", "talk to the custodian"),
    ],
)
def test_who_has_nothing_left_is_told_where_it_stands(
    request_state: RequestState | None, state: str, words: str
) -> None:
    account = Account("alice", standing=Standing(7, 9))
    if request_state is not None:
        account.request = RequestStatus("request-aaaaaaaaaaaaaaaa", "alice", request_state, reason="no money")
    error = exhausted(account)
    assert (error.used, error.granted, error.state, error.code) == (7, 9, state, "lease.budget_exhausted")
    assert words in error.hint
    assert ("no money" in error.message) == (request_state is RequestState.DENIED)
