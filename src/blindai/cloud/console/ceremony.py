"""What a page's script asks for before it makes or uses a passkey (Web Authentication Level 3, section 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec

from starlette.responses import JSONResponse, Response

from blindai.cloud.console.visit import status_of_refusal
from blindai.errors import BlindAIError
from blindai.web.forms import headers_of_refusal
from blindai.wire.problems import problem_of

if TYPE_CHECKING:
    from blindai.cloud.console.visit import Visit

P = ParamSpec("P")


async def options(visit: Visit, call: Callable[P, str], *args: P.args, **kwargs: P.kwargs) -> Response:
    """The options that `call` makes, or why there are none, as JSON: the script shows it in the page."""
    try:
        made = await visit.ask(call, *args, **kwargs)
    except BlindAIError as error:
        problem = problem_of(error)
        return JSONResponse(
            {"error": problem.error, "code": problem.code, "hint": problem.hint},
            status_code=status_of_refusal(error),
            headers=headers_of_refusal(error),
        )
    return Response(made, media_type="application/json")
