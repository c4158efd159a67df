"""An enclave of a cloud, with a control plane that does as it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.channel.calling import CallingEnd
from blindai.enclave.cloud import joining, reporter
from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.wire.api_key import ApiKey
from enclave_server import Response, RunningServer
from fake_cloud import FakeControlPlane

INLINE = {"isolation": "thread", "workers": 2}


def bearer(key: ApiKey | str | None) -> tuple[str, ...]:
    """The header that has a key; none for None."""
    if key is None:
        return ()
    return (f"Authorization: Bearer {key.text if isinstance(key, ApiKey) else key}",)


class CloudEnclave(RunningServer):
    """An enclave in a thread, joined to a `FakeControlPlane`."""

    def __init__(self, plane: FakeControlPlane, *, cloud: dict[str, Any] | None = None, **config: Any) -> None:
        tables = {"runtime": INLINE, "cloud": plane.config(**(cloud or {}))} | config
        settings = msgspec.convert(tables, EnclaveConfig)
        calling = CallingEnd(SimulatedAttester(), msgspec.to_builtins(settings))
        self.plane = plane
        super().__init__(settings, OnnxRuntimeEngine(), simulated=True, calling=calling)

    def ask(
        self, method: str, path: str, key: ApiKey | str | None = None, body: bytes = b"", *headers: str
    ) -> Response:
        """One request on a connection of its own."""
        return self.request(method, path, body, *bearer(key), *headers)


@pytest.fixture(scope="module")
def plane() -> FakeControlPlane:
    return FakeControlPlane()


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., CloudEnclave]]:
    """Starts enclaves."""
    started: list[CloudEnclave] = []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporter, "_PAUSE_SECONDS", 0.1)

        def begin(plane: FakeControlPlane, **options: Any) -> CloudEnclave:
            patch.setattr(joining, "call", plane.call)
            started.append(CloudEnclave(plane, **options))
            return started[-1]

        yield begin
        for one in started:
            one.plane.fault, one.plane.delay = None, 0.0
            one.stop()


@pytest.fixture(scope="module")
def enclave(plane: FakeControlPlane, start: Callable[..., CloudEnclave]) -> CloudEnclave:
    """One enclave for all tests of a module."""
    return start(plane)
