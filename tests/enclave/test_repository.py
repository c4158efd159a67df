"""The repository against a simple model of it, with an engine that can be held in the middle of a load."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Mapping
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from blindai.enclave.config import Limits
from blindai.enclave.engine import Session
from blindai.enclave.model_id import MAX_VERSION, ModelId
from blindai.enclave.model_version import Content, ModelVersion, State
from blindai.enclave.repository import Repository
from blindai.errors import BlindAIError, InvalidModel, ModelNotFound, QuotaExceeded

ID = ModelId("acme", "net")
OTHER = ModelId("acme", "other")


class HeldEngine:
    """Loads anything but b"bad", once `gate` is open."""

    platform = "held"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.loads = 0

    def load(self, model: Any, external: Mapping[str, Any]) -> Session:
        assert self.gate.wait(20)
        self.loads += 1
        if bytes(model[:3]) == b"bad":
            raise InvalidModel("bad", code="model.invalid")
        return cast(Session, object())


def content(size: int, *, bad: bool = False) -> Content:
    return Content((b"bad" if bad else b"abc")[:size].ljust(size, b"."), {}, "0" * 64, size)


async def upload(
    repository: Repository, model_id: ModelId = ID, size: int = 10, *, bad: bool = False, version: int | None = None
) -> ModelVersion:
    with repository.admit(model_id, version=version, size=size) as admission:
        return await repository.commit(admission, content(size, bad=bad))


def code_of(run: Awaitable[object]) -> Any:
    async def wrapped() -> str:
        try:
            await run
        except BlindAIError as error:
            return error.code
        return ""

    return wrapped()


class Fixture:
    def __init__(self, **limits: int) -> None:
        self.engine = HeldEngine()
        self.repository = Repository(self.engine, Limits(**limits))


@pytest.fixture
def held() -> Fixture:
    return Fixture(model_memory_bytes=1000, max_model_bytes=400, max_models=5)


def test_an_upload_is_ready_and_counted_twice(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        assert (version.number, version.state) == ("1", State.READY)
        assert held.repository.memory.used == 20
        assert (await upload(held.repository)).number == "2"
        assert held.repository.resolve(ID).version == 2
        await held.repository.close()
        assert held.repository.memory.used == 0

    asyncio.run(main())


def test_a_bad_model_leaves_nothing(held: Fixture) -> None:
    async def main() -> None:
        assert await code_of(upload(held.repository, bad=True)) == "model.invalid"
        assert (list(held.repository), held.repository.pending, held.repository.memory.used) == ([], set(), 0)

    asyncio.run(main())


def test_nothing_shows_while_an_upload_loads(held: Fixture) -> None:
    async def main() -> None:
        held.engine.gate.clear()
        loading = asyncio.create_task(upload(held.repository))
        await asyncio.sleep(0.01)
        assert held.repository.pending
        assert list(held.repository) == []
        with pytest.raises(ModelNotFound) as caught:
            held.repository.resolve(ID)
        assert caught.value.code == "model.not_found"
        held.engine.gate.set()
        assert (await loading).state is State.READY

    asyncio.run(main())


def test_a_load_is_carried_through_when_its_caller_is_cancelled(held: Fixture) -> None:
    async def main() -> None:
        held.engine.gate.clear()
        loading = asyncio.create_task(upload(held.repository))
        await asyncio.sleep(0.01)
        assert held.repository.pending
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        # The thread still uses the memory, so it is still counted.
        assert held.repository.memory.used == 20
        held.engine.gate.set()
        await held.repository.close()
        assert (held.repository.memory.used, held.repository.pending) == (0, set())

    asyncio.run(main())


def test_a_model_that_loads_blocks_no_other(held: Fixture) -> None:
    async def main() -> None:
        ready = await upload(held.repository)
        held.engine.gate.clear()
        loading = asyncio.create_task(upload(held.repository, OTHER))
        await asyncio.sleep(0.01)
        assert held.repository.resolve(ID) is ready
        ready.begin_run()
        ready.end_run()
        await held.repository.unload(ID)
        await held.repository.delete(ID)
        held.engine.gate.set()
        await loading

    asyncio.run(main())


def test_an_unload_waits_for_runs_and_refuses_new_ones(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        version.begin_run()
        unloading = asyncio.create_task(held.repository.unload(ID))
        await asyncio.sleep(0.01)
        assert (version.state, held.repository.memory.used) == (State.UNLOADING, 20)
        with pytest.raises(ModelNotFound) as caught:
            version.begin_run()
        assert caught.value.code == "model.not_loaded"
        version.end_run()
        await unloading
        assert (version.state, version.session, held.repository.memory.used) == (State.UNAVAILABLE, None, 10)
        await held.repository.load(ID)
        assert (version.state, held.repository.memory.used) == (State.READY, 20)

    asyncio.run(main())


def test_a_delete_hides_at_once_and_frees_after_the_last_run(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        version.begin_run()
        deleting = asyncio.create_task(held.repository.delete(ID))
        await asyncio.sleep(0.01)
        assert list(held.repository) == []
        assert held.repository.memory.used == 20
        version.end_run()
        await deleting
        assert held.repository.memory.used == 0

    asyncio.run(main())


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
        assert held.repository.memory.used == 0

    asyncio.run(main())


def test_a_reload_that_fails_says_why(held: Fixture) -> None:
    async def main() -> None:
        version = await upload(held.repository)
        await held.repository.unload(ID)
        version.content = version.content._replace(model=b"bad.......")
        assert await code_of(held.repository.load(ID)) == "model.invalid"
        assert (version.state, version.reason) == (State.UNAVAILABLE, "model.invalid")
        assert held.repository.memory.used == 10

    asyncio.run(main())


def test_the_default_is_the_highest_that_is_ready(held: Fixture) -> None:
    async def main() -> None:
        for _ in range(3):
            await upload(held.repository)
        await held.repository.unload(ID, 3)
        assert held.repository.resolve(ID).version == 2
        await held.repository.unload(ID)
        assert held.repository.resolve(ID).version == 3
        assert [found.version for found in held.repository.versions(ID)] == [1, 2, 3]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("model_id", "version", "size", "code"),
    [
        (ID, None, 401, "quota.model_size"),
        (ID, 1, 1, "model.version_exists"),
        (OTHER, None, 400, "quota.memory"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_body(
    held: Fixture, model_id: ModelId, version: int | None, size: int, code: str
) -> None:
    async def main() -> None:
        await upload(held.repository, size=150)
        with pytest.raises(BlindAIError) as caught:
            held.repository.admit(model_id, version=version, size=size)
        assert caught.value.code == code
        assert held.repository.memory.used == 300
        assert held.repository.pending == set()

    asyncio.run(main())


def test_uploads_in_progress_count_as_models(held: Fixture) -> None:
    admissions = [held.repository.admit(ID, version=None, size=1) for _ in range(5)]
    assert [admission.version for admission in admissions] == [1, 2, 3, 4, 5]
    with pytest.raises(QuotaExceeded) as caught:
        held.repository.admit(ID, version=None, size=1)
    assert caught.value.code == "quota.models"
    for admission in admissions:
        admission.close()
        admission.close()
    assert (held.repository.memory.used, held.repository.pending) == (0, set())


def test_an_upload_of_unknown_length_grows_within_the_budget(held: Fixture) -> None:
    with held.repository.admit(ID, version=None, size=0) as admission:
        admission.grow(500)
        with pytest.raises(QuotaExceeded) as caught:
            admission.grow(1)
        assert caught.value.code == "quota.memory"
    assert held.repository.memory.used == 0


def test_version_numbers_end() -> None:
    repository = Fixture().repository
    repository.admit(ID, version=MAX_VERSION, size=1)
    with pytest.raises(InvalidModel) as caught:
        repository.admit(ID, version=None, size=1)
    assert caught.value.code == "model.version_exists"


class RepositoryMachine(RuleBasedStateMachine):
    """Any sequence of uploads, failures, loads, unloads, deletes and runs: memory is never lost or counted twice."""

    ids = st.sampled_from([ID, OTHER])
    versions = st.none() | st.integers(1, 4)

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.fixture = Fixture(model_memory_bytes=300, max_model_bytes=100, max_models=6)
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

    @rule(model_id=ids, version=versions, size=st.integers(1, 120), bad=st.booleans())
    def upload(self, model_id: ModelId, version: int | None, size: int, bad: bool) -> None:
        numbers = [key[1] for key in self.model if key[0] == model_id]
        code = self.do(upload(self.repository, model_id, max(size, 3), bad=bad, version=version))
        size = max(size, 3)
        if size > 100:
            assert code == "quota.model_size"
        elif version in numbers:
            assert code == "model.version_exists"
        elif len(self.model) >= 6:
            assert code == "quota.models"
        elif self.memory() + 2 * size > 300:
            assert code == "quota.memory"
        elif bad:
            assert code == "model.invalid"
        else:
            assert code == ""
            self.model[model_id, version or max(numbers, default=0) + 1] = (size, True)

    @rule(model_id=ids, version=versions)
    def load(self, model_id: ModelId, version: int | None) -> None:
        keys = self.expected(model_id, version)
        code = self.do(self.repository.load(model_id, version))
        if not keys:
            assert code == "model.not_found"
        for key in keys:
            size, ready = self.model[key]
            if not ready:
                if self.memory() + size > 300:
                    assert code == "quota.memory"
                    return
                self.model[key] = (size, True)
        assert not keys or code == ""

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
        if version is not None or not keys:
            assert self.do(self.repository.delete(model_id, version)) == ("" if keys else "model.not_found")
        else:
            assert self.do(self.repository.delete(model_id)) == ""
        for key in keys:
            del self.model[key]

    @rule(model_id=ids)
    def begin_run(self, model_id: ModelId) -> None:
        ready = [key[1] for key, (_, is_ready) in self.model.items() if key[0] == model_id and is_ready]
        if ready:
            version = self.repository.resolve(model_id)
            assert version.version == max(ready)
            version.begin_run()
            self.runs.append(version)

    @precondition(lambda self: self.runs)
    @rule()
    def end_run(self) -> None:
        self.runs.pop().end_run()

    def memory(self) -> int:
        return sum(size * (2 if ready else 1) for size, ready in self.model.values())

    @invariant()
    def memory_and_index_agree(self) -> None:
        assert self.repository.memory.used == self.memory()
        assert self.repository.pending == set()
        found = {(v.id, v.version): (v.content.size, v.state is State.READY) for v in self.repository}
        assert found == self.model

    def teardown(self) -> None:
        for run in self.runs:
            run.end_run()
        self.loop.run_until_complete(self.repository.close())
        assert self.repository.memory.used == 0
        self.loop.close()


RepositoryMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRepositoryMachine = RepositoryMachine.TestCase
