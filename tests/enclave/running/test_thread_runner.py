"""Runs on threads of the server's own process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from blindai.enclave.engine import Cancellation
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.model_file.opening import OpeningSettings, open_model
from blindai.enclave.models.description import Description, Trial
from blindai.enclave.running.runner import Plain, Work
from blindai.enclave.running.thread_runner import RunningThreads, ThreadLoader, ThreadRunner
from blindai.errors import InvalidModel, LeaseStopped, ModelNotFound, QuotaExceeded
from blindai.wire.tensor import Tensor

ENDLESS = 1e12
PATIENCE = 60.0


def work(*values: float, charge: Any = None) -> Work:
    return Work({"x": Tensor.from_array("x", np.array(values, np.float32).reshape(-1, 1))}, charge=charge)


@asynccontextmanager
async def runner_of(model: bytes, *, threads: int = 2) -> AsyncIterator[tuple[ThreadRunner, RunningThreads]]:
    session = OnnxRuntimeEngine().load(model, {})
    description = Description(
        session.inputs, session.outputs, "test", session.memory, Trial("onnxruntime", 1, "float32")
    )
    shared = RunningThreads(threads)
    runner = ThreadRunner(session, description, shared)
    try:
        yield runner, shared
    finally:
        await runner.close()
        shared.close()


def test_one_request_and_several_as_one(adder: bytes) -> None:
    async def scene() -> None:
        async with runner_of(adder) as (runner, _):
            for batch in ([work(1)], [work(1), work(2, 3), work(4)]):
                ran = await runner.run(batch, seconds=PATIENCE)
                assert ran.engine_ns > 0
                for one, answer in zip(batch, ran.answers, strict=True):
                    assert [tensor.name for tensor in answer] == ["y"]
                    assert np.array_equal(answer[0].data, one.inputs["x"].data + 1)

    asyncio.run(scene())


def test_a_run_past_its_time_is_stopped(slow: bytes) -> None:
    async def scene() -> None:
        async with runner_of(slow) as (runner, _):
            with pytest.raises(QuotaExceeded) as caught:
                await runner.run([work(ENDLESS)], seconds=0.05)
            assert caught.value.code == "quota.run_time"
            assert (await runner.run([work(1)], seconds=PATIENCE)).answers

    asyncio.run(scene())


def test_a_cancelled_run_gives_its_thread_back(slow: bytes) -> None:
    async def scene() -> None:
        async with runner_of(slow, threads=1) as (runner, threads):
            endless = runner.run([work(ENDLESS)], seconds=PATIENCE)
            queued = runner.run([work(ENDLESS)], seconds=PATIENCE)
            assert (runner.lanes, threads.free) == (2, 0)
            queued.cancel()
            endless.cancel()
            assert (await runner.run([work(1)], seconds=PATIENCE)).answers
            await asyncio.sleep(0)
            assert (runner.lanes, threads.free) == (1, 1)

    asyncio.run(scene())


def test_the_lanes_are_shared_between_the_models_of_one_process(slow: bytes) -> None:
    async def scene() -> None:
        async with runner_of(slow, threads=2) as (one, threads):
            session = OnnxRuntimeEngine().load(slow, {})
            other = ThreadRunner(session, one.description, threads)
            assert (one.lanes, other.lanes) == (2, 2)
            running = one.run([work(ENDLESS)], seconds=PATIENCE)
            assert (one.lanes, other.lanes) == (2, 1)
            running.cancel()
            await other.close()

    asyncio.run(scene())


def test_closing_ends_what_runs_and_frees_the_session(slow: bytes) -> None:
    async def scene() -> None:
        async with runner_of(slow, threads=1) as (runner, _):
            runs = [runner.run([work(ENDLESS)], seconds=PATIENCE) for _ in range(3)]
            session = runner.session
            await asyncio.gather(runner.close(), runner.close())
            for run in runs:
                with pytest.raises(ModelNotFound) as caught:
                    await run
                assert caught.value.code == "model.not_loaded"
            assert session is not None
            assert (session._session, runner.session) == (None, None)  # type: ignore[attr-defined] # what is freed
            assert await runner.ended == "model.not_loaded"
            with pytest.raises(ModelNotFound):
                await runner.run([work(1)], seconds=PATIENCE)

    asyncio.run(scene())


def test_threads_that_were_shut_take_no_runs(adder: bytes) -> None:
    async def scene() -> None:
        async with runner_of(adder) as (runner, threads):
            threads.shut()
            with pytest.raises(ModelNotFound):
                await runner.run([work(1)], seconds=PATIENCE)
            await threads.wipe()

    asyncio.run(scene())


class Guard:
    """A charge that lets nothing through, once it is told."""

    def __init__(self, runner: ThreadRunner) -> None:
        assert runner.session is not None
        self._session = runner.session
        self.cancellation = self._session.cancellation
        self.barred = False

    def run(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = (), *, cancellation: Cancellation | None = None
    ) -> list[Tensor]:
        if self.barred:
            raise LeaseStopped("stopped", code="lease.stopped")
        return self._session.run(inputs, outputs, cancellation=cancellation)

    def settle(self, *, failed: bool) -> None:
        raise AssertionError("a runner settles nothing")


def test_a_request_with_a_charge_is_run_by_its_guard(adder: bytes) -> None:
    async def scene() -> None:
        async with runner_of(adder) as (runner, _):
            guard = Guard(runner)
            assert (await runner.run([work(1, charge=guard)], seconds=PATIENCE)).answers
            guard.barred = True
            with pytest.raises(LeaseStopped):
                await runner.run([work(1, charge=guard)], seconds=PATIENCE)

    asyncio.run(scene())


def test_wiping_reaches_every_thread(adder: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[str] = []
    monkeypatch.setattr("blindai.enclave.residue.wipe_thread", lambda: wiped.append(threading.current_thread().name))

    async def scene() -> None:
        async with runner_of(adder, threads=3) as (_, threads):
            await threads.wipe()

    asyncio.run(scene())
    assert sorted(wiped) == ["MainThread", "infer_0", "infer_1", "infer_2"]


class Body:
    """An upload in clear."""

    def __init__(self, content: bytes) -> None:
        self.view = memoryview(content)
        self.bundle = False

    def fileno(self) -> int:
        raise AssertionError("this process reads the body itself")


def opener(trials: list[Trial | None]) -> Callable[[Plain, Trial | None], Any]:
    def open_body(plain: Plain, trial: Trial | None) -> Any:
        trials.append(trial)
        return open_model(plain.view, bundle=plain.bundle, settings=OpeningSettings(), trial=trial)

    return open_body


def test_loading(adder: bytes) -> None:
    async def scene() -> None:
        threads = RunningThreads(1)
        trials: list[Trial | None] = []
        loader = ThreadLoader(opener(trials), threads)
        first = await loader.load(Body(adder))
        again = await loader.load(Body(adder), trial=first.description.trial)
        for runner in (first, again):
            assert [spec.name for spec in runner.description.inputs] == ["x"]
            assert runner.memory == first.description.memory > 0
            assert (await runner.run([work(1)], seconds=PATIENCE)).answers
            await runner.close()
        assert trials == [None, first.description.trial]
        with pytest.raises(InvalidModel):
            await loader.load(Body(b"no model"))
        await loader.close()
        threads.close()

    asyncio.run(scene())
