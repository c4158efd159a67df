"""The models of an enclave: their names, and their way from the disk into memory and out of it.

Everything here runs on the event loop, so that no step between two `await`s can be seen half done; models are decrypted
and loaded elsewhere. There is no lock over all models: each version has its own, held while that version is loaded,
unloaded or deleted. An upload is kept only if it could be loaded; from then on its version is READY, in memory or not.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import structlog

from blindai.enclave.cloud.quotas import no_models_left
from blindai.enclave.limits import COPIES_WHILE_LOADED, LOAD_BYTES
from blindai.enclave.models.description import Description, Trial
from blindai.enclave.models.inline_copy import is_light, may_have_copy, open_copy
from blindai.enclave.models.model_id import MAX_VERSION
from blindai.enclave.models.model_version import Loaded, ModelVersion, State, not_found
from blindai.enclave.models.residency import Residency
from blindai.enclave.models.sealed_model import close_wiped, load_sealed, read_sealed_head
from blindai.enclave.models.store import Store
from blindai.enclave.running.thread_runner import ThreadRunner
from blindai.errors import BlindAIError, InvalidInput, InvalidModel, QuotaExceeded
from blindai.wire.cloud import ModelVisibility, Visibility

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from blindai.crypto.stream import Buffer
    from blindai.enclave.config import EnclaveConfig
    from blindai.enclave.engine import Engine, Session
    from blindai.enclave.models.model_id import ModelId
    from blindai.enclave.models.plain_model import PlainModel
    from blindai.enclave.models.residency import Claim
    from blindai.enclave.models.sealed_model import SealedSource
    from blindai.enclave.models.store import Draft, Space, StoredModel
    from blindai.enclave.running.runner import Loader, Runner
    from blindai.enclave.running.thread_runner import RunningThreads
    from blindai.wire.cloud import Quotas

_log = structlog.get_logger("blindai.enclave")

# Uploads that are loaded and tried out at once; more of them would take time from inference.
FIRST_LOADS: Final = 2

# Models that come back at once. A place of their own: uploads that take as long as they may must not keep them waiting.
RELOADS: Final = 4

# Loads of models that were lent.
_LEASED_LOADS: Final = 2

_DAMAGED: Final = "model.store_damaged"

_PRIVATE: Final = ModelVisibility(Visibility.PRIVATE)

_Result = TypeVar("_Result")


class Admission:
    """A name for one model that is being uploaded, and room for its body.

    Use it as a context: unless `Repository.commit` took it over, everything is given back at the end.

    Args:
        repository: where to.
        model_id, version: the name, which nothing has yet.
        space: room in the store; None for a model that is not stored.
    """

    def __init__(self, repository: Repository, model_id: ModelId, version: int, space: Space | None) -> None:
        self.id = model_id
        self.version = version
        self._repository = repository
        self._space = space
        self._draft: Draft | None = None
        self._held = True
        repository.pending.add((model_id, version))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._held:
            self.close()

    def begin(self, *, bundle: bool, observe: Callable[[bytearray], None]) -> Draft:
        """As `Store.begin`."""
        if self._space is None:
            raise AssertionError("there is no room for a body")
        self._draft = self._repository.store.begin(self._space, bundle=bundle, observe=observe)
        return self._draft

    def grow(self, size: int) -> None:
        """Make room for `size` bytes more.

        Raises:
            QuotaExceeded: `quota.account_bytes`, `quota.namespace_bytes`, `quota.store`.
        """
        if self._space is not None:
            self._space.grow(size)

    def take_over(self) -> None:
        """Whoever calls closes it; the end of the context no longer does."""
        self._held = False

    def keep(self) -> None:
        """The model is stored: only the name is not an upload any more."""
        self._repository.pending.discard((self.id, self.version))
        self._draft = self._space = None

    def close(self) -> None:
        """Give back what is held; harmless when repeated."""
        self._repository.pending.discard((self.id, self.version))
        if self._draft is not None:
            self._draft.discard()
        elif self._space is not None:
            self._space.release()


class Repository:
    """All models of one enclave.

    Args:
        loader: loads what was uploaded.
        engine: loads models that were lent.
        config: how much there may be.
        threads: where models run that were lent.
        spool: folder for what was uploaded; see `Store`.

    Attributes:
        memory: who holds what is in memory of all of them.
        store: what is on disk of all of them.
        pending: names of uploads in progress; they count as models but cannot be seen.
        loads: how many times a model was brought into memory.
        generation: changes whenever what a name resolves to may have changed.
    """

    def __init__(
        self,
        loader: Loader,
        engine: Engine,
        config: EnclaveConfig,
        threads: RunningThreads,
        *,
        spool: Path | None = None,
    ) -> None:
        self.memory = Residency(config.limits.model_memory_bytes)
        self.store = Store(config.limits, spool)
        self.pending: set[tuple[ModelId, int]] = set()
        self.generation = 0
        self.loads = 0
        self._loader = loader
        self._engine = engine
        self._threads = threads
        self._limits = config.limits
        self._runtime = config.runtime
        self._models: dict[ModelId, dict[int, ModelVersion]] = {}
        self._visibilities: dict[ModelId, ModelVisibility] = {}  # of those that are not private
        self._first_loads = asyncio.Semaphore(FIRST_LOADS)
        self._reloads = asyncio.Semaphore(RELOADS)
        self._opening = ThreadPoolExecutor(_LEASED_LOADS, thread_name_prefix="load")
        self._tasks: set[asyncio.Task[Any]] = set()

    def admit(self, model_id: ModelId, *, version: int | None, size: int, quotas: Quotas | None = None) -> Admission:
        """Make room for an upload before its body is read.

        Args:
            model_id: whose version it will be.
            version: its number; None takes the next one.
            size: bytes it will have; 0 when not known yet (see `Admission.grow`).
            quotas: of the account that the namespace is, in a cloud.

        Raises:
            QuotaExceeded: `quota.model_size`, `quota.models`, `quota.namespace_models`, `quota.memory` for what could
                never be loaded, `quota.namespace_bytes`, `quota.store`; `quota.account_models`, `quota.account_bytes`.
            InvalidModel: `model.version_exists`.
        """
        number = self._admit_name(model_id, version, size)
        taken = [name for name, _ in self.pending] + [found.id for found in self]
        count = sum(name.namespace == model_id.namespace for name in taken)
        if quotas is not None and count >= quotas.models:
            raise no_models_left(quotas.models)
        if count >= self._limits.max_namespace_models:
            raise QuotaExceeded(
                f"the namespace has {self._limits.max_namespace_models} models, as many as it may",
                code="quota.namespace_models",
                hint="delete a model of this namespace first",
            )
        self.memory.refuse_too_large(_first_need(size))
        allowed = None if quotas is None else quotas.model_bytes
        return Admission(self, model_id, number, self.store.reserve(model_id.namespace, size, allowed=allowed))

    async def commit(self, admission: Admission, stored: StoredModel) -> ModelVersion:
        """Load an uploaded model and, once that worked, make it visible. Takes the admission over.

        Raises:
            InvalidModel: `model.*`; nothing is stored.
            QuotaExceeded: `quota.memory`, `quota.run_memory`, `quota.load_time`.
            Unavailable: `busy`, `unavailable.store`.
        """
        admission.take_over()
        return await self._complete(self._commit(admission, stored))

    async def install_leased(
        self, model_id: ModelId, source: SealedSource, data_key: Buffer, *, model_digest: str, version: int = 1
    ) -> ModelVersion:
        """Open a sealed model, load it and make it visible. Of its plaintext only the session is kept.

        A version that was revoked is replaced. Where this fails or is cancelled, nothing of the model stays in memory,
        and there is no version.

        Args:
            model_id: the name that it is served under.
            source: the file.
            data_key: its key, which whoever calls wipes when this has ended.
            model_digest: by the grant: what the file must hold.
            version: the version's number.

        Raises:
            InvalidModel: `model.sealed_*`, `model.version_exists`, or the engine's refusal; what `source` raises.
            QuotaExceeded: `quota.model_size`, `quota.models`, `quota.memory`.
            Unavailable: `busy`.
        """
        head = await read_sealed_head(source, model_digest)
        size = head.header.size
        self._forget_revoked(model_id, version)
        loop = asyncio.get_running_loop()
        installed: list[ModelVersion] = []
        given_up = False

        def read(offset: int, length: int) -> Future[bytes]:
            return asyncio.run_coroutine_threadsafe(source.read(offset, length), loop)

        admission = Admission(self, model_id, self._admit_name(model_id, version, size), None)

        async def load() -> None:
            claim = None
            with admission:
                # The second copy is the plaintext, until it was loaded.
                claim = await self.memory.claim(size * COPIES_WHILE_LOADED)
                try:
                    session = await loop.run_in_executor(self._opening, load_sealed, self._engine, head, data_key, read)
                    if given_up:
                        await self._threads.free_session(close_wiped, session)
                        return
                    description = _lent(session, self._engine, size)
                    runner = ThreadRunner(session, description, self._threads, free=close_wiped)
                    made = ModelVersion(
                        model_id,
                        version,
                        self.memory,
                        description=description,
                        leased=True,
                        sha256=head.header.model_digest,
                        uploaded=size,
                    )
                    made.enter(Loaded(description, runner, session), claim)
                    claim = None
                    self._add(made)
                    installed.append(made)
                finally:
                    if claim is not None:
                        claim.release()

        try:
            await self._complete(load())
        except asyncio.CancelledError:
            # Nobody is left who could revoke it.
            given_up = True
            for found in installed:
                await self.revoke(found, reason="cancelled")
            raise
        return installed[0]

    async def revoke(self, leased: ModelVersion, *, reason: str, cancel: Callable[[], None] = lambda: None) -> None:
        """Take a model that was lent out of memory: no run begins from now on, and the last one is not waited for long.

        Its name stays, unavailable for `reason`, until it is installed again. Harmless when repeated. The threads that
        ran it still have their stacks: see `residue.wipe_threads`.

        Args:
            leased: what `install_leased` returned.
            reason: why, as a code.
            cancel: cancels the runs in progress, each of which ends before its next operator; called when no other can
                begin any more.
        """
        if leased.loaded is not None:
            leased.bar(reason)
        cancel()
        await self._complete(_revoke(leased, reason))

    async def bring(self, version: ModelVersion) -> Loaded:
        """A version that is READY, in memory. Whoever has begun a run of it finds it there until that has ended.

        Raises:
            ModelNotFound: `model.not_loaded`, it is not READY any more.
            InvalidModel: `model.store_damaged`; `model.crashed` and whatever else loading it again shows.
            QuotaExceeded: `quota.memory`, `quota.run_memory`, `quota.load_time`.
            Unavailable: `busy`, `unavailable.store`.
        """
        loaded = version.loaded
        if loaded is not None:
            return loaded
        if version.state is not State.READY:
            raise version.not_loaded()
        bringing = version.bringing
        if bringing is None:
            bringing = version.bringing = self._begin(self._bring(version))
            bringing.add_done_callback(lambda _: _brought(version))
        try:
            return await asyncio.shield(bringing)
        except asyncio.CancelledError:
            if bringing.cancelled() and version.state is not State.READY:
                raise version.not_loaded() from None
            raise

    def withdraw(self, version: ModelVersion, reason: str) -> None:
        """Make a version unavailable for `reason`, a code, until its owner loads it again; no run begins any more."""
        if version.state is State.READY:
            version.bar(reason)
            self._begin(_withdraw(version, reason))

    def resolve(self, model_id: ModelId, version: int | None = None) -> ModelVersion:
        """Find a version: the one named, else the highest that is ready, else the highest.

        Raises:
            ModelNotFound: `model.not_found`.
        """
        versions = self._models.get(model_id, {})
        if version is None:
            ready = [number for number, found in versions.items() if found.state is State.READY]
            version = max(ready or versions, default=0)
        try:
            return versions[version]
        except KeyError:
            wanted = f"version {version} of the model {model_id}" if versions else f"the model {model_id}"
            raise not_found(wanted) from None

    def versions(self, model_id: ModelId, version: int | None = None) -> list[ModelVersion]:
        """One version, or all of a model, lowest first.

        Raises:
            ModelNotFound: `model.not_found`.
        """
        found = self.resolve(model_id, version)
        return [found] if version is not None else [self._models[model_id][n] for n in sorted(self._models[model_id])]

    def visibility(self, model_id: ModelId) -> ModelVisibility:
        """Who may query a model, besides its own account; what does not exist is as private as what was not shared."""
        return self._visibilities.get(model_id, _PRIVATE)

    def show(self, model_id: ModelId, to: ModelVisibility) -> None:
        """Let others query a model, or none, until all its versions are deleted.

        Raises:
            ModelNotFound: `model.not_found`.
            InvalidInput: `lease.managed`.
        """
        self._unleased(model_id, None)
        if to.visibility is Visibility.PRIVATE:
            self._visibilities.pop(model_id, None)
        else:
            self._visibilities[model_id] = to
        self.generation += 1

    def __iter__(self) -> Iterator[ModelVersion]:
        """All versions of all models, by name and number."""
        for model_id in sorted(self._models):
            for number in sorted(self._models[model_id]):
                yield self._models[model_id][number]

    async def load(self, model_id: ModelId, version: int | None = None) -> None:
        """Make one version, or all of a model, ready, and bring it into memory.

        Raises:
            ModelNotFound: `model.not_found`.
            InvalidModel, QuotaExceeded, Unavailable: as `bring`.
        """
        for found in self._unleased(model_id, version):
            await self._complete(self._load(found))

    async def unload(self, model_id: ModelId, version: int | None = None) -> None:
        """Take one version, or all of a model, out of memory when their last runs have ended, until they are loaded.

        Raises:
            ModelNotFound: `model.not_found`.
        """
        for found in self._unleased(model_id, version):
            await self._complete(_unload(found))

    async def delete(self, model_id: ModelId, version: int | None = None) -> None:
        """Remove one version, or all of a model: from sight at once, from memory when their last runs have ended.

        Raises:
            ModelNotFound: `model.not_found`.
        """
        doomed = self._unleased(model_id, version)
        for found in doomed:
            del self._models[model_id][found.version]
        if not self._models[model_id]:
            del self._models[model_id]
            self._visibilities.pop(model_id, None)
        self.generation += 1
        for found in doomed:
            await self._complete(_discard(found))

    async def close(self) -> None:
        """Let loads in progress end, then free everything."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        for leased in [found for found in self if found.leased]:
            await self.revoke(leased, reason="closing")
            self._forget_revoked(leased.id, leased.version)
        for model_id in list(self._models):
            await self.delete(model_id)
        await self.memory.close()
        self._opening.shutdown()
        self.store.close()

    def _admit_name(self, model_id: ModelId, version: int | None, size: int) -> int:
        """The number of a new version.

        Raises:
            QuotaExceeded: `quota.model_size`, `quota.models`.
            InvalidModel: `model.version_exists`.
        """
        if size > self._limits.max_model_bytes:
            raise model_too_large(self._limits.max_model_bytes)
        taken = {*self._models.get(model_id, ()), *(number for name, number in self.pending if name == model_id)}
        if version in taken:
            raise InvalidModel(
                f"version {version} of the model {model_id} exists",
                code="model.version_exists",
                hint="delete it first, or leave the version out to add the next one",
            )
        if len(self.pending) + sum(map(len, self._models.values())) >= self._limits.max_models:
            raise QuotaExceeded(
                f"the enclave holds {self._limits.max_models} models, as many as it may",
                code="quota.models",
                hint="delete a model first",
            )
        number = version if version is not None else max(taken, default=0) + 1
        if number > MAX_VERSION:
            raise InvalidModel(f"the model {model_id} has no version number left", code="model.version_exists")
        return number

    async def _commit(self, admission: Admission, stored: StoredModel) -> ModelVersion:
        try:
            claim = await self.memory.claim(_first_need(stored.size))
            try:
                async with self._first_loads:
                    loaded = await self._open(stored, None)
            except BaseException:
                claim.release()
                raise
            version = ModelVersion(
                admission.id,
                admission.version,
                self.memory,
                description=loaded.description,
                content=stored,
                sha256=stored.sha256,
                uploaded=stored.size,
            )
            admission.keep()
        finally:
            admission.close()
        self._enter(version, loaded, claim)
        self._add(version)
        return version

    async def _bring(self, version: ModelVersion) -> Loaded:
        async with version.lock:
            version.bringing = None
            if version.state is not State.READY:
                raise version.not_loaded()
            return version.loaded or await self._reload(version)

    async def _load(self, version: ModelVersion) -> None:
        async with version.lock:
            if version.deleted:
                raise not_found(f"version {version.version} of the model {version.id}")
            if version.loaded is not None:
                return
            ready = version.state is State.READY
            if not ready:
                version.state, version.reason = State.LOADING, ""
            try:
                await self._reload(version)
            except BlindAIError as error:
                if not ready:
                    version.state, version.reason = State.UNAVAILABLE, error.code
                raise
            version.state = State.READY

    async def _reload(self, version: ModelVersion) -> Loaded:
        """Load what is stored of a version again. With its lock held."""
        content = version.content
        if content is None:
            raise version.not_loaded()
        # What it was seen to hold, and the body, which is in memory beside it until it is loaded.
        claim = await self.memory.claim(min(version.peak + content.size, self.memory.total))
        try:
            async with self._reloads:
                loaded = await self._open(content, version.description.trial)
        except BaseException as error:
            claim.release()
            if isinstance(error, InvalidModel) and error.code == _DAMAGED:
                version.state, version.reason = State.UNAVAILABLE, error.code
                self.generation += 1
            raise
        self._enter(version, loaded, claim)
        return loaded

    async def _open(self, content: StoredModel, trial: Trial | None) -> Loaded:
        with await self.store.open(content) as plain:
            runner = await self._loader.load(plain, trial=trial)
            if isinstance(runner, ThreadRunner):
                return Loaded(runner.description, runner, runner.session)
            try:
                return await self._beside(plain, runner)
            except BaseException:
                await runner.close()
                raise

    async def _beside(self, plain: PlainModel, runner: Runner) -> Loaded:
        """Add a second copy, in the server's own process, of a model that may run there."""
        if not (may_have_copy(runner.description, plain.size, self._runtime) and is_light(runner)):
            return Loaded(runner.description, runner)
        session = await asyncio.get_running_loop().run_in_executor(self._opening, open_copy, plain)
        return Loaded(runner.description, runner, session, copied=session is not None)

    def _enter(self, version: ModelVersion, loaded: Loaded, claim: Claim) -> None:
        version.enter(loaded, claim)
        self.loads += 1
        _log.info(
            "model_loaded", model=version.model_name, version=version.number, engine=loaded.description.trial.engine
        )
        loaded.runner.ended.add_done_callback(lambda _: self._ended(version, loaded))

    def _ended(self, version: ModelVersion, loaded: Loaded) -> None:
        """A runner has ended. Where nobody wanted that, the next request starts another."""
        reason = "" if loaded.runner.ended.cancelled() else loaded.runner.ended.result()
        if version.loaded is loaded:
            _log.warning("model_ended", model=version.model_name, version=version.number, reason=reason)
            claim, leaving = version.leave()
            self._begin(_release_after(leaving, claim))

    def _add(self, version: ModelVersion) -> None:
        self._models.setdefault(version.id, {})[version.version] = version
        self.generation += 1

    def _unleased(self, model_id: ModelId, version: int | None) -> list[ModelVersion]:
        """As `versions`, for what the owner of the enclave may change: not a model that was lent.

        Raises:
            ModelNotFound: `model.not_found`.
            InvalidInput: `lease.managed`.
        """
        found = self.versions(model_id, version)
        if any(one.leased for one in found):
            raise InvalidInput(
                f"the model {model_id} was lent, and only its custodian's lease loads and unloads it",
                code="lease.managed",
            )
        return found

    def _forget_revoked(self, model_id: ModelId, version: int) -> None:
        """Make the name of a revoked version free."""
        found = self._models.get(model_id, {}).get(version)
        if found is not None and found.leased and found.loaded is None and found.state is State.UNAVAILABLE:
            del self._models[model_id][version]
            if not self._models[model_id]:
                del self._models[model_id]
            self.generation += 1

    async def _complete(self, change: Coroutine[None, None, _Result]) -> _Result:
        """Carry a change through even if the caller, whose client may have gone, is cancelled."""
        return await asyncio.shield(self._begin(change))

    def _begin(self, change: Coroutine[None, None, _Result]) -> asyncio.Task[_Result]:
        task = asyncio.ensure_future(change)
        self._tasks.add(task)
        task.add_done_callback(self._completed)
        return task

    def _completed(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self.generation += 1
        if not task.cancelled():
            task.exception()  # seen here, so that asyncio does not report it when nobody waits any more


async def _unload(version: ModelVersion) -> None:
    async with version.lock:
        if version.state is State.READY:
            await version.drain()
            version.state, version.reason = State.UNAVAILABLE, "unloaded"


async def _withdraw(version: ModelVersion, reason: str) -> None:
    async with version.lock:
        if version.state is State.UNLOADING:  # else its owner has loaded it again already
            await version.drain(reason)
            version.state = State.UNAVAILABLE


async def _discard(version: ModelVersion) -> None:
    """As `_unload`, and delete the content too. The version is of no use afterwards."""
    async with version.lock:
        await version.drain()
        version.state, version.deleted = State.UNAVAILABLE, True
        if version.content is not None:
            version.content.delete()
            version.content = None


async def _revoke(version: ModelVersion, reason: str) -> None:
    async with version.lock:
        if version.loaded is not None:
            await version.drain(reason)
            version.state = State.UNAVAILABLE


async def _release_after(leaving: Coroutine[None, None, None], claim: Claim) -> None:
    try:
        await leaving
    finally:
        claim.release()


def _brought(version: ModelVersion) -> None:
    version.bringing = None


def _first_need(size: int) -> int:
    """What a model is taken to need while it is loaded for the first time."""
    return size * COPIES_WHILE_LOADED + LOAD_BYTES


def _lent(session: Session, engine: Engine, size: int) -> Description:
    trial = Trial(engine=engine.platform, threads=1, precision="float32")
    return Description(
        inputs=session.inputs,
        outputs=session.outputs,
        platform=engine.platform,
        memory=size,
        trial=trial,
        optional=session.optional,
    )


def model_too_large(limit: int) -> QuotaExceeded:
    """The refusal of a model above the limit for one model."""
    return QuotaExceeded(f"a model may have up to {limit} bytes", code="quota.model_size")
