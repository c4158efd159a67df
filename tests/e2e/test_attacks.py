"""Models and clients that mean harm, against a real enclave with a neighbour: it goes on answering, and rightly.

Each attack ends with the code that its row says. All the while a neighbour sends requests to a model of its own in
another namespace; every one of them must be answered, each with the right numbers. How long they take before and during
each attack is printed where they are watched for long enough to tell (`make attacks`), and decides nothing here.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
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
from neighbour import Neighbour, Seen

CONFIGURATION: Final = """\
[limits]
model_process_bytes = 1073741824

[timeouts]
run_ms = 2000
load_ms = 5000
body_ms = 2000
head_ms = 2000
"""

MODEL: Final = "stranger/model"

# How long a neighbour is watched, without and with an attack that goes on all that time; `--watch` watches for longer.
SECONDS: Final = 0.25

# Of so many answers, one in a hundred tells something.
FEWEST_ANSWERS: Final = 500


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


@dataclass(frozen=True)
class Watch:
    """Looks at a neighbour for a while.

    Attributes:
        seconds: before each attack, and at least during it.
        apart: the attackers' own work takes no processor from anybody, as if it were done on another machine.
    """

    neighbour: Neighbour
    figures: Callable[[str], None]
    seconds: float
    apart: bool

    @contextmanager
    def __call__(self, attack: str) -> Iterator[None]:
        """The neighbour is answered, and rightly, before, during and after the block."""
        neighbour = self.neighbour
        neighbour.seen()
        time.sleep(self.seconds)
        before = neighbour.seen()
        with idle_class() if self.apart else nullcontext():
            yield
        during = neighbour.seen()
        self._compare(attack, before, during)

    def _compare(self, attack: str, before: Seen, during: Seen) -> None:
        time.sleep(0.1)
        for seen in (before, during, self.neighbour.seen()):
            assert seen.wrong == []
            assert seen.milliseconds
        if min(len(before.milliseconds), len(during.milliseconds)) < FEWEST_ANSWERS:
            return
        quiet, troubled = p99(before.milliseconds), p99(during.milliseconds)
        self.figures(f"neighbour's p99 {quiet:5.1f} -> {troubled:6.1f} ms ({troubled / quiet:4.1f}x)  {attack}")


@contextmanager
def idle_class() -> Iterator[None]:
    """This thread, and those that it starts, run only where a processor has nothing else to do."""
    usual = os.sched_getscheduler(0)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, usual, os.sched_param(0))


@pytest.fixture
def watch(neighbour: Neighbour, figures: Callable[[str], None], request: pytest.FixtureRequest) -> Watch:
    seconds = request.config.getoption("--watch")
    return Watch(neighbour, figures, seconds or SECONDS, apart=seconds is not None)


def p99(latencies: list[float]) -> float:
    return float(np.percentile(latencies, 99))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_hostile_model_costs_its_owner_an_error_and_nobody_else_anything(
    attack: Attack, address: str, watch: Watch
) -> None:
    model = attack.build()
    with Connection(address, simulation=True, progress=False) as stranger, watch(attack.name):
        end = time.monotonic() + watch.seconds
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


def test_a_model_that_crashes_each_time_is_withdrawn_after_three(address: str, watch: Watch) -> None:
    (attack,) = (attack for attack in ATTACKS if attack.name == "a division that kills the process")
    codes = []
    with (
        Connection(address, simulation=True, progress=False) as stranger,
        watch("a model that crashes until it is withdrawn"),
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


def test_a_hundred_clients_that_send_a_byte_at_a_time_are_cut_off(address: str, watch: Watch) -> None:
    request = infer_request(np.ones((1, 64), np.float32))
    with watch("100 clients that send a byte at a time"), ExitStack() as stack:
        slow = [stack.enter_context(GatedWire(address)) for _ in range(100)]
        for number, connection in enumerate(slow):
            connection.send(request[: 40 + number])
        for connection in slow:
            assert b'"code":"http.timeout"' in everything(connection.socket)


def test_ten_thousand_requests_ahead_of_their_answers_end_the_connection(address: str, watch: Watch) -> None:
    request = infer_request(np.ones((1, 64), np.float32))
    with watch("10,000 requests sent ahead"), GatedWire(address) as connection:
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


def test_clients_that_go_away_leave_no_run_and_no_upload_behind(address: str, watch: Watch) -> None:
    model = node_model(onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), w=np.ones((64, 4096), np.float32))
    with Connection(address, simulation=True, progress=False) as connection:
        connection.upload_model(model, model_id=MODEL)
        with watch("clients that go away in the middle"):
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
