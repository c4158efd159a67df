"""A custodian who is none: it answers enclaves on a real port, with the key and the words that the attacker has."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

from blindai.attestation.measure.local import local_policy
from blindai.attestation.policy import Policy
from blindai.channel.receiving import ReceivingEnd, ReceivingProtocols
from blindai.demo.impostor import content_length, http_answer

_HEAD_END: Final = b"\r\n\r\n"


class Forgery:
    """A port that passes itself off as the custodian's, in a thread of its own. A context manager.

    Attributes:
        port: where it listens.
        heard: bytes that enclaves sent behind its gate.
        opened: connections whose gate it has opened.
    """

    def __init__(
        self, sign: Callable[[bytes], bytes], public_key: str, answers: Mapping[str, bytes] | None = None
    ) -> None:
        """Prepare it.

        Args:
            sign, public_key: the key with which it says who it is.
            answers: bodies, by the path of a request; a request for another path hangs for ever.
        """
        self.port = 0
        self.heard = 0
        self.opened: list[asyncio.Transport] = []
        self._end = ReceivingEnd(sign, public_key, _anything)
        self._answers = answers or {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True, name="forgery")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def answer(self, path: str) -> bytes | None:
        """What it says to a request for `path`."""
        return self._answers.get(path)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        protocols = ReceivingProtocols(self._end)
        server = await self._loop.create_server(lambda: protocols(lambda _: _Answering(self)), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        protocols.close()
        for transport in self.opened:
            transport.abort()
        await asyncio.sleep(0)  # lets the loop close what was cut


class _Answering(asyncio.Protocol):
    """What stands behind the gate: HTTP of the simplest kind."""

    def __init__(self, forgery: Forgery) -> None:
        self._forgery = forgery
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a plaintext transport can be written to")
        self._transport = transport
        self._forgery.opened.append(transport)

    def data_received(self, data: bytes) -> None:
        self._forgery.heard += len(data)
        self._received += data
        head, end, body = self._received.partition(_HEAD_END)
        if not end or len(body) < content_length(head):
            return
        self._received = b""
        answer = self._forgery.answer(head.split(b" ", 2)[1].decode("ascii"))
        if answer is not None:
            self._transport.write(http_answer(answer))


async def _anything(_: str) -> Policy:
    return local_policy()
