"""Bad input on the whole way, from the SDK and from raw bytes to a real enclave.

Each is refused with a stable code; then the same connection, where HTTP allows it, and a new one still give right
predictions, and the index shows no trace of it. What each layer refuses in detail is tested beside that layer.
"""

from __future__ import annotations

import base64
import hashlib
import io
import pickle
import socket
import ssl
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import onnxruntime
import pytest

from blindai import BlindAIError, Connection, InvalidInput, InvalidModel, ModelNotFound
from blindai.channel.gate import GATE_PATH
from blindai.demo.enclaves import served
from blindai.demo.patients import load_model, load_patients
from blindai.wire.metadata import RepositoryModel
from enclave_server import Wire, binary_request
from gated_wire import GatedWire, TLSWire

MODEL: Final = load_model()
MODEL_ID: Final = "clinic/breast-cancer"
PATIENTS: Final = load_patients().features[:4]
INFER: Final = f"/v2/models/{MODEL_ID}/infer"
UPLOAD: Final = "/v2/repository/models/acme/new"

# Small enough to exceed within a test, and large enough for everything right.
MAX_BYTES: Final = 1 << 16
CONFIGURATION: Final = f"""\
[limits]
max_body_bytes = {MAX_BYTES}
max_model_bytes = {MAX_BYTES}

[timeouts]
head_ms = 1000
body_ms = 1000
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An enclave with small limits, which serves one model."""
    config = tmp_path_factory.mktemp("enclave") / "config.toml"
    config.write_text(CONFIGURATION)
    with served(config=config) as address:
        with Connection(address, simulation=True) as connection:
            connection.upload_model(MODEL, model_id=MODEL_ID, progress=False)
        yield address


@pytest.fixture(scope="module")
def right() -> Any:
    """The classifier's answer for `PATIENTS`: labels and probabilities."""
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    return [output.tolist() for output in session.run(None, {"features": PATIENTS})]


@pytest.fixture
def wire(address: str) -> Iterator[Wire]:
    """A connection behind the gate to write any bytes to."""
    with GatedWire(address) as wire:
        yield wire


@pytest.fixture(autouse=True)
def still_serving(address: str, right: Any) -> Iterator[None]:
    """After each test a new client gets right predictions, and finds the one model that was there before."""
    yield
    with Connection(address, simulation=True) as client:
        prediction = client.predict(MODEL_ID, PATIENTS)
        assert [output.as_numpy().tolist() for output in prediction] == right
        # An enclave learns of a cut connection when its own end of it says so.
        patience = time.monotonic() + 10
        while len(client.models()) > 1 and time.monotonic() < patience:
            time.sleep(0.01)
        assert client.models() == (RepositoryModel(MODEL_ID, "1", "READY", ""),)


def assert_right(wire: Wire, right: Any) -> None:
    """The connection itself still works."""
    body, length = binary_request(PATIENTS, "features")
    response = wire.request("POST", INFER, body, f"Inference-Header-Content-Length: {length}")
    assert response.status == 200
    length = int(response.headers["inference-header-content-length"])
    assert np.frombuffer(response.body, np.int64, 4, length).tolist() == right[0]


def assert_over(wire: Wire) -> None:
    """The enclave has ended the connection."""
    socket.socket.shutdown(wire.socket, socket.SHUT_WR)  # that of TLS would take later records for plain bytes
    assert wire.closed()


# Model files.


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", "weights")
    return buffer.getvalue()


