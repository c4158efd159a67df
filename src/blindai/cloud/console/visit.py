"""One request of a person: who it is, for which account, what they sent, and the answers that there are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from blindai.cloud.accounts.roles import ALLOWED
from blindai.errors import BlindAIError
from blindai.web import csrf
from blindai.web.calls import PasswordCalls
from blindai.web.forms import Filled, headers_of_refusal
from blindai.web.throttle import Throttled
from blindai.wire.problems import status_of

if TYPE_CHECKING:
    from datetime import datetime

    from starlette.requests import Request

    from blindai.cloud.accounts import Action, Membership, Role
    from blindai.cloud.control_plane import ControlPlane
    from blindai.cloud.identity import User
    from blindai.web.pages import Pages

P = ParamSpec("P")
T = TypeVar("T")

HOME: Final = "/"

# What belongs to an account stands below its name.
ACCOUNT: Final = "/accounts/{namespace}"


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What the pages work with.

    Attributes:
        now: the wall clock, in UTC.
        hashing: the threads in which passwords are hashed. They are others than those of the pages: strangers who try
            passwords must not keep anybody from revoking a key.
    """

    plane: ControlPlane
    pages: Pages
    now: Callable[[], datetime]
    hashing: PasswordCalls = field(default_factory=PasswordCalls)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A request whose origin, session, token and role were checked.

    Attributes:
        user: None on the pages that need no sign-in.
        cookie: the session's id, or the visitor's value on pages that need no sign-in; what form tokens belong to.
        form: the fields that were sent, the last of each name.
        memberships: the accounts that the user may act for.
        namespace: the account that the address names, else the user's own; empty where nobody is signed in.
        role: the user's in `namespace`.
    """

    desk: Desk
    request: Request
    user: User | None
    cookie: str
    form: Mapping[str, str] = field(default_factory=dict)
    memberships: tuple[Membership, ...] = ()
    namespace: str = ""
    role: Role | None = None

    @property
    def plane(self) -> ControlPlane:
        """The control plane."""
        return self.desk.plane

    @property
    def person(self) -> User:
        """Whoever is signed in."""
        if self.user is None:
            raise AssertionError("unreachable: this page needs a sign-in")
        return self.user

    @property
    def address(self) -> str:
        """Where the request comes from."""
        return self.request.client.host if self.request.client else ""

    def of(self, namespace: str, role: Role) -> Visit:
        """This request, as one about the account `namespace`."""
        return replace(self, namespace=namespace, role=role)

    def may(self, action: Action) -> bool:
        """Whether the user may do `action` in the account that the page is about."""
        return self.role is not None and action in ALLOWED[self.role]

    def part(self, name: str) -> str:
        """A part of the address."""
        return str(self.request.path_params[name])

    def query(self, name: str, default: str = "") -> str:
        """A field of the address's query."""
        return self.request.query_params.get(name, default)

    def at(self, rest: str = "") -> str:
        """The address `rest` below the account that the page is about."""
        return f"/accounts/{self.namespace}{rest}"

    async def ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what uses the database, in a thread."""
        return await run_in_threadpool(call, *args, **kwargs)

    async def hash(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what hashes a password, in one of the threads for that.

        Raises:
            Unavailable: `busy`.
        """
        return await self.desk.hashing(call, *args, **kwargs)

    def page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """A page, with what all pages show.

        Where `form` is among the values and was refused, the status is that of its refusal.
        """
        filled = values.setdefault("form", Filled())
        if status == 200 and filled.error is not None:
            status = status_of_refusal(filled.error)
        answer = self.desk.pages.page(
            template,
            status=status,
            can=self.may,
            csrf=csrf.token(self.cookie),
            here=self.namespace,
            memberships=self.memberships,
            now=self.desk.now(),
            role=self.role,
            site=self.plane.site,
            user=self.user,
            **values,
        )
        if filled.error is not None:
            answer.headers.update(headers_of_refusal(filled.error))
        return answer


Handler = Callable[[Visit], Awaitable[Response]]


class Address(NamedTuple):
    """One route.

    Attributes:
        action: what the user must be allowed to do in the account `{namespace}` of the path; None where the path names
            no account, and everybody who is signed in may.
    """

    method: str
    path: str
    handler: Handler
    action: Action | None = None


def status_of_refusal(error: BlindAIError) -> int:
    """The HTTP status of a page that says `error`."""
    return 429 if isinstance(error, Throttled) else status_of(error)
