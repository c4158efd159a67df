"""From the body of an inference request to the body of its response.

A run that is known to be quick happens on the event loop at once; handing it over would cost more than it takes. All
others take their turn with the scheduler. Messages that take long to read or to write are read and written on threads.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakKeyDictionary

from blindai.enclave.engine import Signature
from blindai.enclave.http.reply import Reply
from blindai.enclave.models.model_version import Times
from blindai.enclave.running.codec import Codec, header_length_of, long_to_read, long_to_write
from blindai.enclave.running.prompt import Prompt
from blindai.enclave.running.queue import Busy
from blindai.enclave.running.runner import Work
from blindai.enclave.running.scheduler import Scheduler
from blindai.errors import BlindAIError, QuotaExceeded
from blindai.wire import v2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blindai.enclave.api.receipts import Receipts
    from blindai.enclave.config import EnclaveConfig
    from blindai.enclave.engine import Session
    from blindai.enclave.http.exchange import Headers
    from blindai.enclave.metrics import Metrics
    from blindai.enclave.models.description import Description
    from blindai.enclave.models.model_version import ModelVersion
    from blindai.enclave.running.codec import Request
    from blindai.enclave.running.queue import Done
    from blindai.enclave.running.routine import Routine
    from blindai.enclave.running.run import Counts
    from blindai.enclave.running.runner import Charge
    from blindai.enclave.running.scheduler import Models
    from blindai.enclave.running.thread_runner import RunningThreads
    from blindai.wire.tensor import Buffer, Tensor

# A run on the event loop is cut off here, in nanoseconds, and begun again off it: every other request waits for it.
_INLINE_PATIENCE_NS: Final = 100_000_000

# A run on the event loop that takes so many times what counts as quick costs its kind the privilege, for a while.
_DISAPPOINTMENT: Final = 10

# Messages read and written on threads at once. They hold Python's lock most of the time.
_CODEC_THREADS: Final = 2


class _Pending(NamedTuple):
    """A request that was handed over, and what is waited for."""

    version: ModelVersion
    request: Request
    answer: asyncio.Future[Reply]


class Inference:
    """Answers inference requests.

    Args:
        config: workers, queue, and what counts as quick.
        receipts: signs those that requests ask for.
        models: brings models into memory.
        threads: where models run that run in this process; their watchdog looks after the event loop too.
    """

    def __init__(self, config: EnclaveConfig, receipts: Receipts, models: Models, threads: RunningThreads) -> None:
        self._inline_ns = config.runtime.inline_us * 1000
        self._codec = Codec(config.limits.max_body_bytes, receipts)
        self._threads = threads
        self._watchdog = threads.watchdog
        self._scheduler = Scheduler(config, models)
        threads.on_free = self._scheduler.dispatch
        self._aside = ThreadPoolExecutor(_CODEC_THREADS, thread_name_prefix="codec")
        self._most_read = config.limits.max_queued_runs
        self._reading: set[asyncio.Task[Reply]] = set()
        self._signatures: WeakKeyDictionary[ModelVersion, tuple[Description, Signature]] = WeakKeyDictionary()
        self._metrics: Metrics | None = None

    def count_in(self, metrics: Metrics) -> None:
        """Count runs in `metrics` from now on."""
        self._metrics = metrics

    def queued(self) -> int:
        """How many requests wait for their turn."""
        return self._scheduler.waiting

    @property
    def counts(self) -> Counts:
        """What the scheduler has done."""
        return self._scheduler.counts

    def infer(
        self, version: ModelVersion, headers: Headers, body: Buffer, charge: Charge | None = None
    ) -> Reply | asyncio.Future[Reply]:
        """Answer one request for `version`: at once, or in a while. Cancelling the future drops the request.

        Args:
            version: what to run.
            headers: the request's, names in lower case.
            body: the whole body, which must not change.
            charge: what it costs; only for a version that runs in this process.

        Raises:
            InvalidInput: as `Codec.decode` and `engine.Session.run`; `input.header_length`.
            ModelNotFound, InvalidModel, QuotaExceeded, Unavailable: as `Scheduler.submit`. The future raises these too.
        """
        started = time.perf_counter_ns()
        try:
            header_length = header_length_of(headers)
            if header_length is not None and header_length <= v2.MAX_HEADER_BYTES:
                routine = version.routines.get(bytes(body[:header_length]))
                if routine is not None and routine.size == len(body) - header_length:
                    reply = self._repeat(version, routine, body, charge, started=started)
                    if reply is not None:
                        return reply
            if long_to_read(body, header_length):
                return self._read(version, header_length, body, charge, started=started)
            return self._answer(version, self._codec.decode(body, header_length, started), charge)
        except BaseException as error:
            self._failed(version, error, started, charge)
            raise

    def refuse_waiting(self, refusal: BlindAIError) -> None:
        """Refuse the requests with a charge that wait for their turn: runs of others may be in their way for long."""
        self._scheduler.refuse_waiting(refusal)

    async def wipe_threads(self) -> None:
        """Overwrite what ended runs have left on the threads that made them, when they have ended what they do."""
        await self._threads.wipe()

    async def close(self) -> None:
        """Refuse what waits, and wait for what runs in this process."""
        self._scheduler.close()
        for task in self._reading:
            task.cancel()
        self._threads.shut()
        self._aside.shutdown(cancel_futures=True)
        await self._scheduler.settled()

    # Reading aside.

    def _read(
        self, version: ModelVersion, header_length: int | None, body: Buffer, charge: Charge | None, *, started: int
    ) -> asyncio.Task[Reply]:
        if len(self._reading) >= self._most_read:
            raise Busy("the enclave has as many long messages to read as it may", code="busy", hint="try again soon")
        task = asyncio.get_running_loop().create_task(
            self._read_aside(version, header_length, body, charge, started=started)
        )
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)
        return task

    async def _read_aside(
        self, version: ModelVersion, header_length: int | None, body: Buffer, charge: Charge | None, *, started: int
    ) -> Reply:
        loop = asyncio.get_running_loop()
        try:
            request = await loop.run_in_executor(self._aside, self._codec.decode, body, header_length, started)
            answer = self._answer(version, request, charge)
        except BaseException as error:
            self._failed(version, error, started, charge)
            raise
        return answer if isinstance(answer, Reply) else await answer

    # Running.

    def _answer(self, version: ModelVersion, request: Request, charge: Charge | None) -> Reply | asyncio.Future[Reply]:
        session = version.session
        if session is not None and version.pace.below(request.kind, self._inline_ns):
            reply = self._run_inline(version, session, request, charge)
            if reply is not None:
                return reply
        wanted = request.message.outputs
        self._check(version, request.inputs, wanted)
        done = self._scheduler.submit(version, Work(request.inputs, wanted, charge), deadline_ns=request.deadline_ns)
        answer: Prompt[Reply] = Prompt(loop=done.get_loop())
        answer.dropped = done.cancel
        done.listen(partial(self._done, _Pending(version, request, answer)))
        return answer

    def _repeat(
        self, version: ModelVersion, routine: Routine, body: Buffer, charge: Charge | None, *, started: int
    ) -> Reply | None:
        """As `_run_inline`, for what is known in all but the values of its tensors; None where it may not run so."""
        loaded, record = version.loaded, routine.record
        if loaded is None or loaded.session is not routine.session or not record.below(self._inline_ns):
            return None
        version.touch()
        inputs = routine.layout.arrays(body, len(body) - routine.size)
        cancellation = routine.session.cancellation()
        began = time.perf_counter_ns()
        self._watchdog.inline = (cancellation, began + _INLINE_PATIENCE_NS)
        try:
            if charge is None:
                outputs = routine.repetition.run(inputs, cancellation=cancellation)
            else:
                outputs = charge.guard(routine.repetition.run, inputs, cancellation=cancellation)
        except QuotaExceeded as error:
            if error.code != "quota.run_time":
                raise
            record.disappointed()
            return None
        finally:
            self._watchdog.inline = None
        ended = time.perf_counter_ns()
        record.note(ended - began, self._inline_ns)
        if ended - began > self._inline_ns * _DISAPPOINTMENT:
            record.disappointed()
        reply = routine.answer(outputs) or self._codec.answer(version, routine.tensors(outputs))
        if charge is not None:
            charge.settle(failed=False)
        written = time.perf_counter_ns()
        version.statistics.repeated(began - started, ended - began, written - ended)
        if self._metrics is not None:
            self._metrics.ran(written - started, inline=True)
        return reply

    def _run_inline(
        self, version: ModelVersion, session: Session, request: Request, charge: Charge | None
    ) -> Reply | None:
        """Run on the event loop; None where that had to be broken off."""
        version.begin_run()
        pace, kind = version.pace, request.kind
        runnable = charge or session
        cancellation = runnable.cancellation()
        began = time.perf_counter_ns()
        self._watchdog.inline = (cancellation, began + _INLINE_PATIENCE_NS)
        try:
            outputs = runnable.run(request.inputs, request.message.outputs, cancellation=cancellation)
        except QuotaExceeded as error:
            if error.code != "quota.run_time":
                raise
            pace.disappointed(kind)
            return None
        finally:
            self._watchdog.inline = None
            version.end_run()
        engine_ns = time.perf_counter_ns() - began
        pace.note(kind, engine_ns, self._inline_ns)
        if engine_ns > self._inline_ns * _DISAPPOINTMENT:
            pace.disappointed(kind)
        reply, encode_ns = self._codec.encode(version, request, outputs)
        if request.header is not None:
            version.routines.learn(request.header, session, pace.record(kind), outputs=outputs, reply=reply)
        if charge is not None:
            charge.settle(failed=False)
        self._succeeded(version, Times(0, request.decode_ns, engine_ns, encode_ns), inline=True)
        return reply

    def _check(self, version: ModelVersion, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> None:
        """Raises InvalidInput unless the model takes these inputs and has these outputs."""
        description = version.description
        known = self._signatures.get(version)
        if known is None or known[0] is not description:
            known = description, Signature((*description.inputs, *description.optional), description.outputs)
            self._signatures[version] = known
        known[1].check_inputs(inputs)
        known[1].select_outputs(outputs)

    # Answering what the scheduler has run.

    def _done(self, pending: _Pending, done: asyncio.Future[Done]) -> None:
        """A request has come to its end with the scheduler, which has settled its charge."""
        version, request, answer = pending
        if done.cancelled():
            answer.cancel()
            return
        error = done.exception()
        if error is not None:
            self._refuse(pending, error)
            return
        ran = done.result()
        if ran.requests == 1 and version.session is not None:
            version.pace.note(request.kind, ran.engine_ns, self._inline_ns)
        try:
            if long_to_write(request, ran.outputs):
                loop = asyncio.get_running_loop()
                written = loop.run_in_executor(self._aside, self._codec.encode, version, request, ran.outputs)
                written.add_done_callback(partial(self._written, pending, ran))
                return
            reply, encode_ns = self._codec.encode(version, request, ran.outputs)
        except Exception as refusal:  # noqa: BLE001 - an incident of this request: the scheduler has others to answer
            self._refuse(pending, refusal)
        else:
            self._reply(pending, ran, reply, encode_ns)

    def _written(self, pending: _Pending, ran: Done, written: asyncio.Future[tuple[Reply, int]]) -> None:
        if written.cancelled():
            pending.answer.cancel()
            return
        error = written.exception()
        if error is not None:
            self._refuse(pending, error)
        else:
            self._reply(pending, ran, *written.result())

    def _reply(self, pending: _Pending, ran: Done, reply: Reply, encode_ns: int) -> None:
        times = Times(ran.queue_ns, pending.request.decode_ns, ran.engine_ns, encode_ns)
        self._succeeded(pending.version, times, inline=False, requests=ran.requests)
        if not pending.answer.done():
            pending.answer.set_result(reply)

    def _refuse(self, pending: _Pending, error: BaseException) -> None:
        self._failed(pending.version, error, pending.request.started)
        if not pending.answer.done():
            pending.answer.set_exception(error)

    # Counting.

    def _succeeded(self, version: ModelVersion, times: Times, *, inline: bool, requests: int = 1) -> None:
        version.statistics.succeeded(times, requests=requests)
        if self._metrics is not None:
            self._metrics.ran(times.queue_ns + times.busy_ns, inline=inline)

    def _failed(self, version: ModelVersion, error: BaseException, started: int, charge: Charge | None = None) -> None:
        """A request has failed; a charge is given here where nobody else has settled it."""
        if charge is not None:
            charge.settle(failed=True)
        if isinstance(error, asyncio.CancelledError):
            return
        version.statistics.failed(time.perf_counter_ns() - started)
        if self._metrics is not None:
            self._metrics.failed(error.code if isinstance(error, BlindAIError) else "internal")
