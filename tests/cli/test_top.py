"""`blindai top`: one frame of what an enclave does, and the arithmetic behind it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from blindai.attestation.measure.local import local_policy
from blindai.cli.top import Sample, frame, parse_metrics
from blindai.client.connection import Connection
from blindai.errors import ModelNotFound
from blindai.wire.metadata import (
    Duration,
    InferenceStatistics,
    MemoryUsage,
    ModelStatistics,
    StatisticsResponse,
)
from enclave_server import node_model

from .conftest import Run

METRICS = """\
# HELP blindai_inferences_total Inferences that succeeded.
# TYPE blindai_inferences_total counter
blindai_inferences_total{path="inline"} %d
blindai_inferences_total{path="worker"} 0.0
blindai_refusals_total{code="model.not_found"} 2.0
blindai_memory_bytes{kind="taken",use="models"} 5.0
blindai_runs_queued 3.0
blindai_inference_seconds_bucket{le="0.001"} %d
blindai_inference_seconds_bucket{le="0.003"} %d
blindai_inference_seconds_bucket{le="+Inf"} %d
"""


def sample(at: float, done: int, ns: int, runs: int, *, resident: bool = True) -> Sample:
    model = ModelStatistics(
        "acme/model",
        "1",
        inference_count=done,
        execution_count=runs,
        inference_stats=InferenceStatistics(success=Duration(done, ns), fail=Duration(1, 1)),
        memory_usage=(MemoryUsage(byte_size=7),),
        state="READY",
        resident=resident,
    )
    return Sample(at, StatisticsResponse((model,)), parse_metrics(METRICS % (done, 0, done, done)))


def test_a_frame_tells_what_happened_between_two_samples() -> None:
    told = frame(sample(10.0, 100, 10**9, 100), sample(12.0, 140, 10**9 + 80_000_000, 110))
    (model,) = told["models"]
    assert (told["requests_per_second"], told["p50_ms_at_most"], told["queued"]) == (20, 3, 3)
    assert (model["requests_per_second"], model["average_ms"], model["batch"]) == (20, 2, 4)
    assert (model["failures"], model["memory_bytes"], model["state"]) == (1, 7, "READY")
    assert told["refusals"] == {"model.not_found": 2}


def test_where_nothing_happened_nothing_is_made_up() -> None:
    told = frame(sample(1.0, 5, 5, 5), sample(2.0, 5, 5, 5, resident=False))
    (model,) = told["models"]
    assert (told["requests_per_second"], told["p50_ms_at_most"]) == (0, None)
    assert (model["average_ms"], model["batch"], model["state"]) == (None, None, "ON DISK")


def test_a_model_that_was_uploaded_anew_counts_from_zero() -> None:
    (model,) = frame(sample(1.0, 50, 50, 50), sample(2.0, 4, 8_000_000, 4))["models"]
    assert (model["requests_per_second"], model["average_ms"]) == (4, 2)


def test_one_frame_of_a_real_enclave(program: Run, run: Run, address: str) -> None:
    with Connection(address, policy=local_policy()) as client:
        client.upload_model(node_model(onnx.helper.make_node("Neg", ["x"], ["y"])), model_id="acme/neg")
        for _ in range(3):
            client.predict("acme/neg", np.ones((1, 2), np.float32))
        with pytest.raises(ModelNotFound):
            client.predict("acme/nothing", {"x": [1.0]})
    ended = program("top", address, "--once", "--interval", "0.2")
    assert ended.code == 0
    assert max(map(len, ended.out.splitlines())) <= 80
    for words in ("SIMULATED", "acme/neg:1", "ready", "memory", "model.not_found"):
        assert words in ended.out
    assert "\x1b" not in ended.out
    told = run("top", address, "--json", "--interval", "0.2").json
    assert told["simulated"]
    assert "acme/neg" in {model["name"] for model in told["models"]}
    assert told["memory_limit_bytes"] > told["memory_bytes"] > 0


def test_what_is_not_attested_is_not_asked(run: Run) -> None:
    ended = run("top", "https://127.0.0.1:1", "--once")
    assert (ended.code, "Unavailable" in ended.err) == (8, True)
