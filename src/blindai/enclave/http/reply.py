"""Responses that are complete before they are sent, and the responses to what goes wrong."""

from __future__ import annotations

import secrets
import traceback
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from blindai.enclave.cloud.quotas import Limited
from blindai.enclave.running.queue import Busy, QueueFull
from blindai.errors import BlindAIError
from blindai.wire.openai import PREFIX as OPENAI_PREFIX
from blindai.wire.openai import error_body as openai_error_body
from blindai.wire.problems import CONTENT_TYPE, problem_body, status_of

if TYPE_CHECKING:
    from collections.abc import Sequence

JSON_TYPE: Final = CONTENT_TYPE.encode()

# What a client told to come back later should wait at least; a busy enclave works off its queue in about this time.
RETRY_AFTER_SECONDS: Final = 1

_FRAMES: Final = 12

_OPENAI_PREFIX: Final = OPENAI_PREFIX.encode()

_log = structlog.get_logger("blindai.enclave")


class Reply(NamedTuple):
    """A whole response, but for what the connection adds: its length, its framing, its common headers.

    Attributes:
        status: the HTTP status.
        headers: rendered header lines, each with its line end.
        buffers: the body, in pieces that are sent without being copied where the transport can.
    """

    status: int
    headers: bytes
    buffers: Sequence[bytes | memoryview]


def problem_headers(error: BlindAIError) -> list[tuple[bytes, bytes]]:
    """The headers of the response to `error`."""
    headers = [(b"content-type", JSON_TYPE)]
    if isinstance(error, (Busy, QueueFull, Limited)):
        headers.append((b"retry-after", b"%d" % error.retry_after))
    elif status_of(error) in {429, 503}:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_SECONDS))
    return headers


def problem_content(error: BlindAIError, target: bytes) -> bytes:
    """The body of the response to `error`, in the form of the interface that a request's `target` is of."""
    return openai_error_body(error) if target.startswith(_OPENAI_PREFIX) else problem_body(error)


def problem_reply(error: BlindAIError, target: bytes) -> Reply:
    """The response to `error`; `target` is the request's, as far as it is known."""
    headers = b"".join(b"%s: %s\r\n" % header for header in problem_headers(error))
    return Reply(status_of(error), headers, (problem_content(error, target),))


def incident(error: BaseException) -> BlindAIError:
    """Log an error nobody foresaw, and make the one the client gets: an identifier and nothing else.

    The log has where it happened but not its message, which may repeat what a client sent.
    """
    identifier = secrets.token_hex(8)
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    _log.error(
        "incident",
        incident=identifier,
        error=type(error).__name__,
        frames=[f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames],
    )
    return BlindAIError(
        f"the server failed to answer; its log tells more under incident {identifier}",
        code="internal",
        hint="report the incident's identifier to the operator",
    )
