"""Addresses: what each answers, and how everything that is no address is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from blindai.enclave.app import ROUTES, check_path
from blindai.enclave.config import EnclaveConfig, Limits, Runtime
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.errors import InvalidInput
from enclave_server import RunningServer, binary_request

ONES = np.ones((1, 4), np.float32)
JSON_ONES = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,1]}]}'
Start = Callable[..., RunningServer]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One for all tests that leave it as it was: the default configuration, and `model`."""
    running = RunningServer(EnclaveConfig(), OnnxRuntimeEngine(), simulated=False)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def model(server: RunningServer, adder: bytes) -> str:
    assert server.upload("acme/add", adder).status == 201
    return "acme/add"


@pytest.fixture
def own_server(start_server: Start) -> RunningServer:
    """For a test that changes or counts what is there."""
    return start_server()


@pytest.fixture
def own_model(own_server: RunningServer, adder: bytes) -> str:
    assert own_server.upload("acme/add", adder).status == 201
    return "acme/add"


# What each address answers.


def test_the_server_tells_what_it_is(server: RunningServer) -> None:
    response = server.request("GET", "/v2")
    assert response.json["name"] == "blindai"
    assert "binary_tensor_data" in response.json["extensions"]


def test_health(own_server: RunningServer) -> None:
    assert own_server.request("GET", "/v2/health/live").json == {"live": True}
    assert own_server.request("GET", "/v2/health/ready").json == {"ready": True}
    own_server.call(own_server.application.stop)
    stopping = own_server.request("GET", "/v2/health/ready")
    assert (stopping.status, stopping.json) == (503, {"ready": False})


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_a_model_tells_what_it_takes(server: RunningServer, model: str, version: str) -> None:
    metadata = server.request("GET", f"/v2/models/{model}{version}").json
    assert metadata["name"] == "acme/add"
    assert metadata["versions"] == ["1"]
    assert metadata["platform"] == "onnxruntime_onnx"
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}]
    assert server.request("GET", f"/v2/models/{model}{version}/ready").json["ready"] is True
    config = server.request("GET", f"/v2/models/{model}{version}/config").json
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, -1]}]


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_json_inference(server: RunningServer, model: str, version: str) -> None:
    response = server.request("POST", f"/v2/models/{model}{version}/infer", JSON_ONES)
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json["outputs"][0]["data"] == [2.0, 2.0]
    assert (response.json["model_name"], response.json["model_version"]) == ("acme/add", "1")


def test_binary_inference(server: RunningServer, model: str) -> None:
    with server.connect() as wire:
        for _ in range(8):  # both off and on the event loop
            response = wire.infer(model, ONES)
            assert response.headers["content-type"] == "application/octet-stream"
            length = int(response.headers["inference-header-content-length"])
            assert np.frombuffer(response.body[length:], np.float32).tolist() == [2, 2, 2, 2]


def test_a_query_string_changes_nothing(server: RunningServer, model: str) -> None:
    assert server.request("POST", f"/v2/models/{model}/infer?x=1", JSON_ONES).status == 200


def test_statistics_count(own_server: RunningServer, own_model: str) -> None:
    for _ in range(5):
        own_server.request("POST", f"/v2/models/{own_model}/infer", JSON_ONES)
    own_server.request("POST", f"/v2/models/{own_model}/infer", b"{}")
    for target in (f"/v2/models/{own_model}/stats", f"/v2/models/{own_model}/versions/1/stats", "/v2/models/stats"):
        (stats,) = own_server.request("GET", target).json["model_stats"]
        assert (stats["inference_count"], stats["execution_count"]) == (5, 5)
        assert stats["inference_stats"]["success"]["count"] == 5
        assert stats["inference_stats"]["success"]["ns"] >= stats["inference_stats"]["compute_infer"]["ns"] > 0
        assert stats["inference_stats"]["fail"]["count"] == 1
        assert stats["last_inference"] > 0


