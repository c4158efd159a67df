"""Models and clients that mean harm, against a real enclave with a neighbour: it goes on answering, and rightly.

Each attack ends with the code that its row says. All the while a neighbour sends requests to a model of its own in
another namespace; every one of them must be answered, each with the right numbers. How long they take before and during
each attack is printed, and decides nothing here.
"""

from __future__ import annotations

import json
import secrets
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Final

import numpy as np
import onnx
import pytest

from blindai import BlindAIError, Connection
from blindai.channel.gate import GATE_PATH
from blindai.demo.enclaves import served
from enclave_server import binary_request, node_model
from hostile_models import ATTACKS, Attack

CONFIGURATION: Final = """\
[limits]
model_process_bytes = 1073741824

[timeouts]
run_ms = 2000
load_ms = 8000
body_ms = 2000
head_ms = 2000
"""

NEIGHBOUR: Final = "neighbour/scorer"
MODEL: Final = "stranger/model"


class Neighbour:
    """Somebody else with a model of their own, who asks all the time and checks each answer."""

    def __init__(self, address: str) -> None:
        self._connection = Connection(address, simulation=True, progress=False)
        self._weights = np.random.default_rng(3).standard_normal((64, 8)).astype(np.float32)
        self.wrong: list[str] = []
        self.answered = 0
        self._latencies: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def start(self) -> None:
        model = node_model(onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), w=self._weights)
        self._connection.upload_model(model, model_id=NEIGHBOUR)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(30)
        self._connection.close()

    def latencies(self) -> list[float]:
        """Milliseconds of each request since the last call."""
        taken, self._latencies = self._latencies, []
        return taken

    def _ask(self) -> None:
        random = np.random.default_rng(5)
        while not self._over.is_set():
            values = random.standard_normal((1, 64)).astype(np.float32)
            started = time.perf_counter()
            try:
                answer = self._connection.predict(NEIGHBOUR, values).output[0].as_numpy()
            except BlindAIError as error:
                self.wrong.append(f"{error.code}: {error.message}")
                continue
            self._latencies.append((time.perf_counter() - started) * 1e3)
            if not np.allclose(answer, values @ self._weights, rtol=1e-4, atol=1e-4):
                self.wrong.append(f"{answer} for {values}")
            self.answered += 1
            time.sleep(0.002)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("attacks") / "blindai.toml"
    path.write_text(CONFIGURATION)
    with served(config=path) as address:
        yield address


@pytest.fixture(scope="module")
def neighbour(address: str) -> Iterator[Neighbour]:
    neighbour = Neighbour(address)
    neighbour.start()
    time.sleep(1.0)
    yield neighbour
    neighbour.stop()


@contextmanager
def undisturbed(neighbour: Neighbour, attack: str, figures: Callable[[str], None]) -> Iterator[None]:
    """The neighbour is answered, and rightly, before, during and after the block."""
    time.sleep(0.5)
    before = neighbour.latencies()
    wrong, answered = len(neighbour.wrong), neighbour.answered
    yield
    during = neighbour.latencies()
    time.sleep(0.3)
    assert neighbour.wrong[wrong:] == []
    assert neighbour.answered > answered
    quiet, troubled = p99(before), p99(during or before)
    figures(f"neighbour's p99 {quiet:5.1f} -> {troubled:6.1f} ms ({troubled / quiet:4.1f}x)  {attack}")


def p99(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100)[-1] if len(latencies) > 1 else float("nan")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_hostile_model_costs_its_owner_an_error_and_nobody_else_anything(
    attack: Attack, address: str, neighbour: Neighbour, figures: Callable[[str], None]
) -> None:
    with undisturbed(neighbour, attack.name, figures), Connection(address, simulation=True, progress=False) as stranger:
        step, code = outcome(stranger, attack)
    if attack.upload and (step == "upload" or not attack.run):
        assert (step, code in attack.upload) == ("upload", True), (step, code)
    elif attack.run:
        assert (step, code in attack.run) == ("run", True), (step, code)
    else:
        assert step == "answered", (step, code)


