"""Decides which requests run when, and together with which.

Each namespace has a queue. A free lane of a model takes the request that waits longest there, and with it what waits
behind it and fits into one batch: nobody waits for a batch to fill. Namespaces take turns by the run time that they
were given (see `queue`). A model that is not in memory is brought, while others go on.

Whatever ends a run, each of its requests comes to one end: it is answered, or it runs once more. It runs once more

    alone     where a run of several failed: one of them may be the cause, and the others must not suffer
    again     once, where its process was ended for a reason that has nothing to do with it

Everything here happens on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary

from blindai.enclave.running.batch import UNBATCHABLE
from blindai.enclave.running.exactness import same_bits
from blindai.enclave.running.prompt import Prompt, listen
from blindai.enclave.running.queue import Done, Job, Queue
from blindai.enclave.running.run import Counts, Record, Reniceable, Run
from blindai.errors import BlindAIError, Unavailable
from blindai.wire.tensor import Tensor

if TYPE_CHECKING:
    from collections import deque

    from blindai.enclave.config import EnclaveConfig
    from blindai.enclave.models.model_version import Loaded, ModelVersion
    from blindai.enclave.running.queue import Tenant
    from blindai.enclave.running.runner import Ran, Runner, Work

# A model whose process has died of so many requests in a row, and has answered none between them, is of no use.
_MOST_CRASHES: Final = 3

# A run is long when it lasts so many times what the trial took, and at least so many seconds: many a run is slower than
# the trial for a reason, as its inputs are larger.
_LONG_FACTOR: Final = 20
_LONG_SECONDS: Final = 0.5

# Inputs that are kept for a moment after their requests were answered, to run them again as one. They count in no
# budget any more.
_MOST_SHOWN_BYTES: Final = 4 << 20

# Times that the model of one request is brought into memory. It may have to leave again before its turn comes.
_MOST_BRINGS: Final = 4


class Models(Protocol):
    """What the scheduler asks of the repository."""

    async def bring(self, version: ModelVersion) -> Loaded:
        """Bring a version into memory, or wait until somebody else has.

        Raises:
            ModelNotFound: `model.not_loaded`.
            InvalidModel, QuotaExceeded: as `runner.Loader.load`.
            Unavailable: `busy`, there is no room.
        """

    def withdraw(self, version: ModelVersion, reason: str) -> None:
        """Make a version unavailable for `reason`, until its owner loads it again."""


class Scheduler:
    """Runs requests.

    Args:
        config: its limits, times and workers.
        models: brings models into memory.

    Attributes:
        counts: what was done.
    """

    def __init__(self, config: EnclaveConfig, models: Models) -> None:
        limits = config.limits
        self.counts = Counts()
        self._models = models
        self._workers = config.runtime.workers
        self._max_batch = config.runtime.max_batch
        self._seconds = config.timeouts.run_ms / 1000
        self._queue = Queue(limits.max_queued_runs, limits.max_namespace_queued_runs, self._workers)
        self._records: WeakKeyDictionary[ModelVersion, Record] = WeakKeyDictionary()
        self._runs: dict[Job, Run] = {}
        self._bringing: dict[ModelVersion, asyncio.Task[None]] = {}
        self._showing: set[asyncio.Task[None]] = set()
        self._dispatching = False
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._queue.waiting

    def submit(self, version: ModelVersion, work: Work, *, deadline_ns: int = 0) -> Prompt[Done]:
        """Run one request when its turn comes.

        Args:
            version: what to run; brought into memory where it is not.
            work: the request, checked against the signature of `version`. Its charge is settled here, once this has
                returned.
            deadline_ns: when its answer is of no use any more, by `time.perf_counter_ns`; 0 for never.

        Cancelling the future drops the request. It raises what `runner.Runner.run` and `Models.bring` raise, and

            Unavailable: `deadline`; `stopping`.

        Raises:
            ModelNotFound: `model.not_loaded`.
            QuotaExceeded: `quota.queue`.
            Unavailable: `busy`, `stopping`.
        """
        if self._closed:
            raise _stopping()
        version.begin_run()
        loop = asyncio.get_running_loop()
        now = time.perf_counter_ns()
        answer: Prompt[Done] = Prompt(loop=loop)
        job = Job(version, work, answer, now)
        record = self._record(version)
        if record.batchable:
            job.measure()
        if deadline_ns:
            job.timer = loop.call_later((deadline_ns - now) / 1e9, self._expire, job)
        self._queue.add(job, now)
        self._dispatch()
        try:
            self._queue.refuse_full(job)
        except BlindAIError:
            if job.timer is not None:
                job.timer.cancel()
            version.end_run()
            raise
        answer.dropped = partial(self._dropped, job)
        return answer

    def refuse_waiting(self, refusal: BlindAIError) -> None:
        """Refuse the requests with a charge that wait: runs of others may be in their way for long."""
        for job in [job for job in self._queue if job.work.charge is not None]:
            self._queue.remove(job)
            self._end(job, refusal)

    def close(self) -> None:
        """Refuse what waits. What runs comes to its end when its runner does."""
        self._closed = True
        for job in list(self._queue):
            self._queue.remove(job)
            self._end(job, _stopping())
        for task in (*self._bringing.values(), *self._showing):
            task.cancel()

    async def settled(self) -> None:
        """Return when every charge is settled. The threads that run models in this process have ended."""
        charged = {run.future for job, run in self._runs.items() if job.work.charge is not None and run.future}
        if charged:
            await asyncio.wait(charged)

    def dispatch(self) -> None:
        """Begin what can begin: something that a run may need has become free."""
        if not self._closed:
            self._dispatch()

    # Whose turn it is.

    def _dispatch(self) -> None:
        """Begin what can begin."""
        if self._dispatching:
            return  # a run may end at once, before the call that began it has returned
        self._dispatching = True
        try:
            while any(map(self._begin_one, self._queue.in_turn(time.perf_counter_ns()))):
                pass
        finally:
            self._dispatching = False

    def _begin_one(self, tenant: Tenant) -> bool:
        """Begin one run of this tenant, and bring what it waits for; whether one was begun."""
        for line in tenant.in_turn():
            version = line[0].version
            loaded = version.loaded
            if loaded is None or loaded.runner.ended.done():
                self._begin_bringing(tenant, version)
                continue
            record = self._record(version)
            if record.runner is not loaded.runner:
                record.runner, record.running = loaded.runner, 0
                record.reniceable = loaded.runner if isinstance(loaded.runner, Reniceable) else None
                loaded.runner.ended.add_done_callback(lambda _: self.dispatch())
            if record.running < loaded.runner.lanes:
                record.brings = 0
                self._begin(tenant, line, record, loaded.runner)
                return True
        return False

    def _begin(self, tenant: Tenant, line: deque[Job], record: Record, runner: Runner) -> None:
        first = line[0]
        most = 1
        if record.batchable and first.rows and not record.exactness.excluded(first.shape):
            most = min(runner.description.trial.max_batch, self._max_batch)
        taken = self._queue.take(tenant, line, most)
        jobs = [job for job in taken if not job.answer.done()]
        if len(jobs) < len(taken):
            for job in taken:
                if job.answer.done():
                    self._end(job, _late())
            if not jobs:
                return
        if len(jobs) > 1 and not record.exactness.shown(first.shape, [job.rows for job in jobs]):
            if not record.showing and sum(map(_size, jobs)) <= _MOST_SHOWN_BYTES:
                self._show(tenant, jobs, record, runner)
                return
            for job in reversed(jobs[1:]):
                self._queue.put_back(job, tenant)
            jobs = jobs[:1]
        run = Run(jobs, tenant, record, runner, began_ns=self._occupy(tenant, record))
        listen(self._start(run), partial(self._ended, run))

    def _occupy(self, tenant: Tenant, record: Record) -> int:
        now = time.perf_counter_ns()
        tenant.begin(now)
        record.running += 1
        return now

    def _vacate(self, run: Run) -> None:
        run.tenant.end(run.began_ns, time.perf_counter_ns(), len(run.jobs))
        if run.record.runner is run.runner:
            run.record.running -= 1

    def _record(self, version: ModelVersion) -> Record:
        record = self._records.get(version)
        if record is None:
            record = self._records[version] = Record(version.description)
        return record

    # Runs.

    def _start(self, run: Run) -> asyncio.Future[Ran]:
        for job in run.jobs:
            self._runs[job] = run
        run.future = run.runner.run([job.work for job in run.jobs], seconds=self._patience(run.jobs[0]))
        if run.record.reniceable is not None:
            trial_seconds = run.runner.description.trial.run_us / 1e6
            seconds = max(_LONG_SECONDS, trial_seconds * _LONG_FACTOR * len(run.jobs))
            run.timer = asyncio.get_running_loop().call_later(seconds, self._renice, run.record.reniceable)
        return run.future

    def _patience(self, first: Job) -> float:
        """How long a run may take. One with a charge goes on when nobody waits for it: what it costs is to be noted."""
        if first.timer is None or first.work.charge is None:
            return self._seconds
        return min(self._seconds, max(first.timer.when() - asyncio.get_running_loop().time(), 0.0))

    def _renice(self, runner: Reniceable) -> None:
        self.counts.reniced += 1
        runner.renice()

    def _ended(self, run: Run, future: asyncio.Future[Ran]) -> None:
        self._vacate(run)
        self._settle(run, future)
        self.dispatch()

    def _settle(self, run: Run, future: asyncio.Future[Ran]) -> Ran | None:
        """Answer the requests of a run that has ended, or let them run once more; what it brought, where it did."""
        if run.timer is not None:
            run.timer.cancel()
        for job in run.jobs:
            del self._runs[job]
        error = run.version.not_loaded() if future.cancelled() else future.exception()
        if error is not None:
            self._failed(run, error)
            return None
        ran = future.result()
        run.record.crashes = 0
        counts, requests = self.counts, len(run.jobs)
        counts.batches[requests] += 1
        counts.queued += requests
        for job, outputs in zip(run.jobs, ran.answers, strict=True):
            queue_ns = run.began_ns - job.queued_ns
            counts.queue_ns += queue_ns
            if not job.answer.done():
                job.answer.set_result(Done(outputs, queue_ns, ran.engine_ns, requests))
            self._end(job)
        return ran

    def _failed(self, run: Run, error: BaseException) -> None:
        code = error.code if isinstance(error, BlindAIError) else ""
        record = run.record
        together = len(run.jobs) > 1
        if code == UNBATCHABLE and together:
            record.batchable = False
        if code == "model.crashed":
            self.counts.crashes += 1
            if not together:
                record.crashes += 1
        for job in reversed(run.jobs):
            lost = code == "model.not_loaded" and not job.retried and job.work.charge is None
            if job.answer.done() or self._closed or not (lost or (together and code != "model.not_loaded")):
                self._end(job, error)
                continue
            if lost:
                job.retried = True
            else:
                job.rows = 0
            self.counts.retries += 1
            self._queue.put_back(job, run.tenant)
        if record.crashes >= _MOST_CRASHES:
            record.crashes = 0
            self._models.withdraw(run.version, "crashed")
            self._refuse_line(run.tenant, run.version, run.version.not_loaded())

    def _end(self, job: Job, error: BaseException | None = None) -> None:
        """A request has come to its end; it neither waits nor runs."""
        if job.timer is not None:
            job.timer.cancel()
        if error is not None and not job.answer.done():
            job.answer.set_exception(error)
        if job.work.charge is not None:
            job.work.charge.settle(failed=error is not None)
        job.version.end_run()

    # Requests that nobody waits for any more.

    def _dropped(self, job: Job) -> None:
        self.counts.dropped += 1
        self._leave(job)

    def _expire(self, job: Job) -> None:
        if not job.answer.done():
            self.counts.deadlines += 1
            job.answer.set_exception(_late())
            self._leave(job)

    def _leave(self, job: Job) -> None:
        """Take a request out of its queue, or end its run where that answers no other."""
        if job.tenant is not None:
            self._queue.remove(job)
            self._end(job, _late())
            return
        run = self._runs.get(job)
        if run is None or run.future is None or job.work.charge is not None:
            return
        if all(other.answer.done() for other in run.jobs):
            run.future.cancel()

    # Showing that batches change nothing.

    def _show(self, tenant: Tenant, jobs: list[Job], record: Record, runner: Runner) -> None:
        jobs[0].version.stay()
        record.showing = True
        run = Run(jobs, tenant, record, runner, began_ns=self._occupy(tenant, record))
        task = asyncio.get_running_loop().create_task(self._shown(run))
        self._showing.add(task)
        task.add_done_callback(self._showing.discard)

    async def _shown(self, together: Run) -> None:
        """Run requests one after the other, answer them, and then see whether they come out alike as one run."""
        record, version = together.record, together.version
        left = together.jobs[::-1]
        works = [_copied(job.work) for job in left[::-1]]  # the bodies go when their requests have been answered
        alone: list[list[Tensor]] = []
        try:
            while left:
                job = left.pop()
                if job.answer.done():
                    self._end(job, _late())
                    continue
                run = Run([job], together.tenant, record, together.runner, began_ns=time.perf_counter_ns())
                future = self._start(run)
                try:
                    await asyncio.wait((future,))
                finally:
                    if not future.done():
                        future.cancel()
                    ran = self._settle(run, future)
                if ran is not None:
                    alone += ran.answers
            if len(alone) == len(together.jobs):
                await self._compare(together, works, alone)
        finally:
            for job in left:
                self._end(job, _stopping())
            record.showing = False
            self._vacate(together)
            version.end_run()
            self.dispatch()

    async def _compare(self, together: Run, works: list[Work], alone: list[list[Tensor]]) -> None:
        record, jobs = together.record, together.jobs
        self.counts.shown += 1
        try:
            ran = await together.runner.run(works, seconds=self._seconds)
        except BlindAIError as error:
            if error.code == "model.not_loaded":
                return
            if error.code == UNBATCHABLE:
                record.batchable = False
            same = False
        else:
            same = all(map(same_bits, alone, ran.answers))
        record.exactness.learn(jobs[0].shape, [job.rows for job in jobs], same=same)

    # Models that are not in memory.

    def _begin_bringing(self, tenant: Tenant, version: ModelVersion) -> None:
        if version in self._bringing or tenant.bringing >= self._workers:
            return
        tenant.bringing += 1
        self._bringing[version] = asyncio.get_running_loop().create_task(self._bring(tenant, version))

    async def _bring(self, tenant: Tenant, version: ModelVersion) -> None:
        record = self._record(version)
        record.brings += 1
        try:
            if record.brings > _MOST_BRINGS:
                record.brings = 0
                message = "the model had to leave memory again and again before it could run"
                raise Unavailable(message, code="busy", hint="try again soon")
            await self._models.bring(version)
        except BaseException as error:
            self._refuse_line(tenant, version, error if isinstance(error, BlindAIError) else version.not_loaded())
            if not isinstance(error, BlindAIError):
                raise
        finally:
            del self._bringing[version]
            tenant.bringing -= 1
            self.dispatch()

    def _refuse_line(self, tenant: Tenant, version: ModelVersion, error: BlindAIError) -> None:
        for job in list(tenant.lines.get(version, ())):
            self._queue.remove(job)
            self._end(job, error)


def _size(job: Job) -> int:
    return sum(tensor.data.nbytes for tensor in job.work.inputs.values())


def _copied(work: Work) -> Work:
    inputs = {name: Tensor(name, tensor.datatype, tensor.data.copy()) for name, tensor in work.inputs.items()}
    return work._replace(inputs=inputs)


def _late() -> Unavailable:
    return Unavailable("the time that the request gave was over before it was answered", code="deadline")


def _stopping() -> Unavailable:
    return Unavailable("the server is stopping", code="stopping")
