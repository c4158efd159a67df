"""Where runs happen, and how those end that would not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blindai.enclave.config import EnclaveConfig, Isolation, Runtime, Timeouts
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.models.model_id import ModelId
from blindai.wire import v2
from enclave_server import Response, RunningServer, binary_request

Start = Callable[..., RunningServer]
QUICK = np.full((1, 1), 1, np.float32)
ENDLESS = np.full((1, 1), 1e12, np.float32)


def counts(server: RunningServer) -> tuple[int, int]:
    """Runs on the event loop, and runs on workers."""
    metrics = server.application.metrics
    return server.call(lambda: (metrics._inline, metrics._handed_over))  # type: ignore[no-any-return] # a pair of numbers


def test_quick_runs_move_to_the_event_loop_once_tried(start_server: Start, adder: bytes) -> None:
    server = start_server(EnclaveConfig(runtime=Runtime(inline_us=1_000_000)))
    server.upload("acme/add", adder)
    with server.connect() as wire:
        for _ in range(10):
            assert wire.infer("acme/add", np.ones((1, 4), np.float32)).status == 200
    assert counts(server) == (7, 3)


def test_nothing_runs_on_the_event_loop_where_that_is_off(start_server: Start, adder: bytes) -> None:
    server = start_server(EnclaveConfig(runtime=Runtime(inline_us=0)))
    server.upload("acme/add", adder)
    with server.connect() as wire:
        for _ in range(10):
            assert wire.infer("acme/add", np.ones((1, 4), np.float32)).status == 200
    assert counts(server) == (0, 10)


def test_a_run_without_end_is_stopped(start_server: Start, slow: bytes) -> None:
    server = start_server(EnclaveConfig(timeouts=Timeouts(run_ms=200)))
    server.upload("acme/slow", slow)
    with server.connect() as wire:
        wire.infer("acme/slow", ENDLESS).assert_problem(504, "quota.run_time")
        assert wire.infer("acme/slow", QUICK).status == 200


def test_a_run_that_abuses_the_event_loop_is_moved_and_then_stopped(start_server: Start, slow: bytes) -> None:
    server = start_server(
        EnclaveConfig(timeouts=Timeouts(run_ms=500), runtime=Runtime(isolation=Isolation.THREAD, inline_us=10_000))
    )
    server.upload("acme/slow", slow)
    with server.connect() as wire, server.connect() as other:
        for _ in range(6):
            assert wire.infer("acme/slow", QUICK).status == 200
        inline, handed_over = counts(server)
        assert inline > 0
        # The shapes are those of the quick ones, so it begins on the loop.
        body = wire.begin_infer("acme/slow", ENDLESS)
        assert other.request("GET", "/v2").status == 200
        assert body().json["code"] == "quota.run_time"
        # The kind has lost the loop's trust.
        assert wire.infer("acme/slow", QUICK).status == 200
        assert counts(server) == (inline, handed_over + 1)


def test_the_workers_stop_what_they_run_only_when_asked(start_server: Start, slow: bytes) -> None:
    server = start_server(EnclaveConfig(timeouts=Timeouts(run_ms=300), runtime=Runtime(workers=2)))
    server.upload("acme/slow", slow)
    wires = [server.connect() for _ in range(4)]
    answers = [wire.begin_infer("acme/slow", ENDLESS if n % 2 else QUICK) for n, wire in enumerate(wires)]
    assert [answer().status for answer in answers] == [200, 504, 200, 504]
    for wire in wires:
        wire.close()


class FailingEngine(OnnxRuntimeEngine):
    """Every run ends as no engine should."""

    def load(self, model: Any, external: Any) -> Any:
        session = super().load(model, external)

        def run(*_: Any, **__: Any) -> Any:
            raise RuntimeError("secret of a client")

        session.run = run  # type: ignore[method-assign] # the point of this engine
        return session


def test_an_engine_that_fails_is_an_incident(
    start_server: Start, adder: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start_server(engine=FailingEngine())
    server.upload("acme/add", adder)
    with server.connect() as wire:
        response = wire.infer("acme/add", np.ones((1, 4), np.float32))
        response.assert_problem(500, "internal")
        assert b"secret" not in response.body
        assert wire.request("GET", "/v2").status == 200
    assert "secret" not in capfd.readouterr().out
    assert server.request("DELETE", "/v2/repository/models/acme/add").status == 200


def values(response: Response) -> NDArray[Any]:
    assert response.status == 200, response.body
    return v2.decode_response(response.body, int(response.headers[v2.HEADER_LENGTH])).outputs[0].data


def routines(server: RunningServer) -> int:
    """Requests that the newest version of the only model knows in all but their values."""
    (version,) = server.application.repository
    return server.call(lambda: len(version.routines))  # type: ignore[no-any-return] # a number


def test_a_routine_answers_each_request_for_itself(start_server: Start, adder: bytes) -> None:
    server = start_server(EnclaveConfig(runtime=Runtime(inline_us=1_000_000)))
    server.upload("acme/add", adder)
    with server.connect() as wire:
        plain = [values(wire.infer("acme/add", np.full((1, 4), n, np.float32))) for n in range(3)]
        assert routines(server) == 0
        step = plain[1] - plain[0]
        for n in range(3, 12):
            assert np.array_equal(values(wire.infer("acme/add", np.full((1, 4), n, np.float32))), plain[0] + n * step)
        assert routines(server) == 1
        # What has no such JSON is judged as ever.
        wire.infer("acme/add", np.ones((1, 4), np.float64)).assert_problem(400, "input.datatype")
        body, length = binary_request(np.ones((1, 4), np.float32))
        header = f"Inference-Header-Content-Length: {length}"
        wire.request("POST", "/v2/models/acme/add/infer", body + b"x", header).assert_problem(400, "input.size")
        wire.request("POST", "/v2/models/acme/add/infer", body[:-1], header).assert_problem(400, "input.size")
    assert counts(server) == (9, 3)
    (version,) = server.application.repository
    statistics = version.statistics
    assert (statistics.successes, statistics.failures, version.runs) == (12, 3, 0)


def test_a_routine_ends_with_what_ran_it(start_server: Start, adder: bytes) -> None:
    server = start_server(EnclaveConfig(runtime=Runtime(inline_us=1_000_000)))
    server.upload("acme/add", adder)
    with server.connect() as wire:
        for _ in range(6):
            assert wire.infer("acme/add", np.ones((1, 4), np.float32)).status == 200
        assert routines(server) == 1
        assert wire.request("POST", "/v2/repository/models/acme/add/unload").status == 200
        assert routines(server) == 0
        wire.infer("acme/add", np.ones((1, 4), np.float32)).assert_problem(404, "model.not_loaded")
        assert wire.request("POST", "/v2/repository/models/acme/add/load").status == 200
        for _ in range(2):
            assert wire.infer("acme/add", np.ones((1, 4), np.float32)).status == 200
        assert routines(server) == 1


def test_an_answer_that_cannot_be_written_is_an_incident_of_its_request_alone(
    start_server: Start, adder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for a run hears of it in the middle of what the scheduler does, which must go on."""
    server = start_server(EnclaveConfig(runtime=Runtime(inline_us=0)))
    server.upload("acme/add", adder)
    codec = server.application._inference._codec

    def fail(*_: object) -> Any:
        raise RuntimeError("secret of a client")

    with server.connect() as wire:
        with monkeypatch.context() as patched:
            patched.setattr(codec, "encode", fail)
            response = wire.infer("acme/add", np.ones((1, 4), np.float32))
        response.assert_problem(500, "internal")
        assert b"secret" not in response.body
        version = server.call(lambda: server.application.repository.resolve(ModelId("acme", "add")))
        assert not version.runs
        assert wire.infer("acme/add", np.ones((1, 4), np.float32)).status == 200
