"""An enclave that is to have a model on loan, and whose custodian is not there: what its users see."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.channel.calling import CallingEnd
from blindai.enclave.app import Application
from blindai.enclave.config import Custody, EnclaveConfig
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from enclave_server import RunningServer

from .conftest import LEASE

# Nobody listens on the port of tcpmux here, and a test that finds somebody would only wait.
CONFIG = EnclaveConfig(custody=Custody(address="127.0.0.1:1", public_key="ab" * 32, lease=LEASE, model_id="acme/lent"))


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    calling = CallingEnd(SimulatedAttester(), msgspec.to_builtins(CONFIG))
    running = RunningServer(CONFIG, OnnxRuntimeEngine(), simulated=True, calling=calling)
    yield running
    running.stop()


def test_without_an_end_that_calls_there_is_no_loan() -> None:
    with pytest.raises(ValueError, match="calls it"):
        Application(CONFIG, OnnxRuntimeEngine())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/acme/lent"),
        ("GET", "/v2/models/acme/lent/ready"),
        ("GET", "/v2/models/acme/lent/config"),
        ("GET", "/v2/models/acme/lent/lease"),
        ("POST", "/v2/models/acme/lent/infer"),
        ("POST", "/v2/models/acme/lent/versions/1/infer"),
    ],
)
def test_the_model_is_waited_for(server: RunningServer, method: str, path: str) -> None:
    server.request(method, path).assert_problem(503, "lease.waiting")


def test_it_never_has_another_version(server: RunningServer) -> None:
    server.request("POST", "/v2/models/acme/lent/versions/2/infer").assert_problem(404, "model.not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v2/repository/models/acme/lent"),
        ("PUT", "/v2/repository/models/acme/lent?version=7"),
        ("DELETE", "/v2/repository/models/acme/lent"),
        ("POST", "/v2/repository/models/acme/lent/load"),
        ("POST", "/v2/repository/models/acme/lent/unload"),
    ],
)
def test_its_name_is_taken_though_it_is_not_there(server: RunningServer, method: str, path: str) -> None:
    server.request(method, path).assert_problem(409, "lease.managed")


def test_other_models_are_served_as_ever(server: RunningServer, adder: bytes) -> None:
    assert server.upload("acme/own", adder).status == 201
    assert "leased" not in server.request("GET", "/v2/models/acme/own").json
    with server.connect() as wire:
        assert wire.infer("acme/own", np.ones((1, 4), np.float32)).status == 200
    server.request("GET", "/v2/models/acme/own/lease").assert_problem(404, "lease.none")


def test_the_metrics_show_the_lease_and_no_names(server: RunningServer) -> None:
    text = server.request("GET", "/metrics").body.decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("blindai_lease"))
    assert lines['blindai_lease_state{state="waiting"}'] == "1.0"
    assert lines['blindai_lease_state{state="serving"}'] == "0.0"
    assert lines['blindai_lease_seconds_left{expiry="soft"}'] == "0.0"
    assert lines["blindai_lease_units_spent_total"] == "0.0"
    assert "acme" not in text
    assert LEASE not in text


def test_refusals_are_counted(server: RunningServer) -> None:
    server.request("POST", "/v2/models/acme/lent/infer")
    before = refusals(server)
    server.request("POST", "/v2/models/acme/lent/infer")
    assert refusals(server) == before + 1


def refusals(server: RunningServer) -> float:
    """How many the server has counted of those that say to wait for the model."""
    lines = server.request("GET", "/metrics").body.decode().splitlines()
    (line,) = (line for line in lines if line.startswith('blindai_refusals_total{code="lease.waiting"}'))
    return float(line.rpartition(" ")[2])
