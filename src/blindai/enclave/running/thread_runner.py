"""Runs models on threads of the server's own process: those on loan, and all of them where nothing else confines them.

A run cannot be ended from outside. It is asked to end before its next operator, by the watchdog when its time is over.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from blindai.enclave.residue import wipe_threads
from blindai.enclave.running.batch import cut, rows_of, stack
from blindai.enclave.running.runner import Ran
from blindai.enclave.running.watchdog import Watchdog
from blindai.errors import BlindAIError, ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from blindai.enclave.engine import Cancellation, Session
    from blindai.enclave.model_file.opening import Opened
    from blindai.enclave.models.description import Description, Trial
    from blindai.enclave.running.runner import Plain, Work

# Loads go on beside inference; more of them at once would only slow each other and the inference down.
_LOADING_THREADS: Final = 2


class RunningThreads:
    """The threads of this process that run models, one run each, and what stops the runs that take too long.

    Args:
        count: how many.

    Attributes:
        watchdog: stops runs.
        closed: whether they take no runs any more.
        on_free: called on the event loop when one of them has nothing to do any more.
    """

    def __init__(self, count: int) -> None:
        self.watchdog = Watchdog()
        self._count = count
        self._busy = 0
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="infer")
        # Of its own: a model that was lent leaves memory without waiting for the runs or loads of others.
        self._freeing = ThreadPoolExecutor(1, thread_name_prefix="wipe")
        self.closed = False
        self.on_free: Callable[[], None] = lambda: None

    @property
    def free(self) -> int:
        """How many of them have nothing to do."""
        return max(0, self._count - self._busy)

    def submit(self, run: Callable[[], Ran]) -> Future[Ran]:
        """Begin a run as soon as a thread is free. On the event loop."""
        loop = asyncio.get_running_loop()
        submitted = self._executor.submit(run)
        self._busy += 1
        submitted.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave))
        return submitted

    async def free_session(self, free: Callable[[Session], object], session: Session) -> None:
        """Free a session that nothing runs on any more."""
        await asyncio.get_running_loop().run_in_executor(self._freeing, free, session)

    async def wipe(self) -> None:
        """Overwrite what ended runs have left on the threads that made them, when they have ended what they do."""
        if not self.closed:
            await wipe_threads(self._executor, self._count)

    def shut(self) -> None:
        """Drop the runs that have not begun, and wait for those that have."""
        self.closed = True
        self._executor.shutdown(cancel_futures=True)

    def close(self) -> None:
        """As `shut`, and nothing can be freed any more either."""
        self.shut()
        self._freeing.shutdown()
        self.watchdog.close()

    def _leave(self) -> None:
        self._busy -= 1
        self.on_free()


class ThreadRunner:
    """One model on threads of this process; see `runner.Runner`. Made on the event loop.

    Args:
        session: what runs; closing the runner closes it.
        description: what it is.
        threads: where it runs, together with others.
        free: closes the session; for a model on loan, what overwrites it as well.
    """

    def __init__(
        self,
        session: Session,
        description: Description,
        threads: RunningThreads,
        *,
        free: Callable[[Session], object] | None = None,
    ) -> None:
        self.description = description
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._session: Session | None = session
        self._threads = threads
        self._free = free or _close
        self._runs: dict[Future[Ran], Cancellation] = {}
        self._idle = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None

    @property
    def session(self) -> Session | None:
        """What runs; None once that was closed."""
        return self._session

    @property
    def lanes(self) -> int:
        """As `runner.Runner.lanes`: what it runs, and as much again as there are threads that nobody uses."""
        return len(self._runs) + self._threads.free

    @property
    def memory(self) -> int:
        return self.description.memory

    def run(self, batch: Sequence[Work], *, seconds: float) -> asyncio.Future[Ran]:
        """As `runner.Runner.run`. A run that is cancelled goes on until its next operator: `close` waits for it.

        Where a request comes with a charge, the guard runs it, and what that raises is raised.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Ran] = loop.create_future()
        session = self._session
        if session is None or self._closing is not None or self._threads.closed:
            answer.set_exception(_not_loaded())
            return answer
        runnable = batch[0].charge or session
        cancellation = runnable.cancellation()

        def run() -> Ran:
            inputs = [work.inputs for work in batch]
            stacked = stack(inputs)
            self._threads.watchdog.watch(cancellation, seconds)
            started = time.perf_counter_ns()
            try:
                outputs = runnable.run(stacked, batch[0].outputs, cancellation=cancellation)
            finally:
                self._threads.watchdog.release(cancellation)
            engine_ns = time.perf_counter_ns() - started
            return Ran(cut(outputs, [rows_of(one) for one in inputs]), engine_ns)

        submitted = self._threads.submit(run)
        self._runs[submitted] = cancellation
        submitted.add_done_callback(lambda done: loop.call_soon_threadsafe(self._ran, done, answer))
        answer.add_done_callback(partial(_stop, submitted, cancellation))
        return answer

    async def close(self) -> None:
        """As `runner.Runner.close`; returns when the last run has ended and the session is closed."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for submitted, cancellation in self._runs.items():
            submitted.cancel()
            cancellation.cancel()
        if self._runs:
            await self._idle.wait()
        session, self._session = self._session, None
        if session is not None:
            await self._threads.free_session(self._free, session)
        self.ended.set_result("model.not_loaded")

    def _ran(self, submitted: Future[Ran], answer: asyncio.Future[Ran]) -> None:
        """Back on the event loop."""
        del self._runs[submitted]
        if not self._runs and self._closing is not None:
            self._idle.set()
        if answer.done():
            return
        if submitted.cancelled():
            answer.set_exception(_not_loaded())
            return
        error = submitted.exception()
        if error is None:
            answer.set_result(submitted.result())
        elif self._closing is not None and isinstance(error, BlindAIError) and error.code == "quota.run_time":
            answer.set_exception(_not_loaded())
        else:
            answer.set_exception(error)


class ThreadLoader:
    """Loads models into this process; see `runner.Loader`. A load is waited for, however long it takes.

    Args:
        open_body: makes a session of the body of an upload, given the trial of an earlier load where there is one.
        threads: where the models run.
    """

    def __init__(self, open_body: Callable[[Plain, Trial | None], Opened], threads: RunningThreads) -> None:
        self._open = open_body
        self._threads = threads
        self._executor = ThreadPoolExecutor(_LOADING_THREADS, thread_name_prefix="load")

    async def load(self, plain: Plain, *, trial: Trial | None = None) -> ThreadRunner:
        """As `runner.Loader.load`. `plain` must stay as it is until this has ended, even if whoever waits has gone."""
        loop = asyncio.get_running_loop()
        opened = await loop.run_in_executor(self._executor, self._open, plain, trial)
        return ThreadRunner(opened.session, opened.description, self._threads)

    async def close(self) -> None:
        """As `runner.Loader.close`."""
        self._executor.shutdown()


def _close(session: Session) -> None:
    session.close()


def _stop(submitted: Future[Ran], cancellation: Cancellation, answer: asyncio.Future[Ran]) -> None:
    if answer.cancelled():
        submitted.cancel()
        cancellation.cancel()


def _not_loaded() -> ModelNotFound:
    return ModelNotFound("the model was unloaded", code="model.not_loaded")
