"""The way of a query to the leased model: who asks, whether it may start, what it costs.

All of it happens on the event loop without waiting for anyone, unless the units in hand are used up. Whether a query
may start is asked once more where it starts, in whatever thread that is: it may have stood in a queue.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from blindai.enclave.clock import elapsed_ns
from blindai.enclave.http.exchange import KnownHeaders
from blindai.enclave.lease.tokens import AUTHORIZATION
from blindai.errors import BlindAIError, BudgetExhausted, InvalidInput, QuotaExceeded, Unavailable
from blindai.wire.custody import ANYONE, RequestState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from blindai.enclave.engine import Cancellation, Session
    from blindai.enclave.http.exchange import Headers
    from blindai.enclave.http.reply import Reply
    from blindai.enclave.lease.meter import Account, Meter
    from blindai.enclave.lease.state import Terms
    from blindai.enclave.lease.tokens import Tokens
    from blindai.enclave.models.model_version import ModelVersion
    from blindai.enclave.running.inference import Inference
    from blindai.wire.tensor import Buffer, Tensor

# How long a query waits for units that were asked for. A renewal takes milliseconds; a line that was cut, for ever.
PATIENCE_SECONDS: Final = 2.0

# Headers whose account is remembered until the next grant. A consumer has one or two tokens.
_MAX_ACCOUNTS: Final = 4096

T = TypeVar("T")


class Custodian(Protocol):
    """Who is asked for more units, and for more budget."""

    @property
    def asking(self) -> bool:
        """Whether units are being asked for at this moment."""

    async def units(self) -> None:
        """Return when the next answer about units is there."""

    async def request_budget(self, account: Account) -> None:
        """File a request for more budget, unless one is pending."""


class Gate:
    """Answers queries to the leased model.

    Args:
        terms, meter, tokens: of the lease.
        inference: runs models.
        custodian: asked for more units.
        refused: told of every query that is refused here.
        places: queries that may wait for units at once.

    Attributes:
        until_ns: no query starts from then on, by `clock.elapsed_ns`; 0 while none may.
        version: the model, while it is in memory.
        running: what stops the runs that are under way.
    """

    def __init__(
        self,
        terms: Terms,
        meter: Meter,
        tokens: Tokens,
        inference: Inference,
        custodian: Custodian,
        *,
        refused: Callable[[BlindAIError], None],
        places: int,
    ) -> None:
        self.until_ns = 0
        self.version: ModelVersion | None = None
        self.running: set[Cancellation] = set()
        self._terms = terms
        self._meter = meter
        self._tokens = tokens
        self._inference = inference
        self._custodian = custodian
        self._accounts: dict[bytes | None, Account] = {}
        self._accounts_of: Mapping[str, int] | None = None
        self._refused = refused
        self._places = places

    def account(self, headers: Headers) -> Account:
        """Whose request this is.

        Raises:
            AuthenticationError: `authentication.token`.
            Unavailable: `lease.waiting`, it is not known yet who may query.
        """
        if self._accounts_of is not self._terms.consumers:
            self._accounts = {}  # with a grant, tokens may have been revoked
            self._accounts_of = self._terms.consumers
        found: bytes | None = None
        if isinstance(headers, KnownHeaders):
            found = headers.authorization
        else:
            for name, value in headers:
                if name == AUTHORIZATION:
                    if found is not None:
                        return self._stranger(headers)
                    found = value
        account = self._accounts.get(found)
        if account is None:
            account = self._stranger(headers)
            # Where anyone may ask, the header is no token, and may be anything.
            if len(self._accounts) < _MAX_ACCOUNTS and (found is None or account.consumer != ANYONE):
                self._accounts[found] = account
        return account

    def infer(self, headers: Headers, body: Buffer) -> Reply | asyncio.Future[Reply]:
        """As `Inference.infer`, metered.

        Raises:
            AuthenticationError: `authentication.token`.
            BudgetExhausted, LeaseStopped, LeaseExpired, Unavailable: `lease.*`, `busy`. The future raises these too.
        """
        try:
            account = self.account(headers)
            version = self.version
            # What time it is, is asked where the query starts.
            if version is None or (session := version.session) is None or not self.until_ns:
                raise self.refusal()
            # As `Meter.reserve`, which is asked itself as soon as there is more to do than to count down.
            credit = account.credit
            if credit > account.low and credit > 0:
                account.credit = credit - 1
            elif not self._meter.reserve(account):
                return self._without_units(account, headers, body)
        except BlindAIError as error:
            self._refused(error)
            raise
        return self._inference.infer(version, headers, body, Charge(self, account, session))

    def shut(self) -> None:
        """Let nothing start any more, and stop what runs."""
        self.until_ns = 0
        for cancellation in self.running.copy():
            cancellation.cancel()

    def refusal(self) -> BlindAIError:
        """Why no query may start now."""
        return self._terms.refusal(elapsed_ns())

    def _stranger(self, headers: Headers) -> Account:
        """The account of a request whose headers were not seen before."""
        consumers = self._terms.consumers
        if not consumers:
            raise self.refusal()
        return self._meter.account(self._tokens.consumer(headers, consumers))

    def _loaded(self) -> tuple[ModelVersion, Session]:
        """The model, if a query may start now."""
        version = self.version
        if version is None or (session := version.session) is None or elapsed_ns() >= self.until_ns:
            raise self.refusal()
        return version, session

    def _without_units(self, account: Account, headers: Headers, body: Buffer) -> asyncio.Task[Reply]:
        """No unit is in hand: wait for some, where some may come."""
        self._loaded()
        if account.dry and not self._custodian.asking and not account.request_due(elapsed_ns()):
            raise exhausted(account)
        if not self._places:
            raise Unavailable("as many requests wait for units as may", code="busy", hint="try again soon")
        self._places -= 1
        task = asyncio.get_running_loop().create_task(self._infer_later(account, headers, body))
        task.add_done_callback(self._leave)
        return task

    def _leave(self, _: object) -> None:
        self._places += 1

    async def _infer_later(self, account: Account, headers: Headers, body: Buffer) -> Reply:
        try:
            if not await self._reserve_later(account):
                if not account.dry:
                    raise unanswered()
                await self._custodian.request_budget(account)
                raise exhausted(account)
            try:
                version, session = self._loaded()
            except BlindAIError:
                account.release()
                raise
        except BlindAIError as error:
            self._refused(error)
            raise
        answer = self._inference.infer(version, headers, body, Charge(self, account, session))
        return await answer if isinstance(answer, asyncio.Future) else answer

    async def _reserve_later(self, account: Account) -> bool:
        """Wait for units, as long as there may be some."""
        account.waiting += 1
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while self._custodian.asking or not account.dry:
                    if not self._custodian.asking:
                        self._meter.want(account)
                    await self._custodian.units()
                    self._loaded()
                    if self._meter.reserve(account):
                        return True
        except TimeoutError:
            pass
        finally:
            account.waiting -= 1
        return False


class Charge:
    """One unit of an account, reserved for one query, and the guard before the session that the query is for."""

    __slots__ = ("_account", "_executed", "_gate", "_session", "cancellation")

    def __init__(self, gate: Gate, account: Account, session: Session) -> None:
        self._gate = gate
        self._account = account
        self._session = session
        self.cancellation = session.cancellation
        self._executed = False

    def run(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = (), *, cancellation: Cancellation | None = None
    ) -> list[Tensor]:
        """As `engine.Session.run`. It does not begin where no query may start any more.

        Raises:
            LeaseStopped, LeaseExpired: `lease.*`.
        """
        return self.guard(self._session.run, inputs, outputs, cancellation=cancellation)

    def guard(
        self,
        run: Callable[..., list[T]],
        inputs: Mapping[str, Any],
        outputs: Sequence[str] = (),
        *,
        cancellation: Cancellation | None = None,
    ) -> list[T]:
        """As `runner.Charge.guard`."""
        gate = self._gate
        running = gate.running
        executed_before = self._executed
        if cancellation is not None:
            # Before the question: whoever shuts the gate stops this run, or this run sees that it is shut.
            running.add(cancellation)
        try:
            if elapsed_ns() >= gate.until_ns:
                raise gate.refusal()
            self._executed = True
            return run(inputs, outputs, cancellation=cancellation)
        except InvalidInput as error:
            # Every other refusal of an input comes before the model runs.
            self._executed = executed_before or error.code == "input.run"
            raise
        except QuotaExceeded as error:
            if error.code == "quota.run_time" and not gate.until_ns:
                raise gate.refusal() from None
            raise
        finally:
            if cancellation is not None:
                running.discard(cancellation)

    def settle(self, *, failed: bool) -> None:
        """As `inference.Charge.settle`: what was executed is spent, what was not goes back."""
        if self._executed:
            self._account.spend(failed=failed)
        else:
            self._account.release()


def unanswered() -> Unavailable:
    """The refusal of a query for which units were asked, but nobody has said yet that there are none."""
    return Unavailable(
        "the units in hand are used up, and the custodian has not answered in time",
        code="lease.waiting",
        hint="try again; if it lasts, the enclave cannot reach its custodian",
    )


def exhausted(account: Account) -> BudgetExhausted:
    """The refusal of a query for which there is no unit."""
    request = account.request
    words = f"the budget for this model is used up: {account.used} of {account.budget} units"
    if request is None:
        hint = "the custodian cannot be reached; try again later"
    elif request.state is RequestState.DENIED:
        words += ", and the custodian gives no more" + (f": {request.reason}" if request.reason else "")
        hint = "talk to the custodian"
    else:
        hint = "a request for more is with the custodian; predict(..., wait_for_budget=SECONDS) waits for the answer"
    return BudgetExhausted(
        words,
        code="lease.budget_exhausted",
        used=account.used,
        granted=account.budget,
        request_id=request.id if request else "",
        state=request.state if request else "",
        reason=request.reason if request else "",
        hint=hint,
    )
