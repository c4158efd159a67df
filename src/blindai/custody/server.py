"""A custodian at work: one port for enclaves, one for operators, until told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from blindai.channel.listening import listen, stopped_by_signals
from blindai.channel.receiving import ReceivingEnd, ReceivingProtocols
from blindai.custody.dashboard import application as dashboard
from blindai.custody.service.application import LIMITS as ENCLAVE_LIMITS
from blindai.custody.service.application import EnclaveService
from blindai.custody.watching import Watches
from blindai.web.calls import DatabaseCalls
from blindai.web.http import HttpLimits
from blindai.web.serving import HttpPort

if TYPE_CHECKING:
    import socket

    from blindai.attestation.policy import Policy
    from blindai.channel.receiving import Caller
    from blindai.custody.custodian import Custodian
    from blindai.web.certificate import PagesTls

# A browser holds six connections, one of them for news; a form has a few kilobytes.
OPERATOR_LIMITS: Final = HttpLimits(max_connections=512, max_body_bytes=64 << 10)

# A transaction takes milliseconds, a part of a sealed model seconds.
SHUTDOWN_SECONDS: Final = 3.0

# One thread reads the versions for `Watches`: it must not wait behind transactions.
_POLLER: Final = {"threads": 1, "max_waiting": 64}

_log = structlog.get_logger("blindai.custody")


@dataclass(frozen=True)
class Addresses:
    """Where a custodian listens: host and port as the system has them."""

    enclaves: tuple[str, int]
    operators: tuple[str, int]


async def serve(
    custodian: Custodian,
    tls: PagesTls,
    *,
    enclave_host: str,
    enclave_port: int,
    dashboard_host: str,
    dashboard_port: int,
    ready: Callable[[Addresses], None],
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until `stop` is set; then let requests in progress finish.

    Args:
        custodian: what to serve; it stays open.
        tls: of the operators' port.
        enclave_host, enclave_port, dashboard_host, dashboard_port: where to listen; port 0 takes a free one.
        ready: told the addresses once connections are accepted.
        stop: another way to stop, besides signals.

    Raises:
        ConfigurationError: `configuration.address`; `configuration.assets_missing`.
    """
    server = CustodianServer(custodian, tls)
    stop = stop or asyncio.Event()
    with stopped_by_signals(stop):
        try:
            ready(
                await server.start(
                    enclaves=lambda: listen(enclave_host, enclave_port),
                    operators=lambda: listen(dashboard_host, dashboard_port),
                )
            )
            await stop.wait()
        finally:
            await server.stop()


class CustodianServer:
    """Both ports of one custodian, on the running event loop."""

    def __init__(self, custodian: Custodian, tls: PagesTls) -> None:
        ledger, keys = custodian.ledger, custodian.keys
        self._ledger = ledger
        self._tls = tls
        self._calls = DatabaseCalls()
        self._polling = DatabaseCalls(**_POLLER)
        self._watches = Watches(lambda: self._polling(ledger.versions))
        service = EnclaveService(ledger, self._calls, self._watches)
        self._enclaves = HttpPort(service.application, ENCLAVE_LIMITS)
        self._protocols = ReceivingProtocols(ReceivingEnd(keys.sign, keys.public_key, self._policy, self._admit))
        self._pages = dashboard(ledger, custodian.operators, public_key=keys.public_key, wake=self._watches.wake)
        self._operators = HttpPort(self._pages, OPERATOR_LIMITS)
        self._watching: asyncio.Task[None] | None = None

    async def start(
        self, *, enclaves: Callable[[], socket.socket], operators: Callable[[], socket.socket]
    ) -> Addresses:
        """Listen on the two sockets that are given, and answer."""
        listeners: list[socket.socket] = []
        try:
            listeners.append(enclaves())
            listeners.append(operators())
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        addresses = [listener.getsockname()[:2] for listener in listeners]
        self._watching = asyncio.create_task(self._watches.run())
        await self._enclaves.start(
            listeners[0], lambda: self._protocols(lambda caller: self._enclaves.connection(caller=caller))
        )
        await self._operators.start(listeners[1], tls=self._tls.context)
        _log.info("serving", enclaves=addresses[0], operators=addresses[1])
        return Addresses(*addresses)

    async def stop(self) -> None:
        """Take nothing new, answer who waits, and let transactions finish."""
        self._watches.close()
        self._protocols.close()
        await self._pages.state.changes.close()
        await asyncio.gather(self._enclaves.stop(SHUTDOWN_SECONDS), self._operators.stop(SHUTDOWN_SECONDS))
        if self._watching is not None:
            await self._watching
        for calls in (self._calls, self._polling):
            await asyncio.to_thread(calls.close)
        _log.info("stopped")

    async def _policy(self, audience: str) -> Policy:
        return await self._calls(self._ledger.policy, audience)

    async def _admit(self, caller: Caller) -> None:
        await self._calls(self._ledger.admit, caller.audience, caller.transcript, caller.result)
        _log.info("admitted", lease=caller.audience, instance=caller.instance)
