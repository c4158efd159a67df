"""The log of a server: events and counts, never content."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TextIO

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor


class _Lines:
    """Writes lines to a stream that may end before the server does: a log is never worth a connection."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the pipe is broken; the stream is closed
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = exception = log = msg


def configure_logs(stream: TextIO, *, as_json: bool, debug: bool = False) -> None:
    """Log to `stream`, as JSON lines or for people; with `debug`, what is of use to whoever looks for a fault too."""
    renderers: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("debug" if debug else "info"),
        logger_factory=lambda *_: _Lines(stream),
    )
