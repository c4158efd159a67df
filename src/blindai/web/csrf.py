"""Requests that change something must come from our own pages (cross-site request forgery).

Two checks, either of which would do: the browser says where the request comes from (`Sec-Fetch-Site`, or `Origin` where
a browser is older), and the form carries a token that only our pages can know.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from blindai.errors import PermissionDenied

FIELD: Final = "csrf"
HEADER: Final = "x-csrf-token"

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

# The form of the sign-in page has no session yet. Its token stands for a cookie that no other site can set.
VISITOR_COOKIE: Final = "__Host-visitor"
VISITOR_BYTES: Final = 32


def visitor() -> str:
    """A new value for `VISITOR_COOKIE`."""
    return secrets.token_urlsafe(VISITOR_BYTES)


def token(cookie: str) -> str:
    """The token that belongs to a session's id (or to a visitor's cookie): its digest, which does not give it away."""
    return hashlib.sha256(b"blindai/csrf/v1\0" + cookie.encode("utf-8", "surrogatepass")).hexdigest()


def require_same_origin(headers: Mapping[str, str], *, scheme: str) -> None:
    """Refuse a request that another site made.

    Args:
        headers: of the request, by lower-case name.
        scheme: of our own address.

    Raises:
        PermissionDenied: `csrf.cross_site`, or `csrf.origin` where the browser says nothing of where it comes from.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        if site != "same-origin":
            raise PermissionDenied(f"this request was made by another site ({site})", code="csrf.cross_site")
        return
    origin = headers.get("origin")
    if origin is None:
        raise PermissionDenied("the browser does not say which site made this request", code="csrf.origin")
    parts = urlsplit(origin)
    if (parts.scheme, parts.netloc) != (scheme, headers.get("host", "")) or not parts.netloc:
        raise PermissionDenied("this request was made by another site", code="csrf.cross_site")


def require_token(given: str, *, cookie: str) -> None:
    """Refuse a form whose token is not that of the cookie.

    Raises:
        PermissionDenied: `csrf.missing` or `csrf.wrong`.
    """
    hint = "load the page again and repeat what you did"
    # What belongs to no cookie is known to everybody.
    if not given or not cookie:
        raise PermissionDenied("the form has no token", code="csrf.missing", hint=hint)
    if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token(cookie).encode()):
        raise PermissionDenied("the token of the form is of another session", code="csrf.wrong", hint=hint)
