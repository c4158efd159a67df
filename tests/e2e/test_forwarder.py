"""The forwarder itself: what it carries arrives unchanged, and an enclave it cannot attest gets nothing."""

from __future__ import annotations

import re

import numpy as np
import onnx

from attested_forwarder import AttestedForwarder
from blindai import AttestationError, Connection
from blindai.attestation.measure.local import local_policy
from blindai.attestation.policy import Policy
from enclave_server import Wire, node_model


def test_megabytes_arrive_unchanged_in_both_directions(connection: Connection, forwarder: AttestedForwarder) -> None:
    connection.upload_model(node_model(onnx.helper.make_node("Identity", ["x"], ["y"])), model_id="acme/echo")
    values = np.random.default_rng(0).random((1, 2_000_000), np.float32)
    with Wire(forwarder.port) as wire:
        for _ in range(2):
            response = wire.infer("acme/echo", values)
            assert response.status == 200
            assert response.body[int(response.headers["inference-header-content-length"]) :] == values.tobytes()
    connection.delete_model("acme/echo")


def test_nothing_reaches_an_enclave_that_is_not_the_expected_one(address: str) -> None:
    policy = local_policy().to_toml()
    other = Policy.parse(re.sub('mrtd = "..', 'mrtd = "00', policy), "other")
    with AttestedForwarder(address, other) as forwarder, Wire(forwarder.port) as wire:
        wire.send(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.closed()
        (refusal,) = forwarder.refusals
    assert isinstance(refusal, AttestationError)
    assert (refusal.code, refusal.step) == ("code.unknown", "code")
