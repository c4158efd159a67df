from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openai
import pytest

import text_models
from blindai.enclave.config import EnclaveConfig, Isolation, Limits, Runtime
from blindai.wire import v2
from enclave_server import Response, RunningServer

MODEL = "acme/minilm"
TEXTS = ["the patient is well", "no fever", "the patient has no fever and is well"]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """A server with a model that embeds, one that classifies, and one that takes no text."""
    from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
    from onnx_models import identity

    config = EnclaveConfig(runtime=Runtime(isolation=Isolation.THREAD), limits=Limits(max_body_bytes=1 << 20))
    running = RunningServer(config, OnnxRuntimeEngine(), simulated=False)
    tar = "Content-Type: application/x-tar"
    for name, content in (
        (MODEL, text_models.bundle(text_models.model(), text_models.files())),
        ("acme/mood", text_models.bundle(text_models.model(3), text_models.classifier_files())),
    ):
        uploaded = running.upload(name, content, tar)
        assert uploaded.status == 201, uploaded.body
    assert running.upload("acme/plain", identity()).status == 201
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="x", max_retries=0) as client:
        yield client


def expected(texts: list[str]) -> np.ndarray[Any, Any]:
    return text_models.session().run(text_models.inputs(texts))[0].data


def post(server: RunningServer, body: object) -> Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.request("POST", "/v1/embeddings", content, "Content-Type: application/json")


def test_the_unmodified_client_lists_models(client: openai.OpenAI) -> None:
    listed = client.models.list()
    assert [(model.id, model.owned_by, model.object) for model in listed] == [
        (MODEL, "acme", "model"),
        ("acme/mood", "acme", "model"),
        ("acme/plain", "acme", "model"),
    ]
    assert client.models.retrieve(MODEL) == listed.data[0]


def test_the_unmodified_client_embeds(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXTS)  # it asks for base64 by itself
    assert np.array([one.embedding for one in answer.data], np.float32).tobytes() == expected(TEXTS).tobytes()
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert (answer.model, answer.object) == (MODEL, "list")
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (6 + 4 + 10, 20)


def test_numbers(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="float")
    assert np.array(answer.data[0].embedding, np.float32).tobytes() == expected(TEXTS[:1])[0].tobytes()


def test_base64_is_little_endian_float32(server: RunningServer) -> None:
    answer = post(server, {"model": MODEL, "input": TEXTS[0], "encoding_format": "base64"})
    assert base64.b64decode(answer.json["data"][0]["embedding"]) == expected(TEXTS[:1])[0].astype("<f4").tobytes()


def test_fewer_dimensions(client: openai.OpenAI) -> None:
    vector = np.array(client.embeddings.create(model=MODEL, input=TEXTS[0], dimensions=3).data[0].embedding)
    short = expected(TEXTS[:1])[0][:3]
    assert vector == pytest.approx(short / np.linalg.norm(short), abs=1e-6)
    whole = client.embeddings.create(model=MODEL, input=TEXTS[0], dimensions=text_models.SIZE)
    assert np.array(whole.data[0].embedding, np.float32).tobytes() == expected(TEXTS[:1])[0].tobytes()


