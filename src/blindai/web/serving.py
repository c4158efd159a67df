"""One port of a program: an ASGI application behind bounded connections, ended in good order."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvicorn
from starlette.requests import ClientDisconnect
from uvicorn.server import ServerState

from blindai.errors import BlindAIError
from blindai.web.http import BoundedHttpProtocol, HttpLimits
from blindai.wire.problems import CONTENT_TYPE, problem_body, status_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Connections that wait to be accepted: all clients of a process that was restarted, at once.
BACKLOG: Final = 1024

# Of TLS itself; a connection that does not get there holds a file descriptor and little else.
HANDSHAKE_SECONDS: Final = 10.0

_log = structlog.get_logger("blindai.web")


class HttpPort:
    """A port that serves an application.

    Args:
        application: ASGI; its errors of ours become problems, all others an incident in the log.
        limits: of its connections.
        headers: of every answer.
    """

    def __init__(self, application: ASGIApp, limits: HttpLimits, *, headers: Sequence[tuple[str, str]] = ()) -> None:
        self._limits = limits
        self._config = uvicorn.Config(
            Answering(application),
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level=logging.CRITICAL,  # what there is to say is said in the program's own log
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
        self._config.load()
        self._state = ServerState()
        self._state.default_headers = [(name.lower().encode(), value.encode()) for name, value in headers]
        self._server: asyncio.Server | None = None

    def connection(self, **state: Any) -> BoundedHttpProtocol:
        """The protocol of a new connection; `state` stands in the ASGI scope of its requests."""
        return BoundedHttpProtocol(self._config, self._state, state, self._limits)

    async def start(
        self,
        listener: socket.socket,
        factory: Callable[[], asyncio.BaseProtocol] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Accept connections.

        Args:
            listener: a socket that listens; closed by `stop`.
            factory: makes the protocol of a new connection, where it is more than `connection` alone.
            tls: of the connections, where `factory` does not see to that.
        """
        self._server = await asyncio.get_running_loop().create_server(
            factory or self.connection,
            sock=listener,
            ssl=tls,
            backlog=BACKLOG,
            ssl_handshake_timeout=None if tls is None else HANDSHAKE_SECONDS,
        )

    async def stop(self, seconds: float) -> None:
        """Accept nothing more, let requests in progress end, and cut what is left after `seconds`."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections():
            connection.shutdown()
        waiting = [connection.ended for connection in self._connections()]
        if waiting or self._state.tasks:
            await asyncio.wait({*waiting, *self._state.tasks}, timeout=seconds)
        if self._state.connections:
            _log.warning("cut_connections", connections=len(self._state.connections))
        for connection in self._connections():
            connection.transport.abort()
        for task in list(self._state.tasks):
            task.cancel()
        await asyncio.sleep(0)  # lets the loop close what was cut

    def _connections(self) -> list[BoundedHttpProtocol]:
        return [one for one in self._state.connections if isinstance(one, BoundedHttpProtocol)]


class Answering:
    """The outermost layer of an application: whatever goes wrong in it is answered, and nothing of it is shown."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = ended = False

        async def noting(message: Message) -> None:
            nonlocal begun, ended
            begun = True
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._application(scope, receive, noting)
        except ClientDisconnect:
            return  # there is nobody to answer
        except BlindAIError as error:
            problem = error
        except Exception as error:  # noqa: BLE001 - the outermost edge: logged as an incident, answered without internals
            _log.error("incident", path=scope.get("path", ""), exc_info=error)
            problem = BlindAIError("the server failed; its log says why", code="internal")
        else:
            return
        if ended:
            return
        if begun:
            raise ConnectionAbortedError("half of an answer was sent")
        body = problem_body(problem)
        headers = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status_of(problem), "headers": headers})
        await send({"type": "http.response.body", "body": body})
