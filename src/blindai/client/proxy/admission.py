"""Who may use the proxy: checks on the head of a request, before anything of it is sent on.

Against web pages: a page whose name was made to lead to this machine (DNS rebinding) gives itself away in Host; a page
of another origin in Origin, or in Sec-Fetch-Site where a browser sends no Origin. Against other programs and users of
this machine: the token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from blindai.client.proxy.request import Headers, RequestHead
from blindai.client.proxy.token import LocalToken
from blindai.errors import AuthenticationError, ConfigurationError, InvalidInput, PermissionDenied

# Proxy-Authorization is what it is made for (RFC 9110, section 11.7.2); pages cannot set it, so they have another one.
TOKEN_HEADERS: Final = (b"proxy-authorization", b"blindai-proxy-token")

# What a page may read of an answer, beside what every page may.
_EXPOSED: Final = b"Inference-Header-Content-Length, Blindai-Platform, Retry-After"
_PREFLIGHT_SECONDS: Final = b"600"
_METHODS: Final = b"GET, HEAD, POST, PUT, DELETE"

_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?")
_BEARER: Final = re.compile(rb"bearer +(.+)", re.IGNORECASE)
_OWN_SITE: Final = frozenset({b"none", b"same-origin"})


class Admission:
    """The checks of one proxy."""

    def __init__(
        self, *, token: LocalToken | None, hosts: Iterable[str] = (), origins: Iterable[str] = (), listens_on: str = ""
    ) -> None:
        """Requests need `token`, if there is one; `hosts` and `origins` are accepted beside this machine's own names.

        Raises:
            ConfigurationError: `proxy.allowed`: one of them is no name, or no origin.
        """
        self._token = token
        named = {_allowed_host(host) for host in hosts}
        self._hosts = frozenset(filter(None, {*_LOOPBACK_NAMES, listens_on, *named}))
        self._origins = frozenset(map(_allowed_origin, origins))

    def require(self, head: RequestHead) -> None:
        """Let the request pass, or raise.

        Raises:
            InvalidInput: `proxy.host`.
            PermissionDenied: `proxy.origin`.
            AuthenticationError: `proxy.token`.
        """
        self._require_host(head)
        self._require_origin(head)
        self._require_token(head)

    def preflight(self, head: RequestHead) -> Headers | None:
        """Fields of the answer to a browser that asks what a page may send (Fetch standard, section 3.3); else None.

        Raises:
            InvalidInput: `proxy.host`.
            PermissionDenied: `proxy.origin`.
        """
        if head.method != b"OPTIONS" or not head.all(b"access-control-request-method") or not head.all(b"origin"):
            return None
        self._require_host(head)
        self._require_origin(head)
        fields = [
            *self.sharing(head),
            (b"Access-Control-Allow-Methods", _METHODS),
            (b"Access-Control-Max-Age", _PREFLIGHT_SECONDS),
        ]
        if asked := head.all(b"access-control-request-headers"):
            fields.append((b"Access-Control-Allow-Headers", b", ".join(asked)))
        if head.all(b"access-control-request-private-network"):
            fields.append((b"Access-Control-Allow-Private-Network", b"true"))
        return tuple(fields)

    def sharing(self, head: RequestHead) -> Headers:
        """Fields that let the page which sent the request read the answer; none where it may not."""
        origins = head.all(b"origin")
        if len(origins) != 1 or origins[0] not in self._origins:
            return ()
        return (
            (b"Access-Control-Allow-Origin", origins[0]),
            (b"Access-Control-Expose-Headers", _EXPOSED),
            (b"Vary", b"Origin"),
        )

    def _require_host(self, head: RequestHead) -> None:
        (value,) = head.all(b"host")
        found = _HOST.fullmatch(value.decode("latin-1").lower())
        name = (found[1] or found[2]).removesuffix(".") if found else ""
        if name not in self._hosts and not name.endswith(".localhost"):  # RFC 6761, section 6.3
            raise InvalidInput(
                "the Host header names neither this machine nor a name that was allowed",
                code="proxy.host",
                hint="use http://localhost, or start the proxy with --allow-host",
            )

    def _require_origin(self, head: RequestHead) -> None:
        origins, sites = head.all(b"origin"), head.all(b"sec-fetch-site")
        if any(origin not in self._origins for origin in origins) or len(origins) > 1:
            reason = "the page that sent this request may not use the proxy"
        elif not origins and any(site not in _OWN_SITE for site in sites):
            reason = "a page of another site sent this request"
        else:
            return
        raise PermissionDenied(reason, code="proxy.origin", hint="start the proxy with --allow-origin")

    def _require_token(self, head: RequestHead) -> None:
        if self._token is None:
            return
        shown = [value for name in TOKEN_HEADERS for value in head.all(name)]
        if not shown or not all(self._token.matches(_bearer(value)) for value in shown):
            raise AuthenticationError(
                "the proxy's token is missing or wrong",
                code="proxy.token",
                hint="send the token that it printed as `Proxy-Authorization: Bearer TOKEN`",
            )


def _bearer(value: bytes) -> bytes:
    found = _BEARER.fullmatch(value)
    return found[1] if found else value


def _allowed_host(text: str) -> str:
    found = _HOST.fullmatch(text.lower())
    if found is None or ":" in text.rpartition("]")[2]:
        raise ConfigurationError(f"{text!r} is no name of a host", code="proxy.allowed", hint="write it without a port")
    return found[1] or found[2]


def _allowed_origin(text: str) -> bytes:
    """An origin as browsers write it (RFC 6454, section 6.2); `*` and `null` are everybody."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where it is no number
        whole = f"{parts.scheme}://{parts.netloc}" == text and bool(parts.hostname) and "@" not in text
    except ValueError:
        whole = False
    if not whole or text != text.lower() or not text.isascii() or not text.isprintable() or set(text) & set("* "):
        raise ConfigurationError(
            f"{text!r} is no origin",
            code="proxy.allowed",
            hint="write https://app.example, with its port if it has one",
        )
    return text.encode("ascii")
