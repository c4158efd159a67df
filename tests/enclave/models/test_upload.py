"""Uploads: all of a model or nothing of it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest

from blindai.enclave.config import EnclaveConfig, Limits
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.models.upload import ContentDigest
from blindai.errors import InvalidModel
from enclave_server import RunningServer, Wire

Start = Callable[..., RunningServer]
TAR = "Content-Type: application/x-tar"


def nothing_stored(server: RunningServer) -> None:
    assert server.index() == []
    repository = server.application.repository
    server.eventually(lambda: repository.memory.used == repository.store.space.used == 0)
    assert server.call(lambda: repository.pending) == set()


def digest_field(data: bytes, algorithm: str = "sha256") -> str:
    name = {"sha256": "sha-256", "sha512": "sha-512", "md5": "md5"}[algorithm]
    return f"{name}=:{base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}:"


def bundle(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One for all uploads of which nothing stays."""
    running = RunningServer(EnclaveConfig(), OnnxRuntimeEngine(), simulated=False)
    yield running
    running.stop()


@pytest.fixture
def own_server(start_server: Start) -> RunningServer:
    return start_server()


@pytest.fixture(scope="module")
def external_adder() -> tuple[bytes, bytes]:
    """y = x + 1 with the 1 in the file weights.bin."""
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Add", ["x", "one"], ["y"])],
            "graph",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 1024])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 1024])],
            [onnx.numpy_helper.from_array(np.ones(1024, np.float32), "one")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    weights = bytes(model.graph.initializer[0].raw_data)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(len(weights)))):
        tensor.external_data.add(key=key, value=value)
    return model.SerializeToString(), weights


# What is accepted.


@pytest.mark.parametrize(
    "content_type", [None, "application/onnx", "application/octet-stream", "application/onnx; v=1"]
)
def test_a_model_file(own_server: RunningServer, adder: bytes, content_type: str | None) -> None:
    response = own_server.upload("acme/add", adder, *([f"Content-Type: {content_type}"] if content_type else []))
    assert response.status == 201
    assert response.json["sha256"] == hashlib.sha256(adder).hexdigest()
    assert (response.json["name"], response.json["version"], response.json["size"]) == ("acme/add", "1", len(adder))
    assert response.json["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}]
    assert response.json["platform"] == "onnxruntime_onnx"
    assert own_server.call(lambda: own_server.application.repository.store.space.used) == len(adder)


def test_a_model_file_in_chunks(own_server: RunningServer, adder: bytes) -> None:
    with own_server.connect() as wire:
        wire.head("PUT", "/v2/repository/models/acme/add", "Transfer-Encoding: chunked")
        for start in range(0, len(adder), 10):
            chunk = adder[start : start + 10]
            wire.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        wire.send(b"0\r\n\r\n")
        assert wire.response().status == 201
        assert wire.infer("acme/add", np.ones((1, 4), np.float32)).status == 200
    assert own_server.call(lambda: own_server.application.repository.store.space.used) == len(adder)


def test_a_bundle(own_server: RunningServer, external_adder: tuple[bytes, bytes]) -> None:
    model, weights = external_adder
    data = bundle(weights_bin=weights, model_onnx=model)
    response = own_server.upload("acme/add", data, TAR)
    assert response.status == 201
    assert (response.json["sha256"], response.json["size"]) == (hashlib.sha256(data).hexdigest(), len(data))
    with own_server.connect() as wire:
        answer = wire.infer("acme/add", np.ones((1, 1024), np.float32))
        assert np.frombuffer(answer.body[-4096:], np.float32).tolist() == [2.0] * 1024
        for action in ("unload", "load"):
            assert wire.request("POST", f"/v2/repository/models/acme/add/{action}").status == 200
        assert wire.infer("acme/add", np.ones((1, 1024), np.float32)).status == 200
    assert own_server.call(lambda: own_server.application.repository.store.space.used) == len(data)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_digest_that_is_right(own_server: RunningServer, adder: bytes, algorithm: str) -> None:
    assert own_server.upload("acme/add", adder, f"Content-Digest: {digest_field(adder, algorithm)}").status == 201


def test_every_upload_of_many_at_once_gets_its_own_version(own_server: RunningServer, adder: bytes) -> None:
    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(lambda _: own_server.upload("acme/add", adder), range(50)))
    assert {response.status for response in responses} == {201}
    assert sorted(int(response.json["version"]) for response in responses) == list(range(1, 51))
    assert len(own_server.index()) == 50