def test_metrics_name_no_model(own_server: RunningServer, own_model: str) -> None:
    own_server.request("POST", f"/v2/models/{own_model}/infer", JSON_ONES)
    own_server.request("POST", f"/v2/models/{own_model}/infer", b"{}")
    own_server.request("GET", "/nowhere-secret")
    response = own_server.request("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    text = response.body.decode()
    assert 'blindai_inferences_total{path="worker"} 1.0' in text
    assert 'blindai_inference_failures_total{code="input"} 1.0' in text
    assert 'blindai_refusals_total{code="http.not_found"} 1.0' in text
    assert 'blindai_models{state="READY"} 1.0' in text
    assert "acme" not in text
    assert "secret" not in text


def test_the_gate_has_nothing_more_to_do(server: RunningServer) -> None:
    server.request("POST", "/.well-known/blindai/attestation", b"{}").assert_problem(409, "gate.already_open")


def test_head_is_get_without_a_body(server: RunningServer) -> None:
    with server.connect() as wire:
        wire.head("HEAD", "/v2")
        response = wire.response(head=True)
        assert (response.status, response.body) == (200, b"")
        assert wire.request("GET", "/v2").status == 200


# Models come and go.


def test_versions_and_the_default(own_server: RunningServer, own_model: str, adder: bytes) -> None:
    assert own_server.upload(own_model, adder).json["version"] == "2"
    assert own_server.upload(f"{own_model}?version=7", adder).json["version"] == "7"
    assert own_server.request("POST", f"/v2/models/{own_model}/infer", JSON_ONES).json["model_version"] == "7"
    own_server.upload(f"{own_model}?version=7", adder).assert_problem(409, "model.version_exists")
    assert own_server.request("POST", f"/v2/repository/models/{own_model}/unload?version=7").status == 200
    assert own_server.request("POST", f"/v2/models/{own_model}/infer", JSON_ONES).json["model_version"] == "2"
    assert own_server.request("GET", f"/v2/models/{own_model}").json["versions"] == ["1", "2"]
    assert own_server.request("DELETE", f"/v2/repository/models/{own_model}?version=2").status == 200
    assert own_server.request("POST", f"/v2/models/{own_model}/infer", JSON_ONES).json["model_version"] == "1"
    assert own_server.request("DELETE", f"/v2/repository/models/{own_model}").status == 200
    own_server.request("POST", f"/v2/models/{own_model}/infer", JSON_ONES).assert_problem(404, "model.not_found")
    own_server.request("DELETE", f"/v2/repository/models/{own_model}").assert_problem(404, "model.not_found")
    assert own_server.index() == []
    own_server.eventually(lambda: own_server.application.repository.memory.used == 0)


def test_unload_and_load(own_server: RunningServer, own_model: str) -> None:
    assert own_server.request("POST", f"/v2/repository/models/{own_model}/unload", b"{}").status == 200
    assert own_server.index() == [("acme/add", "1", "UNAVAILABLE")]
    listed = own_server.request("POST", "/v2/repository/index").json
    assert listed[0]["reason"] == "unloaded"
    assert own_server.request("POST", "/v2/repository/index", b'{"ready": true}').json == []
    for target in ("", "/ready", "/config", "/versions/1"):
        own_server.request("GET", f"/v2/models/{own_model}{target}").assert_problem(404, "model.not_loaded")
    own_server.request("POST", f"/v2/models/{own_model}/infer", JSON_ONES).assert_problem(404, "model.not_loaded")
    assert own_server.request("POST", f"/v2/repository/models/{own_model}/load", b"{}").status == 200
    assert own_server.request("POST", f"/v2/models/{own_model}/infer", JSON_ONES).status == 200


def test_a_triton_load_with_its_own_configuration_is_refused(own_server: RunningServer, own_model: str) -> None:
    for parameters in (b'{"config": "{}"}', b'{"file:1/model.onnx": "AAAA"}'):
        own_server.request(
            "POST", f"/v2/repository/models/{own_model}/load", b'{"parameters": ' + parameters + b"}"
        ).assert_problem(400, "input.parameters")
    body = b'{"parameters": {"unload_dependents": false}}'
    assert own_server.request("POST", f"/v2/repository/models/{own_model}/unload", body).status == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "input.json"),
        (b"\xff", 400, "input.json"),
        (b"[]", 400, "input.message"),
        (b'{"ready": 1}', 400, "input.message"),
        (b"[" * 50_000, 400, "input.json"),
        (b" " * 70_000, 413, "quota.body"),
    ],
)
def test_control_bodies(server: RunningServer, body: bytes, status: int, code: str) -> None:
    response = server.request("POST", "/v2/repository/index", body)
    if body.startswith(b"[["):
        assert response.json["code"] in {"input.json", "input.message"}
    else:
        response.assert_problem(status, code)


