"""An enclave with a model on loan, against a custodian that is slow, gone, wrong or hostile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blindai.enclave import line
from blindai.enclave.clock import elapsed_ns
from blindai.enclave.config import EnclaveConfig, Runtime, Timeouts
from blindai.enclave.engine import Session
from blindai.enclave.lease import gate, keeper
from blindai.enclave.lease.state import Phase
from blindai.enclave.models.model_version import ModelVersion
from blindai.enclave.running.runner import Ran
from blindai.errors import BudgetExhausted, LeaseStopped, Unavailable
from blindai.wire import custody as wire
from blindai.wire.custody import GrantAnswer, LeaseState, Renewal, RequestState, RequestStatus
from enclave_server import looping_model

from .conftest import Borrower, FakeCustodian

Enclave = Callable[..., Borrower]
QUICK = 1.0
ENDLESS = 1e12


@pytest.fixture
def enclave(tmp_path: Path, adder: bytes) -> Enclave:
    def make(custodian: FakeCustodian, model: bytes = adder, **settings: Any) -> Borrower:
        return Borrower(custodian, tmp_path, model, config=EnclaveConfig(**settings))

    return make


@pytest.fixture
def slow() -> bytes:
    """y = x, after so many turns as x says: a run that only a cancellation ends."""
    return looping_model(size=4)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(main())


def test_queries_run_and_are_recorded(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        async with enclave(custodian) as borrower:
            await borrower.serving()
            for _ in range(10):
                assert (await borrower.query()).status == 200
        assert custodian.final
        assert custodian.spent == 10
        assert custodian.granted >= 10
        assert sum(usage.queries for record in custodian.records for usage in record.counts.values()) == 10

    run(test)


def test_fifty_at_once_on_a_budget_of_one(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian(budget=1)
        async with enclave(custodian) as borrower:
            await borrower.serving()
            answers = await asyncio.gather(*(borrower.query() for _ in range(50)), return_exceptions=True)
            refused = [answer for answer in answers if isinstance(answer, BudgetExhausted)]
            assert len(refused) == 49
            assert {(error.used, error.granted, error.state) for error in refused} == {(1, 1, "pending")}
            assert len({error.request_id for error in refused}) == 1
            assert len(custodian.bodies(wire.BUDGET_REQUESTS)) == 1
        assert custodian.spent == 1

    run(test)


def test_at_zero_budget_nothing_runs(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian(budget=0)
        async with enclave(custodian) as borrower:
            await borrower.serving()
            for _ in range(5):
                assert (await borrower.refusal()).code == "lease.budget_exhausted"
            assert borrower.keeper.gate.version
            counts = borrower.keeper.gate.version.statistics
            assert (counts.successes, counts.failures) == (0, 0)
        assert custodian.spent == 0

    run(test)


def test_a_dry_account_does_not_ask_for_every_query(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian(budget=0)
        async with enclave(custodian) as borrower:
            await borrower.serving()
            await borrower.refusal()
            asked = len(custodian.bodies(wire.RENEWALS))
            for _ in range(100):
                await borrower.refusal()
            assert len(custodian.bodies(wire.RENEWALS)) == asked
            assert borrower.refused.count("lease.budget_exhausted") == 101

    run(test)


def test_bad_input_costs_nothing_and_a_failed_run_does(enclave: Enclave, slow: bytes) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        async with enclave(custodian, slow, timeouts=Timeouts(run_ms=100)) as borrower:
            await borrower.serving()
            for _ in range(5):
                assert (await borrower.refusal(size=3)).code == "input.shape"
            assert (await borrower.refusal(ENDLESS)).code == "quota.run_time"
            assert (await borrower.query()).status == 200
        (usage,) = custodian.records[-1].counts.values()
        assert (usage.units, usage.queries, usage.failed) == (2, 2, 1)

    run(test)


def test_whoever_leaves_before_the_run_pays_nothing(enclave: Enclave, slow: bytes) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        async with enclave(custodian, slow, runtime=Runtime(workers=1), timeouts=Timeouts(run_ms=300)) as borrower:
            await borrower.serving()
            first = asyncio.ensure_future(borrower.refusal(ENDLESS))
            await borrower.eventually(lambda: len(borrower.keeper.gate.running) == 1)
            leaving = asyncio.ensure_future(borrower.query())
            await borrower.eventually(lambda: borrower.inference.queued() == 1)
            leaving.cancel()
            await asyncio.wait({leaving})
            assert (await first).code == "quota.run_time"
        assert custodian.spent == 1

    run(test)


def test_an_approval_reaches_the_next_query(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian(budget=2)
        async with enclave(custodian) as borrower:
            await borrower.serving()
            for _ in range(2):
                await borrower.query()
            error = await borrower.refusal()
            assert isinstance(error, BudgetExhausted)
            assert (error.used, error.granted, error.state) == (2, 2, "pending")
            assert custodian.request
            custodian.change(
                budget=5, request=RequestStatus(error.request_id, "alice", RequestState.APPROVED, granted=3)
            )
            await borrower.eventually(lambda: borrower.keeper.meter.account("alice").credit > 0)
            for _ in range(3):
                assert (await borrower.query()).status == 200
            # Used up once more: that is another request.
            again = await borrower.refusal()
            assert isinstance(again, BudgetExhausted)
            assert again.request_id != error.request_id
        assert custodian.spent == 5

    run(test)


def test_a_denial_is_told_with_its_reason(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian(budget=0)
        async with enclave(custodian) as borrower:
            await borrower.serving()
            error = await borrower.refusal()
            assert isinstance(error, BudgetExhausted)
            custodian.change(
                request=RequestStatus(error.request_id, "alice", RequestState.DENIED, reason="not this month")
            )
            account = borrower.keeper.meter.account("alice")
            await borrower.eventually(lambda: bool(account.request and account.request.state is RequestState.DENIED))
            denied = await borrower.refusal()
            assert isinstance(denied, BudgetExhausted)
            assert (denied.state, denied.reason) == ("denied", "not this month")
            assert "not this month" in denied.message
            assert len(custodian.bodies(wire.BUDGET_REQUESTS)) == 1

    run(test)


def test_a_stop_is_pushed_acted_upon_and_acknowledged(enclave: Enclave, slow: bytes) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        async with enclave(custodian, slow, runtime=Runtime(workers=1)) as borrower:
            await borrower.serving()
            running = asyncio.ensure_future(borrower.refusal(ENDLESS))
            await borrower.eventually(lambda: len(borrower.keeper.gate.running) == 1)
            queued = asyncio.ensure_future(borrower.refusal())
            await borrower.eventually(lambda: borrower.inference.queued() == 1)
            custodian.stop("enough")
            for stopped in await asyncio.gather(running, queued):
                assert isinstance(stopped, LeaseStopped)
                assert stopped.code == "lease.stopped"
            await borrower.eventually(lambda: custodian.applied == custodian.version)
            assert not borrower.keeper.terms.loaded
            assert borrower.keeper.gate.version is None
            assert [found.session for found in borrower.repository] == [None]
            assert (await borrower.refusal()).code == "lease.stopped"
            # What ran is on its way, though no renewal is granted any more; what was in the queue did not run.
            await borrower.eventually(lambda: custodian.spent == 1)

            custodian.resume()
            await borrower.serving()
            assert (await borrower.query()).status == 200

    run(test)


def held_load(borrower: Borrower, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Makes each load wait for the second event, and set the first one when it is that far."""
    loading, go = threading.Event(), threading.Event()
    load = borrower.repository._engine.load

    def held(*files: Any) -> Session:
        loading.set()
        assert go.wait(20)
        return load(*files)

    monkeypatch.setattr(borrower.repository._engine, "load", held)
    return loading, go


