from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from blindai.enclave.limits import Budget
from blindai.enclave.metrics import Metrics
from blindai.enclave.running.run import Counts
from blindai.errors import Unavailable
from blindai.wire.problems import PROBLEMS
from repositories import ThreadRepository


def made() -> Metrics:
    bodies = Budget(100, lambda wanted, free: Unavailable("full"))
    return Metrics(ThreadRepository(), bodies, lambda: 3, Counts())


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_durations_fall_into_their_buckets() -> None:
    metrics = made()
    for ns in (50_000, 100_000, 100_001, 20_000_000_000):
        metrics.ran(ns, inline=True)
    found = samples(metrics)
    assert found["blindai_inference_seconds_bucket", ("0.0001",)] == 2
    assert found["blindai_inference_seconds_bucket", ("0.0003",)] == 3
    assert found["blindai_inference_seconds_bucket", ("10.0",)] == 3
    assert found["blindai_inference_seconds_bucket", ("+Inf",)] == 4
    assert found["blindai_inference_seconds_count", ()] == 4
    assert found["blindai_inferences_total", ("inline",)] == 4
    assert found["blindai_runs_queued", ()] == 3


def test_labels_stay_few_whatever_is_reported() -> None:
    metrics = made()
    for n in range(1000):
        metrics.failed(f"input.made_up_{n}")
        metrics.refused(f"model.made_up_{n}")
    for code in PROBLEMS:
        metrics.refused(code)
    labels = {labels for name, labels in samples(metrics) if name == "blindai_refusals_total"}
    assert len(labels) == len(PROBLEMS) + 1
    assert samples(metrics)["blindai_inference_failures_total", ("input",)] == 1000


def test_batches_and_waits_are_summed_without_names() -> None:
    counts = Counts()
    counts.batches.update({1: 5, 3: 2, 100: 1})
    counts.queued, counts.queue_ns, counts.crashes = 4, 2_000_000_000, 1
    bodies = Budget(100, lambda wanted, free: Unavailable("full"))
    found = samples(Metrics(ThreadRepository(), bodies, lambda: 0, counts))
    assert found["blindai_batch_requests_bucket", ("1.0",)] == 5
    assert found["blindai_batch_requests_bucket", ("2.0",)] == 5
    assert found["blindai_batch_requests_bucket", ("4.0",)] == 7
    assert found["blindai_batch_requests_bucket", ("64.0",)] == 7
    assert found["blindai_batch_requests_bucket", ("+Inf",)] == 8
    assert found["blindai_batch_requests_sum", ()] == 111
    assert (found["blindai_queue_seconds_count", ()], found["blindai_queue_seconds_sum", ()]) == (4, 2)
    assert found["blindai_crashes_total", ()] == 1
    assert found["blindai_store_bytes", ("taken",)] == found["blindai_evictions_total", ()] == 0
