"""A proxy in a thread with its own event loop, on a loopback port or a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from blindai.attestation.policy import Policy
from blindai.channel.clock import SYSTEM_CLOCK, Clock
from blindai.client.profile import Address
from blindai.client.proxy.address import ListenAddress, LoopbackAddress
from blindai.client.proxy.admission import Admission
from blindai.client.proxy.connection import Refusal
from blindai.client.proxy.proxy import MAX_CONNECTIONS, Proxy
from blindai.client.proxy.token import LocalToken

PATIENCE_SECONDS = 30.0


class RunningProxy:
    """A proxy that serves. A context manager.

    Attributes:
        port: where it listens, on loopback.
        refusals: every request that it refused by itself.
        serving: the proxy itself.
    """

    def __init__(
        self,
        address: str,
        policy: Policy,
        *,
        token: LocalToken | None = None,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        where: ListenAddress | None = None,
        max_connections: int = MAX_CONNECTIONS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.refusals: list[Refusal] = []
        self.port = 0
        self.serving = Proxy(
            Address.parse(address),
            policy,
            Admission(token=token, hosts=hosts, origins=origins, listens_on="127.0.0.1"),
            refused=self.refusals.append,
            max_connections=max_connections,
            clock=clock,
        )
        self._where = where or LoopbackAddress("127.0.0.1", 0)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        """Tell it to end; it does so once what is being answered is. Harmless when repeated."""
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._loop.call_soon_threadsafe(self._stop.set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def refused_codes(self) -> list[str]:
        return [refusal.error.code for refusal in self.refusals]

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        with self._where.listening() as (listener, listens):
            if isinstance(listens, LoopbackAddress):
                self.port = listens.port
            self._ready.set()
            await self.serving.serve(listener, self._stop)
