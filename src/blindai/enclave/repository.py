"""The models of an enclave. They live in its memory alone: the host's disk is not trusted with them.

Everything here runs on the event loop, so that no step between two `await`s can be seen half done; only
loading a model leaves it, to a thread. There is no lock over all models: each version has its own, held
while that version is loaded, unloaded or deleted. Memory is taken from the budget before it is used and
given back when the last run that needs it has ended.
"""

from __future__ import annotations

import asyncio
import copy
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from blindai.enclave.limits import COPIES_WHILE_LOADED, Budget, Reservation
from blindai.enclave.model_id import MAX_VERSION
from blindai.enclave.model_version import Content, ModelVersion, State, not_found
from blindai.enclave.sealed_model import close_wiped, load_sealed, read_sealed_head
from blindai.errors import InvalidInput, InvalidModel, QuotaExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from concurrent.futures import Future

    from blindai.crypto.stream import Buffer
    from blindai.enclave.config import Limits
    from blindai.enclave.engine import Engine, Session
    from blindai.enclave.model_id import ModelId
    from blindai.enclave.sealed_model import SealedSource

# Loads run beside inference; more of them at once would only slow each other and the inference down.
LOADER_THREADS = 2


class Admission:
    """Room for one model that is being uploaded: memory, a place among the models and a version number.

    Use it as a context: unless `Repository.commit` took it over, everything is given back at the end.
    """

    def __init__(self, repository: Repository, model_id: ModelId, version: int, size: int) -> None:
        self.id = model_id
        self.version = version
        self.memory = Reservation(repository.memory, size * COPIES_WHILE_LOADED)
        self._repository = repository
        self._held = True
        repository.pending.add((model_id, version))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def grow(self, size: int) -> None:
        """Make room for `size` bytes more.

        Raises:
            QuotaExceeded: `quota.memory`.
        """
        self.memory.grow(size * COPIES_WHILE_LOADED)

    def take_over(self) -> Admission:
        """Move what is held to a new admission; closing this one no longer does anything."""
        successor = copy.copy(self)
        self.memory, self._held = Reservation(self._repository.memory), False
        return successor

    def close(self) -> None:
        """Give back what is held; harmless when repeated."""
        self.memory.release()
        if self._held:
            self._repository.pending.discard((self.id, self.version))
            self._held = False


