"""Tiny real models, and real servers on plain loopback sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest

from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engine import Engine
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from enclave_server import RunningServer, looping_model, node_model
from repositories import opening_with


@pytest.fixture(scope="session")
def adder() -> bytes:
    """y = x + 1."""
    return node_model(onnx.helper.make_node("Add", ["x", "one"], ["y"]), one=np.ones(1, np.float32))


@pytest.fixture(scope="session")
def slow() -> bytes:
    """y = x after a while: a loop without end in sight; only the watchdog or the client stops it."""
    return looping_model()


@pytest.fixture
def start_server() -> Iterator[Callable[..., RunningServer]]:
    """Starts servers with any configuration; all end with the test."""
    started: list[RunningServer] = []

    def start(
        config: EnclaveConfig | None = None, engine: Engine | None = None, *, simulated: bool = False
    ) -> RunningServer:
        open_body = None if engine is None else opening_with(engine)
        started.append(
            RunningServer(
                config or EnclaveConfig(), engine or OnnxRuntimeEngine(), simulated=simulated, open_body=open_body
            )
        )
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def server(start_server: Callable[..., RunningServer]) -> RunningServer:
    """A server with the default configuration and no models."""
    return start_server()
