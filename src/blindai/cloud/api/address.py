"""One route of the JSON interface: what it is called, takes, gives and refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from blindai.cloud.accounts import Action
from blindai.cloud.api.call import Call

if TYPE_CHECKING:
    import msgspec

Handler = Callable[[Call], Awaitable[object]]


class Address(NamedTuple):
    """One route. The description for machines (`openapi`) is made of these, and so are the routes themselves.

    Attributes:
        path: below `wire.cloud_api.PREFIX`.
        handler: gives the answer; None where it has no body.
        summary: what it does, in a line.
        action: what somebody must be allowed to do in the account that the path names; None where it names none.
        body: what is sent.
        answer: what the handler gives.
        status: of that answer.
        open: nobody need be signed in.
        codes: of its own refusals, besides those of every route.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    action: Action | None = None
    body: type[msgspec.Struct] | None = None
    answer: type[msgspec.Struct | dict[str, Any]] | None = None
    status: HTTPStatus = HTTPStatus.OK
    open: bool = False
    codes: tuple[str, ...] = ()