class Repository:
    """All models of one enclave.

    Attributes:
        memory: the budget that all of them share.
        pending: names of uploads in progress; they count as models but cannot be seen.
        generation: changes whenever what a name resolves to may have changed.
    """

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.memory = Budget(limits.model_memory_bytes, _no_memory)
        self.pending: set[tuple[ModelId, int]] = set()
        self.generation = 0
        self._engine = engine
        self._limits = limits
        self._models: dict[ModelId, dict[int, ModelVersion]] = {}
        self._executor = ThreadPoolExecutor(LOADER_THREADS, thread_name_prefix="load")
        # Of its own: models whose load takes for ever must not keep one that was lent in memory.
        self._wiper = ThreadPoolExecutor(1, thread_name_prefix="wipe")
        self._tasks: set[asyncio.Task[None]] = set()

    def admit(self, model_id: ModelId, *, version: int | None, size: int) -> Admission:
        """Make room for an upload before its body is read.

        Args:
            model_id: whose version it will be.
            version: its number; None takes the next one.
            size: bytes it will have; 0 when not known yet (see `Admission.grow`).

        Raises:
            QuotaExceeded: `quota.model_size`, `quota.models` or `quota.memory`.
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
        return Admission(self, model_id, number, size)

    async def commit(self, admission: Admission, content: Content) -> ModelVersion:
        """Load an uploaded model and, once that worked, make it visible. Takes the admission over.

        Raises:
            InvalidModel: from the engine; nothing is stored.
        """
        # Closed by the task that loads, not by a caller who may be cancelled before the thread has ended.
        admitted = admission.take_over()
        version: list[ModelVersion] = []

        async def load() -> None:
            with admitted:
                session = await asyncio.get_running_loop().run_in_executor(
                    self._executor, self._engine.load, content.model, content.external
                )
                version.append(self._install(admitted, content, session))

        await self._complete(load())
        return version[0]

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
        """
        head = await read_sealed_head(source, model_digest)
        size = head.header.size
        self._forget_revoked(model_id, version)
        loop = asyncio.get_running_loop()
        installed: list[ModelVersion] = []
        given_up = False

        def read(offset: int, length: int) -> Future[bytes]:
            return asyncio.run_coroutine_threadsafe(source.read(offset, length), loop)

        with self.admit(model_id, version=version, size=size) as admission:
            admitted = admission.take_over()

        async def load() -> None:
            with admitted:
                session = await loop.run_in_executor(self._executor, load_sealed, self._engine, head, data_key, read)
                if given_up:
                    await loop.run_in_executor(self._wiper, close_wiped, session)
                    return
                # The other half was for the plaintext.
                admitted.memory.shrink_to(size * (COPIES_WHILE_LOADED - 1))
                content = Content(b"", {}, head.header.model_digest, size)
                installed.append(self._add(admitted, content, session, leased=True))

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
        leased.bar(reason)
        cancel()
        await self._complete(leased.revoke(self._wiper, reason))

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

    def __iter__(self) -> Iterator[ModelVersion]:
        """All versions of all models, by name and number."""
        for model_id in sorted(self._models):
            for number in sorted(self._models[model_id]):
                yield self._models[model_id][number]

    async def load(self, model_id: ModelId, version: int | None = None) -> None:
        """Make one version, or all of a model, ready.

        Raises:
            ModelNotFound: `model.not_found`.
            QuotaExceeded: `quota.memory`.
            InvalidModel: from the engine.
        """
        for found in self._unleased(model_id, version):
            await self._complete(found.load(self._engine, self._executor))

    async def unload(self, model_id: ModelId, version: int | None = None) -> None:
        """Free the sessions of one version, or of all of a model, when their last runs have ended.

        Raises:
            ModelNotFound: `model.not_found`.
        """
        for found in self._unleased(model_id, version):
            await self._complete(found.unload())

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
        self.generation += 1
        for found in doomed:
            await self._complete(found.discard())

    async def close(self) -> None:
        """Let loads in progress end, then free everything."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        for leased in [found for found in self if found.leased]:
            await self.revoke(leased, reason="closing")
            self._forget_revoked(leased.id, leased.version)
        for model_id in list(self._models):
            await self.delete(model_id)
        self._executor.shutdown()
        self._wiper.shutdown()

    def _install(self, admission: Admission, content: Content, session: Session) -> ModelVersion:
        # The upload made room for the body; a bundle holds a little less than that.
        admission.memory.shrink_to(content.size * COPIES_WHILE_LOADED)
        return self._add(admission, content, session)

    def _add(self, admission: Admission, content: Content, session: Session, *, leased: bool = False) -> ModelVersion:
        memory, admission.memory = admission.memory, Reservation(self.memory)
        version = ModelVersion(admission.id, admission.version, content, session, memory, leased=leased)
        self._models.setdefault(admission.id, {})[admission.version] = version
        self.generation += 1
        return version

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
        if found is not None and found.leased and found.session is None and found.state is State.UNAVAILABLE:
            del self._models[model_id][version]
            if not self._models[model_id]:
                del self._models[model_id]
            self.generation += 1

    async def _complete(self, change: Coroutine[None, None, None]) -> None:
        """Carry a change through even if the caller, whose client may have gone, is cancelled."""
        task = asyncio.ensure_future(change)
        self._tasks.add(task)
        task.add_done_callback(self._completed)
        await asyncio.shield(task)

    def _completed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.generation += 1
        if not task.cancelled():
            task.exception()  # seen here, so that asyncio does not report it when nobody waits any more


def model_too_large(limit: int) -> QuotaExceeded:
    """The refusal of a model above the limit for one model."""
    return QuotaExceeded(f"a model may have up to {limit} bytes", code="quota.model_size")


def _no_memory(wanted: int, free: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"the enclave has {free} bytes left for models, and this needs {wanted}",
        code="quota.memory",
        hint="delete or unload a model first",
    )
