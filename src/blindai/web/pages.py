"""Pages: templates in, HTML out, and the headers that keep a browser from doing anything that a page of ours does not.

Every value in a template is escaped, whatever it is. No page holds a script or a style of its own: they are files, and
the policy allows nothing else, so that a text that should get through unescaped is still not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse

from blindai.errors import BlindAIError
from blindai.web.assets import Assets

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FRAME: Final = Path(__file__).parent / "templates"

# Trusted types: only htmx may make HTML out of text, by the policy that `static/live.js` gives it.
_CONTENT_SECURITY_POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",  # Pico draws the arrows of its fields as data: pictures
    "connect-src": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "htmx",
}

_POLICY: Final = "content-security-policy"


def _policy(**changes: str) -> str:
    return "; ".join(f"{name} {value}" for name, value in (_CONTENT_SECURITY_POLICY | changes).items())


SECURITY_HEADERS: Final[Mapping[str, str]] = {
    _POLICY: _policy(),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

# Pages show what only their reader may see, and must not come back from a cache after a sign-out.
_UNCACHED: Final = "no-store"


def let_connect(request: Request, source: str) -> None:
    """Let the scripts of the page that answers `request` connect to `source`, and to nothing else, not even here.

    Args:
        source: as in Content Security Policy Level 3, section 2.3.1: `https://host:port`.
    """
    request.state.connect_src = source


class SecurityHeaders:
    """Puts `SECURITY_HEADERS` on every answer, errors included, and forbids caches whatever does not allow them.

    Nothing that an answer says can change them, but for `let_connect`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        state: dict[str, Any] = scope.setdefault("state", {})

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                if "connect_src" in state:
                    headers[_POLICY] = _policy(**{"connect-src": state["connect_src"]})
                headers.setdefault("cache-control", _UNCACHED)
            await send(message)

        await self._app(scope, receive, secured)


def sentence(words: str) -> str:
    """The message of an error as a sentence: with a capital and a full stop."""
    return f"{words[:1].upper()}{words[1:]}" + ("" if words.endswith((".", "!", "?")) else ".")


class Pages:
    """Renders templates of some folders and the frame of this package.

    Args:
        folders: of templates; the first that has a name wins.
        filters, names: what templates may use besides `asset(name)` and `sentence`.
    """

    def __init__(
        self,
        assets: Assets,
        *folders: Path,
        filters: Mapping[str, Any] | None = None,
        names: Mapping[str, Any] | None = None,
    ) -> None:
        self._environment = Environment(
            loader=ChoiceLoader([FileSystemLoader(folder) for folder in (*folders, FRAME)]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update({"sentence": sentence, **(filters or {})})
        self._environment.globals.update({"asset": assets.address, **(names or {})})

    def text(self, name: str, /, **values: Any) -> str:
        """The template `name`, filled in."""
        return self._environment.get_template(name).render(**values)

    def page(
        self, name: str, /, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
    ) -> HTMLResponse:
        """`text`, as an answer."""
        return HTMLResponse(self.text(name, **values), status_code=status, headers=dict(headers or {}))

    def error(self, error: BlindAIError | HTTPStatus, *, status: int, **values: Any) -> HTMLResponse:
        """The page `error.html`: what went wrong, in words, and what to do next."""
        if isinstance(error, BlindAIError):
            shown = {"title": HTTPStatus(status).phrase, "words": error.message, "hint": error.hint, "code": error.code}
        else:
            shown = {"title": error.phrase, "words": error.description, "hint": "", "code": ""}
        return self.page("error.html", status=status, error=shown, **values)
