"""One version of one model: what is known of it, what runs it, and where it is in its life."""

from __future__ import annotations

import asyncio
import enum
import time
from typing import TYPE_CHECKING, NamedTuple

from blindai.enclave.running.pace import Pace
from blindai.enclave.running.routine import Routines
from blindai.errors import ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from blindai.enclave.engine import Session
    from blindai.enclave.models.description import Description
    from blindai.enclave.models.model_id import ModelId
    from blindai.enclave.models.residency import Claim, Residency
    from blindai.enclave.models.store import StoredModel
    from blindai.enclave.running.runner import Runner


class State(enum.StrEnum):
    """Where a version is in its life, in the words of the Open Inference Protocol's model repository extension."""

    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"


class Loaded(NamedTuple):
    """A version in memory.

    Attributes:
        description: what it is.
        runner: what runs it.
        session: what runs it in the server's own process, without a hand-over, where that may be.
        copied: whether that is a second copy; else it is what the runner has.
    """

    description: Description
    runner: Runner
    session: Session | None = None
    copied: bool = False

    @property
    def memory(self) -> int:
        """Bytes that it holds now."""
        copied = self.session.memory if self.copied and self.session is not None else 0
        return self.runner.memory + copied

    async def close(self) -> None:
        """Free all of it. No run of the session may be in progress."""
        if self.copied and self.session is not None:
            self.session.close()
        await self.runner.close()


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