def test_of_many_uploads_of_one_version_one_wins(own_server: RunningServer, adder: bytes) -> None:
    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(lambda _: own_server.upload("acme/add?version=3", adder), range(20)))
    assert sorted(response.status for response in responses) == [201] + [409] * 19
    assert {response.json.get("code") for response in responses} == {None, "model.version_exists"}
    assert own_server.index() == [("acme/add", "3", "READY")]


# What is refused. Nothing of it may stay, and the connection lives on.


def refused(server: RunningServer, content: bytes, code: str | None, *headers: str, status: int = 400) -> None:
    with server.connect() as wire:
        response = wire.request("PUT", "/v2/repository/models/acme/bad", content, *headers)
        response.assert_problem(status, code or response.json["code"])
        assert response.json["code"].startswith(("model.", "quota."))
        assert wire.request("GET", "/v2").status == 200
    nothing_stored(server)


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.onnx", content)
    return buffer.getvalue()


def test_an_empty_file(server: RunningServer) -> None:
    refused(server, b"", "model.empty")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file(server: RunningServer, adder: bytes, keep: float) -> None:
    refused(server, adder[: int(len(adder) * keep)], None)


@pytest.mark.parametrize(
    "foreign",
    [
        pickle.dumps({"weights": [1, 2, 3]}),
        zipped(b"x"),
        b"GGUF\x03\0\0\0" + bytes(100),
        gzip.compress(b"x" * 100),
        b"\x89HDF\r\n\x1a\n" + bytes(100),
        b"#!/bin/sh\necho hello\n",
        b"<html></html>",
        b'{"a": 1}',
        bytes(1000),
        b"\xff" * 1000,
    ],
    ids=["pickle", "zip", "gguf", "gzip", "hdf5", "script", "html", "json", "zeros", "ones"],
)
def test_a_file_of_another_kind(server: RunningServer, foreign: bytes) -> None:
    refused(server, foreign, None)


def test_files_with_one_flipped_bit(server: RunningServer, adder: bytes) -> None:
    """Each is refused with a code of its own or is another valid model; the server outlives them all."""
    dice = random.Random(1)
    with server.connect() as wire:
        for _ in range(60):
            data = bytearray(adder)
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            response = wire.request("PUT", "/v2/repository/models/acme/flipped", bytes(data))
            if response.status == 201:
                assert wire.request("DELETE", "/v2/repository/models/acme/flipped").status == 200
            else:
                assert response.status in {400, 507}
                assert response.json["code"].startswith(("model.", "quota."))
    nothing_stored(server)


def test_a_content_type_that_is_none(server: RunningServer, adder: bytes) -> None:
    refused(server, adder, "model.content_type", "Content-Type: application/zip", status=415)


@pytest.mark.parametrize(
    "field",
    [
        digest_field(b"other"),
        digest_field(b"other", "sha512"),
        "sha-256=:AAAA:",
        "sha-256=:not base64!:",
        "sha-256=AAAA",
        "sha-256",
        "",
        digest_field(b"other", "md5"),
        "sha-256=::",
    ],
)
def test_a_digest_that_is_wrong(server: RunningServer, adder: bytes, field: str) -> None:
    refused(server, adder, "model.digest", f"Content-Digest: {field}")


def test_two_digests_of_which_one_is_wrong(server: RunningServer, adder: bytes) -> None:
    fields = (f"Content-Digest: {digest_field(adder)}", f"Content-Digest: {digest_field(b'other', 'sha512')}")
    refused(server, adder, "model.digest", *fields)


def test_a_digest_header_with_endless_items() -> None:
    with pytest.raises(InvalidModel) as caught:
        ContentDigest(b", ".join([digest_field(b"").encode()] * 1000))
    assert caught.value.code == "model.digest"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"weights_bin": b"x"},
        {"model_onnx": b"not onnx"},
    ],
)
def test_a_bundle_without_a_good_model(server: RunningServer, files: dict[str, bytes]) -> None:
    refused(server, bundle(**files), None, TAR)


def test_a_bundle_without_the_data_its_model_needs(server: RunningServer, external_adder: tuple[bytes, bytes]) -> None:
    model, weights = external_adder
    refused(server, bundle(model_onnx=model), "model.external_data_missing", TAR)
    refused(server, model, "model.external_data_missing")
    refused(server, bundle(model_onnx=model, weights_bin=weights)[:3000], "model.bundle", TAR)


