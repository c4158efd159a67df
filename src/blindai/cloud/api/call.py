"""One request of a command line: who makes it, and what they sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool

from blindai.errors import AuthenticationError, InvalidInput, QuotaExceeded
from blindai.wire.api_key import PREFIX as KEY_PREFIX
from blindai.wire.cloud_api import MAX_REQUEST_BYTES, TOKEN_PREFIX

if TYPE_CHECKING:
    from starlette.requests import Request

    from blindai.cloud.control_plane import ControlPlane
    from blindai.cloud.identity import User

P = ParamSpec("P")
T = TypeVar("T")
Message = TypeVar("Message", bound=msgspec.Struct)

_SCHEME: Final = "bearer"

# A token is its prefix and 43 characters. Longer ones are not looked up.
_MAX_TOKEN: Final = 100


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request whose sender was looked for.

    Attributes:
        address: where it comes from.
        token: the access token that it carries; a secret, and empty where there is none.
        user: whose token it is; None only on the routes that are open.
    """

    plane: ControlPlane
    request: Request
    address: str
    token: str = ""
    user: User | None = None

    def __repr__(self) -> str:
        return f"Call({self.request.method} {self.request.url.path})"

    @property
    def signed_in(self) -> User:
        """Whose token it is, on a route that needs one."""
        if self.user is None:
            raise AssertionError("unreachable: this route needs a token")
        return self.user

    def part(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    async def ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what uses the database, in a thread."""
        return await run_in_threadpool(call, *args, **kwargs)

    async def read(self, kind: type[Message]) -> Message:
        """The body, which must be a JSON object of this form and nothing else.

        Raises:
            InvalidInput: `http.content_type`, `input.body`.
            QuotaExceeded: `quota.body`.
        """
        # A page of another site can send a form or plain text without asking us, but no JSON (Fetch, section 4.10).
        media_type, _, _ = self.request.headers.get("content-type", "").partition(";")
        if media_type.strip().lower() != "application/json":
            raise InvalidInput("the body must be application/json", code="http.content_type")
        body = bytearray()
        async for chunk in self.request.stream():
            body += chunk
            if len(body) > MAX_REQUEST_BYTES:
                raise QuotaExceeded(f"the body may have {MAX_REQUEST_BYTES} bytes", code="quota.body")
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(f"this is no {kind.__name__}: {error}", code="input.body") from error


def token_of(request: Request) -> str:
    """The access token of a request (RFC 6750, section 2.1; never in the address or the body).

    Raises:
        AuthenticationError: `authentication.access_token`. The token is not repeated.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != _SCHEME or not token:
        raise refused("this needs an access token")
    if token.startswith(KEY_PREFIX):
        raise refused("this is an API key, which opens models and manages nothing: it needs an access token")
    if not token.startswith(TOKEN_PREFIX) or len(token) > _MAX_TOKEN or not token.isascii():
        raise refused("this is no access token")
    return token


def refused(message: str = "the access token is not in force (any more)") -> AuthenticationError:
    """For who is not signed in."""
    return AuthenticationError(message, code="authentication.access_token", hint="sign in with `blindai login`")
