"""The web program of the port for people: the console's pages and the JSON interface, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from blindai.cloud import api
from blindai.cloud.console.application import Console
from blindai.errors import BlindAIError
from blindai.web.pages import SecurityHeaders

if TYPE_CHECKING:
    from blindai.cloud.control_plane import ControlPlane


def application(plane: ControlPlane) -> Starlette:
    """The ASGI application. It must be served by TLS: browsers take its cookies only then.

    Raises:
        ConfigurationError: `configuration.assets_missing`.
    """
    console = Console(plane)
    # The JSON interface answers everything below its prefix, refusals included; what is left is the console's.
    handlers: dict[Any, Any] = {BlindAIError: console.refused, HTTPException: console.refused}
    made = Starlette(
        routes=[*api.routes(plane), *console.routes],
        exception_handlers=handlers,
        middleware=[Middleware(SecurityHeaders)],
    )
    made.router.redirect_slashes = False
    return made