def test_a_bundle_that_is_no_tar(server: RunningServer, adder: bytes) -> None:
    refused(server, adder * 20, "model.bundle", TAR)


# Limits and clients that go away.


def limited(**limits: Any) -> EnclaveConfig:
    return EnclaveConfig(limits=Limits(**limits))


def test_a_model_above_the_limit_is_refused_before_it_is_read(start_server: Start) -> None:
    server = start_server(limited(max_model_bytes=1000))
    with server.connect() as wire:
        wire.head("PUT", "/v2/repository/models/acme/bad", "Content-Length: 100000000")
        response = wire.response()
        response.assert_problem(413, "quota.model_size")
        assert response.headers["connection"] == "close"
    nothing_stored(server)


def test_a_chunked_model_above_the_limit_is_refused_on_the_way(start_server: Start) -> None:
    server = start_server(limited(max_model_bytes=1000))
    with server.connect() as wire:
        wire.head("PUT", "/v2/repository/models/acme/bad", "Transfer-Encoding: chunked")
        wire.send(b"400\r\n" + bytes(0x400) + b"\r\n")
        wire.response().assert_problem(413, "quota.model_size")
    nothing_stored(server)


def test_room_is_reserved_before_the_body_is_read(start_server: Start, adder: bytes) -> None:
    server = start_server(limited(max_store_bytes=5_000))
    with server.connect() as first, server.connect() as second:
        first.head("PUT", "/v2/repository/models/acme/first", "Content-Length: 4000")
        server.eventually(lambda: server.application.repository.store.space.used == 4000)
        second.head("PUT", "/v2/repository/models/acme/second", "Content-Length: 4000")
        second.response().assert_problem(507, "quota.store")
        first.reset()
        server.eventually(lambda: server.application.repository.store.space.used == 0)
    assert server.upload("acme/third", adder).status == 201


def test_a_model_that_could_never_be_loaded_is_refused_before_it_is_read(start_server: Start) -> None:
    server = start_server(limited(model_memory_bytes=50 << 20))
    with server.connect() as wire:
        wire.head("PUT", "/v2/repository/models/acme/bad", "Content-Length: 30000000")
        wire.response().assert_problem(507, "quota.memory")
    nothing_stored(server)


@pytest.mark.parametrize(
    ("limit", "code"), [("max_store_bytes", "quota.store"), ("max_namespace_bytes", "quota.namespace_bytes")]
)
def test_a_chunked_model_that_outgrows_the_store(start_server: Start, limit: str, code: str) -> None:
    server = start_server(limited(**{limit: 1000}))
    with server.connect() as wire:
        wire.head("PUT", "/v2/repository/models/acme/bad", "Transfer-Encoding: chunked")
        wire.send(b"400\r\n" + bytes(0x400) + b"\r\n")
        wire.response().assert_problem(507, code)
    nothing_stored(server)


def test_the_number_of_models_has_a_limit(start_server: Start, adder: bytes) -> None:
    server = start_server(limited(max_models=2))
    for name in ("a", "b"):
        assert server.upload(f"acme/{name}", adder).status == 201
    server.upload("acme/c", adder).assert_problem(507, "quota.models")
    server.request("DELETE", "/v2/repository/models/acme/a")
    assert server.upload("acme/c", adder).status == 201


def test_one_namespace_cannot_take_the_places_of_others(start_server: Start, adder: bytes) -> None:
    server = start_server(limited(max_namespace_models=2))
    for name in ("a", "b"):
        assert server.upload(f"acme/{name}", adder).status == 201
    server.upload("acme/c", adder).assert_problem(507, "quota.namespace_models")
    assert server.upload("beta/c", adder).status == 201


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("leave", [Wire.close, Wire.reset])
def test_a_cut_upload_leaves_nothing(server: RunningServer, framing: str, leave: Callable[[Wire], None]) -> None:
    wire = server.connect()
    wire.head("PUT", "/v2/repository/models/acme/cut", framing)
    wire.send(b"400\r\n" + bytes(0x400) + b"\r\n")
    server.eventually(lambda: server.application.repository.store.space.used > 0)
    leave(wire)
    nothing_stored(server)