def outcome(stranger: Connection, attack: Attack) -> tuple[str, str]:
    """Where it ended, and with which code."""
    try:
        stranger.upload_model(attack.build(), model_id=MODEL)
    except BlindAIError as error:
        return "upload", error.code
    try:
        if attack.query is not None:
            stranger.predict(MODEL, attack.query)
    except BlindAIError as error:
        return "run", error.code
    else:
        return "answered", ""
    finally:
        stranger.delete_model(MODEL)


@contextmanager
def behind_the_gate(address: str) -> Iterator[ssl.SSLSocket]:
    """A bare TLS connection with its gate open, for clients who keep to no rule after that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = address.removeprefix("https://").rpartition(":")
    with closing(context.wrap_socket(socket.create_connection((host, int(port)), timeout=20))) as connection:
        body = json.dumps({"v": 1, "mode": "fresh", "nonce": secrets.token_hex(32)}).encode()
        head = f"POST {GATE_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200")
        head_end = answer.index(b"\r\n\r\n") + 4
        at = answer.lower().index(b"content-length:") + 15
        missing = int(answer[at : answer.index(b"\r", at)]) - (len(answer) - head_end)
        while missing > 0:
            missing -= len(connection.recv(1 << 16))
        yield connection


def infer_request(values: np.ndarray, target: str = f"/v2/models/{NEIGHBOUR}/infer") -> bytes:
    body, length = binary_request(values)
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    head += f"Inference-Header-Content-Length: {length}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def everything(connection: ssl.SSLSocket) -> bytes:
    """What the enclave sends until it closes."""
    data = b""
    with suppress(ConnectionError, ssl.SSLError):
        while chunk := connection.recv(1 << 16):
            data += chunk
    return data


def test_a_hundred_clients_that_send_a_byte_at_a_time_are_cut_off(
    address: str, neighbour: Neighbour, figures: Callable[[str], None]
) -> None:
    request = infer_request(np.ones((1, 64), np.float32))
    with undisturbed(neighbour, "100 clients that send a byte at a time", figures), ExitStack() as stack:
        slow = [stack.enter_context(behind_the_gate(address)) for _ in range(100)]
        for number, connection in enumerate(slow):
            connection.sendall(request[: 40 + number])
        for connection in slow:
            assert b'"code":"http.timeout"' in everything(connection)


def test_ten_thousand_requests_ahead_of_their_answers_end_the_connection(
    address: str, neighbour: Neighbour, figures: Callable[[str], None]
) -> None:
    request = infer_request(np.ones((1, 64), np.float32))
    with undisturbed(neighbour, "10,000 requests sent ahead", figures), behind_the_gate(address) as connection:
        received = bytearray()
        reader = threading.Thread(target=lambda: received.extend(everything(connection)))
        reader.start()
        with suppress(OSError, ssl.SSLError):
            for _ in range(100):
                connection.sendall(request * 100)
        reader.join(30)
        assert not reader.is_alive()
        answers = received.count(b"HTTP/1.1 200")
        assert answers == 10_000 or b'"code":"http.pipelining"' in received, answers


def test_clients_that_go_away_leave_no_run_and_no_upload_behind(
    address: str, neighbour: Neighbour, figures: Callable[[str], None]
) -> None:
    model = node_model(onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), w=np.ones((64, 4096), np.float32))
    with Connection(address, simulation=True, progress=False) as connection:
        connection.upload_model(model, model_id=MODEL)
        with undisturbed(neighbour, "clients that go away in the middle", figures):
            request = infer_request(np.ones((512, 64), np.float32), f"/v2/models/{MODEL}/infer")
            upload = f"PUT /v2/repository/models/{MODEL}?version=9 HTTP/1.1\r\nHost: localhost\r\n"
            upload += f"Content-Type: application/octet-stream\r\nContent-Length: {len(model)}\r\n\r\n"
            for number in range(60):
                with behind_the_gate(address) as gone:
                    if number % 3 == 0:
                        gone.sendall(upload.encode() + model[: len(model) // 2])
                    else:
                        gone.sendall(request if number % 3 == 1 else request[: len(request) // 2])
        values = np.ones((1, 64), np.float32)
        answer = connection.predict(MODEL, values).output[0].as_numpy()
        assert np.array_equal(answer, np.full((1, 4096), 64, np.float32))
        assert [model.version for model in connection.models() if model.name == MODEL] == ["1"]
        connection.delete_model(MODEL)
