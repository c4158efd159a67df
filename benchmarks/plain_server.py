"""The plainest server to compare with: uvicorn (httptools, uvloop) and Python's own TLS, nothing attested.

It does the same work on the protocol with the same codec, runs the model on the event loop, and checks nothing else:
no limits, no time-outs, no metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.hazmat.primitives import serialization
from workload import session, tiny_model

from blindai.channel.keyset import PrivateKeyset
from blindai.wire import v2


class App:
    """An ASGI application with one model at every address."""

    def __init__(self) -> None:
        self._session = session(tiny_model())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        chunks = []
        more = True
        while more:
            message = await receive()
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        headers = dict(scope["headers"])
        length = v2.parse_header_length(headers.get(v2.HEADER_LENGTH.encode()))
        request = v2.decode_request(chunks[0] if len(chunks) == 1 else b"".join(chunks), length)
        results = self._session.run(["y"], {tensor.name: tensor.data for tensor in request.inputs})
        outputs = [v2.Tensor("y", "FP32", results[0])]
        buffers, length = v2.encode_response(outputs, model_name="tiny", id=request.id, binary=request.binary)
        body = b"".join(buffers)
        fields = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(body))]
        if length is not None:
            fields.append((v2.HEADER_LENGTH.encode(), b"%d" % length))
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": body})


def main(*, tls: bool) -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    files: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if tls:
            key_file, certificate_file = Path(folder, "key.pem"), Path(folder, "certificate.pem")
            keys = PrivateKeyset(datetime.now(UTC))
            key_file.write_bytes(
                keys.tls_key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            certificate_file.write_bytes(keys.certificate().public_bytes(serialization.Encoding.PEM))
            files = {"ssl_keyfile": key_file, "ssl_certfile": certificate_file}
        config = uvicorn.Config(
            App(),
            http="httptools",
            loop="uvloop",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_level=logging.CRITICAL,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=600,  # it idles while others are measured
            **files,
        )
        config.load()
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main(tls="--no-tls" not in sys.argv)
