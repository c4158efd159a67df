"""Which requests run when, together with which, and that each comes to its one right end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blindai.enclave.config import EnclaveConfig, Limits, Runtime
from blindai.enclave.engine import Cancellation, TensorSpec
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.models.description import Description, Trial
from blindai.enclave.models.model_id import ModelId
from blindai.enclave.models.model_version import Loaded, ModelVersion, State
from blindai.enclave.models.residency import Residency
from blindai.enclave.running.queue import Busy, Done, QueueFull
from blindai.enclave.running.runner import Ran, Work
from blindai.enclave.running.scheduler import Scheduler
from blindai.enclave.running.thread_runner import RunningThreads, ThreadRunner
from blindai.errors import BlindAIError, InvalidInput, InvalidModel, LeaseStopped, ModelNotFound, Unavailable
from blindai.wire.tensor import Tensor
from enclave_server import node_model

SPEC = TensorSpec("x", "FP32", (-1, -1))


def described(**trial: Any) -> Description:
    return Description((SPEC,), (SPEC,), "test", 1, Trial("onnxruntime", 1, "float32", **trial))


BATCHED = described(max_batch=8, shapes={"x": (1, 4)})


def row(*values: float, size: int = 4) -> Work:
    return Work({"x": Tensor.from_array("x", np.repeat(np.array(values, np.float32)[:, None], size, axis=1))})


def value_of(done: Done) -> list[float]:
    return [float(one) for one in done.outputs[0].data[:, 0]]


class HandRunner:
    """A runner whose runs end when the test says so: y = x, in as many lanes as it is told."""

    def __init__(self, description: Description, *, lanes: int = 1) -> None:
        self.description = description
        self.lanes = lanes
        self.memory = 1
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.runs: list[tuple[list[Work], asyncio.Future[Ran]]] = []
        self.reniced = 0

    def run(self, batch: Sequence[Work], *, seconds: float) -> asyncio.Future[Ran]:
        future: asyncio.Future[Ran] = asyncio.get_running_loop().create_future()
        self.runs.append((list(batch), future))
        return future

    def renice(self) -> None:
        self.reniced += 1

    async def close(self) -> None:
        if not self.ended.done():
            self.ended.set_result("model.not_loaded")

    @property
    def values(self) -> list[list[float]]:
        """The first value of each request of each run so far."""
        return [[float(work.inputs["x"].data[0, 0]) for work in batch] for batch, _ in self.runs]

    async def finish(self, error: BlindAIError | None = None) -> None:
        """End the oldest run that has not ended."""
        batch, future = next(run for run in self.runs if not run[1].done())
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(Ran([[work.inputs["x"]] for work in batch], 1))
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class World:
    """A scheduler, and models whose runners the test has in hand."""

    def __init__(self, **limits: int) -> None:
        runtime = Runtime(workers=limits.pop("workers", 2))
        self.scheduler = Scheduler(EnclaveConfig(limits=Limits(**limits), runtime=runtime), self)
        self.memory = Residency(1 << 30)
        self.brought: list[str] = []
        self.bringing: Callable[[ModelVersion], Awaitable[None]] | None = None
        self.withdrawn: list[str] = []

    def version(self, name: str = "acme/model", runner: Any = None) -> ModelVersion:
        namespace, model = name.split("/")
        known = runner.description if runner is not None else BATCHED
        version = ModelVersion(ModelId(namespace, model), 1, self.memory, description=known, sha256="", uploaded=0)
        if runner is not None:
            version.loaded = Loaded(runner.description, runner)
        return version

    async def bring(self, version: ModelVersion) -> Loaded:
        self.brought.append(version.model_name)
        if self.bringing is not None:
            await self.bringing(version)
        if version.loaded is None or version.loaded.runner.ended.done():
            version.loaded = Loaded(version.description, HandRunner(version.description))
        return version.loaded

    def withdraw(self, version: ModelVersion, reason: str) -> None:
        self.withdrawn.append(reason)
        version.state, version.reason = State.UNAVAILABLE, reason


def hand(version: ModelVersion) -> HandRunner:
    assert version.loaded is not None
    runner = version.loaded.runner
    assert isinstance(runner, HandRunner)
    return runner


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await scene()

    asyncio.run(main())


async def refusal(future: Awaitable[Any]) -> BlindAIError:
    with pytest.raises(BlindAIError) as caught:
        await future
    return caught.value


# Batches.


def test_what_is_queued_goes_together() -> None:
    async def scene() -> None:
        world = World()
        version = world.version(runner=HandRunner(BATCHED))
        answers = [world.scheduler.submit(version, row(n)) for n in range(12)]
        assert hand(version).values == [[0]]
        await hand(version).finish()
        assert hand(version).values[1] == [1, 2, 3, 4, 5, 6, 7, 8]
        await hand(version).finish()
        await hand(version).finish()
        assert [value_of(await answer) for answer in answers] == [[n] for n in range(12)]
        assert world.scheduler.counts.batches == {1: 1, 8: 1, 3: 1}
        assert (version.runs, world.scheduler.waiting) == (0, 0)

    run(scene)


def test_rows_are_counted_and_what_differs_waits_for_its_own_turn() -> None:
    async def scene() -> None:
        world = World()
        version = world.version(runner=HandRunner(BATCHED))
        world.scheduler.submit(version, row(0))
        works = [row(1, 1, 1), row(2, size=5), row(3, 3, 3, 3, 3, 3), row(4), row(5)._replace(outputs=("x",)), row(6)]
        for work in works:
            world.scheduler.submit(version, work)
        for _ in range(4):
            await hand(version).finish()
        assert hand(version).values == [[0], [1, 4, 6], [2], [3], [5]]

    run(scene)


class Charge:
    """What one request costs."""

    def __init__(self) -> None:
        self.settled: list[bool] = []

    def run(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = (), *, cancellation: Cancellation | None = None
    ) -> list[Tensor]:
        raise AssertionError("this runner asks nobody")

    def guard(
        self,
        run: Callable[..., list[Any]],
        inputs: Mapping[str, Any],
        outputs: Sequence[str] = (),
        *,
        cancellation: Cancellation | None = None,
    ) -> list[Any]:
        raise AssertionError("this runner asks nobody")

    def cancellation(self) -> Cancellation:
        raise AssertionError("this runner asks nobody")

    def settle(self, *, failed: bool) -> None:
        self.settled.append(failed)


def test_requests_with_a_charge_run_alone_and_are_settled_once() -> None:
    async def scene() -> None:
        world = World()
        version = world.version(runner=HandRunner(BATCHED))
        charges = [Charge() for _ in range(4)]
        answers = [world.scheduler.submit(version, row(n)._replace(charge=charge)) for n, charge in enumerate(charges)]
        await hand(version).finish()
        assert hand(version).values == [[0], [1]]
        answers[1].cancel()  # it runs: the unit is spent all the same, when that has ended
        await settle()
        assert charges[1].settled == []
        await hand(version).finish()
        world.scheduler.refuse_waiting(LeaseStopped("stopped", code="lease.stopped"))
        assert (await refusal(answers[3])).code == "lease.stopped"
        await hand(version).finish()
        assert [charge.settled for charge in charges] == [[False], [False], [False], [True]]
        assert (await answers[2]).requests == 1

    run(scene)


@pytest.mark.parametrize("code", ["input.run", "model.crashed", "quota.run_time", "model.batch"])
def test_a_batch_that_fails_is_run_one_by_one(code: str) -> None:
    async def scene() -> None:
        world = World()
        version = world.version(runner=HandRunner(BATCHED))
        answers = [world.scheduler.submit(version, row(n)) for n in range(4)]
        await hand(version).finish()
        await hand(version).finish(InvalidModel("no", code=code))
        assert hand(version).values == [[0], [1, 2, 3], [1]]
        await hand(version).finish()
        await hand(version).finish(InvalidInput("no", code="input.run"))
        await hand(version).finish()
        assert (await refusal(answers[2])).code == "input.run"
        assert [value_of(await answers[n]) for n in (1, 3)] == [[1], [3]]
        assert (version.runs, world.withdrawn) == (0, [])
        # Only outputs that cannot be told apart say something of the model.
        for n in range(3):
            world.scheduler.submit(version, row(n))
        await hand(version).finish()
        assert hand(version).values[-1] == ([1] if code == "model.batch" else [1, 2])

    run(scene)


def test_rows_of_another_shape_than_the_trial_are_shown_to_be_exact_first() -> None:
    async def scene() -> None:
        world = World()
        version = world.version(runner=HandRunner(BATCHED))
        answers = [world.scheduler.submit(version, row(n, size=6)) for n in range(4)]
        for _ in range(4):
            await hand(version).finish()
        # Each of them was answered alone; the fifth run compares.
        assert hand(version).values == [[0], [1], [2], [3], [1, 2, 3]]
        assert [value_of(await answer) for answer in answers] == [[n] for n in range(4)]
        await hand(version).finish()
        for n in range(4):
            world.scheduler.submit(version, row(n, size=6))
        await hand(version).finish()
        assert hand(version).values[-1] == [1, 2, 3]

    run(scene)


def test_what_waited_before_an_unload_is_answered() -> None:
    async def scene() -> None:
        world = World()
        version = world.version(runner=HandRunner(BATCHED))
        answers = [world.scheduler.submit(version, row(n, size=6)) for n in range(4)]
        version.state = State.UNLOADING
        for _ in range(4):
            await hand(version).finish()
        assert [value_of(await answer) for answer in answers] == [[n] for n in range(4)]

    run(scene)


def test_rows_that_come_out_otherwise_together_are_never_answered_together() -> None:
    async def scene() -> None:
        world = World()
        runner = HandRunner(BATCHED)
        version = world.version(runner=runner)
        for n in range(4):
            world.scheduler.submit(version, row(n, size=6))
        for _ in range(4):
            await runner.finish()
        batch, future = runner.runs[-1]
        future.set_result(Ran([[row(-0.0 if n else 7, size=6).inputs["x"]] for n in range(len(batch))], 1))
        await settle()
        answers = [world.scheduler.submit(version, row(n, size=6)) for n in range(3)]
        for _ in range(3):
            await runner.finish()
        assert runner.values[-3:] == [[0], [1], [2]]
        assert [value_of(await answer) for answer in answers] == [[0], [1], [2]]

    run(scene)


@pytest.fixture(scope="module")
def threads() -> Iterator[RunningThreads]:
    made = RunningThreads(2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def dense() -> bytes:
    """Two layers on rows of any number of tokens: whose kernels differ with the number of rows."""
    generator = np.random.default_rng(1)
    weights = {
        "a": generator.standard_normal((24, 40)).astype(np.float32),
        "b": generator.standard_normal((40, 9)).astype(np.float32),
    }
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "a"], ["h"]),
            onnx.helper.make_node("Tanh", ["h"], ["t"]),
            onnx.helper.make_node("MatMul", ["t", "b"], ["z"]),
            onnx.helper.make_node("Softmax", ["z"], ["y"]),
        ],
        "dense",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", "tokens", 24])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", "tokens", 9])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 20)), min_size=1, max_size=40))
def test_every_answer_is_the_answer_alone(
    dense: bytes, threads: RunningThreads, requests: list[tuple[int, int, int]]
) -> None:
    async def scene() -> None:
        session = OnnxRuntimeEngine().load(dense, {})
        trial = Trial("onnxruntime", 1, "float32", max_batch=16)  # of no shape: all is to be shown
        description = Description(session.inputs, session.outputs, "test", 1, trial)
        runner = ThreadRunner(session, description, threads)
        world = World(max_namespace_queued_runs=1000)
        threads.on_free = world.scheduler.dispatch
        version = world.version(runner=runner)
        generator = np.random.default_rng(2)
        arrays: list[NDArray[Any]] = [
            generator.standard_normal((rows, tokens, 24)).astype(np.float32) for rows, tokens, _ in requests
        ]
        for _ in range(3):  # by the third time most shapes are known
            answers = []
            for array, (_, _, pause) in zip(arrays, requests, strict=True):
                answers.append(world.scheduler.submit(version, Work({"x": Tensor.from_array("x", array)})))
                if pause == 0:
                    await asyncio.sleep(0.001)
            for array, answer in zip(arrays, answers, strict=True):
                alone = session.run({"x": Tensor.from_array("x", array)})[0].data
                assert (await answer).outputs[0].data.tobytes() == alone.tobytes()
        await runner.close()
        world.scheduler.close()
        await settle()
        assert version.runs == 0

    run(scene)


# Turns.


def test_a_tenant_with_a_thousand_requests_delays_another_by_about_one_run() -> None:
    async def scene() -> None:
        shared = RunningThreads(1)
        world = World(max_queued_runs=2000, max_namespace_queued_runs=2000, workers=1)
        shared.on_free = world.scheduler.dispatch
        plain = described()
        order: list[str] = []
        versions = {}
        for name in ("greedy/model", "modest/model"):
            session = OnnxRuntimeEngine().load(node_model(onnx.helper.make_node("Identity", ["x"], ["y"])), {})
            inner = session.run

            def slowly(*args: Any, inner: Any = inner, name: str = name, **kwargs: Any) -> Any:
                order.append(name)
                time.sleep(0.002)
                return inner(*args, **kwargs)

            session.run = slowly  # type: ignore[method-assign] # takes a while
            versions[name] = world.version(name, ThreadRunner(session, plain, shared))
        greedy = [world.scheduler.submit(versions["greedy/model"], row(1)) for _ in range(1000)]
        await greedy[3]
        for _ in range(5):
            before = len(order)
            await world.scheduler.submit(versions["modest/model"], row(1))
            # One that was under way, one that may have begun before this was heard of, and its own.
            assert len(order) - before <= 3
        for answer in greedy:
            answer.cancel()
        await settle()
        assert world.scheduler.waiting == 0
        for version in versions.values():
            assert version.loaded is not None
            await version.loaded.runner.close()
        shared.close()

    run(scene)


def test_one_namespace_has_its_workers_and_another_its_own() -> None:
    async def scene() -> None:
        world = World(workers=2)
        runners = {name: HandRunner(described(), lanes=4) for name in ("a/one", "a/two", "b/one")}
        for name, runner in runners.items():
            version = world.version(name, runner)
            for n in range(3):
                world.scheduler.submit(version, row(n))
        assert {name: len(runner.runs) for name, runner in runners.items()} == {"a/one": 2, "a/two": 0, "b/one": 2}
        await runners["a/one"].finish()
        await runners["a/one"].finish()
        assert {name: len(runner.runs) for name, runner in runners.items()} == {"a/one": 3, "a/two": 1, "b/one": 2}

    run(scene)


# Bounds.


def test_queues_are_bounded_and_say_when_to_come_back() -> None:
    async def scene() -> None:
        world = World(max_queued_runs=3, max_namespace_queued_runs=2)
        one, other, third = (world.version(f"{name}/model", HandRunner(BATCHED)) for name in ("a", "b", "c"))
        for n in range(3):
            world.scheduler.submit(one, row(n))
        with pytest.raises(QueueFull) as full:
            world.scheduler.submit(one, row(9))
        assert (full.value.code, full.value.retry_after) == ("quota.queue", 1)
        world.scheduler.submit(other, row(1))
        world.scheduler.submit(other, row(2))
        with pytest.raises(Busy) as busy:
            world.scheduler.submit(other, row(3))
        assert (busy.value.code, busy.value.retry_after) == ("busy", 1)
        # Who does not have to wait needs no place to wait.
        answer = world.scheduler.submit(third, row(5))
        await hand(third).finish()
        assert value_of(await answer) == [5]
        assert (one.runs, other.runs, third.runs) == (3, 2, 0)

    run(scene)


def test_a_request_whose_time_is_over_is_refused_and_does_not_run() -> None:
    async def scene() -> None:
        world = World()
        version = world.version(runner=HandRunner(described()))
        soon = time.perf_counter_ns() + 20_000_000
        running, queued, patient = (
            world.scheduler.submit(version, row(n), deadline_ns=deadline)
            for n, deadline in ((1, soon), (2, soon), (3, 0))
        )
        for answer in (running, queued):
            error = await refusal(answer)
            assert (error.code, type(error)) == ("deadline", Unavailable)
        await settle()
        assert hand(version).runs[0][1].cancelled()
        assert hand(version).values == [[1], [3]]
        await hand(version).finish()
        assert value_of(await patient) == [3]
        assert (world.scheduler.counts.deadlines, version.runs) == (2, 0)

    run(scene)


def test_those_who_leave_a_batch_leave_the_others_their_answers() -> None:
    async def scene() -> None:
        world = World()
        version = world.version(runner=HandRunner(BATCHED))
        answers = [world.scheduler.submit(version, row(n)) for n in range(5)]
        answers[4].cancel()
        await settle()
        await hand(version).finish()
        assert hand(version).values[1] == [1, 2, 3]
        answers[2].cancel()
        await settle()
        assert not hand(version).runs[1][1].done()
        await hand(version).finish()
        assert [value_of(await answers[n]) for n in (1, 3)] == [[1], [3]]
        assert (version.runs, world.scheduler.counts.dropped) == (0, 2)
        # When the last of them leaves, the run goes with it.
        leaving = [world.scheduler.submit(version, row(n)) for n in range(3)]
        for answer in leaving:
            answer.cancel()
        await settle()
        assert hand(version).runs[-1][1].cancelled()
        assert (version.runs, len(hand(version).runs)) == (0, 3)

    run(scene)


def test_a_stopped_scheduler_refuses_what_waits() -> None:
    async def scene() -> None:
        world = World()
        version = world.version(runner=HandRunner(described()))
        running, waiting = (world.scheduler.submit(version, row(n)) for n in range(2))
        world.scheduler.close()
        assert (await refusal(waiting)).code == "stopping"
        with pytest.raises(Unavailable) as caught:
            world.scheduler.submit(version, row(3))
        assert caught.value.code == "stopping"
        await hand(version).finish()
        assert value_of(await running) == [0]
        await world.scheduler.settled()

    run(scene)


# Models that come and go.


def test_a_model_is_brought_once_while_others_go_on() -> None:
    async def scene() -> None:
        world = World()
        arrived = asyncio.Event()
        world.bringing = lambda _: arrived.wait()  # type: ignore[assignment, return-value] # nobody looks at what it returns
        absent, present = world.version("acme/absent"), world.version("acme/present", HandRunner(BATCHED))
        waiting = [world.scheduler.submit(absent, row(n)) for n in range(3)]
        answer = world.scheduler.submit(present, row(7))
        await hand(present).finish()
        assert value_of(await answer) == [7]
        arrived.set()
        await settle()
        await hand(absent).finish()
        assert [value_of(await one) for one in waiting] == [[0], [1], [2]]
        assert world.brought == ["acme/absent"]

    run(scene)


@pytest.mark.parametrize("error", [Unavailable("full", code="busy"), InvalidModel("dead", code="model.crashed")])
def test_a_model_that_cannot_be_brought(error: BlindAIError) -> None:
    async def scene() -> None:
        world = World()

        async def fail(_: ModelVersion) -> None:
            raise error

        world.bringing = fail
        version = world.version()
        answers = [world.scheduler.submit(version, row(n)) for n in range(2)]
        assert [(await refusal(answer)).code for answer in answers] == [error.code] * 2
        assert (version.runs, world.scheduler.waiting) == (0, 0)

    run(scene)


def test_a_request_whose_process_was_ended_runs_once_more_and_only_once() -> None:
    async def scene() -> None:
        world = World()
        version = world.version(runner=HandRunner(described()))
        answer = world.scheduler.submit(version, row(1))
        gone = ModelNotFound("ended", code="model.not_loaded")
        await hand(version).close()
        await hand(version).finish(gone)
        assert world.brought == ["acme/model"]
        await hand(version).finish()
        assert value_of(await answer) == [1]
        answer = world.scheduler.submit(version, row(2))
        for _ in range(2):
            await hand(version).close()
            await hand(version).finish(gone)
        assert (await refusal(answer)).code == "model.not_loaded"
        assert (version.runs, world.scheduler.counts.retries) == (0, 2)

    run(scene)


def test_a_model_that_only_crashes_is_withdrawn() -> None:
    async def scene() -> None:
        world = World()
        version = world.version(runner=HandRunner(described()))
        crashed = InvalidModel("dead", code="model.crashed")

        async def crash() -> None:
            answer = world.scheduler.submit(version, row(1))
            await settle()
            await hand(version).close()
            await hand(version).finish(crashed)
            assert (await refusal(answer)).code == "model.crashed"

        await crash()
        await crash()
        answer = world.scheduler.submit(version, row(1))
        await settle()
        await hand(version).finish()
        await answer
        await crash()
        await crash()
        assert world.withdrawn == []
        behind = [world.scheduler.submit(version, row(n)) for n in range(2)]
        await settle()
        await hand(version).finish(crashed)
        assert [(await refusal(answer)).code for answer in behind] == ["model.crashed", "model.not_loaded"]
        assert (world.withdrawn, version.reason, version.runs) == (["crashed"], "crashed", 0)
        with pytest.raises(ModelNotFound) as caught:
            world.scheduler.submit(version, row(1))
        assert caught.value.code == "model.not_loaded"

    run(scene)


def test_a_long_run_is_made_to_stand_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blindai.enclave.running.scheduler._LONG_SECONDS", 0.01)

    async def scene() -> None:
        world = World()
        version = world.version(runner=HandRunner(described()))
        world.scheduler.submit(version, row(1))
        while not hand(version).reniced:
            await asyncio.sleep(0.005)
        assert world.scheduler.counts.reniced == 1

    run(scene)
