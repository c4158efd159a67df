"""What runs one loaded model, wherever it lives: a process of its own, or threads of the server.

The scheduler decides which requests run when, and together with which; a runner carries that out. A loader makes one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from blindai.enclave.engine import Cancellation
    from blindai.enclave.models.description import Description, Trial
    from blindai.wire.tensor import Tensor

T = TypeVar("T")


class Runnable(Protocol):
    """What a request is run on in the server's own process: a session, or what stands before one."""

    def run(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = (), *, cancellation: Cancellation | None = None
    ) -> list[Tensor]:
        """As `engine.Session.run`."""

    @property
    def cancellation(self) -> Callable[[], Cancellation]:
        """As `engine.Session.cancellation`."""


class Charge(Runnable, Protocol):
    """What one request costs somebody, reserved already: a guard before the session that notes whether it ran."""

    def guard(
        self,
        run: Callable[..., list[T]],
        inputs: Mapping[str, Any],
        outputs: Sequence[str] = (),
        *,
        cancellation: Cancellation | None = None,
    ) -> list[T]:
        """As `run`, with the `run` of something that the session has made in place of its own."""

    def settle(self, *, failed: bool) -> None:
        """The request has come to its end. Called once, on the event loop."""


class Work(NamedTuple):
    """One request, checked against the model's signature.

    Attributes:
        inputs: tensors by name; views of the request's body, which stays as it is until the run has ended.
        outputs: names of the wanted outputs, in the order wanted; all of them when empty.
        charge: what it costs; only where the model runs in the server's own process.
    """

    inputs: Mapping[str, Tensor]
    outputs: Sequence[str] = ()
    charge: Charge | None = None


class Ran(NamedTuple):
    """A run that succeeded.

    Attributes:
        answers: for each request of the batch its outputs, in the order that it wanted.
        engine_ns: how long the engine took, in nanoseconds.
    """

    answers: list[list[Tensor]]
    engine_ns: int


class Runner(Protocol):
    """One loaded model.

    Attributes:
        description: what it is.
        lanes: runs that it can do at once, now; whoever schedules starts no more.
        memory: bytes that it holds now. It may differ from `description.memory` after a run.
        ended: done when it can run nothing any more, whoever wanted that; its result is why, as a code.
    """

    description: Description
    ended: asyncio.Future[str]

    @property
    def lanes(self) -> int: ...

    @property
    def memory(self) -> int: ...

    def run(self, batch: Sequence[Work], *, seconds: float) -> asyncio.Future[Ran]:
        """Begin one run, of one request or of several as one.

        Requests of one batch have the same inputs, alike in datatype and in every dimension but the first, and want the
        same outputs. Cancelling the future stops the run, and so does time; where the model does not heed that, it is
        ended whole.

        Args:
            batch: at least one request.
            seconds: the longest that it may take.

        The future raises:
            InvalidInput: as `engine.Session.run`.
            InvalidModel: `model.run`; `model.crashed`, its process has died of it.
            QuotaExceeded: `quota.run_memory`, `quota.run_time`.
        """

    async def close(self) -> None:
        """End it and free what it holds; runs in progress fail with `model.not_loaded`. Harmless when repeated."""


class Plain(Protocol):
    """The body of an upload in clear, for as long as it is being loaded.

    Attributes:
        view: its bytes.
        bundle: whether it is a bundle; else an ONNX file.
    """

    @property
    def view(self) -> memoryview: ...

    @property
    def bundle(self) -> bool: ...

    def fileno(self) -> int:
        """A file in memory that holds the bytes, to hand to another process (Linux)."""


class Loader(Protocol):
    """Makes runners."""

    async def load(self, plain: Plain, *, trial: Trial | None = None) -> Runner:
        """Load a model, and try it out where that was not done before.

        Args:
            plain: the model; it is not needed any more when this has returned or raised.
            trial: what an earlier load of the same model has shown.

        Raises:
            InvalidModel: with a `model.*` code; `model.crashed` where it took its process with it.
            QuotaExceeded: `quota.run_memory`, `quota.load_time`.
        """

    async def close(self) -> None:
        """End what loading needs. Every runner has been closed before."""
