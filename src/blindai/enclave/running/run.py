"""One run under way, what is remembered of the runs of one model, and what is counted of all."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from blindai.enclave.running.exactness import Exactness

if TYPE_CHECKING:
    import asyncio

    from blindai.enclave.models.description import Description
    from blindai.enclave.models.model_version import ModelVersion
    from blindai.enclave.running.queue import Job, Tenant
    from blindai.enclave.running.runner import Ran, Runner


@runtime_checkable
class Reniceable(Protocol):
    """A runner whose runs can be made to stand back."""

    def renice(self) -> None:
        """Let what runs now have what others leave."""


class Counts:
    """What the scheduler has done, for the metrics: sums, and no names.

    Attributes:
        batches: runs, by the number of requests that they answered.
        queue_ns: sum of the times that requests waited.
        queued: how many these were.
        retries: requests that were run once more.
        crashes: runs that took their process with them.
        deadlines: requests whose time was over before they were answered.
        dropped: requests whose client had gone before they were answered.
        reniced: runs that were made to stand back.
        shown: batches that were run beside their requests to see whether they change answers.
    """

    def __init__(self) -> None:
        self.batches: Counter[int] = Counter()
        self.queue_ns = 0
        self.queued = 0
        self.retries = 0
        self.crashes = 0
        self.deadlines = 0
        self.dropped = 0
        self.reniced = 0
        self.shown = 0


class Record:
    """What is remembered of one model version.

    Attributes:
        runner: what its runs went to last.
        running: how many are under way there.
        reniceable: the runner, where it can renice them.
        crashes: runs in a row that took their process with them.
        batchable: whether its outputs have the rows of its inputs.
        showing: whether it is being shown just now that a batch changes nothing.
        brings: how often it was brought since a run of it began.
    """

    __slots__ = ("batchable", "brings", "crashes", "exactness", "reniceable", "runner", "running", "showing")

    def __init__(self, description: Description) -> None:
        self.runner: Runner | None = None
        self.running = 0
        self.reniceable: Reniceable | None = None
        self.crashes = 0
        self.batchable = description.trial.max_batch > 1
        self.showing = False
        self.brings = 0
        self.exactness = Exactness(description)


class Run:
    """One run under way.

    Attributes:
        jobs: what it answers, at least one, all of one model version.
        tenant: whose they are.
        record: of that version.
        runner: what runs it.
        began_ns: when it began.
        future: of the runner.
        timer: renices it.
    """

    __slots__ = ("began_ns", "future", "jobs", "record", "runner", "tenant", "timer")

    def __init__(self, jobs: list[Job], tenant: Tenant, record: Record, runner: Runner, *, began_ns: int) -> None:
        self.jobs = jobs
        self.tenant = tenant
        self.record = record
        self.runner = runner
        self.began_ns = began_ns
        self.future: asyncio.Future[Ran] | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def version(self) -> ModelVersion:
        """What is run."""
        return self.jobs[0].version
