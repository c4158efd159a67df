"""Models and clients that mean harm, against a real enclave with a neighbour: it goes on answering, and rightly.

Each attack ends with the code that its row says. All the while a neighbour sends requests to a model of its own in
another namespace; every one of them must be answered, each with the right numbers. How long they take before and during
each attack is printed, and decides nothing here.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

import numpy as np
import onnx
import pytest

from blindai import BlindAIError, Connection
from blindai.demo.enclaves import served
from enclave_server import binary_request, node_model
from gated_wire import GatedWire
from hostile_models import ATTACKS, Attack
from neighbour import MODEL as NEIGHBOURS_MODEL
from neighbour import Neighbour

CONFIGURATION: Final = """\
[limits]
model_process_bytes = 1073741824

[timeouts]
run_ms = 2000
load_ms = 8000
body_ms = 2000
head_ms = 2000
"""

MODEL: Final = "stranger/model"

# How long a neighbour is watched, without and with an attack that goes on all that time.
SECONDS: Final = 1.0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("attacks") / "blindai.toml"
    path.write_text(CONFIGURATION)
    with served(config=path) as address:
        yield address


@pytest.fixture(scope="module")
def neighbour(address: str) -> Iterator[Neighbour]:
    with Neighbour(address) as neighbour:
        time.sleep(1.0)
        yield neighbour


@contextmanager
def undisturbed(neighbour: Neighbour, attack: str, figures: Callable[[str], None]) -> Iterator[None]:
    """The neighbour is answered, and rightly, before, during and after the block."""
    neighbour.seen()
    time.sleep(SECONDS)
    before = neighbour.seen()
    yield
    during = neighbour.seen()
    time.sleep(0.2)
    after = neighbour.seen()
    for seen in (before, during, after):
        assert seen.wrong == []
        assert seen.milliseconds
    quiet, troubled = p99(before.milliseconds), p99(during.milliseconds)
    figures(f"neighbour's p99 {quiet:5.1f} -> {troubled:6.1f} ms ({troubled / quiet:4.1f}x)  {attack}")


def p99(latencies: list[float]) -> float:
    return float(np.percentile(latencies, 99))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_hostile_model_costs_its_owner_an_error_and_nobody_else_anything(
    attack: Attack, address: str, neighbour: Neighbour, figures: Callable[[str], None]
) -> None:
    model = attack.build()
    with Connection(address, simulation=True, progress=False) as stranger, undisturbed(neighbour, attack.name, figures):
        end = time.monotonic() + SECONDS
        step, code = outcome(stranger, attack, model)
        while time.monotonic() < end:
            assert outcome(stranger, attack, model) == (step, code)
    if attack.upload and (step == "upload" or not attack.run):
        assert (step, code in attack.upload) == ("upload", True), (step, code)
    elif attack.run:
        assert (step, code in attack.run) == ("run", True), (step, code)
    else:
        assert step == "answered", (step, code)


def outcome(stranger: Connection, attack: Attack, model: bytes) -> tuple[str, str]:
    """Where it ended, and with which code."""
    try:
        stranger.upload_model(model, model_id=MODEL)
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


def test_a_model_that_crashes_each_time_is_withdrawn_after_three(
    address: str, neighbour: Neighbour, figures: Callable[[str], None]
) -> None:
    (attack,) = (attack for attack in ATTACKS if attack.name == "a division that kills the process")
    codes = []
    with (
        Connection(address, simulation=True, progress=False) as stranger,
        undisturbed(neighbour, "a model that crashes until it is withdrawn", figures),
    ):
        stranger.upload_model(attack.build(), model_id=MODEL)
        for _ in range(5):
            with pytest.raises(BlindAIError) as refused:
                stranger.predict(MODEL, np.array([[-1.0]], np.float32))
            codes.append(refused.value.code)
        assert "crashed" in refused.value.message
        (listed,) = (model for model in stranger.models() if model.name == MODEL)
        assert (listed.state, listed.reason) == ("UNAVAILABLE", "crashed")
        stranger.delete_model(MODEL)
    assert codes == ["model.crashed"] * 3 + ["model.not_loaded"] * 2


def infer_request(values: np.ndarray, target: str = f"/v2/models/{NEIGHBOURS_MODEL}/infer") -> bytes:
    body, length = binary_request(values)
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    head += f"Inference-Header-Content-Length: {length}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def everything(connection: socket.socket) -> bytes:
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
        slow = [stack.enter_context(GatedWire(address)) for _ in range(100)]
        for number, connection in enumerate(slow):
            connection.send(request[: 40 + number])
        for connection in slow:
            assert b'"code":"http.timeout"' in everything(connection.socket)


def test_ten_thousand_requests_ahead_of_their_answers_end_the_connection(
    address: str, neighbour: Neighbour, figures: Callable[[str], None]
) -> None:
    request = infer_request(np.ones((1, 64), np.float32))
    with undisturbed(neighbour, "10,000 requests sent ahead", figures), GatedWire(address) as connection:
        received = bytearray()
        reader = threading.Thread(target=lambda: received.extend(everything(connection.socket)))
        reader.start()
        with suppress(OSError, ssl.SSLError):
            for _ in range(100):
                connection.send(request * 100)
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
                with GatedWire(address) as gone:
                    if number % 3 == 0:
                        gone.send(upload.encode() + model[: len(model) // 2])
                    else:
                        gone.send(request if number % 3 == 1 else request[: len(request) // 2])
        values = np.ones((1, 64), np.float32)
        answer = connection.predict(MODEL, values).output[0].as_numpy()
        assert np.array_equal(answer, np.full((1, 4096), 64, np.float32))
        assert [model.version for model in connection.models() if model.name == MODEL] == ["1"]
        connection.delete_model(MODEL)
