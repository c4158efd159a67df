"""A simulated enclave in a thread, joined to a control plane that is served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from blindai.channel.calling import CallingEnd
from blindai.channel.end import AttestedEnd
from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from cloud_scene import RunningCloud
from enclave_server import RunningServer


@contextmanager
def joined_enclave(
    running: RunningCloud, endpoint: str = "https://enclave.test:9443", **settings: Any
) -> Iterator[RunningServer]:
    """An enclave at work; `endpoint` is what it tells the control plane of where it is, `settings` are of `[cloud]`."""
    scene = running.scene
    tables = {"runtime": {"isolation": "thread"}, **scene.config(endpoint, running.enclaves)}
    tables["cloud"] |= settings
    config = msgspec.convert(tables, EnclaveConfig)
    measured, attester = msgspec.to_builtins(config), scene.platform.attester
    server = RunningServer(
        config,
        OnnxRuntimeEngine(),
        simulated=True,
        end=AttestedEnd(attester, measured),
        calling=CallingEnd(attester, measured),
    )
    try:
        yield server
    finally:
        server.stop()
