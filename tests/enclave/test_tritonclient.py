"""Triton's own HTTP client, unmodified, against the enclave's HTTP server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from enclave_server import RunningServer


@pytest.fixture
def plain_port(server: RunningServer, adder: bytes) -> int:
    """A loopback port that speaks plain HTTP, with the model acme/add behind it."""
    assert server.upload("acme/add", adder).status == 201
    return server.port


@pytest.fixture
def client(plain_port: int) -> Iterator[Any]:
    made = triton.InferenceServerClient(f"127.0.0.1:{plain_port}", connection_timeout=20, network_timeout=20)
    yield made
    made.close()


def infer(client: Any, *, binary_in: bool, binary_out: bool, **options: Any) -> Any:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    given = triton.InferInput("x", [2, 3], "FP32")
    given.set_data_from_numpy(values, binary_data=binary_in)
    wanted = triton.InferRequestedOutput("y", binary_data=binary_out)
    return client.infer("acme/add", [given], outputs=[wanted], **options)


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("acme/add")
    assert client.is_model_ready("acme/add", "1")
    assert not client.is_model_ready("acme/none")
    assert client.get_server_metadata()["name"] == "blindai"
    metadata = client.get_model_metadata("acme/add")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}]
    assert client.get_model_metadata("acme/add", "1") == metadata
    assert client.get_model_config("acme/add")["input"][0]["data_type"] == "TYPE_FP32"


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_inference_in_both_modes(client: Any, binary_in: bool, binary_out: bool) -> None:
    for version in ("", "1"):
        result = infer(client, binary_in=binary_in, binary_out=binary_out, model_version=version, request_id="r7")
        assert result.as_numpy("y").tolist() == [[1, 2, 3], [4, 5, 6]]
        assert result.get_response()["id"] == "r7"
        assert result.get_response()["model_version"] == "1"


def test_asynchronous_inference(client: Any) -> None:
    given = triton.InferInput("x", [1, 1], "FP32")
    given.set_data_from_numpy(np.ones((1, 1), np.float32))
    requests = [client.async_infer("acme/add", [given]) for _ in range(10)]
    assert [request.get_result().as_numpy("y").tolist() for request in requests] == [[[2.0]]] * 10


def test_compressed_answers_may_be_asked_for_and_come_plain(client: Any) -> None:
    result = infer(client, binary_in=True, binary_out=True, response_compression_algorithm="gzip")
    assert result.as_numpy("y").tolist() == [[1, 2, 3], [4, 5, 6]]


def test_compressed_requests_are_refused_in_words(client: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        infer(client, binary_in=True, binary_out=True, request_compression_algorithm="gzip")
    assert caught.value.status() == "415"
    assert "compressed bodies are not accepted" in caught.value.message()
    assert infer(client, binary_in=True, binary_out=True).as_numpy("y") is not None


def test_repository_calls(client: Any) -> None:
    (entry,) = client.get_model_repository_index()
    assert (entry["name"], entry["version"], entry["state"]) == ("acme/add", "1", "READY")
    client.unload_model("acme/add")
    assert not client.is_model_ready("acme/add")
    assert client.get_model_repository_index()[0]["state"] == "UNAVAILABLE"
    client.load_model("acme/add")
    assert client.is_model_ready("acme/add")


def test_statistics(client: Any) -> None:
    infer(client, binary_in=True, binary_out=True)
    for stats in (client.get_inference_statistics(), client.get_inference_statistics("acme/add", "1")):
        assert stats["model_stats"][0]["inference_count"] == 1


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (lambda client: client.get_model_metadata("acme/none"), "404"),
        (lambda client: client.get_model_metadata("../etc/passwd"), "400"),
        (lambda client: client.load_model("acme/none"), "404"),
        (lambda client: client.load_model("acme/add", config="{}"), "400"),
        (lambda client: client.get_trace_settings(), "404"),
        (lambda client: client.get_system_shared_memory_status(), "404"),
    ],
)
def test_refusals_are_the_clients_own_errors(client: Any, call: Any, status: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        call(client)
    assert caught.value.status() == status
    assert caught.value.message()