class Batches:
    """Requests that were answered by runs of one size; nanoseconds are summed over requests.

    Attributes:
        requests: how many.
        decode_ns, engine_ns, encode_ns: of these. The run of a batch counts once for each of its requests.
    """

    __slots__ = ("decode_ns", "encode_ns", "engine_ns", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.decode_ns = 0
        self.engine_ns = 0
        self.encode_ns = 0

    def add(self, decode_ns: int, engine_ns: int, encode_ns: int) -> None:
        """Count a request."""
        self.requests += 1
        self.decode_ns += decode_ns
        self.engine_ns += engine_ns
        self.encode_ns += encode_ns


class Statistics:
    """What `/stats` tells of one version: counts, and nanoseconds summed over them.

    Attributes:
        batches: by the number of requests that one run answered.
        single: those of one request, which are among them once there are some.
        last_ns: when the last request was answered, by the clock on the wall.
    """

    __slots__ = ("batches", "failures", "failures_ns", "last_ns", "queue_ns", "single")

    def __init__(self) -> None:
        self.failures = 0
        self.failures_ns = 0
        self.queue_ns = 0
        self.last_ns = 0
        self.single = Batches()
        self.batches: dict[int, Batches] = {}

    @property
    def successes(self) -> int:
        return sum(batches.requests for batches in self.batches.values())

    @property
    def successes_ns(self) -> int:
        return self.queue_ns + self.decode_ns + self.engine_ns + self.encode_ns

    @property
    def decode_ns(self) -> int:
        return sum(batches.decode_ns for batches in self.batches.values())

    @property
    def engine_ns(self) -> int:
        return sum(batches.engine_ns for batches in self.batches.values())

    @property
    def encode_ns(self) -> int:
        return sum(batches.encode_ns for batches in self.batches.values())

    @property
    def last_ms(self) -> int:
        return self.last_ns // 1_000_000

    def succeeded(self, times: Times, *, requests: int = 1) -> None:
        """Count a request that was answered, by a run of so many requests."""
        batches = self.batches.get(requests)
        if batches is None:
            batches = self.batches[requests] = self.single if requests == 1 else Batches()
        batches.add(times.decode_ns, times.engine_ns, times.encode_ns)
        self.queue_ns += times.queue_ns
        self.last_ns = time.time_ns()

    def repeated(self, decode_ns: int, engine_ns: int, encode_ns: int) -> None:
        """As `succeeded`, for a request that did not wait and was like one that has succeeded."""
        self.single.add(decode_ns, engine_ns, encode_ns)
        self.last_ns = time.time_ns()

    def failed(self, ns: int) -> None:
        """Count a run that failed after `ns`."""
        self.failures += 1
        self.failures_ns += ns


class ModelVersion:
    """One version of a model.

    Attributes:
        id, version: its name; `model_name` and `number` are the same as text.
        sha256: digest in hex of the uploaded body: of the ONNX file, or of the bundle as it was sent.
        uploaded: bytes of that body.
        content: the body, in the store; None for a model that was lent, and once it was deleted.
        description: what it is; that of the last load while it is not in memory.
        loaded: what runs it, while it is in memory. A version can be READY without: the next request brings it back.
        state, reason: where it is in its life, and why it is not ready.
        deleted: nothing finds it any more and its content is gone.
        runs: requests that need it, waiting ones included; with one, it stays in memory.
        statistics: its counts, from the upload on.
        pace: how long its runs take.
        leased: it was lent: it stays in memory until it goes with `revoke`.
        lock: held while it is loaded, unloaded or deleted.
        bringing: the load that requests wait for.
        peak: the most bytes that it was seen to hold in memory.
        routines: requests that come again and again; see `routine`.
    """

    def __init__(
        self,
        model_id: ModelId,
        version: int,
        memory: Residency,
        *,
        description: Description,
        content: StoredModel | None = None,
        leased: bool = False,
        sha256: str,
        uploaded: int,
    ) -> None:
        self.id = model_id
        self.version = version
        self.model_name = str(model_id)
        self.number = str(version)
        self.sha256 = sha256
        self.uploaded = uploaded
        self.content = content
        self.description = description
        self.loaded: Loaded | None = None
        self.state = State.READY
        self.reason = ""
        self.deleted = False
        self.runs = 0
        self.statistics = Statistics()
        self.pace = Pace()
        self.leased = leased
        self.lock = asyncio.Lock()
        self.bringing: asyncio.Task[Loaded] | None = None
        self.peak = 0
        self.routines = Routines()
        self._memory = memory
        self._order = memory.order
        self._claim: Claim | None = None
        self._runner_bytes = 0
        self._idle: asyncio.Future[None] | None = None

    @property
    def session(self) -> Session | None:
        """What runs in the server's own process, if anything does."""
        return None if self.loaded is None else self.loaded.session

    def touch(self) -> None:
        """Something runs now, on the event loop, where nothing can take the version out of memory before it has ended.

        Raises:
            ModelNotFound: `model.not_loaded`.
        """
        if self.state is not State.READY:
            raise self.not_loaded()
        if self in self._order:
            self._order.move_to_end(self)

    def begin_run(self) -> None:
        """Keep the version in memory for one request, from now on or from when it was brought; `end_run` must follow.

        Raises:
            ModelNotFound: `model.not_loaded`.
        """
        self.touch()
        self.runs += 1

    def stay(self) -> None:
        """As `begin_run`, for whoever has begun one already: also of a version that takes no new ones any more."""
        self.runs += 1

    def end_run(self) -> None:
        """The request has come to its end."""
        self.runs -= 1
        loaded = self.loaded
        if loaded is not None and loaded.runner.memory != self._runner_bytes:
            self._measure(loaded)
        if not self.runs:
            if self._idle is not None and not self._idle.done():
                self._idle.set_result(None)
            if self._memory.pressed:
                self._memory.settle()

    def not_loaded(self) -> ModelNotFound:
        """The error for a request to a version that is not ready."""
        reason = f": {self.reason}" if self.reason else ""
        return ModelNotFound(
            f"version {self.version} of the model {self.id} is {self.state.lower()}{reason}",
            code="model.not_loaded",
            hint="" if self.leased else f"load it with POST /v2/repository/models/{self.id}/load",
        )

    def enter(self, loaded: Loaded, claim: Claim) -> None:
        """The version is in memory.

        Args:
            loaded: what runs it.
            claim: what was taken for it; from now on it follows what the version holds.
        """
        self.loaded = loaded
        self.description = loaded.description
        self._claim = claim
        if not self.leased:
            self._order[self] = None
        self._measure(loaded)

    def leave(self) -> tuple[Claim, Coroutine[None, None, None]]:
        """As `residency.Resident.leave`."""
        loaded, claim = self.loaded, self._claim
        if loaded is None or claim is None:
            raise AssertionError("only what is in memory can leave it")
        self.loaded = self._claim = None
        self.routines.clear()
        self._order.pop(self, None)
        return claim, loaded.close()

    async def drain(self, reason: str = "") -> None:
        """Refuse new runs, wait for those in progress, and take the version out of memory. With the lock held."""
        self.bar(reason)
        if self.bringing is not None:
            self.bringing.cancel()  # it waits for the lock, and those runs for it
        while self.runs:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        if self.loaded is not None:
            claim, leaving = self.leave()
            await leaving
            claim.release()

    def bar(self, reason: str) -> None:
        """Let no run begin from now on, because of `reason`."""
        self.state, self.reason = State.UNLOADING, reason

    def _measure(self, loaded: Loaded) -> None:
        self._runner_bytes = loaded.runner.memory
        held = loaded.memory
        self.peak = max(self.peak, held)
        if self._claim is not None:
            self._claim.resize(held)


def not_found(wanted: str) -> ModelNotFound:
    """The refusal of a name that nothing has."""
    return ModelNotFound(f"{wanted} is not here", code="model.not_found")
