"""One version of one model: its files, its session, and where it is in its life."""

from __future__ import annotations

import asyncio
import enum
import time
from typing import TYPE_CHECKING, NamedTuple

from blindai.enclave.limits import COPIES_WHILE_LOADED, Reservation
from blindai.enclave.pace import Pace
from blindai.enclave.sealed_model import close_wiped
from blindai.errors import BlindAIError, ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import ThreadPoolExecutor

    from blindai.enclave.engine import Engine, Session
    from blindai.enclave.model_id import ModelId


class State(enum.StrEnum):
    """Where a version is in its life, in the words of the Open Inference Protocol's model repository extension."""

    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"


class Content(NamedTuple):
    """The files of one model as they were uploaded.

    Attributes:
        model: the ONNX file; empty for a model that was lent, of which only its session is kept.
        external: files with external data, by their location relative to the model.
        sha256: digest in hex of the uploaded body: of the ONNX file, or of the bundle as it was sent.
        uploaded: bytes of the uploaded body.
    """

    model: bytes
    external: Mapping[str, bytes]
    sha256: str
    uploaded: int

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return len(self.model) + sum(len(data) for data in self.external.values())


class Times(NamedTuple):
    """Where the time of one run went, in nanoseconds."""

    queue_ns: int
    decode_ns: int
    engine_ns: int
    encode_ns: int

    @property
    def busy_ns(self) -> int:
        """All but the wait for a worker."""
        return self.decode_ns + self.engine_ns + self.encode_ns


class Statistics:
    """What `/stats` tells of one version: counts, and nanoseconds summed over them."""

    __slots__ = (
        "decode_ns",
        "encode_ns",
        "engine_ns",
        "failures",
        "failures_ns",
        "last_ms",
        "queue_ns",
        "successes",
        "successes_ns",
    )

    def __init__(self) -> None:
        self.successes = 0
        self.successes_ns = 0
        self.failures = 0
        self.failures_ns = 0
        self.queue_ns = 0
        self.decode_ns = 0
        self.engine_ns = 0
        self.encode_ns = 0
        self.last_ms = 0

    def succeeded(self, times: Times) -> None:
        """Count a run."""
        self.successes += 1
        self.successes_ns += times.queue_ns + times.busy_ns
        self.queue_ns += times.queue_ns
        self.decode_ns += times.decode_ns
        self.engine_ns += times.engine_ns
        self.encode_ns += times.encode_ns
        self.last_ms = time.time_ns() // 1_000_000

    def failed(self, ns: int) -> None:
        """Count a run that failed after `ns`."""
        self.failures += 1
        self.failures_ns += ns


class ModelVersion:
    """One version of a model.

    Attributes:
        id, version: its name; `model_name` and `number` are the same as text.
        content: its files, kept so that it can be loaded again.
        session: what runs it, while `state` is READY (and until the last run has ended while UNLOADING).
        state, reason: where it is in its life, and why it is not ready.
        deleted: nothing finds it any more and its files are gone.
        statistics: its counts, from the upload on.
        pace: how long its runs take.
        leased: it was lent: its files are not kept, and it goes with `revoke` alone.
    """

    def __init__(
        self,
        model_id: ModelId,
        version: int,
        content: Content,
        session: Session,
        memory: Reservation,
        *,
        leased: bool = False,
    ) -> None:
        self.id = model_id
        self.version = version
        self.model_name = str(model_id)
        self.number = str(version)
        self.content = content
        self.session: Session | None = session
        self.state = State.READY
        self.reason = ""
        self.deleted = False
        self.statistics = Statistics()
        self.pace = Pace()
        self.leased = leased
        self._memory = memory
        self._lock = asyncio.Lock()
        self._runs = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def begin_run(self) -> Session:
        """Hold the session for one run; `end_run` must follow.

        Raises:
            ModelNotFound: `model.not_loaded`.
        """
        if self.state is not State.READY or self.session is None:
            raise self.not_loaded()
        self._runs += 1
        return self.session

    def end_run(self) -> None:
        """Let go of the session."""
        self._runs -= 1
        if self._runs == 0:
            self._idle.set()

    def not_loaded(self) -> ModelNotFound:
        """The error for a request that needs the session while there is none."""
        reason = f": {self.reason}" if self.reason else ""
        return ModelNotFound(
            f"version {self.version} of the model {self.id} is {self.state.lower()}{reason}",
            code="model.not_loaded",
            hint="" if self.leased else f"load it with POST /v2/repository/models/{self.id}/load",
        )

    async def load(self, engine: Engine, executor: ThreadPoolExecutor) -> None:
        """Make the version ready; no change where it is.

        Raises:
            ModelNotFound: `model.not_found`, when it was deleted in the meantime.
            QuotaExceeded: `quota.memory`; the version stays as it is.
            InvalidModel: from the engine; the version stays unavailable and says why.
        """
        async with self._lock:
            if self.deleted:
                raise not_found(f"version {self.version} of the model {self.id}")
            if self.state is State.READY:
                return
            self._memory.grow(self.content.size * (COPIES_WHILE_LOADED - 1))
            self.state, self.reason = State.LOADING, ""
            try:
                self.session = await asyncio.get_running_loop().run_in_executor(
                    executor, engine.load, self.content.model, self.content.external
                )
                self.state = State.READY
            except BlindAIError as error:
                self.reason = error.code
                raise
            finally:
                if self.session is None:
                    self.state = State.UNAVAILABLE
                    self._memory.shrink_to(self.content.size)

    async def unload(self) -> None:
        """Refuse new runs, wait for those in progress and free the session; no change where there is none."""
        async with self._lock:
            if self.state is not State.READY:
                return
            await self._drain()
            self._memory.shrink_to(self.content.size)
            self.state, self.reason = State.UNAVAILABLE, "unloaded"

    async def discard(self) -> None:
        """As `unload`, and free the files too. The version is of no use afterwards."""
        async with self._lock:
            await self._drain()
            self.state, self.deleted = State.UNAVAILABLE, True
            self.content = Content(b"", {}, self.content.sha256, self.content.uploaded)
            self._memory.release()

    def bar(self, reason: str) -> None:
        """Let no run begin from now on, because of `reason`."""
        if self.session is not None:
            self.state, self.reason = State.UNLOADING, reason

    async def revoke(self, executor: ThreadPoolExecutor, reason: str) -> None:
        """As `unload`, but for good, and what the session frees is overwritten.

        Args:
            executor: where it is freed.
            reason: why, as a code.
        """
        async with self._lock:
            if self.session is None:
                return
            session = self.session
            await self._drain(reason)
            await asyncio.get_running_loop().run_in_executor(executor, close_wiped, session)
            self._memory.release()
            self.state = State.UNAVAILABLE

    async def _drain(self, reason: str = "") -> None:
        self.state, self.reason = State.UNLOADING, reason
        while self._runs:
            self._idle.clear()
            await self._idle.wait()
        self.session = None


def not_found(wanted: str) -> ModelNotFound:
    """The refusal of a name that nothing has."""
    return ModelNotFound(f"{wanted} is not here", code="model.not_found")
