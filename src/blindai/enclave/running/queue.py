"""Requests that wait for their turn: one queue for each tenant, and whose turn it is.

A tenant is a namespace of models. The turn is always that of the tenant to which least run time was given; one that
comes anew begins level with whoever has had least, so that neither rest nor haste earns anything. Nothing here waits
or runs: the scheduler does.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from blindai.enclave.running.batch import rows_of
from blindai.enclave.running.exactness import row_shape
from blindai.errors import QuotaExceeded, Unavailable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Sequence

    from blindai.enclave.models.model_version import ModelVersion
    from blindai.enclave.running.exactness import RowShape
    from blindai.enclave.running.runner import Work
    from blindai.wire.tensor import Tensor

# A tenant that comes back is not held to more than this above the least served, however much it has run alone.
_MOST_DEBT_NS: Final = 10_000_000_000

# What a refused client is told to wait at most: by then the pace of the queue is another.
_MOST_RETRY_SECONDS: Final = 60

# Share of the newest run in the estimate of how long a tenant's requests take.
_WEIGHT: Final = 0.25


class Busy(Unavailable):
    """The enclave has as many requests waiting as it may.

    Attributes:
        retry_after: seconds after which to try again.
    """

    retry_after = 1


class QueueFull(QuotaExceeded):
    """A namespace has as many requests waiting as it may.

    Attributes:
        retry_after: seconds after which to try again.
    """

    retry_after = 1


class Done(NamedTuple):
    """A request that was run.

    Attributes:
        outputs: as `runner.Ran`.
        queue_ns: how long it waited.
        engine_ns: how long the engine took for the run.
        requests: how many requests the run answered.
    """

    outputs: list[Tensor]
    queue_ns: int
    engine_ns: int
    requests: int


class Job:
    """One request that waits or runs.

    Attributes:
        version: what it is for.
        work: the request.
        answer: done when it is answered; cancelled when nobody waits for it any more.
        queued_ns: when it came.
        number: counts all jobs, in the order in which they came.
        rows: rows that it adds to a batch; 0 where it must run alone.
        shape: of such a row.
        retried: whether it was begun once already and lost its process without being at fault.
        tenant: whose queue it stands in; None while it runs, and afterwards.
        timer: of its deadline.
    """

    __slots__ = ("answer", "number", "queued_ns", "retried", "rows", "shape", "tenant", "timer", "version", "work")

    def __init__(self, version: ModelVersion, work: Work, answer: asyncio.Future[Done], queued_ns: int) -> None:
        self.version = version
        self.work = work
        self.answer = answer
        self.queued_ns = queued_ns
        self.number = 0
        self.rows = 0
        self.shape: RowShape = ()
        self.retried = False
        self.tenant: Tenant | None = None
        self.timer: asyncio.TimerHandle | None = None

    def measure(self) -> None:
        """Find out whether it may run together with others: not text, as its shape does not say what becomes of it."""
        inputs = self.work.inputs
        if self.work.charge is None and all(tensor.datatype != "BYTES" for tensor in inputs.values()):
            self.rows = rows_of(inputs)
            self.shape = row_shape(inputs) if self.rows else ()

    def goes_with(self, other: Job) -> bool:
        """Whether both can be in one batch."""
        return bool(other.rows) and self.shape == other.shape and tuple(self.work.outputs) == tuple(other.work.outputs)


class Tenant:
    """One namespace: what waits, by model version, and what it was given.

    Attributes:
        lines: the jobs that wait, oldest first.
        waiting: how many these are.
        running: runs of its models under way.
        bringing: models of its that are being brought into memory.
    """

    __slots__ = ("_began_ns", "_request_ns", "_used_ns", "bringing", "lines", "namespace", "running", "waiting")

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.lines: dict[ModelVersion, deque[Job]] = {}
        self.waiting = 0
        self.running = 0
        self.bringing = 0
        self._used_ns = 0
        self._began_ns = 0
        self._request_ns = 0.0

    @property
    def active(self) -> bool:
        """Whether anything of it waits or runs."""
        return bool(self.waiting or self.running)

    def served_ns(self, now_ns: int) -> int:
        """Run time that it was given, runs under way included."""
        return self._used_ns + self.running * now_ns - self._began_ns

    def level(self, least_ns: int) -> None:
        """Come anew, while the least served has had `least_ns`."""
        self._used_ns = min(max(self._used_ns, least_ns), least_ns + _MOST_DEBT_NS)

    def forget(self) -> None:
        """Come anew, while there is nobody to be fair to."""
        self._used_ns = 0

    def begin(self, now_ns: int) -> None:
        """A run begins."""
        self.running += 1
        self._began_ns += now_ns

    def end(self, began_ns: int, now_ns: int, requests: int) -> None:
        """A run has ended that answered so many requests."""
        self.running -= 1
        self._began_ns -= began_ns
        taken = now_ns - began_ns
        self._used_ns += taken
        self._request_ns += (taken / requests - self._request_ns) * (_WEIGHT if self._request_ns else 1)

    def retry_after(self, waiting: int, workers: int) -> int:
        """Seconds in which so many requests are worked off, as far as is known; at least one."""
        return min(max(math.ceil(waiting * self._request_ns / workers / 1e9), 1), _MOST_RETRY_SECONDS)

    def in_turn(self) -> list[deque[Job]]:
        """The lines, that with the oldest job first."""
        return sorted(self.lines.values(), key=lambda line: line[0].number)


class Queue:
    """What waits, of all tenants.

    Args:
        most: jobs that may wait.
        most_of_tenant: those of one tenant.
        workers: runs of one tenant at once.
    """

    def __init__(self, most: int, most_of_tenant: int, workers: int) -> None:
        self.waiting = 0
        self._most = most
        self._most_of_tenant = most_of_tenant
        self._workers = workers
        self._tenants: dict[str, Tenant] = {}
        self._count = 0

    def __iter__(self) -> Iterator[Job]:
        """All jobs that wait, those of one model together."""
        for tenant in self._tenants.values():
            for line in tenant.lines.values():
                yield from line

    def add(self, job: Job, now_ns: int) -> Tenant:
        """Put a job at the end of its line; whether there is room for it to stay is asked with `refuse_full`."""
        namespace = job.version.id.namespace
        tenant = self._tenants.get(namespace)
        if tenant is None:
            tenant = self._tenants[namespace] = Tenant(namespace)
        if not tenant.active:
            others = [one.served_ns(now_ns) for one in self._tenants.values() if one.active]
            if others:
                tenant.level(min(others))
            else:
                self._tenants = {namespace: tenant}
                tenant.forget()
        self._count += 1
        job.number = self._count
        self._enter(job, tenant)
        tenant.lines.setdefault(job.version, deque()).append(job)
        return tenant

    def put_back(self, job: Job, tenant: Tenant) -> None:
        """Put a job that has been taken at the head of its line."""
        self._enter(job, tenant)
        tenant.lines.setdefault(job.version, deque()).appendleft(job)

    def remove(self, job: Job) -> None:
        """Take a job out that waits."""
        tenant = job.tenant
        if tenant is None:
            raise AssertionError("this job does not wait")
        line = tenant.lines[job.version]
        line.remove(job)
        self._leave(job, tenant, line)

    def take(self, tenant: Tenant, line: deque[Job], most_rows: int) -> list[Job]:
        """Take the first job of a line, and after it those that go with it, up to `most_rows` rows."""
        first = line.popleft()
        taken = [first]
        if first.rows and line and most_rows > 1:
            rows = first.rows
            left = []
            for job in line:
                if rows + job.rows <= most_rows and first.goes_with(job):
                    taken.append(job)
                    rows += job.rows
                else:
                    left.append(job)
            line.clear()
            line.extend(left)
        for job in taken:
            self._leave(job, tenant, line)
        return taken

    def in_turn(self, now_ns: int) -> Sequence[Tenant]:
        """The tenants that have something waiting and may run more, the least served first."""
        found = [one for one in self._tenants.values() if one.waiting and one.running < self._workers]
        if len(found) > 1:
            found.sort(key=lambda one: (one.served_ns(now_ns), one.running))
        return found

    def refuse_full(self, job: Job) -> None:
        """Raises QuotaExceeded `quota.queue` or Unavailable `busy`, and takes the job out, where none may be added."""
        tenant = job.tenant
        if tenant is None:
            return
        if tenant.waiting > self._most_of_tenant:
            self.remove(job)
            full = QueueFull(
                f"the namespace {tenant.namespace} has {self._most_of_tenant} requests waiting, as many as it may",
                code="quota.queue",
                hint="try again soon, or send fewer requests at once",
            )
            full.retry_after = tenant.retry_after(tenant.waiting, self._workers)
            raise full
        if self.waiting > self._most:
            self.remove(job)
            busy = Busy("the enclave has as many requests waiting as it may", code="busy", hint="try again soon")
            busy.retry_after = max(
                one.retry_after(one.waiting, self._workers) for one in self._tenants.values() if one.waiting
            )
            raise busy

    def _enter(self, job: Job, tenant: Tenant) -> None:
        job.tenant = tenant
        tenant.waiting += 1
        self.waiting += 1

    def _leave(self, job: Job, tenant: Tenant, line: deque[Job]) -> None:
        job.tenant = None
        tenant.waiting -= 1
        self.waiting -= 1
        if not line:
            tenant.lines.pop(job.version, None)
