"""The repository against a simple model of it, with a loader that can be held in the middle of a load."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from blindai.enclave.config import EnclaveConfig, Limits
from blindai.enclave.engine import Engine, TensorSpec
from blindai.enclave.limits import LOAD_BYTES
from blindai.enclave.models.description import Description, Trial
from blindai.enclave.models.model_id import MAX_VERSION, ModelId
from blindai.enclave.models.model_version import ModelVersion, State
from blindai.enclave.models.repository import FIRST_LOADS, Repository
from blindai.enclave.running.runner import Plain, Ran, Runner, Work
from blindai.enclave.running.thread_runner import RunningThreads
from blindai.errors import BlindAIError, InvalidModel, ModelNotFound, QuotaExceeded
from repositories import upload as upload_body

ID = ModelId("acme", "net")
OTHER = ModelId("acme", "other")
FOREIGN = ModelId("beta", "net")


BASE = LOAD_BYTES


class FakeRunner:
    """Holds `memory` bytes and runs nothing."""

    lanes = 1

    def __init__(self, description: Description, memory: int) -> None:
        self.description = description
        self.memory = memory
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.closed = 0
        self.closing = asyncio.Event()
        self.closing.set()

    def run(self, batch: Sequence[Work], *, seconds: float) -> asyncio.Future[Ran]:
        raise AssertionError("nothing runs here")

    async def close(self) -> None:
        self.closed += 1
        await self.closing.wait()
        if not self.ended.done():
            self.ended.set_result("model.not_loaded")


class HeldLoader:
    """Loads anything but b"bad", once `gate` is open; what it loads holds `holds` bytes, or as many as the body has."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.bodies: list[bytes] = []
        self.trials: list[Trial | None] = []
        self.runners: list[FakeRunner] = []
        self.holds: int | None = None
        self.refuses: BlindAIError | None = None
        self.loading = self.most_loading = 0

    async def load(self, plain: Plain, *, trial: Trial | None = None) -> Runner:
        self.loading += 1
        self.most_loading = max(self.loading, self.most_loading)
        try:
            await self.gate.wait()
        finally:
            self.loading -= 1
        body = bytes(plain.view)
        self.bodies.append(body)
        self.trials.append(trial)
        if body.startswith(b"bad"):
            raise InvalidModel("bad", code="model.invalid")
        if self.refuses is not None:
            raise self.refuses
        memory = len(body) if self.holds is None else self.holds
        spec = TensorSpec("x", "FP32", (1,))
        trial = trial or Trial(engine="held", threads=1, precision="float32", bounded=True, run_us=1.0)
        description = Description(inputs=(spec,), outputs=(spec,), platform="held", memory=memory, trial=trial)
        self.runners.append(FakeRunner(description, memory))
        return self.runners[-1]

    async def close(self) -> None:
        pass


async def upload(
    repository: Repository, model_id: ModelId = ID, size: int = 10, *, bad: bool = False, version: int | None = None
) -> ModelVersion:
    body = (b"bad" if bad else b"abc")[:size].ljust(size, b".")
    return await upload_body(repository, model_id, body, version=version)


def code_of(run: Awaitable[object]) -> Any:
    async def wrapped() -> str:
        try:
            await run
        except BlindAIError as error:
            return error.code
        return ""

    return wrapped()


async def settled(condition: Callable[[], bool]) -> None:
    """Let others go on until `condition` holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def send_away(version: ModelVersion) -> None:
    """Take a version out of memory, as if another had needed the room."""
    memory, total = version._memory, version._memory.total
    memory.total = 0
    memory.settle()
    memory.total = total
    assert version.loaded is None


class Fixture:
    def __init__(self, **limits: int) -> None:
        config = EnclaveConfig(limits=Limits(**limits))
        self.loader = HeldLoader()
        self.threads = RunningThreads(1)
        self.repository = Repository(self.loader, cast(Engine, None), config, self.threads)

    async def close(self) -> None:
        await self.repository.close()
        self.threads.close()

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a test to its end; then nothing may be held any more."""

        async def wrapped() -> None:
            await main()
            self.loader.gate.set()
            await self.close()

        asyncio.run(wrapped())
        assert self.repository.memory.used == self.repository.memory.claims == self.repository.store.space.used == 0
        assert self.repository.pending == set()
        assert all(runner.closed for runner in self.loader.runners)


