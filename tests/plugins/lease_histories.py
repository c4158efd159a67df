"""Random histories of a lease: everything that may happen to it, in any order, and what must hold after every step.

A real ledger in a real database; enclaves with their own code, whose messages are lost, repeated, delayed and out of
order; operators who change their minds; clocks that jump. One step is one thing that happens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import hypothesis.strategies as st
import msgspec
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from blindai.custody.audit import audit
from blindai.custody.ledger import Ledger
from blindai.custody.log import Kind
from blindai.custody.views import InstanceState, Lease, ProposalState
from blindai.errors import BlindAIError
from blindai.wire.custody import FIRST, BudgetRequest, GrantAnswer, LeaseState, Record, Renewal, RequestState
from lease_enclaves import MODEL_KEY, Enclave
from lease_world import World

SOFT_MS = 2000
TTL_MS = 3000

OPERATORS = st.sampled_from(["anna", "bert", "cleo"])
CONSUMERS = st.sampled_from(["alice", "bob", "carol"])
YEAR = timedelta(days=365)

# What a renewal may be refused with. Anything else is a fault of ours.
BARRED = frozenset({"lease.paused", "lease.stopped", "lease.quarantined", "lease.forked", "lease.overspent"})
REFUSED = BARRED | {
    "lease.instances",
    "lease.closed",
    "lease.superseded",
    "lease.record",
    "lease.record_gap",
    "lease.consumer",
}
IMPOSSIBLE = frozenset(
    {
        "lease.state",
        "lease.request_state",
        "lease.proposal_state",
        "lease.account_budget",
        "lease.consumer",
        "lease.consumer_budget",
        "lease.consumer_exists",
        "lease.closed",
        "lease.quarantined",
    }
)


class Histories(RuleBasedStateMachine):
    """One history of one lease.

    Attributes:
        world: with the ledger; shared by all histories, each of which has a lease of its own. Set by a subclass.
        happened: what has happened in all histories, for the figures.
        twins: enclaves whose queries are not counted, as another has the same units.
        loose: of these, those whose place was given back by the other.
    """

    world: ClassVar[World]
    happened: ClassVar[Counter[str]]

    enclaves: Bundle[Enclave] = Bundle("enclaves")
    sent: Bundle[Renewal] = Bundle("sent")
    late: Bundle[tuple[Enclave, GrantAnswer]] = Bundle("late")
    proposals: Bundle[str] = Bundle("proposals")
    requests: Bundle[str] = Bundle("requests")

    # How it begins.

    @initialize(
        target=enclaves,
        budget=st.integers(1, 40),
        own=st.none() | st.integers(1, 20),
        approvals=st.integers(1, 3),
        max_instances=st.integers(1, 3),
        tranche=st.sampled_from([1, 3, 10_000]),
        consumer=CONSUMERS,
    )
    def lend(
        self, budget: int, own: int | None, approvals: int, max_instances: int, tranche: int, consumer: str
    ) -> Any:
        self.ledger = self.world.ledger
        self.clock = self.world.clock
        self.lease = self.world.lend(
            budget=budget,
            consumers={"alice": own, "bob": None},
            approvals=approvals,
            max_instances=max_instances,
            soft_ms=SOFT_MS,
            ttl_ms=TTL_MS,
            tranche_max=tranche,
        )
        self.max_instances = max_instances
        self.every: list[Enclave] = []
        self.twins: set[int] = set()
        self.loose: set[int] = set()
        self.quarantined: set[str] = set()
        self.granted: dict[tuple[str, int], str] = {}
        self.halted_ms: int | None = None
        self._count("histories")
        # There is something to disturb.
        enclaves = [self._boot(), self._boot()]
        for enclave in enclaves:
            self._serve(enclave, consumer, [2, 5])
        return multiple(*enclaves)

    # Enclaves.

    @rule(target=enclaves)
    def boot(self) -> Enclave:
        return self._boot()

    @rule(enclave=consumes(enclaves))
    def crash(self, enclave: Enclave) -> None:
        """Its memory is gone. What it had spent and not reported, nobody knows but this test."""
        enclave.terms.quarantined = True
        enclave.expire()
        self._count("crashes of an enclave")

    @rule(target=enclaves, enclave=enclaves, consumer=CONSUMERS, both_go_on=st.booleans())
    def fork(self, enclave: Enclave, consumer: str, both_go_on: bool) -> Enclave:
        """What no TEE allows. Its twin's queries are not counted: there are two now who hold the same units."""
        twin = enclave.forked()
        self.every.append(twin)
        self.twins.add(id(twin))
        if both_go_on:
            for one in (enclave, twin):
                self._serve(one, consumer, [3, 3])
        self._count("forks")
        return twin

    @rule(enclave=enclaves, consumer=CONSUMERS, count=st.integers(1, 12))
    def query(self, enclave: Enclave, consumer: str, count: int) -> None:
        self._query(enclave, consumer, count)

    @rule(enclave=enclaves, consumer=CONSUMERS, counts=st.lists(st.integers(1, 8), min_size=1, max_size=4))
    def serve(self, enclave: Enclave, consumer: str, counts: list[int]) -> None:
        """A while of ordinary life."""
        self._serve(enclave, consumer, counts)

    # Messages.

    @rule(target=sent, enclave=enclaves, consumer=CONSUMERS, units=st.integers(0, 12))
    def renew(self, enclave: Enclave, consumer: str, units: int) -> Renewal:
        return self._exchange(enclave, consumer, units)

    @rule(target=sent, enclave=enclaves, consumer=CONSUMERS, units=st.integers(0, 12))
    def renewal_is_lost(self, enclave: Enclave, consumer: str, units: int) -> Renewal:
        self._count("lost messages")
        return self._renewal(enclave, consumer, units)

    @rule(target=late, enclave=enclaves, consumer=CONSUMERS, units=st.integers(0, 12))
    def answer_is_delayed(self, enclave: Enclave, consumer: str, units: int) -> Any:
        answer = self._renew(self._renewal(enclave, consumer, units))
        self._count("lost messages")
        return multiple() if answer is None else (enclave, answer)

    @rule(arriving=consumes(late))
    def answer_comes_late(self, arriving: tuple[Enclave, GrantAnswer]) -> None:
        self._take(*arriving)
        self._count("messages out of order")

    @rule(arriving=late)
    def answer_comes_twice(self, arriving: tuple[Enclave, GrantAnswer]) -> None:
        self._take(*arriving)
        self._take(*arriving)
        self._count("messages repeated")

    @rule(renewal=sent)
    def renewal_comes_again(self, renewal: Renewal) -> None:
        self._renew(renewal)
        self._count("messages repeated")

    @rule(enclave=enclaves)
    def watch(self, enclave: Enclave) -> None:
        status = self.ledger.status(self.lease, enclave.instance)
        enclave.hear(status)
        self.ledger.acknowledge(self.lease, enclave.instance, status.version)
        assert enclave.may_serve <= (status.state is LeaseState.ACTIVE)

    @rule(enclave=consumes(enclaves), answered=st.booleans())
    def close(self, enclave: Enclave, answered: bool) -> None:
        closing = enclave.closing()
        if closing is None:
            return
        for _ in range(1 if answered else 2):
            self._try(lambda: self.ledger.close(closing), REFUSED)
        # What one of two copies gives back, the other still holds until it calls or expires: a TEE alone prevents that.
        copies = {id(one) for one in self.every if one.instance == enclave.instance and one is not enclave}
        self.twins |= copies
        self.loose |= copies
        self._count("closings")

    # Operators.

    @rule(by=OPERATORS, for_good=st.booleans())
    def halt(self, by: str, for_good: bool) -> None:
        def act() -> Lease:
            if for_good:
                return self.ledger.stop(self.lease, by=by, reason="enough")
            return self.ledger.pause(self.lease, by=by)

        if self._try(act, IMPOSSIBLE) is not None:
            self.halted_ms = self.clock.ms if self.halted_ms is None else self.halted_ms
            self._count("stops and pauses")

    @rule()
    def resume_together(self) -> None:
        """Everybody agrees."""
        for by in ("anna", "bert", "cleo"):
            self._decided(lambda by=by: self.ledger.resume(self.lease, by=by))  # type: ignore[misc]  # by is bound
        assert self.halted_ms is None

    @rule(target=proposals, by=OPERATORS)
    def resume(self, by: str) -> Any:
        return self._decided(lambda: self.ledger.resume(self.lease, by=by))

    @rule(target=proposals, by=OPERATORS, consumer=st.none() | CONSUMERS, amount=st.integers(1, 20))
    def raise_budget(self, by: str, consumer: str | None, amount: int) -> Any:
        return self._decided(lambda: self.ledger.raise_budget(self.lease, consumer=consumer, amount=amount, by=by))

    @rule(target=requests, enclave=enclaves, consumer=CONSUMERS, wanted=st.integers(1, 20))
    def request(self, enclave: Enclave, consumer: str, wanted: int) -> Any:
        asked = BudgetRequest(lease=self.lease, instance=enclave.instance, consumer=consumer, wanted=wanted)
        filed = self._try(lambda: self.ledger.request_budget(asked), IMPOSSIBLE)
        return multiple() if filed is None else filed.id

    @rule(target=proposals, request=requests, by=OPERATORS, amount=st.none() | st.integers(1, 20))
    def approve(self, request: str, by: str, amount: int | None) -> Any:
        return self._decided(lambda: self.ledger.approve(request, amount=amount, by=by))

    @rule(request=requests, by=OPERATORS)
    def deny(self, request: str, by: str) -> None:
        denied = self._try(lambda: self.ledger.deny(request, by=by, reason="no"), IMPOSSIBLE)
        assert denied is None or denied.state is RequestState.DENIED

    @rule(proposal=proposals, by=OPERATORS)
    def agree(self, proposal: str, by: str) -> None:
        if self._try(lambda: self.ledger.agree(proposal, by=by), IMPOSSIBLE):
            self._look()

    @rule(proposal=proposals, by=OPERATORS)
    def withdraw(self, proposal: str, by: str) -> None:
        withdrawn = self._try(lambda: self.ledger.withdraw(proposal, by=by), IMPOSSIBLE)
        assert withdrawn is None or withdrawn.state is ProposalState.WITHDRAWN

    @rule(by=OPERATORS, budget=st.none() | st.integers(1, 10))
    def add_consumer(self, by: str, budget: int | None) -> None:
        self._try(lambda: self.ledger.add_consumer(self.lease, "carol", budget, by=by), IMPOSSIBLE)

    @rule(by=OPERATORS, consumer=CONSUMERS)
    def revoke_tokens(self, by: str, consumer: str) -> None:
        self._try(lambda: self.ledger.revoke_tokens(self.lease, consumer, by=by), IMPOSSIBLE)

    # The custodian and the clocks.

    @rule(reboot=st.booleans())
    def restart_custodian(self, reboot: bool) -> None:
        """Nothing of it is left but the database."""
        if reboot:
            self.clock.boot = f"boot {int(self.clock.boot.split()[1]) + 1}"
            # Nor need the new boot's clock be anywhere near: enclaves only ever look at differences of it.
        self.ledger = Ledger(self.world.database, self.world.keys, clock=self.clock)
        self._count("restarts of the custodian")

    @rule(ms=st.sampled_from([1, 100, SOFT_MS // 3, SOFT_MS, TTL_MS, TTL_MS + TTL_MS // 1000, 10 * TTL_MS]))
    def time_passes(self, ms: int) -> None:
        self.clock.ms += ms
        self.clock.wall += timedelta(milliseconds=ms)

    @rule(forward=st.booleans())
    def wall_clock_jumps(self, forward: bool) -> None:
        self.clock.wall += YEAR if forward else -YEAR
        self._count("jumps of the wall clock by a year")

    # What must hold.

    @invariant()
    def never_overspent(self) -> None:
        lease = self.ledger.lease(self.lease)
        assert 0 <= lease.spent <= lease.granted <= lease.budget
        assert lease.granted == sum(account.granted for account in lease.accounts)
        assert lease.spent == sum(account.spent for account in lease.accounts)
        for account in lease.accounts:
            assert 0 <= account.spent <= account.granted
            assert account.budget is None or account.granted <= account.budget
            truth = sum(one.spent[account.consumer] for one in self.every if id(one) not in self.twins)
            assert truth <= account.granted, "queries ran that nobody had granted"
        self.quarantined.update(
            instance.id for instance in lease.instances if instance.state is InstanceState.QUARANTINED
        )

    @invariant()
    def keys_are_gone_in_time(self) -> None:
        for one in self.every:
            one.expire()  # as its timer does
            assert one.key == (MODEL_KEY if one.has_weights else None)
        loaded = {one.instance for one in self.every if one.has_weights and id(one) not in self.loose}
        assert len(loaded) <= self.max_instances

    def teardown(self) -> None:
        if not hasattr(self, "lease"):
            return
        result = audit(self.world.export(self.lease), custodian=self.world.keys.public_key)
        assert result.findings == []
        assert result.lease is not None
        lease, books = self.ledger.lease(self.lease), result.lease.books
        assert (books.budget, books.granted, books.spent) == (lease.budget, lease.granted, lease.spent)
        assert result.lease.decisions.state is lease.state
        self._require_records()
        self._count("records", result.kinds[Kind.RECORD_ACCEPTED])
        self._count("grants", result.kinds[Kind.GRANT_ISSUED])
        self._count("quarantines", result.kinds[Kind.INSTANCE_QUARANTINED])
        self._count("units spent", sum(sum(one.spent.values()) for one in self.every if id(one) not in self.twins))

    def _require_records(self) -> None:
        """Whatever was acknowledged is in the log."""

        events = self.ledger.events(self.lease)
        kept = {
            msgspec.convert(event.detail["record"], Record).digest
            for event in events
            if event.kind == Kind.RECORD_ACCEPTED
        }
        for one in self.every:
            assert one.acknowledged - {FIRST} <= kept, "an acknowledged record is lost"

    # How.

    def _boot(self) -> Enclave:
        enclave = self.world.boot(self.lease)
        self.every.append(enclave)
        self._count("instances")
        return enclave

    def _serve(self, enclave: Enclave, consumer: str, counts: list[int]) -> None:
        for count in counts:
            self._exchange(enclave, consumer, count)
            self._query(enclave, consumer, count)
            self.clock.ms += 50

    def _query(self, enclave: Enclave, consumer: str, count: int) -> None:
        ran = enclave.query(consumer, count)
        if ran and self.halted_ms is not None:
            assert self.clock.ms - self.halted_ms < SOFT_MS, "a query ran after a stop and the soft expiry"
        self._count("queries", ran)

    def _exchange(self, enclave: Enclave, consumer: str, units: int) -> Renewal:
        renewal = self._renewal(enclave, consumer, units)
        answer = self._renew(renewal)
        if answer is None:
            enclave.hear(self.ledger.status(self.lease, enclave.instance))
        else:
            self._take(enclave, answer)
        return renewal

    def _renewal(self, enclave: Enclave, consumer: str, units: int) -> Renewal:
        if units and consumer in enclave.terms.consumers:
            enclave.want(consumer, units)
        return enclave.renewal()

    def _renew(self, renewal: Renewal) -> GrantAnswer | None:
        answer: GrantAnswer | None = self._try(lambda: self.ledger.renew(renewal), REFUSED)
        if answer is None:
            return None
        assert renewal.instance not in self.quarantined, "an instance in quarantine was granted something"
        assert self.halted_ms is None, "something was granted while the lease was halted"
        grant = answer.grant
        assert self.granted.setdefault((grant.instance, grant.seq), grant.digest) == grant.digest
        return answer

    def _take(self, enclave: Enclave, answer: GrantAnswer) -> None:
        self._try(lambda: enclave.take(answer), {"lease.grant"})

    def _decided(self, decide: Callable[[], Any]) -> Any:
        """A proposal that waits, if there is one."""
        proposal = self._try(decide, IMPOSSIBLE)
        self._look()
        return multiple() if proposal is None else proposal.id

    def _look(self) -> None:
        if self.ledger.lease(self.lease).state is LeaseState.ACTIVE:
            self.halted_ms = None

    @staticmethod
    def _try(act: Callable[[], Any], allowed: frozenset[str] | set[str]) -> Any:
        """What came of it; None if it was refused, as it may be."""
        try:
            return act()
        except BlindAIError as error:
            if error.code not in allowed:
                raise
            return None

    def _count(self, what: str, times: int = 1) -> None:
        self.happened[what] += times


def histories(world: World) -> type[Histories]:
    """Histories in the database of `world`."""

    class HistoriesHere(Histories):
        happened: ClassVar[Counter[str]] = Counter()

    HistoriesHere.world = world
    return HistoriesHere
