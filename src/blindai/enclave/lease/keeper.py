"""Keeps a lease: asks for units and time, listens for what the custodian says, wipes when it must, closes at the end.

Four things go on side by side, each of which may fail for as long as it likes without the others:

    renewing   units and time, on a connection of its own; repeats a renewal byte for byte until it is answered
    watching   a second connection, on which the custodian answers when something has changed
    expiring   looks at the clock, and at nothing else
    loading    opens the sealed model with the key of a grant
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.enclave.clock import NS_PER_MS, NS_PER_SECOND, elapsed_ns
from blindai.enclave.lease.chain import RecordChain
from blindai.enclave.lease.gate import Gate
from blindai.enclave.lease.meter import Meter
from blindai.enclave.lease.state import Terms
from blindai.enclave.lease.tokens import Tokens
from blindai.enclave.line import Backoff, Line
from blindai.errors import BlindAIError, Unavailable
from blindai.wire import custody as wire
from blindai.wire.lease import LeaseRequest, ModelLease

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from blindai.channel.keyset import PrivateKeyset
    from blindai.enclave.config import Custody
    from blindai.enclave.http.exchange import Headers
    from blindai.enclave.lease.meter import Account
    from blindai.enclave.lease.model import LoanedModel
    from blindai.enclave.lease.state import Phase
    from blindai.enclave.line import Connection
    from blindai.enclave.models.model_id import ModelId
    from blindai.enclave.running.inference import Inference

# A renewal is one transaction of the custodian's database.
_ANSWER_SECONDS: Final = 10.0

# How long the custodian holds a watch back, and how much longer its answer may take before the line counts as dead.
_WATCH_MS: Final = 20_000
_WATCH_SECONDS: Final = _WATCH_MS / 1000 + _ANSWER_SECONDS

# How long a query waits for its request to be filed, to be able to name it.
_FILE_SECONDS: Final = 2.0

# The clock is looked at this often, whatever timers say: they stand still while the machine sleeps.
_TICK_SECONDS: Final = 1.0

# After a renewal that brought none of the units it asked for, the next one for units waits so long.
_PAUSE_NS: Final = 100 * NS_PER_MS

# A sealed model that could not be opened is tried again: the file may be replaced, or the line mended.
_LOAD_AGAIN_NS: Final = 10 * NS_PER_SECOND

# Two tries to hand in the last record. A custodian who answers neither is not there.
_CLOSING_TRIES: Final = 2

# What a renewal is refused with when the lease, and not the line or the custodian, is the cause; for good, or not.
_QUARANTINED: Final = frozenset({"lease.quarantined", "lease.forked", "lease.overspent"})
_BARRED: Final = frozenset({"lease.paused", "lease.stopped"}) | _QUARANTINED

_log = structlog.get_logger("blindai.enclave")


class Keeper:
    """Keeps the lease of one instance.

    Args:
        custody: the custodian, the lease and the model's name.
        keyset: of the end that attests the calls to the custodian; it is the instance.
        connect: makes such a call.
        model: the model on loan.
        inference: runs models.
        refused: told of every query that is refused here.
        places: queries that may wait for units at once.

    Attributes:
        id, version: the name under which the model is served.
        gate: where its queries go.
        terms, meter: for those who want to look.
    """

    def __init__(
        self,
        custody: Custody,
        keyset: PrivateKeyset,
        connect: Callable[[], Awaitable[Connection]],
        model: LoanedModel,
        inference: Inference,
        *,
        refused: Callable[[BlindAIError], None],
        places: int,
    ) -> None:
        custodian = Ed25519PublicKey.from_public_bytes(bytes.fromhex(custody.public_key))
        self.id: ModelId = custody.model
        self.version = 1
        self.terms = Terms(custody.lease, keyset.digest, custodian)
        self.meter = Meter(self._ask)
        self.gate = Gate(
            self.terms,
            self.meter,
            Tokens(custodian, custody.lease),
            inference,
            self,
            refused=refused,
            places=places,
        )
        self._keyset = keyset
        self._model = model
        self._inference = inference
        self._chain = RecordChain(keyset.sign, elapsed_ns())
        self._renewals = Line(connect)
        self._watches = Line(connect)
        self._asked = True  # units or time
        self._unreported = False  # counts of a lease that was stopped
        self._renewing = False
        self._pause_ns = 0
        self._wake = asyncio.Event()
        self._answered = asyncio.Event()
        self._filing: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._loading: asyncio.Task[None] | None = None
        self._load_ns = 0
        self._changing = asyncio.Lock()
        self._applied = 0
        self._ended = False
        self._phase: Phase | None = None
        self._fault = ""

    def start(self) -> None:
        """Begin. On the event loop."""
        for work in (self._renew_forever, self._watch_forever, self._expire_forever):
            self._tasks.append(asyncio.create_task(work()))

    async def close(self, seconds: float) -> None:
        """Wipe key and weights, then hand in the last record, for which there are `seconds`."""
        self._ended = True
        self.gate.shut()
        for task in (*self._tasks, *self._filing.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._filing.values(), return_exceptions=True)
        await self._wipe("closing")
        self._watches.cut()
        try:
            async with asyncio.timeout(seconds):
                await self._close()
        except (BlindAIError, TimeoutError) as error:
            reason = error.message if isinstance(error, BlindAIError) else "the custodian did not answer in time"
            _log.warning("lease_not_closed", reason=reason)
        finally:
            self._renewals.cut()

    def view(self, headers: Headers) -> ModelLease:
        """How the lease stands for whoever sent a request with these headers.

        Raises:
            AuthenticationError: `authentication.token`.
            Unavailable: `lease.waiting`, it is not known yet who may ask.
        """
        account = self.gate.account(headers)
        now = elapsed_ns()
        request = account.request
        return ModelLease(
            model=str(self.id),
            state=self.terms.phase(now),
            reason=self.terms.reason,
            used=account.used,
            budget=account.budget,
            soft_ms=max(0, self.terms.soft_ns - now) // NS_PER_MS,
            hard_ms=max(0, self.terms.hard_ns - now) // NS_PER_MS,
            request=None
            if request is None
            else LeaseRequest(request.id, request.state, reason=request.reason, granted=request.granted),
        )

    # What the gate asks for.

    @property
    def asking(self) -> bool:
        """As `gate.Custodian.asking`."""
        return (self._asked or self._renewing) and not self.terms.barred

    async def units(self) -> None:
        """As `gate.Custodian.units`."""
        await self._answered.wait()

    async def request_budget(self, account: Account) -> None:
        """As `gate.Custodian.request_budget`: those who ask at once share one request."""
        if not account.request_due(elapsed_ns()):
            return
        filing = self._filing.get(account.consumer)
        if filing is None:
            filing = self._filing[account.consumer] = asyncio.create_task(self._file(account))
            filing.add_done_callback(lambda _: self._filing.pop(account.consumer, None))
        await asyncio.wait({filing}, timeout=_FILE_SECONDS)

    async def _file(self, account: Account) -> None:
        message = wire.BudgetRequest(
            lease=self.terms.lease,
            instance=self.terms.instance,
            consumer=account.consumer,
            wanted=min(max(account.budget, 1), wire.MAX_AMOUNT),  # as much again as it had
        )
        try:
            status = await self._renewals.ask(
                wire.BUDGET_REQUESTS, message, wire.RequestStatus, seconds=_ANSWER_SECONDS
            )
        except BlindAIError as error:
            await self._trouble(error)
            return
        account.request, account.filed_ns = status, elapsed_ns()

    # Renewing.

    def _ask(self) -> None:
        self._asked = True
        self._wake.set()

    async def _renew_forever(self) -> None:
        backoff = Backoff()
        while True:
            await self._due()
            try:
                await self._renew()
            except BlindAIError as error:
                await self._trouble(error)
            else:
                self._fault = ""
                backoff.reset()
                if self.terms.renew_ns() > elapsed_ns():
                    continue
                # Time so short, or so old, is asked for again, but not as fast as the line allows.
            await asyncio.sleep(backoff.next())

    async def _due(self) -> None:
        """Return when there is something to ask for."""
        while True:
            if self.terms.barred:
                left = 0 if self._unreported else NS_PER_SECOND
            else:
                due_ns = self._pause_ns if self._asked else min(self.terms.renew_ns(), self._key_due_ns())
                left = due_ns - elapsed_ns()
            if left <= 0:
                return
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left / NS_PER_SECOND, _TICK_SECONDS)):
                    await self._wake.wait()

    def _key_due_ns(self) -> int:
        """When to ask for the model's key."""
        return self.terms.hard_ns if self.terms.loaded or self._loading is not None else self._load_ns

    async def _renew(self) -> None:
        terms = self.terms
        self._asked, self._unreported, self._renewing = False, False, True
        try:
            renewal = terms.pending or self._new_renewal(elapsed_ns())
            answer = await self._renewals.ask(wire.RENEWALS, renewal, wire.GrantAnswer, seconds=_ANSWER_SECONDS)
            terms.check(answer)
            settled = self._chain.acknowledge(answer.grant.record_seq, answer.grant.record_head)
            terms.accept(answer)
        except BlindAIError as error:
            self._asked = True
            if error.code in _BARRED:
                await self._look()
            raise
        finally:
            self._renewing = False
        self.meter.credit(renewal.wanted, answer.grant.quantities, answer.standings, settled=settled)
        if renewal.wanted and not answer.grant.quantities:
            self._pause_ns = elapsed_ns() + _PAUSE_NS
        self._asked = self._asked or self.meter.unanswered
        # An answer that a stop has overtaken brings no time, and its key opens nothing any more.
        if renewal.key and not terms.loaded and self._loading is None and not self._unwanted():
            self._begin_loading(answer)
        await self._apply()
        if answer.version == terms.version:
            self._applied = answer.version

    def _new_renewal(self, now: int) -> wire.Renewal:
        grant = self.terms.grant
        # One record at a time: what is counted until it is acknowledged goes into the next.
        if grant is not None and not self._chain.pending and (counts := self.meter.close_window()):
            self._chain.append(counts, now, grant=grant, stop_epoch=self.terms.stop_epoch)
        return self.terms.renewal(
            now,
            challenge=secrets.token_bytes(32),
            wanted=self.meter.wanted(now),
            key=self._key_due_ns() <= now,
            records=self._chain.pending,
        )

    async def _look(self) -> None:
        """A renewal was refused for the state of the lease: ask for that, in case the other line is cut."""
        status = await self._renewals.ask(wire.WATCHES, self._watch(0), wire.LeaseStatus, seconds=_ANSWER_SECONDS)
        await self._hear(status)

    # Watching.

    async def _watch_forever(self) -> None:
        backoff = Backoff()
        while not self.terms.quarantined:
            began = elapsed_ns()
            try:
                status = await self._watches.ask(
                    wire.WATCHES, self._watch(_WATCH_MS), wire.LeaseStatus, seconds=_WATCH_SECONDS
                )
            except BlindAIError as error:
                if error.code == "lease.version":
                    self._applied = 0  # the ledger was restored, and does not know what was acknowledged
                await self._trouble(error)
                await asyncio.sleep(backoff.next())
                continue
            if await self._hear(status) or elapsed_ns() - began > NS_PER_SECOND:
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next())  # no news, and at once: something is wrong over there
        with contextlib.suppress(BlindAIError):
            await self._watches.ask(wire.WATCHES, self._watch(0), wire.LeaseStatus, seconds=_ANSWER_SECONDS)

    def _watch(self, wait_ms: int) -> wire.Watch:
        terms = self.terms
        return wire.Watch(
            lease=terms.lease, instance=terms.instance, known=terms.version, applied=self._applied, wait_ms=wait_ms
        )

    async def _hear(self, status: wire.LeaseStatus) -> bool:
        """Act upon a status; the next watch says that this was done."""
        news = self.terms.hear(status)
        await self._apply()
        self._applied = status.version
        if news:
            # By now all runs have ended that were stopped: their counts can be handed in.
            self._unreported = self.terms.barred
            self._pause_ns = 0
            self._ask()
        return news

    # Expiring.

    async def _expire_forever(self) -> None:
        while True:
            left = (self.terms.hard_ns - elapsed_ns()) / NS_PER_SECOND
            if left <= 0:
                await self._apply()
            await asyncio.sleep(min(left, _TICK_SECONDS) if left > 0 else _TICK_SECONDS)

    async def _apply(self) -> None:
        """Make what is so by the terms so in memory."""
        terms, now = self.terms, elapsed_ns()
        if terms.wipe(now):
            self.gate.shut()
        else:
            self.gate.until_ns = terms.until_ns
        self._tell()
        # Whoever waits for units looks again whether there are some, or never will be.
        self._answered.set()
        self._answered = asyncio.Event()
        if terms.wipe(now) and (terms.loaded or self._loading is not None):
            await self._wipe(terms.phase(now))

    def _tell(self) -> None:
        """Say in the log where the lease is, whenever that has changed."""
        phase = self.terms.phase(elapsed_ns())
        if phase is not self._phase:
            self._phase = phase
            _log.info("lease", state=phase.value, reason=self.terms.reason)

    async def _wipe(self, why: str) -> None:
        self._model.abort()
        async with self._changing:
            if self.gate.until_ns:
                return  # a grant came first
            self.gate.version = None
            self.terms.loaded = False
            if await self._model.wipe(self._end_runs, why):
                _log.info("model_wiped", why=why)

    def _end_runs(self) -> None:
        """Stop the runs under way, and let none begin that waits for a worker."""
        self.gate.shut()
        self._inference.refuse_waiting(self.gate.refusal())

    # Loading.

    def _unwanted(self) -> bool:
        """Whether the model must not come into memory now."""
        return self._ended or self.terms.wipe(elapsed_ns())

    def _begin_loading(self, answer: wire.GrantAnswer) -> None:
        if answer.key is None:
            self._load_ns = elapsed_ns() + _LOAD_AGAIN_NS
            self.terms.waits_for = "the custodian gave no key"
            return
        self._loading = asyncio.create_task(self._load(answer.key, answer.grant))
        self._loading.add_done_callback(self._loaded)

    def _loaded(self, loading: asyncio.Task[None]) -> None:
        self._loading = None
        if not loading.cancelled():
            loading.result()  # a fault that nobody foresaw is reported by asyncio
        self._wake.set()

    async def _load(self, sealed_key: bytes, grant: wire.Grant) -> None:
        terms = self.terms
        terms.waits_for = "it is being loaded"
        async with self._changing:
            if self._unwanted():
                return
            try:
                version = await self._model.load(self._data_key(sealed_key, grant), grant.model_digest)
            except BlindAIError as error:
                terms.waits_for = error.message
                self._load_ns = elapsed_ns() + _LOAD_AGAIN_NS
                _log.error("model_not_loaded", code=error.code, reason=error.message)
                return
            self._load_ns = 0
            if self._unwanted():
                await self._model.wipe(self._end_runs, terms.phase(elapsed_ns()))
                return
            self.gate.version = version
            terms.loaded = True
            self.gate.until_ns = terms.until_ns
        self._tell()

    def _data_key(self, sealed_key: bytes, grant: wire.Grant) -> bytes:
        try:
            return self._keyset.open_sealed(sealed_key, grant.key_info)
        except ValueError as error:
            raise Unavailable("the model's key was not sealed to this enclave and grant", code="lease.grant") from error

    # Closing.

    async def _close(self) -> None:
        grant = self.terms.grant
        if grant is None:
            return
        counts = self.meter.close_window()
        self._chain.append(counts, elapsed_ns(), grant=grant, stop_epoch=self.terms.stop_epoch, final=True)
        closing = wire.Closing(lease=grant.lease, instance=grant.instance, records=self._chain.pending)
        for tries_left in reversed(range(_CLOSING_TRIES)):
            try:
                await self._renewals.ask(wire.CLOSINGS, closing, wire.Closed, seconds=_ANSWER_SECONDS)
            except Unavailable:
                if not tries_left:
                    raise
            else:
                _log.info("lease_closed")
                return

    async def _trouble(self, error: BlindAIError) -> None:
        """The custodian refuses or cannot be reached: remember why, and say it once."""
        if error.code in _QUARANTINED:
            self.terms.quarantined = True
            await self._apply()
        self.terms.waits_for = error.message
        if error.code != self._fault:
            self._fault = error.code
            _log.warning("custodian", code=error.code, reason=error.message)