@pytest.mark.parametrize(
    ("changes", "status", "code", "kind", "param"),
    [
        ({"model": "acme/none"}, 404, "model.not_found", "not_found_error", "model"),
        ({"model": "gpt"}, 400, "model.id", "invalid_request_error", "model"),
        ({"model": "acme/plain"}, 409, "model.task", "invalid_request_error", "model"),
        ({"model": "acme/mood"}, 409, "model.task", "invalid_request_error", "model"),
        ({"input": [1, 2, 3]}, 400, "input.tokens", "invalid_request_error", "input"),
        ({"input": [[1, 2], [3]]}, 400, "input.tokens", "invalid_request_error", "input"),
        ({"input": ["a", 1]}, 400, "input.tokens", "invalid_request_error", "input"),
        ({"input": []}, 400, "input.message", "invalid_request_error", None),
        ({"input": None}, 400, "input.message", "invalid_request_error", None),
        ({"input": "\ud800"}, 400, "input.json", "invalid_request_error", None),
        ({"input": ["a"] * 2049}, 413, "quota.texts", "invalid_request_error", "input"),
        ({"input": "a" * 200_000}, 413, "quota.text_size", "invalid_request_error", "input"),
        ({"dimensions": 9}, 400, "input.dimensions", "invalid_request_error", "dimensions"),
        ({"dimensions": 0}, 400, "input.message", "invalid_request_error", None),
        ({"encoding_format": "hex"}, 400, "input.message", "invalid_request_error", None),
        ({"unknown": 1}, 400, "input.message", "invalid_request_error", None),
    ],
)
def test_refusals_have_openais_form(
    server: RunningServer, changes: dict[str, Any], status: int, code: str, kind: str, param: str | None
) -> None:
    answer = post(server, {"model": MODEL, "input": "a", **changes})
    assert answer.headers["content-type"] == "application/json"
    error = answer.json["error"]
    assert (answer.status, error["code"], error["type"], error["param"]) == (status, code, kind, param), error
    assert error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 10_000])
def test_bodies_that_are_no_request(server: RunningServer, body: bytes) -> None:
    answer = post(server, body)
    assert answer.status == 400
    assert answer.json["error"]["code"] in {"input.json", "input.message"}


def test_other_addresses_and_methods(server: RunningServer) -> None:
    for method, target, status, code in (
        ("GET", "/v1/nothing", 404, "http.not_found"),
        ("GET", "/v1/embeddings", 405, "http.method"),
        ("GET", "/v1/models/acme/none", 404, "model.not_found"),
        ("GET", "/v1/models/acme%2Fnone", 404, "model.not_found"),
        ("GET", "/v1/models/acme%2F..%2Fx", 400, "http.target"),
        ("GET", "/v1/models/%41cme%2Fx", 400, "http.target"),
    ):
        answer = server.request(method, target)
        assert (answer.status, answer.json["error"]["code"]) == (status, code), target


def test_the_client_raises_its_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="acme/none", input="a")
    assert caught.value.code == "model.not_found"


def test_text_by_the_open_inference_protocol(server: RunningServer) -> None:
    request = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [3], "data": TEXTS}]}
    answer = server.request("POST", f"/v2/models/{MODEL}/infer", json.dumps(request).encode())
    outputs = {one["name"]: one for one in answer.json["outputs"]}
    assert outputs["tokens"]["data"] == [6, 4, 10]
    vectors = np.array(outputs["embedding"]["data"], np.float32).reshape(outputs["embedding"]["shape"])
    assert vectors.tobytes() == expected(TEXTS).tobytes()
    buffers, length = v2.encode_request(list(text_models.inputs(TEXTS).values()))
    binary = server.request(
        "POST", f"/v2/models/{MODEL}/infer", b"".join(buffers), f"Inference-Header-Content-Length: {length}"
    )
    assert binary.status == 200


def test_metadata_says_what_is_done_with_text(server: RunningServer) -> None:
    described = server.request("GET", "/v2/models/acme/mood").json
    assert (described["task"], described["labels"]) == ("classify", list(text_models.LABELS))
    assert "task" not in server.request("GET", "/v2/models/acme/plain").json


def test_a_bundle_with_a_hostile_tokenizer_is_refused(server: RunningServer, capfd: pytest.CaptureFixture[str]) -> None:
    content = text_models.bundle(text_models.model(), {**text_models.files(), "tokenizer.json": b"{}"})
    server.upload("acme/bad", content, "Content-Type: application/x-tar").assert_problem(400, "model.tokenizer")
    content = text_models.bundle(text_models.model(), {**text_models.files(), "blindai-task.json": b"{}"})
    server.upload("acme/bad", content, "Content-Type: application/x-tar").assert_problem(400, "model.task_file")


def test_a_body_that_is_too_long(server: RunningServer, start_server: Callable[..., RunningServer]) -> None:
    assert server.request("POST", "/v1/embeddings", b"x" * ((1 << 20) + 1)).status == 413
