"""Starting and stopping."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from blindai.enclave.config import EnclaveConfig, Timeouts
from enclave_server import RunningServer, Wire, binary_request

Start = Callable[..., RunningServer]

PROGRAM = """
import sys
from blindai.enclave.app import Application
from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.server import run, serve

async def main():
    config = EnclaveConfig()
    await serve(
        Application(config, OnnxRuntimeEngine()),
        config=config,
        protocol_factory=lambda http: http(),
        host="127.0.0.1",
        port=0,
        ready=lambda host, port: print(port, flush=True),
    )

run(main())
print("clean end", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_in_progress_end(tmp_path: Path, slow: bytes, number: signal.Signals) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with Wire(port) as wire, Wire(port) as idle:
            assert wire.request("PUT", "/v2/repository/models/acme/slow", slow).status == 201
            assert idle.request("GET", "/v2").status == 200
            answer = wire.begin_infer("acme/slow", np.full((1, 1), 3e5, np.float32))
            while b"blindai_memory_bytes" not in idle.request("GET", "/metrics").body:
                time.sleep(0.01)
            process.send_signal(number)
            assert idle.closed()
            response = answer()
            assert (response.status, response.headers["connection"]) == (200, "close")
            assert wire.closed()
        output = process.stdout.read()
        assert process.wait(20) == 0
    assert output.endswith("clean end\n")


def test_stopping_waits_only_so_long(start_server: Start, slow: bytes) -> None:
    server = start_server(EnclaveConfig(timeouts=Timeouts(shutdown_ms=300, run_ms=3000)))
    server.upload("acme/slow", slow)
    with server.connect() as stalled:
        stalled.head("PUT", "/v2/repository/models/acme/x", "Content-Length: 1000")
        server.eventually(lambda: len(server.application.repository.pending) == 1)
        server.stop()
        assert stalled.closed()
    assert server.application.repository.memory.used == 0


def test_nothing_new_is_taken_while_stopping(start_server: Start) -> None:
    server = start_server()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_a_request_may_come_as_soon_as_the_server_says_ready(start_server: Start) -> None:
    server = start_server(simulated=True)
    assert server.request("GET", "/v2").headers["blindai-platform"] == "simulated"


def test_connections_leave_nothing_behind(server: RunningServer, adder: bytes) -> None:
    server.upload("acme/add", adder)
    body, length = binary_request(np.ones((1, 4), np.float32))
    for n in range(60):
        with server.connect() as wire:
            wire.head(
                "POST",
                "/v2/models/acme/add/infer",
                f"Content-Length: {len(body)}",
                f"Inference-Header-Content-Length: {length}",
            )
            if n % 3:
                wire.send(body)
                assert wire.response().status == 200
            if n % 2:
                wire.reset()
    server.eventually(lambda: server.application.bodies.used == 0)
    server.eventually(lambda: len(asyncio.all_tasks()) < 8)
