"""What a connection held is freed with it, and does not wait for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.channel.end import AttestedEnd
from blindai.channel.server import AttestedProtocols
from blindai.client.connection import Connection
from blindai.enclave.app import Application
from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.server import run, serve


class Enclave:
    """A whole enclave in a thread, which knows its connections without holding them."""

    def __init__(self) -> None:
        self.alive: weakref.WeakSet[asyncio.BaseProtocol] = weakref.WeakSet()
        self.seen = 0
        self.address = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: run(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        config = EnclaveConfig()
        self._protocols = AttestedProtocols(AttestedEnd(SimulatedAttester(), {}))
        await serve(
            Application(config, OnnxRuntimeEngine()),
            config=config,
            protocol_factory=self._connection,
            host="127.0.0.1",
            port=0,
            ready=self._listening,
            stop=self._stop,
        )

    def _connection(self, inner: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        protocol = self._protocols(lambda: self._remembered(inner()))
        self._remembered(protocol)
        return protocol

    def _remembered(self, protocol: asyncio.Protocol) -> asyncio.Protocol:
        self.alive.add(protocol)
        self.seen += 1
        return protocol

    def _listening(self, host: str, port: int) -> None:
        self.address = f"https://{host}:{port}"
        self._ready.set()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@pytest.fixture
def enclave() -> Iterator[Enclave]:
    running = Enclave()
    yield running
    running.close()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_nothing_of_a_connection_outlives_it(enclave: Enclave, no_collector: None, adder: bytes) -> None:
    for number in range(3):
        with Connection(enclave.address, simulation=True) as connection:
            if not number:
                connection.upload_model(adder, model_id="acme/adder", progress=False)
            connection.predict("acme/adder", np.zeros((1, 4), np.float32))
    end = time.monotonic() + 10
    while enclave.alive and time.monotonic() < end:
        time.sleep(0.01)
    assert enclave.seen == 6  # TLS and HTTP of each
    assert not list(enclave.alive)
