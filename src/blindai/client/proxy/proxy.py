"""The proxy as a whole: accepts plain connections of this machine, and has an attested one for each of them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from blindai.attestation.policy import Policy
from blindai.attestation.result import AttestationResult
from blindai.channel.clock import SYSTEM_CLOCK, Clock
from blindai.channel.relying_party import RelyingParty
from blindai.client.profile import Address
from blindai.client.proxy.admission import Admission
from blindai.client.proxy.connection import ClientConnection, Refusal, Terms
from blindai.client.proxy.upstream import Upstream
from blindai.errors import AttestationError, Unavailable

# Each has an attested connection of its own; one machine's programs need fewer.
MAX_CONNECTIONS: Final = 256
# What is being answered when the proxy stops may go on this long.
STOPPING_SECONDS: Final = 10.0
# Bytes that a connection keeps before it makes the client wait.
_BUFFER_BYTES: Final = 1 << 17


class Proxy:
    """Serves the clients of this machine."""

    def __init__(
        self,
        address: Address,
        policy: Policy,
        admission: Admission,
        *,
        refused: Callable[[Refusal], None],
        max_connections: int = MAX_CONNECTIONS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Nothing is contacted yet.

        Args:
            address: the enclave's.
            policy: what it must meet.
            admission: who may use the proxy.
            refused: is told of every request that the proxy itself refuses.
            max_connections: at once; one more is told to come back later.
            clock: against which verdicts expire.
        """
        self._address = address
        self._party = RelyingParty(address.authority, policy, clock=clock)
        self._simulated = False
        self._max_connections = max_connections
        self._stopping = False
        self._connections: dict[ClientConnection, asyncio.Task[None]] = {}
        self._terms = Terms(
            admission,
            address.authority,
            lambda upstream: upstream.fit(self._party),
            self._open,
            lambda: self._simulated,
            refused,
        )

    async def verify(self) -> AttestationResult:
        """Attest the enclave now, without sending it anything.

        Raises:
            AttestationError: it is refused.
            Unavailable: it cannot be reached.
        """
        upstream = await self._open()
        upstream.close()
        return upstream.result

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Answer connections to `listener` until `stop`, and a little longer those that are being answered then."""
        of_network = listener.family in {socket.AF_INET, socket.AF_INET6}
        start = asyncio.start_server if of_network else asyncio.start_unix_server
        server = await start(self._accepted, sock=listener, limit=_BUFFER_BYTES)
        try:
            await stop.wait()
        finally:
            server.close()
            await self._end()

    async def _end(self) -> None:
        self._stopping = True
        tasks = list(self._connections.values())
        for connection in list(self._connections):
            connection.stop()
        if tasks:
            await asyncio.wait(tasks, timeout=STOPPING_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = ClientConnection(self._terms, reader, writer)
        if self._stopping or len(self._connections) >= 2 * self._max_connections:
            writer.transport.abort()  # not even a refusal for so many
            return
        if len(self._connections) >= self._max_connections:
            serving = connection.turn_away(Unavailable("the proxy has as many connections as it may", code="busy"))
        else:
            serving = connection.serve()
        task = asyncio.ensure_future(serving)
        self._connections[connection] = task
        task.add_done_callback(lambda _: self._connections.pop(connection, None))

    async def _open(self) -> Upstream:
        try:
            upstream = await Upstream.open(self._party, self._address)
        except AttestationError as error:
            error.hint = error.hint or f"blindai verify {self._address.url} --explain"
            raise
        self._simulated = upstream.result.simulated
        return upstream
