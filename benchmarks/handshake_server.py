"""TLS 1.3 and nothing else, by the library and with the settings of the enclave's own, to compare connections with."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import cast

import uvloop

from blindai.channel.keyset import PrivateKeyset
from blindai.channel.tls import TLSFailure, TLSPipe, server_context

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Handshake(asyncio.Protocol):
    """Does the handshake, then answers each read with `ANSWER`."""

    def __init__(self, pipe: TLSPipe) -> None:
        self._pipe = pipe

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._pipe.feed(data)
        try:
            if self._pipe.established or self._pipe.handshake():
                while plaintext := self._pipe.read():
                    self._pipe.write(ANSWER)
                if plaintext == b"":
                    self._transport.close()
                    return
        except TLSFailure:
            self._transport.close()
            return
        if outgoing := self._pipe.outgoing():
            self._transport.write(outgoing)


async def main() -> None:
    keys = PrivateKeyset(datetime.now(UTC))
    context = server_context(keys.tls_key, keys.certificate())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Handshake(TLSPipe(context, server=True)), "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
