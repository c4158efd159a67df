"""Tiny real models, and real servers on plain loopback sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest

from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engine import Engine
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from enclave_server import RunningServer, node_model


@pytest.fixture(scope="session")
def adder() -> bytes:
    """y = x + 1."""
    return node_model(onnx.helper.make_node("Add", ["x", "one"], ["y"]), one=np.ones(1, np.float32))


@pytest.fixture(scope="session")
def slow() -> bytes:
    """y = x after a while: a loop without end in sight; only the watchdog or the client stops it."""
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["c_in"], ["c_out"]),
            onnx.helper.make_node("Cos", ["v_in"], ["v_out"]),
        ],
        "body",
        [
            onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            onnx.helper.make_tensor_value_info("c_in", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("v_in", onnx.TensorProto.FLOAT, None),
        ],
        [
            onnx.helper.make_tensor_value_info("c_out", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("v_out", onnx.TensorProto.FLOAT, None),
        ],
    )
    return node_model(
        onnx.helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        onnx.helper.make_node("Cast", ["m"], ["trips"], to=onnx.TensorProto.INT64),
        onnx.helper.make_node("Loop", ["trips", "go", "x"], ["y"], body=body),
        go=np.array(True),
    )


@pytest.fixture
def start_server() -> Iterator[Callable[..., RunningServer]]:
    """Starts servers with any configuration; all end with the test."""
    started: list[RunningServer] = []

    def start(
        config: EnclaveConfig | None = None, engine: Engine | None = None, *, simulated: bool = False
    ) -> RunningServer:
        started.append(RunningServer(config or EnclaveConfig(), engine or OnnxRuntimeEngine(), simulated=simulated))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def server(start_server: Callable[..., RunningServer]) -> RunningServer:
    """A server with the default configuration and no models."""
    return start_server()
