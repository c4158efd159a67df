"""Triton's own HTTP client, unmodified, against a real enclave: `blindai proxy` attests on its behalf.

The scenarios are those that the enclave's HTTP server passes by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from tests.enclave import test_tritonclient as scenarios

from blindai import Connection
from enclave_server import node_model
from proxy_process import ProxyProcess

client = scenarios.client
globals().update({name: test for name, test in vars(scenarios).items() if name.startswith("test_")})


@pytest.fixture
def plain_port(proxy: ProxyProcess, connection: Connection) -> Iterator[int]:
    """Takes the place of the scenarios' own, which leads to a server without TLS."""
    adder = node_model(onnx.helper.make_node("Add", ["x", "one"], ["y"]), one=np.ones(1, np.float32))
    connection.upload_model(adder, model_id="acme/add")
    yield proxy.port
    connection.delete_model("acme/add")
    assert proxy.refusals == []
