"""What every server of ours does before its first connection and after its last: an address, signals, an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Coroutine, Generator
from pathlib import Path
from typing import Any, Final

from blindai.errors import ConfigurationError

BACKLOG: Final = 1024


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: name or address to listen on.
        port: 0 takes a free one.

    Raises:
        ConfigurationError: `configuration.address`.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise _no_address(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.settimeout(0)
    except OSError as error:
        listener.close()
        raise _no_address(host, port, error) from error
    return listener


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine as the whole program: on uvloop where it is installed, with as many files as it may open.

    Should it crash, its memory is written nowhere.
    """
    allow_files()
    forbid_core_dumps()
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def allow_files() -> None:
    """Raise this process's limit of open files to the most it may have.

    The usual 1024 are fewer than the connections that our ports take, and whoever opens as many stops every port of the
    process, and its database.
    """
    # There is no such module on Windows, and macOS takes no limit above one that it does not tell.
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def forbid_core_dumps() -> None:
    """Leave nothing of this process's memory, which holds keys and what clients send, on a disk after a crash."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        # Of one byte: nothing is written to a file for so little, and a program that dumps are piped to, for which no
        # other limit counts, is not started (Linux: fs/coredump.c; core(5) tells of the limit for files alone).
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    with contextlib.suppress(OSError):  # elsewhere than on Linux there is no such file
        # What of its memory a dump would hold, if one were made all the same: nothing (core(5)).
        Path("/proc/self/coredump_filter").write_text("0", encoding="ascii")


@contextlib.contextmanager
def stopped_by_signals(stop: asyncio.Event) -> Generator[None, None, None]:
    """SIGTERM and SIGINT set `stop` in this block."""
    loop = asyncio.get_running_loop()
    handled = []
    for number in (signal.SIGTERM, signal.SIGINT):
        # Only the main thread, and no loop on Windows, may watch for signals; other ways to set `stop` remain.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop.set)
            handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def _no_address(host: str, port: int, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"cannot listen on {host}:{port}: {error.strerror or error}",
        code="configuration.address",
        hint="is another server running there? choose another port",
    )
