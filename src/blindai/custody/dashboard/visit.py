"""One request of an operator: who it is, what they sent, and the answers that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool

from blindai.custody.operators import Operator, Operators
from blindai.errors import BlindAIError, ConfigurationError, Unavailable
from blindai.web import csrf
from blindai.web.calls import PasswordCalls
from blindai.web.pages import Pages
from blindai.web.throttle import Throttled
from blindai.wire.problems import status_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from blindai.custody.dashboard.changes import Changes
    from blindai.custody.ledger import Ledger

P = ParamSpec("P")
T = TypeVar("T")

# Logs that are checked at once. A long one takes many seconds of a processor.
MAX_CHECKS: Final = 2

HOME: Final = "/leases"

# What is not there, of what a page can be asked for.
_NOT_FOUND: Final = frozenset(
    {"lease.unknown", "lease.request", "lease.proposal", "operator.unknown", "http.not_found"}
)
_NOT_NOW: Final = frozenset({"lease.request_state", "lease.proposal_state", "lease.state", "operator.exists"})


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What the pages work with.

    Attributes:
        public_key: the custodian's, in hex.
        now: the wall clock, in UTC.
        wake: called after every change of a lease, so that enclaves hear of it at once.
        hashing: the threads in which passwords are hashed. They are others than those of the pages: strangers who try
            passwords must not keep an operator from a stop.
        checking: the threads in which logs are checked, for the same reason: viewers may ask for that.
    """

    ledger: Ledger
    operators: Operators
    pages: Pages
    changes: Changes
    public_key: str
    now: Callable[[], datetime]
    wake: Callable[[], None]
    hashing: PasswordCalls = field(default_factory=PasswordCalls)
    checking: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(MAX_CHECKS))


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A request whose origin, session, token and role were checked.

    Attributes:
        operator: None on the pages that need no sign-in.
        cookie: the session's id, or the visitor's value on the sign-in page; what form tokens belong to.
        form: the fields that were sent, the last of each name.
    """

    desk: Desk
    request: Request
    operator: Operator | None
    cookie: str
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The operator's name, as the ledger writes it down."""
        if self.operator is None:
            raise AssertionError("unreachable: this page needs a sign-in")
        return self.operator.name

    def part(self, name: str) -> str:
        """A part of the address."""
        return str(self.request.path_params[name])

    async def ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what reads the database, in a thread."""
        return await run_in_threadpool(call, *args, **kwargs)

    async def hash(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what hashes a password, in one of the threads for that.

        Raises:
            Unavailable: `busy`.
        """
        return await self.desk.hashing(call, *args, **kwargs)

    async def check(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what checks a log, in one of the threads for that.

        Raises:
            Unavailable: `busy`.
        """
        if self.desk.checking.available_tokens < 1:
            raise Unavailable("other logs are being checked at this moment", code="busy", hint="try again")
        return await to_thread.run_sync(partial(call, *args, **kwargs), limiter=self.desk.checking)

    async def change(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what changes a lease, in a thread, and wake those who wait for changes."""
        try:
            return await run_in_threadpool(call, *args, **kwargs)
        finally:
            self.desk.wake()

    def page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """A page, with what all pages show."""
        return self.desk.pages.page(
            template,
            status=status,
            operator=self.operator,
            csrf=csrf.token(self.cookie),
            now=self.desk.now(),
            public_key=self.desk.public_key,
            **values,
        )


def status_of_refusal(error: BlindAIError) -> int:
    """The HTTP status of a page that says `error`."""
    if error.code in _NOT_FOUND:
        return 404
    if error.code in _NOT_NOW:
        return 409
    if isinstance(error, ConfigurationError):
        return 400
    if isinstance(error, Throttled):
        return 429
    return status_of(error)