@pytest.fixture
def held() -> Fixture:
    return Fixture(model_memory_bytes=BASE + 1000, max_model_bytes=400, max_models=5)


def test_an_upload_is_ready_and_counted_as_what_it_holds(held: Fixture) -> None:
    async def main() -> None:
        held.loader.holds = 77
        version = await upload(held.repository)
        assert (version.number, version.state, version.uploaded) == ("1", State.READY, 10)
        assert version.sha256 == hashlib.sha256(b"abc.......").hexdigest()
        assert (held.repository.memory.used, held.repository.store.space.used) == (77, 10)
        assert (await upload(held.repository)).number == "2"
        assert held.repository.resolve(ID).version == 2

    held.run(main)


def test_a_bad_model_leaves_nothing(held: Fixture) -> None:
    async def main() -> None:
        assert await code_of(upload(held.repository, bad=True)) == "model.invalid"
        memory, store = held.repository.memory, held.repository.store
        assert (list(held.repository), held.repository.pending, memory.used, store.space.used) == ([], set(), 0, 0)

    held.run(main)


def test_nothing_shows_while_an_upload_loads(held: Fixture) -> None:
    async def main() -> None:
        held.loader.gate.clear()
        loading = asyncio.create_task(upload(held.repository))
        await settled(lambda: held.loader.loading == 1)
        assert held.repository.pending
        assert list(held.repository) == []
        with pytest.raises(ModelNotFound) as caught:
            held.repository.resolve(ID)
        assert caught.value.code == "model.not_found"
        held.loader.gate.set()
        assert (await loading).state is State.READY

    held.run(main)


def test_a_load_is_carried_through_when_its_caller_is_cancelled(held: Fixture) -> None:
    async def main() -> None:
        held.loader.gate.clear()
        loading = asyncio.create_task(upload(held.repository))
        await settled(lambda: held.loader.loading == 1)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        # The load still uses the memory, so it is still counted.
        assert held.repository.memory.used == 20 + BASE
        assert held.repository.pending

    held.run(main)


def test_a_model_that_loads_blocks_no_other(held: Fixture) -> None:
    async def main() -> None:
        ready = await upload(held.repository)
        await upload(held.repository, FOREIGN)
        await held.repository.unload(FOREIGN)
        held.loader.gate.clear()
        loading = asyncio.create_task(upload(held.repository, OTHER))
        await settled(lambda: held.loader.loading == 1)
        assert held.repository.resolve(ID) is ready
        ready.begin_run()
        assert (await held.repository.bring(ready)).runner.memory == 10
        ready.end_run()
        again = asyncio.create_task(held.repository.load(FOREIGN))
        await settled(lambda: held.loader.loading == 2)
        await held.repository.unload(ID)
        await held.repository.delete(ID)
        held.loader.gate.set()
        await asyncio.gather(loading, again)

    held.run(main)


def test_uploads_that_take_for_ever_keep_no_model_from_coming_back(held: Fixture) -> None:
    async def main() -> None:
        held.repository.memory.total = 10 * BASE
        version = await upload(held.repository)
        send_away(version)
        held.loader.gate.clear()
        loading = [asyncio.create_task(upload(held.repository, OTHER)) for _ in range(FIRST_LOADS + 1)]
        await settled(lambda: held.loader.loading == FIRST_LOADS)
        version.begin_run()
        bringing = asyncio.create_task(held.repository.bring(version))
        await settled(lambda: held.loader.loading == FIRST_LOADS + 1)
        held.loader.gate.set()
        assert (await bringing) is version.loaded
        version.end_run()
        await asyncio.gather(*loading)
        assert held.loader.most_loading == FIRST_LOADS + 1

    held.run(main)