FILES: Final = {
    "empty": (b"", "model.empty"),
    "truncated": (MODEL[: len(MODEL) // 2], "model.truncated"),
    "without its last byte": (MODEL[:-1], "model.truncated"),
    "pickle": (pickle.dumps({"weights": [0.5]}), "model.not_onnx"),
    "zip": (zipped(), "model.not_onnx"),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(64), "model.not_onnx"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_model(connection: Connection, wire: Wire, right: Any, name: str) -> None:
    content, code = FILES[name]
    with pytest.raises(InvalidModel) as caught:
        connection.upload_model(content, model_id="acme/new")
    assert caught.value.code == code
    wire.request("PUT", UPLOAD, content).assert_problem(400, code)
    assert_right(wire, right)


def digest(content: bytes | bytearray) -> str:
    return f"Content-Digest: sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


# A prime, so that every one of the eight bits is flipped somewhere; 1 flips all. Some 240 meet each kind of refusal.
FLIP_EVERY: Final = 37


def test_a_model_with_a_flipped_bit_is_refused_or_is_a_model(
    wire: Wire, right: Any, figures: Callable[[str], None]
) -> None:
    found: Counter[str] = Counter()
    body, length = binary_request(PATIENTS, "features")
    for bit in range(0, 8 * len(MODEL), FLIP_EVERY):
        flipped = bytearray(MODEL)
        flipped[bit // 8] ^= 1 << bit % 8
        wire.request("PUT", UPLOAD, bytes(flipped), digest(MODEL)).assert_problem(400, "model.digest")
        uploaded = wire.request("PUT", UPLOAD, bytes(flipped), digest(flipped))
        if uploaded.status != 201:
            uploaded.assert_problem(400, uploaded.json["code"])
            assert uploaded.json["code"].startswith("model.")
            found[uploaded.json["code"]] += 1
            continue
        found["a model"] += 1
        response = wire.request("POST", "/v2/models/acme/new/infer", body, f"Inference-Header-Content-Length: {length}")
        if response.status != 200:
            # A flip in a name or a type makes a model that takes another input.
            response.assert_problem(400, response.json["code"])
            assert response.json["code"].startswith("input.")
        assert wire.request("DELETE", UPLOAD).status == 200
    assert_right(wire, right)
    assert found["a model"] > 0
    assert len(found) > 4
    figures(f"{found.total()} flipped bits: " + ", ".join(f"{count} {code}" for code, count in found.most_common()))


# What the SDK refuses, or the enclave on its behalf.

NOT_A_NUMBER: Final = np.full((1, 30), np.nan, np.float32)

CALLS: Final[dict[str, tuple[Callable[[Connection], object], type[BlindAIError], str]]] = {
    "a wrong name": (lambda c: c.predict(MODEL_ID, {"feature": PATIENTS}), InvalidInput, "input.name"),
    "no input": (lambda c: c.predict(MODEL_ID, {}), InvalidInput, "input.missing"),
    "a wrong size": (lambda c: c.predict(MODEL_ID, PATIENTS[:, :29]), InvalidInput, "input.shape"),
    "a dimension too few": (lambda c: c.predict(MODEL_ID, PATIENTS[0]), InvalidInput, "input.shape"),
    "integers for floats": (lambda c: c.predict(MODEL_ID, PATIENTS.astype(np.int64)), InvalidInput, "input.datatype"),
    "text for floats": (lambda c: c.predict(MODEL_ID, PATIENTS.astype(str)), InvalidInput, "input.datatype"),
    "NaN in JSON": (lambda c: c.predict(MODEL_ID, NOT_A_NUMBER, binary=False), InvalidInput, "input.nan_in_json"),
    "NaN in the answer": (
        lambda c: c.predict(MODEL_ID, NOT_A_NUMBER, outputs=["probabilities"], binary=False),
        InvalidInput,
        "input.nan_in_json",
    ),
    "an unknown output": (lambda c: c.predict(MODEL_ID, PATIENTS, outputs=["labels"]), InvalidInput, "input.name"),
    "an unknown model": (lambda c: c.predict("clinic/none", PATIENTS), ModelNotFound, "model.not_found"),
    "an unknown version": (lambda c: c.predict(MODEL_ID, PATIENTS, version="2"), ModelNotFound, "model.not_found"),
    "no version": (lambda c: c.predict(MODEL_ID, PATIENTS, version="latest"), InvalidInput, "model.version"),
    "a version that is taken": (
        lambda c: c.upload_model(MODEL, model_id=MODEL_ID, version="1"),
        InvalidModel,
        "model.version_exists",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_the_sdk(connection: Connection, right: Any, name: str) -> None:
    call, kind, code = CALLS[name]
    with pytest.raises(kind) as caught:
        call(connection)
    assert caught.value.code == code
    assert connection.predict(MODEL_ID, PATIENTS).output[0].as_flat() == right[0]


NO_IDS: Final = [
    "acme",
    "/add",
    "acme/",
    "acme/..",
    "../etc",
    "acme/a/b",
    "acme//add",
    "acme/a\0b",
    "acme/a\\b",
    "acme/%2e%2e",
    "acme/ADD",
    "acme/add\n",
    "acme/\N{FULLWIDTH LATIN SMALL LETTER A}dd",
    "acme/a\N{COMBINING DIAERESIS}dd",
    "acme/add\N{RIGHT-TO-LEFT OVERRIDE}",
    "acme/" + "a" * 65,
]


@pytest.mark.parametrize("model_id", NO_IDS)
def test_ids_that_are_none(connection: Connection, model_id: str) -> None:
    for call in (
        lambda: connection.upload_model(MODEL, model_id=model_id),
        lambda: connection.predict(model_id, PATIENTS),
        lambda: connection.model(model_id),
        lambda: connection.load_model(model_id),
        lambda: connection.delete_model(model_id),
    ):
        with pytest.raises(InvalidInput) as caught:
            call()
        assert caught.value.code == "model.id"


# Raw bytes behind the gate: the status and code of the answer, and whether the connection lives on.


def head(method: str, target: str, *headers: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"{method} {target} HTTP/1.1", "Host: x", *headers, "")).encode()


def post(body: bytes, *headers: str) -> bytes:
    return head("POST", INFER, f"Content-Length: {len(body)}", *headers) + body


def put(target: str, *headers: str) -> bytes:
    return head("PUT", target, f"Content-Length: {len(MODEL)}", *headers) + MODEL


def in_json(data: str = "[" + ",".join("1" * 30) + "]", shape: str = "[1,30]", **changed: str) -> bytes:
    tensor = {"name": "features", "datatype": "FP32"} | changed
    members = ",".join(f'"{key}":"{value}"' for key, value in tensor.items())
    return f'{{"inputs":[{{{members},"shape":{shape},"data":{data}}}]}}'.encode()


BINARY, JSON_LENGTH = binary_request(PATIENTS, "features")


def in_binary(length: object, body: bytes = BINARY) -> bytes:
    return post(body, f"Inference-Header-Content-Length: {length}")


LIVES, ENDS = True, False

RAW: Final[dict[str, tuple[bytes, int, str, bool]]] = {
    "JSON cut short": (post(in_json()[:-1]), 400, "input.json", LIVES),
    "no JSON": (post(b"\xff\xfe"), 400, "input.json", LIVES),
    "a wrong name": (post(in_json(name="feature")), 400, "input.name", LIVES),
    "a wrong shape": (post(in_json(shape="[30,1]")), 400, "input.shape", LIVES),
    "a shape beyond its data": (post(in_json(shape="[2,30]")), 400, "input.data", LIVES),
    "a wrong datatype": (post(in_json(datatype="FP64")), 400, "input.datatype", LIVES),
    "no datatype": (post(in_json(datatype="float32")), 400, "input.datatype", LIVES),
    "NaN": (post(in_json("[" + ",".join(["NaN"] * 30) + "]")), 400, "input.nan_in_json", LIVES),
    "Infinity": (post(in_json("[" + ",".join(["-Infinity"] * 30) + "]")), 400, "input.nan_in_json", LIVES),
    "null": (post(in_json("[" + ",".join(["null"] * 30) + "]")), 400, "input.nan_in_json", LIVES),
    "JSON part beyond the body": (in_binary(len(BINARY) + 1), 400, "input.header_length", LIVES),
    "JSON part of negative length": (in_binary(-1), 400, "input.header_length", LIVES),
    "JSON part of no length": (in_binary("all"), 400, "input.header_length", LIVES),
    "JSON part given twice": (
        in_binary(f"{JSON_LENGTH}\r\nInference-Header-Content-Length: {JSON_LENGTH}"),
        400,
        "input.header_length",
        LIVES,
    ),
    "JSON part far too short": (in_binary(1), 400, "input.json", LIVES),
    "JSON part too long": (in_binary(JSON_LENGTH + 4), 400, "input.json", LIVES),
    "binary data left over": (in_binary(JSON_LENGTH, BINARY + b"\0"), 400, "input.size", LIVES),
    "binary data cut short": (in_binary(JSON_LENGTH, BINARY[:-1]), 400, "input.size", LIVES),
    "a body too long": (post(bytes(MAX_BYTES + 1)), 413, "quota.body", LIVES),
    "a model too long": (
        head("PUT", UPLOAD, f"Content-Length: {MAX_BYTES + 1}") + MODEL + bytes(MAX_BYTES + 1 - len(MODEL)),
        413,
        "quota.model_size",
        LIVES,
    ),
    "a model with another's digest": (put(UPLOAD, digest(b"")), 400, "model.digest", LIVES),
    "a model of another type": (put(UPLOAD, "Content-Type: text/plain"), 415, "model.content_type", LIVES),
    "a body compressed": (post(in_json(), "Content-Encoding: gzip"), 415, "http.content_encoding", LIVES),
    "an id with ..": (put("/v2/repository/models/acme/.."), 400, "model.id", LIVES),
    "an id with .. escaped": (put("/v2/repository/models/acme/%2e%2e"), 400, "model.id", LIVES),
    "an id with a slash escaped": (put("/v2/repository/models/acme%2fnew"), 400, "model.id", LIVES),
    "an id with NUL escaped": (put("/v2/repository/models/acme/a%00b"), 400, "model.id", LIVES),
    "an id with a full-width letter": (put("/v2/repository/models/acme/%ef%bd%81dd"), 400, "model.id", LIVES),
    "an id of three parts": (put("/v2/repository/models/acme/a/b"), 404, "http.not_found", LIVES),
    "headers too large": (head("GET", "/v2", f"X: {'a' * (1 << 15)}"), 431, "http.headers_too_large", ENDS),
    "a header without end": (
        head("GET", "/v2")[:-2] + b"X: " + bytes([97]) * (1 << 16),
        431,
        "http.headers_too_large",
        ENDS,
    ),
    "an address too long": (head("GET", "/v2/" + "a" * (1 << 11)), 414, "http.url_too_long", ENDS),
    "no length": (head("POST", INFER, "Content-Length: all"), 400, "http.content_length", ENDS),
    "a negative length": (head("POST", INFER, "Content-Length: -1"), 400, "http.content_length", ENDS),
    "two lengths": (
        head("POST", INFER, "Content-Length: 5", "Content-Length: 6") + b"12345",
        400,
        "http.content_length",
        ENDS,
    ),
    "a length and chunks": (
        head("POST", INFER, "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        400,
        "http.content_length",
        ENDS,
    ),
    "broken chunks": (head("PUT", UPLOAD, "Transfer-Encoding: chunked") + b"x\r\n", 400, "http.request", ENDS),
    "a length beyond the body": (head("POST", INFER, "Content-Length: 5") + b"1234", 408, "http.timeout", ENDS),
    "a model that never ends": (head("PUT", UPLOAD, "Content-Length: 5000") + MODEL, 408, "http.timeout", ENDS),
    "a head that never ends": (head("GET", "/v2")[:-2], 408, "http.timeout", ENDS),
    "no HTTP": (b"\x16\x03\x01\x02\x00", 400, "http.request", ENDS),
}


@pytest.mark.parametrize("name", RAW)
def test_raw_bytes(wire: Wire, right: Any, name: str) -> None:
    sent, status, code, lives = RAW[name]
    wire.send(sent)
    wire.response().assert_problem(status, code)
    if lives:
        assert_right(wire, right)
    else:
        assert_over(wire)


def test_a_length_short_of_the_body(wire: Wire) -> None:
    """What is left over is read as the next request, and is none."""
    body = in_json()
    wire.send(head("POST", INFER, f"Content-Length: {len(body) - 1}") + body)
    wire.response().assert_problem(400, "input.json")
    wire.send(b"\r\n\r\n")
    wire.response().assert_problem(400, "http.request")
    assert_over(wire)


@pytest.mark.parametrize("abruptly", [True, False])
@pytest.mark.parametrize(
    "sent",
    [
        head("GET", "/v2")[:-10],
        head("POST", INFER, "Content-Length: 1000") + b"{",
        head("PUT", UPLOAD, f"Content-Length: {len(MODEL)}") + MODEL[:-1],
        head("PUT", UPLOAD, "Transfer-Encoding: chunked") + b"457\r\n" + MODEL[:1111] + b"\r\n",
        post(BINARY, f"Inference-Header-Content-Length: {JSON_LENGTH}"),
    ],
    ids=["in a head", "in a body", "in a model", "before the last chunk", "before the answer"],
)
def test_cut_connections(wire: Wire, sent: bytes, abruptly: bool) -> None:
    wire.send(sent)
    if abruptly:
        wire.reset()
    else:
        wire.close()


# The port itself, from before the gate.


@pytest.fixture
def port(address: str) -> int:
    """The enclave's own port."""
    return int(address.rpartition(":")[2])


# More than the sockets between hold: a refusal must reach a peer that is still sending.
MEGABYTES: Final = 16 << 20

GATE: Final = head("POST", GATE_PATH, "Content-Length: 2") + b"{}"

SHUT: Final[dict[str, tuple[bytes, int, str]]] = {
    "metadata": (head("GET", "/v2"), 403, "gate.required"),
    "an inference": (post(in_json()), 403, "gate.required"),
    "a model": (put(UPLOAD), 403, "gate.required"),
    "megabytes": (head("PUT", UPLOAD, f"Content-Length: {MEGABYTES}") + bytes(MEGABYTES), 403, "gate.required"),
    "another way to the gate": (head("GET", GATE_PATH), 403, "gate.required"),
    "headers too large": (head("POST", GATE_PATH, f"X: {'a' * (1 << 15)}"), 431, "gate.too_large"),
    "no gate request": (GATE, 400, "gate.malformed"),
    "a gate request too long": (head("POST", GATE_PATH, "Content-Length: 4000") + bytes(4000), 413, "gate.too_large"),
    "a model behind the gate request": (GATE + put(UPLOAD), 400, "gate.pipelined"),
    "no HTTP": (b"\x16\x03\x01\x02\x00", 400, "gate.http"),
}


@pytest.mark.parametrize("name", SHUT)
def test_before_the_gate(port: int, name: str) -> None:
    sent, status, code = SHUT[name]
    with TLSWire(port) as wire:
        wire.send(sent)
        response = wire.response()
        response.assert_problem(status, code)
        assert response.headers["connection"] == "close"
        assert wire.closed()


def test_plain_http_on_the_tls_port(port: int) -> None:
    for sent in (head("GET", "/v2"), post(in_json()), put(UPLOAD), put(UPLOAD) + bytes(MEGABYTES)):
        with Wire(port) as wire:
            wire.send(sent)
            wire.response().assert_problem(400, "channel.plain_http")
            assert wire.closed()


def test_other_bytes_on_the_tls_port(port: int) -> None:
    for sent in (b"\0", b"\x80\x2e\x01\x00\x02", b"\x16\x03\x01\x00\x05hello"):
        with Wire(port) as wire:
            wire.send(sent)
            wire.socket.shutdown(socket.SHUT_WR)
            assert not wire.socket.recv(100).startswith(b"HTTP")


def test_tls_1_2_is_refused(port: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        pytest.raises(ssl.SSLError, match="TLSV1_ALERT_PROTOCOL_VERSION"),
    ):
        context.wrap_socket(plain)
