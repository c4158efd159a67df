"""Serving the application on a socket until told to stop.

uvicorn runs the loop of accepting and of shutting down; every connection begins as whatever the caller's
protocol factory makes, which in production is attested TLS around `http.EnclaveHttpProtocol`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn

from blindai.channel.listening import BACKLOG, listen, stopped_by_signals
from blindai.channel.listening import run as run_loop
from blindai.enclave.allocator import keep_freed_memory
from blindai.enclave.http.connection import EnclaveHttpProtocol
from blindai.wire.problems import PLATFORM_HEADER

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Generator

    from uvicorn.server import ServerState

    from blindai.enclave.app import Application
    from blindai.enclave.config import EnclaveConfig

_log = structlog.get_logger("blindai.enclave")


class EnclaveServer(uvicorn.Server):
    """uvicorn's server without its signal handling and log lines, and with a word when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # The first tick sets the headers common to all responses; a request may come before it.
        await self.on_tick(0)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are `serve`'s business: uvicorn would raise them again after a clean end."""
        yield


async def serve(
    application: Application,
    *,
    config: EnclaveConfig,
    protocol_factory: Callable[[Callable[[], asyncio.Protocol]], asyncio.Protocol],
    host: str,
    port: int,
    ready: Callable[[str, int], None],
    simulated: bool = False,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until `stop` is set; then let requests in progress finish.

    Args:
        application: what to serve; closed at the end.
        config: its configuration.
        protocol_factory: makes the protocol of a new connection, given what makes the HTTP protocol inside it.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        ready: told the address once connections are accepted.
        simulated: say on every response that the platform is simulated.
        stop: another way to stop, besides signals.

    Raises:
        ConfigurationError: `configuration.address`, when the address cannot be listened on; as `Application.prepare`.
    """
    await application.prepare()
    listener = listen(host, port)
    address = listener.getsockname()
    settings = uvicorn.Config(
        application,
        http=_connections(application, config, protocol_factory),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level=logging.CRITICAL,  # what there is to say is said below, in the enclave's own log
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        headers=[(PLATFORM_HEADER, "simulated")] if simulated else [],
        backlog=BACKLOG,
        timeout_graceful_shutdown=-(-config.timeouts.shutdown_ms // 1000),
    )
    server = EnclaveServer(settings, lambda: ready(address[0], address[1]))
    stop = stop or asyncio.Event()
    with stopped_by_signals(stop):
        application.start()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            application.stop()
            server.should_exit = True
            await serving
        finally:
            stopping.cancel()
            listener.close()
            if server.server_state.connections:
                _log.warning("cut_connections", connections=len(server.server_state.connections))
            _abort(server.server_state)
            await application.close()
            _log.info("stopped", requests=server.server_state.total_requests)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine as the whole program: on uvloop where it is installed, with an allocator that keeps memory."""
    keep_freed_memory()
    run_loop(main)


def _connections(
    application: Application,
    config: EnclaveConfig,
    protocol_factory: Callable[[Callable[[], asyncio.Protocol]], asyncio.Protocol],
) -> Any:
    def create(
        config_: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None,
    ) -> asyncio.Protocol:
        def http() -> EnclaveHttpProtocol:
            return EnclaveHttpProtocol(
                config_, server_state, app_state, _loop, application=application, settings=config
            )

        return protocol_factory(http)

    # uvicorn passes all of these by name.
    return lambda *, config, server_state, app_state, _loop=None: create(config, server_state, app_state, _loop)


def _abort(state: ServerState) -> None:
    """Cut the connections that outlasted their grace."""
    for connection in list(state.connections):
        connection.transport.abort()