def test_an_unload_waits_for_runs_and_refuses_new_ones(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        version.begin_run()
        unloading = asyncio.create_task(held.repository.unload(ID))
        await settled(lambda: version.state is State.UNLOADING)
        assert held.repository.memory.used == 10
        with pytest.raises(ModelNotFound) as caught:
            version.begin_run()
        assert caught.value.code == "model.not_loaded"
        version.end_run()
        await unloading
        assert (version.state, version.loaded, held.repository.memory.used) == (State.UNAVAILABLE, None, 0)
        assert await code_of(held.repository.bring(version)) == "model.not_loaded"
        await held.repository.load(ID)
        assert (version.state, held.repository.memory.used) == (State.READY, 10)
        assert held.loader.bodies == [b"abc......."] * 2
        # Nothing is tried out again.
        assert held.loader.trials == [None, version.description.trial]

    held.run(main)


def test_a_version_that_is_withdrawn_ends_its_runs_first_and_comes_back_when_it_is_loaded(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        version.begin_run()
        held.repository.withdraw(version, "crashed")
        with pytest.raises(ModelNotFound) as caught:
            version.begin_run()
        assert caught.value.code == "model.not_loaded"
        assert (version.state, version.loaded is None) == (State.UNLOADING, False)
        version.end_run()
        await settled(lambda: version.state is State.UNAVAILABLE)
        assert (version.reason, version.loaded) == ("crashed", None)
        held.repository.withdraw(version, "again")
        assert version.reason == "crashed"
        await held.repository.load(ID)
        assert version.state is State.READY

    held.run(main)


def test_a_delete_hides_at_once_and_frees_after_the_last_run(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        version.begin_run()
        deleting = asyncio.create_task(held.repository.delete(ID))
        await settled(lambda: version.state is State.UNLOADING)
        assert list(held.repository) == []
        assert held.repository.memory.used == held.repository.store.space.used == 10
        version.end_run()
        await deleting
        assert held.repository.memory.used == held.repository.store.space.used == 0

    held.run(main)


def test_a_load_that_waited_for_a_delete_finds_nothing(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        await held.repository.unload(ID)
        await upload(held.repository)
        second = held.repository.resolve(ID)
        second.begin_run()
        unloading = asyncio.create_task(held.repository.unload(ID, 2))
        await asyncio.sleep(0.01)
        loading = asyncio.create_task(code_of(held.repository.load(ID, 2)))
        await asyncio.sleep(0.01)
        deleting = asyncio.create_task(held.repository.delete(ID))
        await asyncio.sleep(0.01)
        second.end_run()
        await asyncio.gather(unloading, deleting)
        assert await loading in {"", "model.not_found"}
        assert second.deleted
        assert version.deleted

    held.run(main)


def test_a_reload_that_fails_says_why(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        await held.repository.unload(ID)
        held.loader.refuses = QuotaExceeded("too long", code="quota.load_time")
        assert await code_of(held.repository.load(ID)) == "quota.load_time"
        assert (version.state, version.reason) == (State.UNAVAILABLE, "quota.load_time")
        assert held.repository.memory.used == 0
        held.loader.refuses = None
        await held.repository.load(ID)
        assert (version.state, version.reason) == (State.READY, "")

    held.run(main)


def test_a_model_that_does_not_come_back_may_come_back_later(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        send_away(version)
        held.loader.refuses = InvalidModel("it died", code="model.crashed")
        version.begin_run()
        assert await code_of(held.repository.bring(version)) == "model.crashed"
        assert version.state is State.READY
        held.loader.refuses = None
        assert (await held.repository.bring(version)) is version.loaded
        version.end_run()

    held.run(main)


def test_a_model_that_the_disk_has_changed_is_refused_for_good(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        send_away(version)
        assert version.content is not None
        version.content._file.seek(3)
        version.content._file.write(b"x")
        version.begin_run()
        assert await code_of(held.repository.bring(version)) == "model.store_damaged"
        version.end_run()
        assert (version.state, version.reason) == (State.UNAVAILABLE, "model.store_damaged")
        with pytest.raises(ModelNotFound, match=r"model\.store_damaged"):
            version.begin_run()
        assert len(held.loader.bodies) == 1

    held.run(main)


def test_requests_for_one_model_wait_for_one_load(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        send_away(version)
        held.loader.gate.clear()
        version.begin_run()
        bringing = [asyncio.create_task(held.repository.bring(version)) for _ in range(20)]
        await settled(lambda: held.loader.loading == 1)
        bringing[0].cancel()
        held.loader.gate.set()
        found = await asyncio.gather(*bringing[1:])
        assert {id(one) for one in found} == {id(version.loaded)}
        assert len(held.loader.bodies) == 2
        version.end_run()

    held.run(main)


def test_an_unload_fails_the_requests_that_wait_behind_it(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        held.loader.runners[0].closing.clear()
        version.begin_run()
        unloading = asyncio.create_task(held.repository.unload(ID))
        version.end_run()
        await settled(lambda: held.loader.runners[0].closed == 1)
        assert await code_of(held.repository.bring(version)) == "model.not_loaded"
        held.loader.runners[0].closing.set()
        await unloading
        # One that has begun to wait for the version before it is unloaded.
        version.state = State.READY
        await version.lock.acquire()
        version.begin_run()
        bringing = asyncio.create_task(code_of(held.repository.bring(version)))
        await asyncio.sleep(0)
        draining = asyncio.create_task(version.drain("unloaded"))
        assert await bringing == "model.not_loaded"
        version.end_run()
        await draining
        version.lock.release()

    held.run(main)


def test_a_runner_that_ends_by_itself_is_replaced(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        held.loader.runners[0].ended.set_result("model.crashed")
        await settled(lambda: version.loaded is None)
        await settled(lambda: held.repository.memory.used == 0)
        assert version.state is State.READY
        version.begin_run()
        assert (await held.repository.bring(version)).runner is held.loader.runners[1]
        version.end_run()

    held.run(main)


def test_the_model_used_longest_ago_leaves_for_one_that_comes(held: Fixture) -> None:
    async def main() -> None:
        held.repository.memory.total = BASE + 100
        versions = [await upload(held.repository, size=30) for _ in range(3)]
        assert [version.loaded is None for version in versions] == [True, False, False]
        versions[1].begin_run()
        versions[1].end_run()
        await upload(held.repository, OTHER, size=30)
        assert [version.loaded is None for version in versions] == [True, False, True]
        assert {version.state for version in versions} == {State.READY}
        assert held.repository.memory.used <= held.repository.memory.total

    held.run(main)


def test_a_model_with_runs_never_leaves(held: Fixture) -> None:
    async def main() -> None:
        held.repository.memory.total = BASE + 200
        version = await upload(held.repository, size=90)
        version.begin_run()
        coming = asyncio.create_task(upload(held.repository, OTHER, size=100))
        await asyncio.sleep(0.02)
        assert not coming.done()
        assert version.loaded is not None
        version.end_run()
        await coming
        assert version.loaded is None

    held.run(main)


def test_what_a_run_has_added_is_counted(held: Fixture) -> None:
    async def main() -> None:
        held.repository.memory.total = BASE + 100
        first = await upload(held.repository)
        second = await upload(held.repository)
        held.loader.runners[1].memory = BASE + 95
        second.begin_run()
        second.end_run()
        assert (first.loaded, second.peak) == (None, BASE + 95)
        await held.repository.memory.close()
        assert held.repository.memory.used == BASE + 95

    held.run(main)


def test_the_default_is_the_highest_that_is_ready(held: Fixture) -> None:
    async def main() -> None:
        for _ in range(3):
            await upload(held.repository)
        await held.repository.unload(ID, 3)
        assert held.repository.resolve(ID).version == 2
        await held.repository.unload(ID)
        assert held.repository.resolve(ID).version == 3
        assert [found.version for found in held.repository.versions(ID)] == [1, 2, 3]

    held.run(main)


@pytest.mark.parametrize(
    ("model_id", "version", "size", "code"),
    [
        (ID, None, 401, "quota.model_size"),
        (ID, 1, 1, "model.version_exists"),
        (OTHER, None, 400, "quota.namespace_bytes"),
        (FOREIGN, None, 400, "quota.store"),
        (OTHER, None, 1, "quota.namespace_models"),
        (FOREIGN, None, 260, "quota.memory"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_body(
    model_id: ModelId, version: int | None, size: int, code: str
) -> None:
    held = Fixture(
        max_model_bytes=400,
        max_store_bytes=550,
        max_namespace_bytes=500,
        max_namespace_models=2 if code == "quota.namespace_models" else 3,
        model_memory_bytes=BASE + (519 if code == "quota.memory" else 1000),
    )

    async def main() -> None:
        for _ in range(2):
            await upload(held.repository, size=100)
        with pytest.raises(BlindAIError) as caught:
            held.repository.admit(model_id, version=version, size=size)
        assert caught.value.code == code
        assert held.repository.store.space.used == 200
        assert held.repository.pending == set()

    held.run(main)


def test_uploads_in_progress_count_as_models(held: Fixture) -> None:
    async def main() -> None:
        admissions = [held.repository.admit(ID, version=None, size=1) for _ in range(5)]
        assert [admission.version for admission in admissions] == [1, 2, 3, 4, 5]
        with pytest.raises(QuotaExceeded) as caught:
            held.repository.admit(ID, version=None, size=1)
        assert caught.value.code == "quota.models"
        for admission in admissions:
            admission.close()
            admission.close()

    held.run(main)


def test_an_upload_of_unknown_length_grows_within_what_there_is() -> None:
    held = Fixture(max_store_bytes=500)

    async def main() -> None:
        with held.repository.admit(ID, version=None, size=0) as admission:
            admission.grow(500)
            with pytest.raises(QuotaExceeded) as caught:
                admission.grow(1)
            assert caught.value.code == "quota.store"

    held.run(main)


def test_version_numbers_end(held: Fixture) -> None:
    async def main() -> None:
        with held.repository.admit(ID, version=MAX_VERSION, size=1):
            with pytest.raises(InvalidModel) as caught:
                held.repository.admit(ID, version=None, size=1)
            assert caught.value.code == "model.version_exists"

    held.run(main)


class RepositoryMachine(RuleBasedStateMachine):
    """Any sequence of uploads, failures, loads, unloads, deletes and runs: nothing is lost or counted twice."""

    ids = st.sampled_from([ID, OTHER, FOREIGN])
    versions = st.none() | st.integers(1, 4)

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.fixture = Fixture(
            model_memory_bytes=BASE + 300,
            max_model_bytes=100,
            max_models=6,
            max_store_bytes=300,
            max_namespace_bytes=200,
            max_namespace_models=5,
        )
        self.repository = self.fixture.repository
        # (id, version) -> (size, ready)
        self.model: dict[tuple[ModelId, int], tuple[int, bool]] = {}
        self.runs: list[ModelVersion] = []

    def do(self, run: Awaitable[object]) -> str:
        code = self.loop.run_until_complete(code_of(run))
        assert isinstance(code, str)
        return code

    def busy(self, model_id: ModelId, version: int | None) -> bool:
        return any(run.id == model_id and version in {None, run.version} for run in self.runs)

    def expected(self, model_id: ModelId, version: int | None) -> list[tuple[ModelId, int]]:
        return sorted(key for key in self.model if key[0] == model_id and version in {None, key[1]})

    @rule(model_id=ids, version=versions, size=st.integers(3, 120), bad=st.booleans())
    def upload(self, model_id: ModelId, version: int | None, size: int, bad: bool) -> None:
        numbers = [key[1] for key in self.model if key[0] == model_id]
        of_namespace = [size for key, (size, _) in self.model.items() if key[0].namespace == model_id.namespace]
        code = self.do(upload(self.repository, model_id, size, bad=bad, version=version))
        if size > 100:
            assert code == "quota.model_size"
        elif version in numbers:
            assert code == "model.version_exists"
        elif len(self.model) >= 6:
            assert code == "quota.models"
        elif len(of_namespace) >= 5:
            assert code == "quota.namespace_models"
        elif sum(of_namespace) + size > 200:
            assert code == "quota.namespace_bytes"
        elif self.stored() + size > 300:
            assert code == "quota.store"
        elif bad:
            assert code == "model.invalid"
        else:
            assert code == ""
            self.model[model_id, version or max(numbers, default=0) + 1] = (size, True)

    @rule(model_id=ids, version=versions)
    def load(self, model_id: ModelId, version: int | None) -> None:
        keys = self.expected(model_id, version)
        assert self.do(self.repository.load(model_id, version)) == ("" if keys else "model.not_found")
        for key in keys:
            self.model[key] = (self.model[key][0], True)
        if keys:
            assert self.repository.resolve(*keys[-1]).loaded is not None

    @rule(model_id=ids, version=versions)
    def unload(self, model_id: ModelId, version: int | None) -> None:
        if self.busy(model_id, version):
            return
        keys = self.expected(model_id, version)
        assert self.do(self.repository.unload(model_id, version)) == ("" if keys else "model.not_found")
        for key in keys:
            self.model[key] = (self.model[key][0], False)

    @rule(model_id=ids, version=versions)
    def delete(self, model_id: ModelId, version: int | None) -> None:
        if self.busy(model_id, version):
            return
        keys = self.expected(model_id, version)
        assert self.do(self.repository.delete(model_id, version)) == ("" if keys else "model.not_found")
        for key in keys:
            del self.model[key]

    @precondition(lambda self: not self.runs)
    @rule(model_id=ids)
    def begin_run(self, model_id: ModelId) -> None:
        ready = [key[1] for key, (_, is_ready) in self.model.items() if key[0] == model_id and is_ready]
        if ready:
            version = self.repository.resolve(model_id)
            assert version.version == max(ready)
            version.begin_run()
            self.runs.append(version)
            assert self.do(self.repository.bring(version)) == ""

    @precondition(lambda self: self.runs)
    @rule()
    def end_run(self) -> None:
        self.runs.pop().end_run()

    def stored(self) -> int:
        return sum(size for size, _ in self.model.values())

    @invariant()
    def memory_and_index_agree(self) -> None:
        self.loop.run_until_complete(self.repository.memory.close())
        memory = self.repository.memory
        assert self.repository.store.space.used == self.stored()
        assert memory.used == sum(version.uploaded for version in self.repository if version.loaded) <= memory.total
        assert memory.claims == sum(1 for version in self.repository if version.loaded)
        assert all(run.loaded for run in self.runs)
        assert self.repository.pending == set()
        found = {(v.id, v.version): (v.uploaded, v.state is State.READY) for v in self.repository}
        assert found == self.model
        assert not any(version.loaded for version in self.repository if version.state is not State.READY)

    def teardown(self) -> None:
        for run in self.runs:
            run.end_run()
        self.loop.run_until_complete(self.fixture.close())
        assert self.repository.memory.used == self.repository.memory.claims == self.repository.store.space.used == 0
        self.loop.close()


RepositoryMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRepositoryMachine = RepositoryMachine.TestCase
