"""The terms of a lease: every word of the custodian, in every order, at every time."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from blindai.enclave.lease.state import MAX_TTL_MS, Phase, Terms
from blindai.errors import LeaseExpired, LeaseStopped, Unavailable
from blindai.wire.custody import FIRST, GrantAnswer, LeaseState, Renewal, Unit

from .conftest import INSTANCE, LEASE, SECOND, Signer, status

START = 1000 * SECOND
NOBODY = Ed25519PrivateKey.generate().public_key()


@pytest.fixture
def terms(signer: Signer) -> Terms:
    return Terms(LEASE, INSTANCE, signer.public)


def ask(terms: Terms, now: int, **changes: Any) -> Renewal:
    arguments: dict[str, Any] = {"challenge": b"\x07" * 32, "wanted": {}, "key": False, "records": ()}
    return terms.renewal(now, **(arguments | changes))


def take(terms: Terms, answer: GrantAnswer) -> None:
    terms.check(answer)
    terms.accept(answer)


def serve(terms: Terms, signer: Signer, now: int = START, **changes: Any) -> None:
    take(terms, signer.answer(ask(terms, now), **changes))
    terms.loaded = True


def test_a_new_instance_waits_and_asks_at_once(terms: Terms) -> None:
    assert terms.phase(START) is Phase.WAITING
    assert terms.until_ns == 0
    assert terms.renew_ns() == 0
    assert terms.wipe(START)


def test_a_grant_lets_queries_start_once_the_model_is_loaded(terms: Terms, signer: Signer) -> None:
    take(terms, signer.answer(ask(terms, START)))
    assert (terms.phase(START), terms.until_ns) == (Phase.WAITING, 0)
    terms.loaded = True
    assert (terms.phase(START), terms.until_ns) == (Phase.SERVING, START + 3 * SECOND)
    assert not terms.wipe(START)


@pytest.mark.parametrize(
    ("after", "phase", "wipe"),
    [
        (0, Phase.SERVING, False),
        (3 * SECOND - 1, Phase.SERVING, False),
        (3 * SECOND, Phase.SOFT, False),
        (5 * SECOND - 1, Phase.SOFT, False),
        (5 * SECOND, Phase.EXPIRED, True),
        (10**18, Phase.EXPIRED, True),
    ],
)
def test_time_runs_out_from_when_the_challenge_was_drawn(
    terms: Terms, signer: Signer, after: int, phase: Phase, wipe: bool
) -> None:
    renewal = ask(terms, START)
    # The answer came two seconds later, which costs the borrower.
    take(terms, signer.answer(renewal))
    terms.loaded = True
    assert (terms.phase(START + after), terms.wipe(START + after)) == (phase, wipe)


def test_time_is_asked_for_when_a_third_of_it_is_gone(terms: Terms, signer: Signer) -> None:
    serve(terms, signer)
    assert terms.renew_ns() == START + SECOND


def test_a_renewal_is_repeated_to_the_byte_until_it_is_answered(terms: Terms, signer: Signer) -> None:
    first = ask(terms, START, wanted={"alice": 3}, key=True)
    again = ask(terms, START + SECOND, challenge=b"\x08" * 32, wanted={"bob": 9}, key=False)
    assert msgspec.json.encode(again) == msgspec.json.encode(first)
    take(terms, signer.answer(first))
    second = ask(terms, START + SECOND)
    assert terms.grant
    assert (second.seq, second.prev) == (2, terms.grant.digest)


def test_the_time_of_a_repeated_renewal_is_that_of_the_first(terms: Terms, signer: Signer) -> None:
    first = ask(terms, START)
    ask(terms, START + 4 * SECOND)
    take(terms, signer.answer(first))
    assert terms.soft_ns == START + 3 * SECOND


MALFORMED: dict[str, dict[str, Any]] = {
    "another lease": {"lease": "lease-bbbbbbbbbbbbbbbb"},
    "another instance": {"instance": "2" * 64},
    "another challenge": {"challenge": "9" * 64},
    "a number that was not asked for": {"seq": 2},
    "another grant before it": {"prev": "9" * 64},
    "no time": {"soft_ms": 0, "ttl_ms": 0},
    "soft after hard": {"soft_ms": 5001},
    "time without end": {"ttl_ms": MAX_TTL_MS + 1},
    "another unit": {"unit": Unit.TOKENS},
    "units for a stranger": {"quantities": {"mallory": 5}},
    "anyone and somebody": {"consumers": {"": 0, "alice": 0}},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_grant_is_refused_and_changes_nothing(
    terms: Terms, signer: Signer, changes: dict[str, Any]
) -> None:
    renewal = ask(terms, START)
    with pytest.raises(Unavailable) as caught:
        terms.check(signer.answer(renewal, **changes))
    assert caught.value.code == "lease.grant"
    assert (terms.grant, terms.pending, terms.phase(START)) == (None, renewal, Phase.WAITING)


def test_a_grant_with_another_signature_is_refused(terms: Terms, signer: Signer) -> None:
    renewal = ask(terms, START)
    with pytest.raises(Unavailable) as caught:
        terms.check(signer.answer(renewal, signer=Ed25519PrivateKey.generate()))
    assert caught.value.code == "lease.grant"


def test_a_grant_whose_content_was_changed_is_refused(terms: Terms, signer: Signer) -> None:
    answer = signer.answer(ask(terms, START))
    for changes in ({"ttl_ms": 50_000}, {"quantities": {"alice": 5}}, {"stop_epoch": 1}):
        altered = msgspec.structs.replace(answer, grant=msgspec.structs.replace(answer.grant, **changes))
        with pytest.raises(Unavailable) as caught:
            terms.check(altered)
        assert caught.value.code == "lease.grant"


def test_a_grant_that_was_taken_is_refused_when_it_comes_again(terms: Terms, signer: Signer) -> None:
    answer = signer.answer(ask(terms, START))
    take(terms, answer)
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            terms.check(answer)
        assert caught.value.code == "lease.grant"
        ask(terms, START + SECOND)  # also while another one is waited for


@pytest.mark.parametrize(
    "changes",
    [{"stop_epoch": 2}, {"consumers": {"alice": 0, "bob": 0}}, {"model_digest": "8" * 64}],
    ids=["stop epoch", "token epoch", "model"],
)
def test_what_only_grows_does_not_go_back(terms: Terms, signer: Signer, changes: dict[str, Any]) -> None:
    serve(terms, signer, stop_epoch=3, consumers={"alice": 2, "bob": 0})
    base: dict[str, Any] = {"stop_epoch": 3, "consumers": {"alice": 2, "bob": 0}}
    renewal = ask(terms, START + SECOND)
    with pytest.raises(Unavailable) as caught:
        terms.check(signer.answer(renewal, **(base | changes)))
    assert caught.value.code == "lease.grant"
    terms.check(signer.answer(renewal, **base))


def test_a_consumer_may_leave(terms: Terms, signer: Signer) -> None:
    serve(terms, signer)
    take(terms, signer.answer(ask(terms, START + SECOND), consumers={"bob": 0}))
    assert terms.consumers == {"bob": 0}


def test_a_stop_ends_all_at_once_and_wipes(terms: Terms, signer: Signer) -> None:
    serve(terms, signer)
    assert terms.hear(status(2, LeaseState.STOPPED, stop_epoch=1, reason="enough"))
    assert (terms.phase(START), terms.until_ns, terms.wipe(START), terms.barred) == (Phase.STOPPED, 0, True, True)
    refusal = terms.refusal(START)
    assert isinstance(refusal, LeaseStopped)
    assert refusal.code == "lease.stopped"
    assert "enough" in refusal.message


def test_a_pause_keeps_the_weights_until_they_expire(terms: Terms, signer: Signer) -> None:
    serve(terms, signer)
    terms.hear(status(2, LeaseState.PAUSED))
    assert (terms.phase(START), terms.until_ns, terms.wipe(START)) == (Phase.PAUSED, 0, False)
    assert terms.refusal(START).code == "lease.paused"
    assert terms.wipe(START + 5 * SECOND)
    terms.hear(status(3))
    assert terms.until_ns == START + 3 * SECOND


def test_a_stopped_lease_is_resumed_by_a_grant_alone(terms: Terms, signer: Signer) -> None:
    serve(terms, signer)
    terms.hear(status(2, LeaseState.STOPPED, stop_epoch=1))
    terms.loaded = False
    terms.hear(status(3, stop_epoch=1))
    assert (terms.phase(START), terms.until_ns, terms.renew_ns(), terms.barred) == (Phase.WAITING, 0, 0, False)
    serve(terms, signer, START + SECOND, stop_epoch=1, version=3)
    assert terms.phase(START + SECOND) is Phase.SERVING


def test_a_stop_that_was_missed_ends_what_was_granted_before_it(terms: Terms, signer: Signer) -> None:
    serve(terms, signer)
    terms.hear(status(3, stop_epoch=1))
    assert (terms.until_ns, terms.wipe(START), terms.renew_ns()) == (0, True, 0)


def test_of_a_grant_from_before_the_stop_only_the_units_are_taken(terms: Terms, signer: Signer) -> None:
    serve(terms, signer)
    renewal = ask(terms, START + SECOND)
    terms.hear(status(2, LeaseState.STOPPED, stop_epoch=1))
    # It had been signed a moment before, and arrives now.
    take(terms, signer.answer(renewal, version=1))
    assert terms.grant
    assert terms.grant.seq == 2
    assert (terms.phase(START + SECOND), terms.wipe(START + SECOND)) == (Phase.STOPPED, True)
    terms.hear(status(3, stop_epoch=1))
    assert (terms.until_ns, terms.renew_ns()) == (0, 0)


def test_a_grant_from_before_a_pause_does_not_end_it(terms: Terms, signer: Signer) -> None:
    serve(terms, signer)
    renewal = ask(terms, START + SECOND)
    terms.hear(status(2, LeaseState.PAUSED))
    take(terms, signer.answer(renewal, version=1))
    assert terms.phase(START + SECOND) is Phase.PAUSED


def test_a_grant_from_after_a_pause_ends_it_even_if_its_end_was_not_heard_of(terms: Terms, signer: Signer) -> None:
    serve(terms, signer)
    terms.hear(status(2, LeaseState.PAUSED))
    take(terms, signer.answer(ask(terms, START + SECOND), version=3))
    assert terms.phase(START + SECOND) is Phase.SERVING


def test_a_quarantine_is_for_good(terms: Terms, signer: Signer) -> None:
    serve(terms, signer)
    terms.hear(status(2, quarantined=True))
    terms.hear(status(3))
    assert (terms.phase(START), terms.until_ns, terms.wipe(START), terms.barred) == (Phase.QUARANTINED, 0, True, True)
    assert terms.refusal(START).code == "lease.quarantined"


def test_a_ledger_that_has_forgotten_a_stop_does_not_undo_it(terms: Terms, signer: Signer) -> None:
    serve(terms, signer)
    terms.hear(status(5, LeaseState.STOPPED, stop_epoch=1))
    terms.hear(status(2, stop_epoch=0))
    assert terms.phase(START) is Phase.STOPPED
    # But what it forbids counts, from whatever version on.
    other = Terms(LEASE, INSTANCE, signer.public)
    serve(other, signer, version=9)
    other.hear(status(2, LeaseState.PAUSED))
    assert other.phase(START) is Phase.PAUSED


def test_the_same_status_again_is_no_news(terms: Terms) -> None:
    assert terms.hear(status(1))
    assert not terms.hear(status(1))


def test_every_phase_has_its_refusal(terms: Terms, signer: Signer) -> None:
    assert terms.refusal(START).code == "lease.waiting"
    serve(terms, signer)
    for after in (3 * SECOND, 5 * SECOND):
        refusal = terms.refusal(START + after)
        assert isinstance(refusal, LeaseExpired)
        assert refusal.code == "lease.expired"


class History:
    """The terms of one instance, and what must hold of them, kept apart from how they are kept there.

    Attributes:
        granted_ns: when the challenge of the grant in force was drawn; None where none is.
    """

    def __init__(self, signed: GrantAnswer) -> None:
        self.terms = Terms(LEASE, INSTANCE, NOBODY)
        self.signed = signed
        self.now = START
        self.version = 1
        self.epoch = 0
        self.state = LeaseState.ACTIVE
        self.quarantined = False
        self.granted_ns: int | None = None

    def happen(self, event: str) -> None:
        self.version += 1
        getattr(self, event)()
        told = status(self.version, self.state, stop_epoch=self.epoch, quarantined=self.quarantined)
        self.terms.hear(told)
        if self.terms.wipe(self.now):
            self.terms.loaded = False

    def grant(self, late_ns: int = 0) -> None:
        renewal = ask(self.terms, self.now)
        drawn, self.now = self.now, self.now + late_ns
        if not self.terms.barred:
            self.granted_ns = drawn
            # Signatures are looked at by `check`, and would take most of the time here.
            grant = msgspec.structs.replace(
                self.signed.grant, seq=renewal.seq, prev=renewal.prev, stop_epoch=self.epoch
            )
            self.terms.accept(msgspec.structs.replace(self.signed, grant=grant, version=self.version))

    def late_grant(self) -> None:
        self.grant(SECOND)

    def stop(self) -> None:
        self.epoch, self.state, self.granted_ns = self.epoch + 1, LeaseState.STOPPED, None

    def pause(self) -> None:
        if self.state is LeaseState.ACTIVE:
            self.state = LeaseState.PAUSED

    def resume(self) -> None:
        self.state = LeaseState.ACTIVE

    def quarantine(self) -> None:
        self.quarantined = True

    def soft(self) -> None:
        self.now += 3 * SECOND

    def hard(self) -> None:
        self.now += 5 * SECOND

    def load(self) -> None:
        self.terms.loaded = not self.terms.wipe(self.now)

    @property
    def expired(self) -> bool:
        return self.granted_ns is None or self.now >= self.granted_ns + 5 * SECOND

    @property
    def may_start(self) -> bool:
        return (
            self.terms.loaded
            and self.state is LeaseState.ACTIVE
            and not self.quarantined
            and self.granted_ns is not None
            and self.now < self.granted_ns + 3 * SECOND
        )


EVENTS = ("grant", "late_grant", "stop", "pause", "resume", "quarantine", "soft", "hard", "load")


def test_in_every_history_nothing_starts_that_must_not(signer: Signer) -> None:
    blank = Renewal(lease=LEASE, instance=INSTANCE, seq=1, prev=FIRST, challenge="07" * 32)
    signed = signer.answer(blank)
    for events in product(EVENTS, repeat=5):
        history = History(signed)
        for event in events:
            history.happen(event)
            starts = history.now < history.terms.until_ns
            assert starts == history.may_start == (history.terms.phase(history.now) is Phase.SERVING), events
            if history.expired or history.quarantined:
                assert history.terms.wipe(history.now), events
