"""What the enclave counts, for `/metrics` in the format of Prometheus.

Neither users nor models appear: labels are codes of this package and states, both of a closed set. Counting
is adding to integers on the event loop; the Prometheus objects are made when somebody asks for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from blindai.enclave.clock import NS_PER_SECOND, elapsed_ns
from blindai.enclave.lease.state import Phase
from blindai.enclave.models.model_version import State
from blindai.wire.problems import PROBLEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client import Metric

    from blindai.enclave.lease.keeper import Keeper
    from blindai.enclave.limits import Budget
    from blindai.enclave.models.repository import Repository
    from blindai.enclave.running.run import Counts

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# From a tiny model's run to a language model's: a factor of about three from one to the next, in nanoseconds.
_BUCKETS_NS: Final = tuple(int(seconds * 1e9) for seconds in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1, 3, 10))


_BATCH_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64)


class Metrics(Collector):
    """The counts of one enclave.

    Args:
        repository: the models, looked at when the metrics are read.
        bodies: the budget of request bodies, likewise.
        queued: tells how many runs wait for a worker.
        counts: what the scheduler has done, likewise.
    """

    def __init__(self, repository: Repository, bodies: Budget, queued: Callable[[], int], counts: Counts) -> None:
        self._repository = repository
        self._bodies = bodies
        self._queued = queued
        self._counts = counts
        self._inline = 0
        self._handed_over = 0
        self._failures: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._uploads = 0
        self._buckets = [0] * (len(_BUCKETS_NS) + 1)
        self._sum_ns = 0
        self._lease: Keeper | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def count_lease(self, lease: Keeper) -> None:
        """Show the lease of the model on loan, too."""
        self._lease = lease

    def ran(self, ns: int, *, inline: bool) -> None:
        """Count an inference that succeeded after `ns`, on the event loop or handed over to a worker."""
        if inline:
            self._inline += 1
        else:
            self._handed_over += 1
        self._buckets[bisect_left(_BUCKETS_NS, ns)] += 1
        self._sum_ns += ns

    def failed(self, code: str) -> None:
        """Count an inference that failed."""
        self._failures[_bounded(code)] += 1

    def refused(self, code: str) -> None:
        """Count any other request that was answered with an error."""
        self._refusals[_bounded(code)] += 1

    def uploaded(self) -> None:
        """Count a model that was stored."""
        self._uploads += 1

    def render(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """As Prometheus wants it."""
        inferences = CounterMetricFamily("blindai_inferences", "Inferences that succeeded.", labels=["path"])
        inferences.add_metric(["inline"], self._inline)
        inferences.add_metric(["worker"], self._handed_over)
        yield inferences
        failures = CounterMetricFamily("blindai_inference_failures", "Inferences that failed.", labels=["code"])
        for code, count in sorted(self._failures.items()):
            failures.add_metric([code], count)
        yield failures
        refusals = CounterMetricFamily("blindai_refusals", "Other requests answered with an error.", labels=["code"])
        for code, count in sorted(self._refusals.items()):
            refusals.add_metric([code], count)
        yield refusals
        yield CounterMetricFamily("blindai_uploads", "Models stored.", value=self._uploads)
        yield self._durations()
        yield GaugeMetricFamily("blindai_runs_queued", "Inferences waiting for a worker.", value=self._queued())
        yield from self._scheduled()
        states = Counter(version.state for version in self._repository)
        models = GaugeMetricFamily("blindai_models", "Model versions by state.", labels=["state"])
        for state in State:
            models.add_metric([state], states[state])
        yield models
        memory = GaugeMetricFamily(
            "blindai_memory_bytes", "Memory by use: taken, and the limit.", labels=["use", "kind"]
        )
        for use, budget in (("models", self._repository.memory), ("bodies", self._bodies)):
            memory.add_metric([use, "taken"], budget.used)
            memory.add_metric([use, "limit"], budget.total)
        yield memory
        yield from self._stored()
        if self._lease is not None:
            yield from _lease(self._lease)

    def _scheduled(self) -> Iterable[Metric]:
        counts = self._counts
        yield HistogramMetricFamily(
            "blindai_batch_requests",
            "Requests that one run answered.",
            buckets=_sizes(counts.batches),
            sum_value=sum(size * runs for size, runs in counts.batches.items()),
        )
        waits = SummaryMetricFamily("blindai_queue_seconds", "Time that requests waited for a worker.")
        waits.add_metric([], count_value=counts.queued, sum_value=counts.queue_ns / NS_PER_SECOND)
        yield waits
        for name, words, count in (
            ("blindai_retries", "Requests that were run once more.", counts.retries),
            ("blindai_crashes", "Runs that took their process with them.", counts.crashes),
            ("blindai_deadlines", "Requests whose time was over before they were answered.", counts.deadlines),
            ("blindai_dropped", "Requests whose client had gone before they were answered.", counts.dropped),
            ("blindai_reniced", "Runs that were made to stand back.", counts.reniced),
        ):
            yield CounterMetricFamily(name, words, value=count)

    def _stored(self) -> Iterable[Metric]:
        repository = self._repository
        resident = sum(version.loaded is not None for version in repository)
        yield GaugeMetricFamily("blindai_models_resident", "Model versions in memory.", value=resident)
        yield CounterMetricFamily(
            "blindai_loads", "Times that a model was brought into memory.", value=repository.loads
        )
        evictions = repository.memory.evictions
        yield CounterMetricFamily("blindai_evictions", "Times that a model left memory to make room.", value=evictions)
        store = GaugeMetricFamily(
            "blindai_store_bytes", "Encrypted bytes on disk: taken, and the limit.", labels=["kind"]
        )
        store.add_metric(["taken"], repository.store.space.used)
        store.add_metric(["limit"], repository.store.space.total)
        yield store

    def _durations(self) -> HistogramMetricFamily:
        total = 0
        buckets = []
        for bound, count in zip((*(ns / 1e9 for ns in _BUCKETS_NS), "+Inf"), self._buckets, strict=True):
            total += count
            buckets.append((str(bound), total))
        return HistogramMetricFamily(
            "blindai_inference_seconds",
            "Time from the complete request to the response, of inferences that succeeded.",
            buckets=buckets,
            sum_value=self._sum_ns / 1e9,
        )


def _sizes(batches: Mapping[int, int]) -> list[tuple[str, float]]:
    """Cumulative counts by powers of two, up to the largest batch that a configuration allows."""
    bounds = [(str(float(bound)), bound) for bound in _BATCH_BOUNDS]
    buckets = [(name, float(sum(runs for size, runs in batches.items() if size <= bound))) for name, bound in bounds]
    return [*buckets, ("+Inf", float(sum(batches.values())))]


def _lease(lease: Keeper) -> Iterable[Metric]:
    now = elapsed_ns()
    current = lease.terms.phase(now)
    phases = GaugeMetricFamily("blindai_lease_state", "1 for the state that the lease is in.", labels=["state"])
    for phase in Phase:
        phases.add_metric([phase], int(phase is current))
    yield phases
    left = GaugeMetricFamily(
        "blindai_lease_seconds_left", "Until no query starts, and until the model is wiped.", labels=["expiry"]
    )
    for expiry, at_ns in (("soft", lease.terms.soft_ns), ("hard", lease.terms.hard_ns)):
        left.add_metric([expiry], max(0, at_ns - now) / NS_PER_SECOND)
    yield left
    yield CounterMetricFamily("blindai_lease_units_spent", "Units spent by this instance.", value=lease.meter.spent)


def _bounded(code: str) -> str:
    """The code where the table lists it, else its family: so many labels and no more, whatever engines report."""
    return code if code in PROBLEMS else code.partition(".")[0]