def test_an_answer_that_a_stop_overtook_opens_no_model(enclave: Enclave, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        borrower = enclave(custodian)
        loading, go = held_load(borrower, monkeypatch)
        go.set()
        # Whoever holds the line keeps the answer back, key and all, until the custodian has stopped the lease.
        custodian.hold = asyncio.get_running_loop().create_future()
        async with borrower:
            await borrower.eventually(lambda: bool(custodian.bodies(wire.RENEWALS)))
            custodian.stop()
            await borrower.eventually(lambda: custodian.applied == custodian.version)
            custodian.hold.set_result(None)
            await borrower.eventually(lambda: borrower.keeper.terms.grant is not None)
            await asyncio.sleep(0.05)
            assert borrower.keeper._loading is None
            assert not loading.is_set()
            custodian.resume()
            await borrower.serving()
            assert (await borrower.query()).status == 200

    run(test)


def test_a_load_that_the_end_overtakes_opens_no_gate(enclave: Enclave, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        borrower = enclave(custodian)
        loading, go = held_load(borrower, monkeypatch)
        async with borrower:
            await asyncio.to_thread(loading.wait, 20)
            closing = asyncio.ensure_future(borrower.keeper.close(5))
            await asyncio.sleep(0.05)
            go.set()
            await closing
            assert custodian.final is not None
            assert borrower.keeper.gate.until_ns == 0
            assert not borrower.keeper.terms.loaded
            assert [found.session for found in borrower.repository] == [None]

    run(test)


def test_a_query_behind_a_run_of_another_model_does_not_keep_the_model(enclave: Enclave, slow: bytes) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        async with enclave(custodian, slow, runtime=Runtime(workers=1)) as borrower:
            await borrower.serving()
            # The borrower's own model, of one operator that no cancellation ends.
            leave = threading.Event()
            other = borrower.repository.threads.submit(lambda: Ran([], int(leave.wait(20))))
            queued = asyncio.ensure_future(borrower.refusal())
            await borrower.eventually(lambda: borrower.inference.queued() == 1)
            custodian.stop()
            assert (await queued).code == "lease.stopped"
            await borrower.eventually(lambda: [found.session for found in borrower.repository] == [None])
            assert not other.done()
            leave.set()
            await borrower.eventually(lambda: custodian.applied == custodian.version)
            assert custodian.spent == 0

    run(test)


def test_a_pause_keeps_the_model(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        async with enclave(custodian) as borrower:
            await borrower.serving()
            custodian.change(state=LeaseState.PAUSED, reason="a look at the log")
            await borrower.eventually(lambda: custodian.applied == custodian.version)
            refusal = await borrower.refusal()
            assert (refusal.code, "a look at the log" in refusal.message) == ("lease.paused", True)
            assert borrower.keeper.terms.loaded
            renewals = len(custodian.bodies(wire.RENEWALS))
            custodian.resume()
            await borrower.serving()
            assert (await borrower.query()).status == 200
            keys = [msgspec.json.decode(body, type=Renewal).key for body in custodian.bodies(wire.RENEWALS)[renewals:]]
            assert not any(keys)

    run(test)


def test_a_stop_is_learnt_from_a_renewal_where_the_other_line_is_cut(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian(soft_ms=150)
        async with enclave(custodian) as borrower:
            await borrower.serving()
            # The watch that waits now is never answered.
            custodian._changed = asyncio.Event()
            custodian.state, custodian.stop_epoch = LeaseState.STOPPED, 1
            custodian.version += 1
            await borrower.eventually(lambda: borrower.keeper.terms.phase(elapsed_ns()) is Phase.STOPPED)
            assert (await borrower.refusal()).code == "lease.stopped"
            await borrower.eventually(lambda: not borrower.keeper.terms.loaded)

    run(test)


def test_a_quarantine_is_for_good(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        async with enclave(custodian) as borrower:
            await borrower.serving()
            custodian.change(quarantined=True)
            await borrower.eventually(lambda: custodian.applied == custodian.version)
            assert (await borrower.refusal()).code == "lease.quarantined"
            assert not borrower.keeper.terms.loaded
            custodian.change(quarantined=False)
            renewals = len(custodian.bodies(wire.RENEWALS))
            await asyncio.sleep(0.3)
            assert (await borrower.refusal()).code == "lease.quarantined"
            assert len(custodian.bodies(wire.RENEWALS)) == renewals

    run(test)


def test_with_the_line_cut_it_expires_and_wipes(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian(soft_ms=300, ttl_ms=500)
        async with enclave(custodian) as borrower:
            await borrower.serving()
            await borrower.query()
            custodian.down = True
            await borrower.eventually(lambda: borrower.keeper.terms.phase(elapsed_ns()) is Phase.SOFT)
            assert (await borrower.refusal()).code == "lease.expired"
            await borrower.eventually(lambda: not borrower.keeper.terms.loaded)
            assert (await borrower.refusal()).code == "lease.expired"
            custodian.down = False
            await borrower.serving()
            assert (await borrower.query()).status == 200

    run(test)


def test_a_run_is_stopped_at_hard_expiry(enclave: Enclave, slow: bytes) -> None:
    async def test() -> None:
        custodian = FakeCustodian(soft_ms=300, ttl_ms=500)
        async with enclave(custodian, slow) as borrower:
            await borrower.serving()
            await borrower.query()
            running = asyncio.ensure_future(borrower.refusal(ENDLESS))
            await borrower.eventually(lambda: len(borrower.keeper.gate.running) == 1)
            custodian.down = True
            assert (await running).code == "lease.expired"
            await borrower.eventually(lambda: not borrower.keeper.terms.loaded)

    run(test)


def test_no_query_starts_late_though_no_timer_has_fired(enclave: Enclave, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with enclave(FakeCustodian()) as borrower:
            await borrower.serving()
            await borrower.query()
            # The event loop was blocked, or the machine slept: nobody has acted upon the clock yet.
            late = borrower.keeper.gate.until_ns
            monkeypatch.setattr(gate, "elapsed_ns", lambda: late)
            assert (await borrower.refusal()).code == "lease.expired"
            monkeypatch.undo()
            assert (await borrower.query()).status == 200

    run(test)


def test_a_query_that_stood_in_the_queue_does_not_start_late(
    enclave: Enclave, slow: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        async with enclave(custodian, slow, runtime=Runtime(workers=1), timeouts=Timeouts(run_ms=200)) as borrower:
            await borrower.serving()
            first = asyncio.ensure_future(borrower.refusal(ENDLESS))
            await borrower.eventually(lambda: len(borrower.keeper.gate.running) == 1)
            queued = asyncio.ensure_future(borrower.refusal())
            await borrower.eventually(lambda: borrower.inference.queued() == 1)
            late = borrower.keeper.gate.until_ns
            monkeypatch.setattr(gate, "elapsed_ns", lambda: late)
            assert (await queued).code == "lease.expired"
            assert (await first).code == "quota.run_time"
            monkeypatch.undo()
        assert custodian.spent == 1

    run(test)


def test_an_answer_that_was_lost_is_asked_for_again_to_the_byte(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian(budget=10)
        async with enclave(custodian) as borrower:
            await borrower.serving()
            before = len(custodian.bodies(wire.RENEWALS))
            custodian.lose = 3
            assert (await borrower.query()).status == 200
            tries = custodian.bodies(wire.RENEWALS)[before:]
            assert len(set(tries[:4])) == 1
            assert custodian.connections >= 5
            for _ in range(9):
                await borrower.query()
            assert (await borrower.refusal()).code == "lease.budget_exhausted"
        assert (custodian.spent, custodian.granted) == (10, 10)

    run(test)


def tampered(**changes: Any) -> Callable[[str, bytes], bytes]:
    """Answers to renewals with another content, and the signature of before."""

    def change(path: str, body: bytes) -> bytes:
        if path != wire.RENEWALS:
            return body
        answer = msgspec.json.decode(body, type=GrantAnswer)
        return msgspec.json.encode(
            msgspec.structs.replace(answer, grant=msgspec.structs.replace(answer.grant, **changes))
        )

    return change


@pytest.mark.parametrize(
    "answers",
    [
        tampered(ttl_ms=10**11),
        tampered(quantities={"alice": 10**9}),
        tampered(record_seq=9),
        lambda path, body: b"{" if path == wire.RENEWALS else body,
        lambda path, body: b"" if path == wire.RENEWALS else body,
        lambda path, body: b"[" * 100_000 if path == wire.RENEWALS else body,
        lambda path, body: body.replace(b'"signature":"', b'"signature":"00') if path == wire.RENEWALS else body,
        lambda path, body: body[:-1] + b',"more":1}' if path == wire.RENEWALS else body,
    ],
)
def test_a_malformed_answer_changes_nothing_and_is_asked_for_again(
    enclave: Enclave, answers: Callable[[str, bytes], bytes]
) -> None:
    async def test() -> None:
        custodian = FakeCustodian(soft_ms=300, ttl_ms=10_000)
        async with enclave(custodian) as borrower:
            await borrower.serving()
            await borrower.query()
            custodian.answers = answers
            seq = borrower.keeper.terms.grant and borrower.keeper.terms.grant.seq
            await borrower.eventually(lambda: borrower.keeper.terms.phase(elapsed_ns()) is Phase.SOFT)
            assert borrower.keeper.terms.grant
            assert borrower.keeper.terms.grant.seq in {seq, (seq or 0) + 1}
            custodian.answers = lambda _, body: body
            await borrower.eventually(lambda: borrower.keeper.terms.phase(elapsed_ns()) is Phase.SERVING)
            assert (await borrower.query()).status == 200

    run(test)


def test_a_custodian_that_is_slow_costs_the_borrower(enclave: Enclave, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(keeper, "_ANSWER_SECONDS", 0.1)
        custodian = FakeCustodian(soft_ms=400, ttl_ms=700)
        async with enclave(custodian) as borrower:
            await borrower.serving()
            custodian.hold = asyncio.get_running_loop().create_future()
            await borrower.eventually(lambda: not borrower.keeper.terms.loaded)
            refusal = await borrower.refusal()
            assert refusal.code == "lease.expired"
            custodian.hold.set_result(None)
            custodian.hold = None
            await borrower.serving()

    run(test)


def test_units_that_do_not_come_are_waited_for_a_while(enclave: Enclave, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(gate, "PATIENCE_SECONDS", 0.1)
        monkeypatch.setattr(keeper, "_FILE_SECONDS", 0.1)
        custodian = FakeCustodian()
        async with enclave(custodian) as borrower:
            await borrower.serving()
            custodian.down = True
            # Nobody has said that the budget is used up.
            refusal = await borrower.refusal()
            assert (type(refusal), refusal.code) == (Unavailable, "lease.waiting")
            assert "cannot reach" in refusal.hint
            custodian.down = False
            await borrower.eventually(lambda: borrower.keeper.meter.account("alice").credit > 0)
            assert (await borrower.query()).status == 200

    run(test)


def test_as_many_as_may_wait_for_units(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        async with enclave(custodian) as borrower:
            await borrower.serving()
            borrower.keeper.gate._places = 2
            custodian.hold = asyncio.get_running_loop().create_future()
            waiting = [asyncio.ensure_future(borrower.query()) for _ in range(2)]
            await asyncio.sleep(0)
            assert (await borrower.refusal()).code == "busy"
            custodian.hold.set_result(None)
            assert [reply.status for reply in await asyncio.gather(*waiting)] == [200, 200]
            assert borrower.keeper.gate._places == 2

    run(test)


def test_a_query_that_waits_for_units_is_told_of_a_stop(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        async with enclave(custodian) as borrower:
            await borrower.serving()
            custodian.hold = asyncio.get_running_loop().create_future()
            waiting = asyncio.ensure_future(borrower.refusal())
            await borrower.eventually(lambda: borrower.keeper.meter.account("alice").waiting == 1)
            custodian.stop()
            assert (await waiting).code == "lease.stopped"
            custodian.hold.set_result(None)

    run(test)


def test_a_model_that_cannot_be_opened_is_said_and_tried_again(
    enclave: Enclave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        monkeypatch.setattr(keeper, "_LOAD_AGAIN_NS", 50_000_000)
        custodian = FakeCustodian()
        borrower = enclave(custodian)
        sealed = (tmp_path / "model.sealed").read_bytes()
        (tmp_path / "model.sealed").write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
        async with borrower:
            await borrower.eventually(lambda: "chunk" in borrower.keeper.terms.waits_for)
            refusal = await borrower.refusal()
            assert (refusal.code, "chunk" in refusal.message) == ("lease.waiting", True)
            (tmp_path / "model.sealed").write_bytes(sealed)
            await borrower.serving()
            assert (await borrower.query()).status == 200

    run(test)


def test_a_key_that_is_not_for_this_grant_opens_nothing(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        borrower = enclave(custodian)
        custodian.hpke_public_key = bytes.fromhex("09" + "00" * 31)  # X25519's base point: anybody else's
        async with borrower:
            await borrower.eventually(lambda: "not sealed to this enclave" in borrower.keeper.terms.waits_for)
            assert not borrower.keeper.terms.loaded

    run(test)


def test_a_custodian_that_gives_no_key_is_asked_again(enclave: Enclave, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(keeper, "_LOAD_AGAIN_NS", 100_000_000)
        custodian = FakeCustodian()
        custodian.keyless = True
        async with enclave(custodian) as borrower:
            await borrower.eventually(lambda: "no key" in borrower.keeper.terms.waits_for)
            assert (await borrower.refusal()).code == "lease.waiting"
            custodian.keyless = False
            await borrower.serving()

    run(test)


def test_a_stop_while_the_model_is_being_loaded(enclave: Enclave, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        borrower = enclave(custodian)
        begun, go_on = asyncio.Event(), asyncio.Event()
        load = borrower.model.load

        async def slowly(data_key: bytes, model_digest: str) -> ModelVersion:
            begun.set()
            await go_on.wait()
            return await load(data_key, model_digest)

        monkeypatch.setattr(borrower.model, "load", slowly)
        async with borrower:
            await begun.wait()
            custodian.stop()
            await borrower.eventually(lambda: borrower.keeper.terms.phase(elapsed_ns()) is Phase.STOPPED)
            go_on.set()
            await borrower.eventually(lambda: custodian.applied == custodian.version)
            assert borrower.keeper.gate.version is None
            assert [found.session for found in borrower.repository] == [None]
            custodian.resume()
            await borrower.serving()

    run(test)


def test_a_ledger_that_was_restored_is_listened_to(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        custodian.version = 9
        async with enclave(custodian) as borrower:
            await borrower.serving()
            await borrower.eventually(lambda: borrower.keeper._applied == 9)
            custodian.version = 1
            custodian.change(state=LeaseState.PAUSED)
            await borrower.eventually(lambda: borrower.keeper.terms.phase(elapsed_ns()) is Phase.PAUSED)
            custodian.resume()
            await borrower.serving()
            assert (await borrower.query()).status == 200

    run(test)


def test_a_request_with_two_tokens_is_refused(enclave: Enclave) -> None:
    async def test() -> None:
        async with enclave(FakeCustodian()) as borrower:
            await borrower.serving()
            await borrower.query()
            borrower.headers *= 2
            assert (await borrower.refusal()).code == "authentication.token"

    run(test)


def test_where_anyone_may_ask_no_header_is_remembered(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian(consumer="")
        async with enclave(custodian) as borrower:
            await borrower.serving()
            for number in range(3):
                borrower.headers = [(b"authorization", b"%d" % number * 1000)]
                assert (await borrower.query()).status == 200
            assert not borrower.keeper.gate._accounts

    run(test)


def test_a_token_that_was_revoked_is_refused_with_the_next_grant(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian(soft_ms=300)
        async with enclave(custodian) as borrower:
            await borrower.serving()
            await borrower.query()
            custodian.token_epoch = 1
            await borrower.eventually(lambda: borrower.keeper.terms.consumers == {"alice": 1})
            assert (await borrower.refusal()).code == "authentication.token"

    run(test)


@pytest.mark.parametrize("years", [1, -1])
def test_the_wall_clock_moved_by_a_year_changes_nothing(
    enclave: Enclave, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    async def test() -> None:
        custodian = FakeCustodian(soft_ms=500, ttl_ms=800)
        async with enclave(custodian) as borrower:
            await borrower.serving()
            wall, wall_ns = time.time, time.time_ns
            shift = years * 365 * 24 * 3600
            monkeypatch.setattr(time, "time", lambda: wall() + shift)
            monkeypatch.setattr(time, "time_ns", lambda: wall_ns() + shift * 10**9)
            until = borrower.keeper.gate.until_ns
            assert (await borrower.query()).status == 200
            await borrower.eventually(lambda: borrower.keeper.gate.until_ns > until)
            custodian.down = True
            await borrower.eventually(lambda: not borrower.keeper.terms.loaded)
            assert (await borrower.refusal()).code == "lease.expired"

    run(test)


def test_it_closes_with_a_final_record_that_gives_the_rest_back(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        borrower = enclave(custodian)
        async with borrower:
            await borrower.serving()
            await borrower.query()
        assert custodian.final
        assert custodian.spent == 1
        assert not borrower.keeper.terms.loaded
        assert custodian.seen[-1][0] == wire.CLOSINGS

    run(test)


def test_a_closing_whose_answer_is_lost_is_sent_again(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        borrower = enclave(custodian)
        async with borrower:
            await borrower.serving()
            await borrower.query()
            lost = [True]

            def once(path: str, body: bytes) -> bytes:
                return b"" if path == wire.CLOSINGS and lost and lost.pop() else body

            custodian.answers = once
        closings = custodian.bodies(wire.CLOSINGS)
        assert len(closings) == 2
        assert len(set(closings)) == 1

    run(test)


def test_an_end_without_a_custodian_does_not_wait(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        async with asyncio.timeout(10):
            async with enclave(custodian) as borrower:
                await borrower.serving()
                custodian.down = True

    run(test)


def test_before_the_first_grant_there_is_nothing_to_close(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian()
        custodian.down = True
        async with enclave(custodian) as borrower:
            await asyncio.sleep(0.05)
            assert (await borrower.refusal()).code == "lease.waiting"
        assert not custodian.bodies(wire.CLOSINGS)

    run(test)


def test_what_the_lease_is_for_a_consumer(enclave: Enclave) -> None:
    async def test() -> None:
        custodian = FakeCustodian(budget=2)
        async with enclave(custodian) as borrower:
            await borrower.serving()
            await borrower.query()
            view = borrower.keeper.view(borrower.headers)
            assert (view.model, view.state, view.used, view.budget, view.left) == ("acme/lent", "serving", 1, 2, 1)
            assert 0 < view.soft_ms < view.hard_ms
            await borrower.query()
            await borrower.refusal()
            request = borrower.keeper.view(borrower.headers).request
            assert request
            assert request.state == "pending"

    run(test)


def test_backoff_grows_and_is_never_the_same_for_two() -> None:
    backoff = line.Backoff()
    pauses = [backoff.next() for _ in range(10)]
    assert 0.05 <= pauses[0] <= 0.1
    assert all(2.5 <= pause <= 5 for pause in pauses[-3:])
    assert len(set(pauses)) == 10
    backoff.reset()
    assert backoff.next() <= 0.1
