"""From the body of an inference request to the body of its response.

A run that is known to be quick happens on the event loop at once; handing it to a thread would cost more than
it takes. All others go to a fixed number of workers with a bounded queue before them.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from blindai.enclave.model_version import Times
from blindai.enclave.reply import Reply
from blindai.enclave.residue import wipe_threads
from blindai.enclave.watchdog import Watchdog
from blindai.errors import BlindAIError, QuotaExceeded, Unavailable
from blindai.wire import v2

if TYPE_CHECKING:
    from blindai.enclave.config import EnclaveConfig
    from blindai.enclave.exchange import Headers
    from blindai.enclave.metrics import Metrics
    from blindai.enclave.model_version import ModelVersion
    from blindai.enclave.receipts import Receipts
    from blindai.enclave.runner import Charge, Runnable

_HEADER_LENGTH: Final = v2.HEADER_LENGTH.encode()
_JSON_HEADERS: Final = b"content-type: application/json\r\n"
_BINARY_HEADERS: Final = b"content-type: application/octet-stream\r\n" + _HEADER_LENGTH + b": %d\r\n"


# A run on the event loop is cut off here, in seconds, and begun again on a worker: every other request waits for it.
_INLINE_PATIENCE: Final = 0.1

# A run on the event loop that takes so many times what counts as quick costs its kind the privilege, for a while.
_DISAPPOINTMENT: Final = 10


class _Job:
    """One request whose headers have been read. Dropping it frees its body, though it may still stand in the queue."""

    __slots__ = ("body", "charge", "dropped", "header_length", "kind", "refusal", "session", "version")

    def __init__(
        self,
        version: ModelVersion,
        session: Runnable,
        header_length: int | None,
        body: bytes,
        *,
        kind: tuple[int, int],
        charge: Charge | None,
    ) -> None:
        self.version = version
        self.session = session
        self.header_length = header_length
        self.body = body
        self.kind = kind
        self.charge = charge
        self.dropped = False
        self.refusal: BlindAIError | None = None

    def drop(self) -> None:
        self.dropped = True
        self.body = b""


class _Ran(NamedTuple):
    """A run that succeeded."""

    reply: Reply
    times: Times


class Inference:
    """Runs models.

    Args:
        config: workers, queue, and what counts as quick.
        receipts: signs those that requests ask for.
    """

    def __init__(self, config: EnclaveConfig, receipts: Receipts) -> None:
        self._receipts = receipts
        self._inline_ns = config.runtime.inline_us * 1000
        self._workers = config.runtime.workers
        self._most = config.runtime.workers + config.limits.max_queued_runs
        self._limits = v2.Limits(json_bytes=min(v2.MAX_JSON_BYTES, config.limits.max_body_bytes))
        self._executor = ThreadPoolExecutor(self._workers, thread_name_prefix="infer")
        self._patience = config.timeouts.run_ms / 1000
        self._watchdog = Watchdog()
        self._handed_over = 0
        self._charged: dict[Future[_Ran | None], _Job] = {}
        self._closed = False
        self._metrics: Metrics | None = None

    def count_in(self, metrics: Metrics) -> None:
        """Count runs in `metrics` from now on."""
        self._metrics = metrics

    def queued(self) -> int:
        """How many runs wait for a worker."""
        return max(0, self._handed_over - self._workers)

    def infer(
        self, version: ModelVersion, headers: Headers, body: bytes, charge: Charge | None = None
    ) -> Reply | asyncio.Future[Reply]:
        """Answer one request for `version`: at once, or in a while.

        Args:
            version: what to run.
            headers: the request's, names in lower case.
            body: the whole body, which must not change.
            charge: what it costs, before the session of `version`, which must be loaded.

        Raises:
            InvalidInput: what `wire.v2.decode_request` and the session refuse; `input.header_length`. The future
                raises these too.
            ModelNotFound: `model.not_loaded`.
            QuotaExceeded: `quota.run_time`, `quota.memory`.
            Unavailable: `busy`.
        """
        session = version.begin_run()
        handed_over = False
        failed = True
        started = time.perf_counter_ns()
        try:
            header_length = header_length_of(headers)
            size = len(body)
            json_bytes = size if header_length is None else min(header_length, size)
            kind = version.pace.kind(json_bytes, size - json_bytes)
            job = _Job(version, charge or session, header_length, body, kind=kind, charge=charge)
            if version.pace.below(kind, self._inline_ns):
                ran = self._run_inline(job)
                if ran is not None:
                    failed = False
                    return ran.reply
            future = self._hand_over(job)
            handed_over = True
            return future
        except BlindAIError as error:
            self._failed(version, error, time.perf_counter_ns() - started)
            raise
        finally:
            if not handed_over:
                version.end_run()
                if charge is not None:
                    charge.settle(failed=failed)

    def refuse_waiting(self, refusal: BlindAIError) -> None:
        """Refuse the requests with a charge that wait for a worker: runs of others may be in their way for long."""
        for run, job in self._charged.items():
            job.refusal = refusal
            run.cancel()

    async def wipe_threads(self) -> None:
        """Overwrite what ended runs have left on the threads that made them, when they have ended what they do."""
        if not self._closed:
            await wipe_threads(self._executor, self._workers)

    def close(self) -> None:
        """Drop what is queued and wait for what runs."""
        self._closed = True
        self._executor.shutdown(cancel_futures=True)
        self._watchdog.close()

    def _run_inline(self, job: _Job) -> _Ran | None:
        """Run on the event loop; None where that had to be broken off."""
        pace = job.version.pace
        try:
            ran = self._run(job, time.perf_counter_ns(), _INLINE_PATIENCE)
        except QuotaExceeded as error:
            if error.code != "quota.run_time":
                raise
            pace.disappointed(job.kind)
            return None
        if ran.times.busy_ns > self._inline_ns * _DISAPPOINTMENT:
            pace.disappointed(job.kind)
        self._succeeded(job, ran.times, inline=True)
        return ran

    def _run(self, job: _Job, submitted: int, patience: float) -> _Ran:
        started = time.perf_counter_ns()
        request = v2.decode_request(job.body, job.header_length, limits=self._limits)
        receipt = self._receipts.wanted(request.parameters)
        decoded = time.perf_counter_ns()
        cancellation = job.session.cancellation()
        self._watchdog.watch(cancellation, patience)
        try:
            outputs = job.session.run(
                {tensor.name: tensor for tensor in request.inputs}, request.outputs, cancellation=cancellation
            )
        finally:
            self._watchdog.release(cancellation)
        ran = time.perf_counter_ns()
        buffers, json_length = v2.encode_response(
            outputs,
            model_name=job.version.model_name,
            model_version=job.version.number,
            id=request.id,
            parameters=receipt and self._receipts.signed(receipt, job.version, request.inputs, outputs),
            binary=request.binary,
        )
        headers = _JSON_HEADERS if json_length is None else _BINARY_HEADERS % json_length
        times = Times(started - submitted, decoded - started, ran - decoded, time.perf_counter_ns() - ran)
        return _Ran(Reply(200, headers, buffers), times)

    def _hand_over(self, job: _Job) -> asyncio.Future[Reply]:
        if self._handed_over >= self._most:
            raise Unavailable("the enclave has as many requests waiting as it may", code="busy", hint="try again soon")
        loop = asyncio.get_running_loop()
        submitted = time.perf_counter_ns()
        run = self._executor.submit(self._run_unless_dropped, job, submitted)
        self._handed_over += 1
        if job.charge is not None:
            self._charged[run] = job
        answer: asyncio.Future[Reply] = loop.create_future()
        run.add_done_callback(lambda run: loop.call_soon_threadsafe(self._settle, job, submitted, run, answer))
        answer.add_done_callback(partial(_forget, job))
        return answer

    def _run_unless_dropped(self, job: _Job, submitted: int) -> _Ran | None:
        return None if job.dropped else self._run(job, submitted, self._patience)

    def _settle(self, job: _Job, submitted: int, run: Future[_Ran | None], answer: asyncio.Future[Reply]) -> None:
        """Back on the event loop: a run handed over has ended, or was dropped before it began."""
        self._handed_over -= 1
        self._charged.pop(run, None)
        job.version.end_run()
        cancelled = run.cancelled()
        error = job.refusal if cancelled else run.exception()
        if job.charge is not None:
            job.charge.settle(failed=cancelled or error is not None)
        if cancelled and error is None:
            answer.cancel()
            return
        if error is None:
            ran = run.result()
            if ran is not None:
                self._succeeded(job, ran.times, inline=False)
                if not answer.done():
                    answer.set_result(ran.reply)
            return
        self._failed(job.version, error, time.perf_counter_ns() - submitted)
        if not answer.done():
            answer.set_exception(error)

    def _succeeded(self, job: _Job, times: Times, *, inline: bool) -> None:
        busy_ns = times.busy_ns
        job.version.pace.note(job.kind, busy_ns)
        job.version.statistics.succeeded(times)
        if self._metrics is not None:
            self._metrics.ran(times.queue_ns + busy_ns, inline=inline)

    def _failed(self, version: ModelVersion, error: BaseException, ns: int) -> None:
        version.statistics.failed(ns)
        if self._metrics is not None:
            self._metrics.failed(error.code if isinstance(error, BlindAIError) else "internal")


def header_length_of(headers: Headers) -> int | None:
    """The length of the JSON part by the header Inference-Header-Content-Length; None where all is JSON.

    Raises:
        InvalidInput: `input.header_length`, for no number, or for two of them.
    """
    found: bytes | None = None
    for name, value in headers:
        if name == _HEADER_LENGTH:
            # Two of them joined as HTTP joins fields are no number, and refused as such.
            found = value if found is None else found + b", " + value
    return v2.parse_header_length(found)


def _forget(job: _Job, answer: asyncio.Future[Reply]) -> None:
    """Drop a run whose client has gone. Its place in the queue stays taken, or clients who leave could fill memory."""
    if answer.cancelled():
        job.drop()