def test_a_control_body_of_unknown_length_has_a_limit(server: RunningServer) -> None:
    with server.connect() as wire:
        wire.head("POST", "/v2/repository/index", "Transfer-Encoding: chunked")
        for _ in range(5):
            wire.send(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        wire.response().assert_problem(413, "quota.body")


def test_runs_loads_unloads_and_deletes_at_once(own_server: RunningServer, adder: bytes) -> None:
    """Whatever the order, each answer is a right result or a typed refusal, and no memory is lost."""
    own_server.upload("acme/add", adder)
    seen: set[tuple[int, str]] = set()

    def infer(_: int) -> None:
        with own_server.connect() as wire:
            for _ in range(40):
                response = wire.infer("acme/add", ONES)
                if response.status == 200:
                    length = int(response.headers["inference-header-content-length"])
                    assert np.frombuffer(response.body[length:], np.float32).tolist() == [2, 2, 2, 2]
                else:
                    seen.add((response.status, response.json["code"]))

    def churn(_: int) -> None:
        with own_server.connect() as wire:
            for _ in range(15):
                for method, target, body in (
                    ("POST", "/v2/repository/models/acme/add/unload", b""),
                    ("POST", "/v2/repository/models/acme/add/load", b""),
                    ("DELETE", "/v2/repository/models/acme/add", b""),
                    ("PUT", "/v2/repository/models/acme/add", adder),
                ):
                    response = wire.request(method, target, body)
                    if response.status >= 300:
                        seen.add((response.status, response.json["code"]))

    with ThreadPoolExecutor(6) as pool:
        tasks = [pool.submit(infer, n) for n in range(4)] + [pool.submit(churn, n) for n in range(2)]
        for task in tasks:
            task.result()
    assert seen <= {(404, "model.not_found"), (404, "model.not_loaded")}
    own_server.request("DELETE", "/v2/repository/models/acme/add")
    own_server.eventually(lambda: own_server.application.repository.memory.used == 0)


# Addresses that are none.


@pytest.mark.parametrize(
    "model",
    [
        "../etc",
        "acme/..",
        "acme/%2e%2e",
        "..%2f..%2fetc/passwd",
        "acme%2fadd",
        "acme/a%00b",
        "acme/a%0ab",
        "acme/a\\b",
        "acme/a..b",
        "acme/ADD",
        "acme/-add",
        "acme/add.",
        "acme/%c3%a4",
        "acme/%ef%bd%81dd",
        "acme/" + "a" * 65,
        "acme/a;b",
        "acme/a+b",
        "acme/a:b",
        "acme//add",
        "acme/./add",
    ],
)
def test_ids_that_are_none(server: RunningServer, adder: bytes, model: str) -> None:
    before = server.index()
    with server.connect() as wire:
        for method, target, body in (
            ("PUT", f"/v2/repository/models/{model}", adder),
            ("DELETE", f"/v2/repository/models/{model}", b""),
            ("POST", f"/v2/repository/models/{model}/load", b""),
            ("GET", f"/v2/models/{model}", b""),
            ("POST", f"/v2/models/{model}/infer", JSON_ONES),
        ):
            wire.request(method, target, body).assert_problem(400, "model.id")
    assert server.index() == before


@pytest.mark.parametrize("target", [b"/v2/models/acme/a\xc3\xa4", b"/v2/models/acme/a\x00", b"/v2/models/acme/a\x7fb"])
def test_ids_with_raw_bytes_that_no_url_has(server: RunningServer, target: bytes) -> None:
    with server.connect() as wire:
        wire.send(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        response = wire.response()
        assert response.status == 400
        assert response.json["code"] in {"model.id", "http.request"}


@pytest.mark.parametrize("version", ["0", "01", "-1", "1.0", "x", "1000000000", "latest"])
def test_versions_that_are_none(server: RunningServer, model: str, version: str) -> None:
    with server.connect() as wire:
        for method, target in (
            ("GET", f"/v2/models/{model}/versions/{version}"),
            ("POST", f"/v2/models/{model}/versions/{version}/infer"),
            ("DELETE", f"/v2/repository/models/{model}?version={version}"),
            ("PUT", f"/v2/repository/models/{model}?version={version}"),
        ):
            wire.request(method, target).assert_problem(400, "model.version")
    assert server.index() == [("acme/add", "1", "READY")]


def test_models_that_are_not_there(server: RunningServer, model: str) -> None:
    with server.connect() as wire:
        for method, target in (
            ("GET", "/v2/models/acme/none"),
            ("GET", f"/v2/models/{model}/versions/2"),
            ("GET", "/v2/models/acme/none/ready"),
            ("GET", "/v2/models/acme/none/stats"),
            ("POST", "/v2/models/acme/none/infer"),
            ("POST", f"/v2/models/{model}/versions/2/infer"),
            ("POST", "/v2/repository/models/acme/none/load"),
            ("POST", "/v2/repository/models/acme/none/unload"),
            ("DELETE", "/v2/repository/models/acme/none"),
            ("DELETE", f"/v2/repository/models/{model}?version=2"),
        ):
            wire.request(method, target).assert_problem(404, "model.not_found")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1",
        "/v2/",
        "/v2/models",
        "/v2/models/acme",
        "/v2/models/a/b/c",
        "/v2/models/a/b/c/infer",
        "/docs",
        "/v2/infer",
    ],
)
def test_addresses_that_are_none(server: RunningServer, target: str) -> None:
    with server.connect() as wire:
        for method in ("GET", "POST"):
            wire.request(method, target).assert_problem(404, "http.not_found")


