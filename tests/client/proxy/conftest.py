"""An attested server that says what it is told, and a proxy to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from attested_speaker import AttestedSpeaker, Speech, read_request
from blindai.attestation.anchors import Vendor
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.simulated.root import SimulatedRoot
from running_proxy import RunningProxy

StartProxy = Callable[..., RunningProxy]
StartSpeaker = Callable[[Speech], AttestedSpeaker]


@pytest.fixture(scope="session")
def root() -> SimulatedRoot:
    return SimulatedRoot.generate()


@pytest.fixture(scope="session")
def policy(root: SimulatedRoot) -> Policy:
    return Policy.simulated({Vendor.INTEL: root.anchor.spki_sha256}, measure_package())


@pytest.fixture
def start_speaker(root: SimulatedRoot) -> Iterator[StartSpeaker]:
    """Starts attested servers; all end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda speech: stack.enter_context(AttestedSpeaker(speech, SimulatedAttester(root=root)))


@pytest.fixture
def start_proxy(policy: Policy) -> Iterator[StartProxy]:
    """Starts proxies; all end with the test."""
    with contextlib.ExitStack() as stack:

        def start(address: str, **options: Any) -> RunningProxy:
            return stack.enter_context(RunningProxy(address, options.pop("policy", policy), **options))

        yield start


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request with its body, framing of chunks included."""
    while True:
        _, body = await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()


@pytest.fixture
def speaker(start_speaker: StartSpeaker) -> AttestedSpeaker:
    """Echoes bodies."""
    return start_speaker(echo)


@pytest.fixture
def proxy(start_proxy: StartProxy, speaker: AttestedSpeaker) -> RunningProxy:
    """Without a token, before the echo."""
    return start_proxy(speaker.address)
