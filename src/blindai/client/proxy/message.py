"""Heads as the proxy writes them: those of the other side without what concerned one connection, and its own answers.

Source: RFC 9110, sections 7.6.1 (Connection) and 7.6.3 (Via); RFC 9112, sections 6 and 7.1 (length, chunks).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec

from blindai.channel.answer_stream import AnswerHead
from blindai.client.proxy.admission import TOKEN_HEADERS
from blindai.client.proxy.request import Headers, RequestHead
from blindai.errors import AttestationError, BlindAIError, Unavailable, harmless
from blindai.wire.openai import PREFIX as OPENAI_PREFIX
from blindai.wire.openai import ErrorDetail, error_detail
from blindai.wire.problems import CONTENT_TYPE, PLATFORM_HEADER, status_of

LAST_CHUNK: Final = b"0\r\n\r\n"

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        *TOKEN_HEADERS,
    }
)
_PLATFORM: Final = PLATFORM_HEADER.encode("ascii")
_OPENAI_PREFIX: Final = OPENAI_PREFIX.encode("ascii")


class RefusalBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem (`wire.problems`), with what an attestation found."""

    error: str
    code: str
    hint: str = ""
    step: str = ""
    check: str = ""
    expected: str = ""
    got: str = ""
    likely: str = ""


class OpenAIRefusalDetail(ErrorDetail, frozen=True, omit_defaults=True):
    """An error, with what an attestation found."""

    step: str = ""
    check: str = ""
    expected: str = ""
    got: str = ""
    likely: str = ""


class OpenAIRefusalBody(msgspec.Struct, frozen=True):
    """The same in OpenAI's form (`wire.openai`)."""

    error: OpenAIRefusalDetail


def request_upstream(head: RequestHead, authority: str) -> bytes:
    """The head of the same request, for the enclave at `authority`."""
    dropped = _dropped(head.headers) | {b"host", b"content-length"}
    lines = [head.method + b" " + head.target + b" HTTP/1.1", b"Host: " + authority.encode("ascii")]
    lines += [name + b": " + value for name, value in head.headers if name.lower() not in dropped]
    lines.append(b"Via: %b blindai-proxy" % (b"1.1" if head.modern else b"1.0"))
    if head.length is None:
        lines.append(b"Transfer-Encoding: chunked")
    elif head.length or head.all(b"content-length"):
        lines.append(b"Content-Length: %d" % head.length)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def answer_downstream(
    head: AnswerHead, *, added: Headers = (), chunked: bool, close: bool, simulated: bool = False
) -> bytes:
    """The head of the enclave's answer, for the client.

    Args:
        added: fields of the proxy's own, in place of those of the same name.
        chunked: whether the body follows in chunks.
        close: whether the connection ends after it.
        simulated: whether the enclave's platform is; the answer says so even where the enclave does not.
    """
    dropped = _dropped(head.headers) | {name.lower() for name, _ in added if name != b"Vary"}
    fields = [(name, value) for name, value in head.headers if name.lower() not in dropped]
    fields += added
    if simulated and not head.interim and all(name.lower() != _PLATFORM for name, _ in fields):
        fields.append((_PLATFORM, b"simulated"))
    if chunked:
        fields.append((b"Transfer-Encoding", b"chunked"))
    if close:
        fields.append((b"Connection", b"close"))
    return _rendered(head.status, head.reason, fields)


def own_answer(status: int, fields: Headers, body: bytes = b"", *, close: bool, simulated: bool) -> bytes:
    """A whole answer of the proxy itself."""
    own = list(fields)
    if status != HTTPStatus.NO_CONTENT:
        own.append((b"Content-Length", b"%d" % len(body)))
    if simulated:
        own.append((_PLATFORM, b"simulated"))
    if close:
        own.append((b"Connection", b"close"))
    return _rendered(status, HTTPStatus(status).phrase.encode("ascii"), own) + body


def refusal(error: BlindAIError, head: RequestHead | None, *, shared: Headers, simulated: bool) -> bytes:
    """The whole answer that refuses a request, after which the connection ends.

    Args:
        head: of the request, where it has been read.
        shared: fields that let the page which sent the request read the answer; none where no page did that may.
        simulated: whether the enclave's platform is.
    """
    openai = head is not None and head.target.startswith(_OPENAI_PREFIX)
    body = msgspec.json.encode(openai_refusal_body(error) if openai else refusal_body(error))
    fields: Headers = (*shared, (b"Content-Type", CONTENT_TYPE.encode("ascii")))
    if error.code == "proxy.token":
        asks = b"WWW-Authenticate" if shared else b"Proxy-Authenticate"
        fields += ((asks, b'Bearer realm="blindai proxy"'),)
    whole = own_answer(refusal_status(error, page=bool(shared)), fields, body, close=True, simulated=simulated)
    return whole.removesuffix(body) if head is not None and head.method == b"HEAD" else whole


def refusal_status(error: BlindAIError, *, page: bool = False) -> int:
    """502 where the enclave is not accepted or cannot be reached, 504 where it takes too long; else as everywhere.

    To a page, 401 stands for 407: browsers keep 407 from it, since to them it can come from no server but a proxy that
    they were set up with (Fetch standard, section 4.6).
    """
    if page and error.code == "proxy.token":
        return HTTPStatus.UNAUTHORIZED
    if isinstance(error, AttestationError):
        return HTTPStatus.BAD_GATEWAY
    if isinstance(error, Unavailable) and error.code.startswith("unavailable"):
        return HTTPStatus.GATEWAY_TIMEOUT if error.code == "unavailable.timeout" else HTTPStatus.BAD_GATEWAY
    return status_of(error)


def refusal_body(error: BlindAIError) -> RefusalBody:
    """What a client is told."""
    if not isinstance(error, AttestationError):
        return RefusalBody(harmless(error.message), error.code, error.hint)
    return RefusalBody(
        error.message, error.code, error.hint, error.step, error.check, error.expected, error.got, error.likely
    )


def openai_refusal_body(error: BlindAIError) -> OpenAIRefusalBody:
    """What a client is told that speaks OpenAI's interface."""
    told, detail = refusal_body(error), error_detail(error)
    return OpenAIRefusalBody(
        OpenAIRefusalDetail(
            message=told.error,
            type=detail.type,
            code=told.code,
            param=detail.param,
            hint=told.hint,
            step=told.step,
            check=told.check,
            expected=told.expected,
            got=told.got,
            likely=told.likely,
        )
    )


def chunk(data: bytes) -> bytes:
    """`data`, which is not empty, as a chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _rendered(status: int, reason: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
    lines = [b"HTTP/1.1 %d %b" % (status, reason), *(name + b": " + value for name, value in fields)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _dropped(headers: Headers) -> frozenset[bytes]:
    """Names of the fields that are for the next hop only: the usual ones, and what Connection names."""
    named = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    return _HOP_BY_HOP | (named - {b"", b"host", b"content-length"})