@pytest.mark.parametrize("target", ["/v2/%6dodels/stats", "/%2e%2e/etc/passwd", "/../etc/passwd", "//v2", "/v2;x"])
def test_paths_that_could_be_read_in_two_ways(server: RunningServer, target: str) -> None:
    server.request("GET", target).assert_problem(400, "http.target")


def test_methods_that_an_address_does_not_take(server: RunningServer, model: str) -> None:
    with server.connect() as wire:
        for method, target, allowed in (
            ("POST", "/v2", "GET, HEAD"),
            ("GET", "/v2/repository/index", "POST"),
            ("GET", f"/v2/models/{model}/infer", "POST"),
            ("POST", f"/v2/repository/models/{model}", "DELETE, PUT"),
            ("PATCH", f"/v2/models/{model}", "GET, HEAD"),
        ):
            response = wire.request(method, target)
            response.assert_problem(405, "http.method")
            assert response.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("target", "accept", "status"),
    [
        ("/v2", "application/json", 200),
        ("/v2", "text/html, */*;q=0.1", 200),
        ("/v2", "application/*", 200),
        ("/v2", "text/html", 406),
        ("/v2", "image/png, text/plain", 406),
        ("/metrics", "text/plain;version=0.0.4", 200),
        ("/metrics", "application/json", 406),
    ],
)
def test_accept(server: RunningServer, target: str, accept: str, status: int) -> None:
    with server.connect() as wire:
        response = wire.request("GET", target, b"", f"Accept: {accept}")
        assert response.status == status
        if status == 406:
            response.assert_problem(406, "http.not_acceptable")


