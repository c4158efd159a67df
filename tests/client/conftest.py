"""A real enclave behind attested TLS, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from blindai.attestation.anchors import Vendor
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.channel.end import AttestedEnd
from blindai.client.connection import Connection
from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from client_cloud import ClientCloud, client_cloud, empty_home
from enclave_server import RunningServer, node_model

StartEnclave = Callable[..., RunningServer]


@pytest.fixture(scope="session")
def root() -> SimulatedRoot:
    return SimulatedRoot.generate()


@pytest.fixture(scope="session")
def policy(root: SimulatedRoot) -> Policy:
    return Policy.simulated({Vendor.INTEL: root.anchor.spki_sha256}, measure_package())


@pytest.fixture(scope="session")
def adder() -> bytes:
    """y = x + 1."""
    return node_model(onnx.helper.make_node("Add", ["x", "one"], ["y"]), one=np.ones(1, np.float32))


@pytest.fixture(scope="module")
def start_enclave(root: SimulatedRoot) -> Iterator[StartEnclave]:
    """Starts enclaves with any configuration; all end with the module."""
    started: list[RunningServer] = []

    def start(config: EnclaveConfig | None = None, *, port: int = 0, **attester: Any) -> RunningServer:
        config = config or EnclaveConfig()
        end = AttestedEnd(SimulatedAttester(root=root, **attester), msgspec.to_builtins(config))
        started.append(RunningServer(config, OnnxRuntimeEngine(), simulated=True, end=end, port=port))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def enclave(start_enclave: StartEnclave, policy: Policy, adder: bytes) -> RunningServer:
    """An enclave that holds `acme/adder`, for tests that leave it there."""
    server = start_enclave()
    with Connection(address(server), policy=policy) as client:
        client.upload_model(adder, model_id="acme/adder")
    return server


def address(server: RunningServer) -> str:
    return f"https://127.0.0.1:{server.port}"


@pytest.fixture
def client(enclave: RunningServer, policy: Policy) -> Iterator[Connection]:
    with Connection(address(enclave), policy=policy) as client:
        yield client


@pytest.fixture(scope="package")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientCloud]:
    """A control plane and an enclave of it; each test makes accounts of its own where it changes one."""
    with client_cloud(tmp_path_factory.mktemp("cloud")) as one:
        yield one


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has stored nothing, in an empty folder."""
    return empty_home(tmp_path, monkeypatch)
