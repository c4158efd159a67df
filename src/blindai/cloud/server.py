"""A control plane at work: one port for enclaves, one for people, until told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from blindai.channel.listening import stopped_by_signals
from blindai.channel.receiving import ReceivingEnd, ReceivingProtocols
from blindai.cloud.application import application
from blindai.cloud.service.application import LIMITS as ENCLAVE_LIMITS
from blindai.cloud.service.application import EnclaveService
from blindai.errors import InvalidInput
from blindai.web.calls import DatabaseCalls
from blindai.web.http import HttpLimits
from blindai.web.serving import HttpPort
from blindai.wire.cloud import AUDIENCE

if TYPE_CHECKING:
    import socket

    from blindai.attestation.policy import Policy
    from blindai.channel.receiving import Caller
    from blindai.cloud.control_plane import ControlPlane
    from blindai.web.certificate import PagesTls

# A browser holds six connections. The largest form is the answer of a security key, some kilobytes.
PEOPLE_LIMITS: Final = HttpLimits(max_connections=1024, max_body_bytes=64 << 10)

# A transaction takes milliseconds, a password a tenth of a second.
SHUTDOWN_SECONDS: Final = 3.0

_log = structlog.get_logger("blindai.cloud")


@dataclass(frozen=True)
class Addresses:
    """Where a control plane listens: host and port as the system has them."""

    enclaves: tuple[str, int]
    people: tuple[str, int]


async def serve(
    plane: ControlPlane,
    policy: Policy,
    tls: PagesTls,
    *,
    enclaves: Callable[[], socket.socket],
    people: Callable[[], socket.socket],
    ready: Callable[[Addresses], None],
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until `stop` is set; then let requests in progress finish.

    Args:
        plane: what to serve; it stays open.
        policy: by which enclaves are appraised.
        tls: of the port for people.
        enclaves, people: give the sockets that listen.
        ready: told the addresses once connections are accepted.
        stop: another way to stop, besides signals.

    Raises:
        ConfigurationError: `configuration.address`; `configuration.assets_missing`.
    """
    server = CloudServer(plane, policy, tls)
    stop = stop or asyncio.Event()
    with stopped_by_signals(stop):
        try:
            ready(await server.start(enclaves=enclaves, people=people))
            await stop.wait()
        finally:
            await server.stop()


class CloudServer:
    """Both ports of one control plane, on the running event loop."""

    def __init__(self, plane: ControlPlane, policy: Policy, tls: PagesTls) -> None:
        self._fleet = plane.fleet
        self._enclave_policy = policy
        self._tls = tls
        self._questions = DatabaseCalls()
        self._reports = DatabaseCalls()
        service = EnclaveService(plane.fleet, questions=self._questions, reports=self._reports)
        self._enclaves = HttpPort(service.application, ENCLAVE_LIMITS)
        self._protocols = ReceivingProtocols(ReceivingEnd(plane.sign, plane.public_key, self._policy, self._admit))
        self._people = HttpPort(application(plane), PEOPLE_LIMITS)

    async def start(self, *, enclaves: Callable[[], socket.socket], people: Callable[[], socket.socket]) -> Addresses:
        """Listen on the two sockets that are given, and answer."""
        listeners: list[socket.socket] = []
        try:
            listeners.append(enclaves())
            listeners.append(people())
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        addresses = [listener.getsockname()[:2] for listener in listeners]
        await self._enclaves.start(
            listeners[0], lambda: self._protocols(lambda caller: self._enclaves.connection(caller=caller))
        )
        await self._people.start(listeners[1], tls=self._tls.context)
        _log.info("serving", enclaves=addresses[0], people=addresses[1])
        return Addresses(*addresses)

    async def stop(self) -> None:
        """Take nothing new, answer who waits, and let transactions finish."""
        self._protocols.close()
        await asyncio.gather(self._enclaves.stop(SHUTDOWN_SECONDS), self._people.stop(SHUTDOWN_SECONDS))
        for calls in (self._questions, self._reports):
            await asyncio.to_thread(calls.close)
        _log.info("stopped")

    async def _policy(self, audience: str) -> Policy:
        """There is one policy for all enclaves.

        Raises:
            InvalidInput: `fleet.audience`.
        """
        if audience != AUDIENCE:
            raise InvalidInput("this is the control plane of a cloud, and no custodian", code="fleet.audience")
        return self._enclave_policy

    async def _admit(self, caller: Caller) -> None:
        await self._reports(self._fleet.admit, caller)
        _log.info("admitted", instance=caller.instance)