def test_only_http_is_served(server: RunningServer) -> None:
    async def nothing(*_: Any) -> Any:
        raise AssertionError("not called")

    with pytest.raises(RuntimeError, match="websocket"):
        asyncio.run(server.application({"type": "websocket"}, nothing, nothing))  # type: ignore[arg-type] # a scope of no use


@pytest.mark.parametrize("path", [b"/v2", b"/v2/models/a.b/c-d/versions/1/infer", b"/.well-known/blindai/attestation"])
def test_plain_paths_pass(path: bytes) -> None:
    check_path(path)


@pytest.mark.parametrize("path", [b"/v2/models/a/b/../c", b"/v2/models/%61/b", b"/v2/models/a\xff/b", b"/v2/models//b"])
def test_other_paths_do_not(path: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_path(path)
    assert caught.value.code == "model.id"


# Requests that a model does not take.


@pytest.mark.parametrize(
    ("body", "header", "code"),
    [
        (b"", None, "input.json"),
        (b"{", None, "input.json"),
        (b"[]", None, "input.message"),
        (b"{}", None, "input.message"),
        (b'{"inputs":[]}', None, "input.missing"),
        (JSON_ONES.replace(b'"x"', b'"z"'), None, "input.name"),
        (JSON_ONES.replace(b"FP32", b"INT64"), None, "input.datatype"),
        (JSON_ONES.replace(b"FP32", b"FP33"), None, "input.datatype"),
        (JSON_ONES.replace(b"[1,2]", b"[2]"), None, "input.shape"),
        (JSON_ONES.replace(b"[1,2]", b"[1,3]"), None, "input.data"),
        (JSON_ONES.replace(b"[1,1]", b"[1,NaN]"), None, "input.nan_in_json"),
        (JSON_ONES.replace(b"[1,1]", b"[1,Infinity]"), None, "input.nan_in_json"),
        (JSON_ONES.replace(b"[1,1]", b'[1,"a"]'), None, "input.value"),
        (JSON_ONES, "x", "input.header_length"),
        (JSON_ONES, "-1", "input.header_length"),
        (JSON_ONES, "", "input.header_length"),
        (JSON_ONES, "1e2", "input.header_length"),
        (JSON_ONES, "10000", "input.header_length"),
        (JSON_ONES, "9" * 30, "input.header_length"),
        (JSON_ONES, "70, 70", "input.header_length"),
        (JSON_ONES, "10", "input.json"),
        (JSON_ONES + b"xx", str(len(JSON_ONES)), "input.size"),
        (JSON_ONES[:-1] + b',"outputs":[{"name":"none"}]}', None, "input.name"),
    ],
)
def test_bad_inference_requests(server: RunningServer, model: str, body: bytes, header: str | None, code: str) -> None:
    with server.connect() as wire:
        headers = [] if header is None else [f"Inference-Header-Content-Length: {header}"]
        wire.request("POST", f"/v2/models/{model}/infer", body, *headers).assert_problem(400, code)
        assert wire.infer(model, ONES).status == 200


def test_two_header_lengths(server: RunningServer, model: str) -> None:
    body, length = binary_request(ONES)
    with server.connect() as wire:
        header = f"Inference-Header-Content-Length: {length}"
        wire.request("POST", f"/v2/models/{model}/infer", body, header, header).assert_problem(
            400, "input.header_length"
        )
        assert wire.infer(model, ONES).status == 200


def test_nan_in_the_answer_names_the_binary_mode(server: RunningServer, model: str) -> None:
    nans = np.full((1, 4), np.nan, np.float32)
    with server.connect() as wire:
        assert wire.infer(model, nans).status == 200
        body, length = binary_request(nans)
        text = body[:length].replace(b"true", b"false").rstrip()
        response = wire.request(
            "POST",
            f"/v2/models/{model}/infer",
            text + body[length:],
            f"Inference-Header-Content-Length: {len(text)}",
        )
        response.assert_problem(400, "input.nan_in_json")
        assert "binary" in response.json["hint"]
        assert wire.infer(model, ONES).status == 200


# Runs that take long.


class HeldEngine(OnnxRuntimeEngine):
    """Runs wait until `gate` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def load(self, model: Any, external: Mapping[str, Any]) -> Any:
        session = super().load(model, external)
        run = session.run

        def held(*args: Any, **kwargs: Any) -> Any:
            assert self.gate.wait(20)
            return run(*args, **kwargs)

        session.run = held  # type: ignore[method-assign] # the point of this engine
        return session


def test_a_full_queue_says_come_back(start_server: Start, adder: bytes) -> None:
    engine = HeldEngine()
    server = start_server(EnclaveConfig(limits=Limits(max_queued_runs=2), runtime=Runtime(workers=1)), engine)
    server.upload("acme/add", adder)
    wires = [server.connect() for _ in range(3)]
    body, _ = binary_request(ONES)
    for wire in wires:
        wire.begin_infer("acme/add", ONES)
    inference = server.application._inference
    server.eventually(lambda: inference.queued() == 2)
    with server.connect() as wire:
        response = wire.infer("acme/add", ONES)
        response.assert_problem(503, "busy")
        assert response.headers["retry-after"] == "1"
        # One who waits leaves: nothing of the request is kept, it will not run, and another may have its place.
        wires.pop().reset()
        server.eventually(lambda: server.application.bodies.used == 2 * len(body))
        server.eventually(lambda: inference.queued() == 1)
        wires.append(server.connect())
        wires[-1].begin_infer("acme/add", ONES)
        server.eventually(lambda: inference.queued() == 2)
        wire.infer("acme/add", ONES).assert_problem(503, "busy")
        engine.gate.set()
        for waiting in wires:
            assert waiting.response().status == 200
            waiting.close()
        assert wire.infer("acme/add", ONES).status == 200
    server.eventually(lambda: server.application.bodies.used == 0)
    assert server.request("GET", "/v2/models/acme/add/stats").json["model_stats"][0]["inference_count"] == 4


def test_a_delete_during_a_run_lets_it_end(start_server: Start, adder: bytes) -> None:
    engine = HeldEngine()
    server = start_server(engine=engine)
    server.upload("acme/add", adder)
    with server.connect() as running, server.connect() as deleting:
        answer = running.begin_infer("acme/add", ONES)
        server.eventually(lambda: [version.runs for version in server.application.repository] == [1])
        deleting.head("DELETE", "/v2/repository/models/acme/add")
        server.eventually(lambda: list(server.application.repository) == [])
        server.request("POST", "/v2/models/acme/add/infer", JSON_ONES).assert_problem(404, "model.not_found")
        assert server.call(lambda: server.application.repository.memory.used) > 0
        engine.gate.set()
        assert answer().status == 200
        assert deleting.response().status == 200
    assert server.call(lambda: server.application.repository.memory.used) == 0


def test_plain_asgi_infers_too(server: RunningServer, model: str) -> None:
    """Under another ASGI server, requests do not come through `http.EnclaveHttpProtocol`."""
    sent: list[Any] = []
    body, length = binary_request(ONES)

    async def main() -> None:
        bodies = [body[:100], body[100:]]

        async def receive() -> Any:
            return {"type": "http.request", "body": bodies.pop(0), "more_body": bool(bodies)}

        async def send(message: Any) -> None:
            sent.append(message)

        path = f"/v2/models/{model}/infer"
        scope: Any = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"inference-header-content-length", str(length).encode())],
        }
        await server.application(scope, receive, send)

    asyncio.run_coroutine_threadsafe(main(), server.loop).result(20)
    headers = dict(sent[0]["headers"])
    assert sent[0]["status"] == 200
    start = int(headers[b"inference-header-content-length"])
    assert np.frombuffer(sent[1]["body"][start:], np.float32).tolist() == [2, 2, 2, 2]


def test_every_handler_has_an_address() -> None:
    assert len({(method, path) for method, path, _ in ROUTES}) == len(ROUTES)
