"""The terms of a lease as one instance knows them. No I/O and no clock: time and messages come in, decisions come out.

    waiting --grant--> serving --soft expiry--> soft --hard expiry--> expired
       any --the custodian says so--> paused | stopped | quarantined

A grant leads back to serving from every state but the last. `wipe` says when key and weights must go: at hard expiry,
on a stop and on quarantine.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NoReturn

from cryptography.exceptions import InvalidSignature

from blindai.enclave.clock import NS_PER_MS
from blindai.errors import BlindAIError, LeaseExpired, LeaseStopped, Unavailable
from blindai.wire.custody import ANYONE, FIRST, Grant, LeaseState, Renewal, SignedRecord, Unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from blindai.wire.custody import GrantAnswer, LeaseStatus

# A custodian who wants a dead man's switch wants it sooner. A longer time is a mistake, or a number gone wrong.
MAX_TTL_MS: Final = 31 * 24 * 3600 * 1000

# Time is asked for when this part of it has gone: two more renewals may fail before a query has to.
_RENEW_AFTER: Final = 3


class Phase(StrEnum):
    """What the enclave does with the model."""

    WAITING = "waiting"
    SERVING = "serving"
    SOFT = "soft"
    EXPIRED = "expired"
    PAUSED = "paused"
    STOPPED = "stopped"
    QUARANTINED = "quarantined"


class Terms:
    """What one instance was granted, and what it was told.

    Args:
        lease: its id.
        instance: digest of the keyset.
        custodian: whose signature a grant must have.

    Attributes:
        grant: the newest; None before the first.
        consumers: who may query, with the lowest epoch of their tokens.
        version: of the lease, the latest that was heard of.
        state, reason: what the custodian said last.
        stop_epoch: the highest that was heard of.
        quarantined: this instance gets nothing any more.
        loaded: whether the weights are in memory; set by whoever puts them there.
        pending: the renewal that waits for an answer, to be repeated byte for byte.
        soft_ns, hard_ns: when the time that was granted ends, by `clock.elapsed_ns`.
        waits_for: why there is no grant yet, in words.
    """

    def __init__(self, lease: str, instance: str, custodian: Ed25519PublicKey) -> None:
        self.lease = lease
        self.instance = instance
        self.grant: Grant | None = None
        self.consumers: Mapping[str, int] = {}
        self.version = 0
        self.state = LeaseState.ACTIVE
        self.reason = ""
        self.stop_epoch = 0
        self.quarantined = False
        self.loaded = False
        self.pending: Renewal | None = None
        self.soft_ns = 0
        self.hard_ns = 0
        self.waits_for = "the custodian has not answered yet"
        self._custodian = custodian
        self._drawn_ns = 0
        self._granted_ns = 0

    # What comes in.

    def renewal(
        self,
        now_ns: int,
        *,
        challenge: bytes,
        wanted: Mapping[str, int],
        key: bool,
        records: tuple[SignedRecord, ...],
    ) -> Renewal:
        """The renewal to send: the one that was not answered yet, else a new one whose time begins now.

        Args:
            now_ns: by `clock.elapsed_ns`.
            challenge: 32 fresh random bytes.
            wanted, key, records: see `Renewal`.
        """
        if self.pending is None:
            self._drawn_ns = now_ns
            self.pending = Renewal(
                lease=self.lease,
                instance=self.instance,
                seq=self.grant.seq + 1 if self.grant else 1,
                prev=self.grant.digest if self.grant else FIRST,
                challenge=challenge.hex(),
                wanted=dict(wanted),
                key=key,
                records=records,
            )
        return self.pending

    def check(self, answer: GrantAnswer) -> None:
        """Refuse what is no answer to the pending renewal. Nothing changes.

        Raises:
            Unavailable: `lease.grant`.
        """
        grant, pending, last = answer.grant, self.pending, self.grant
        try:
            self._custodian.verify(bytes.fromhex(answer.signature), grant.message)
        except InvalidSignature:
            _refuse("is not signed by the custodian")
        if pending is None:
            _refuse("answers nothing that was asked")
        if (grant.lease, grant.instance) != (self.lease, self.instance):
            _refuse("is for another lease or another instance")
        if (grant.seq, grant.prev, grant.challenge) != (pending.seq, pending.prev, pending.challenge):
            _refuse("answers another renewal")
        _check_sense(grant)
        if last is not None:
            if grant.model_digest != last.model_digest:
                _refuse("is for another model")
            if grant.stop_epoch < last.stop_epoch:
                _refuse("is older than one before it")
            if any(grant.consumers.get(name, epoch) < epoch for name, epoch in last.consumers.items()):
                _refuse("brings back tokens that were revoked")

    def accept(self, answer: GrantAnswer) -> None:
        """Take the answer to the pending renewal, once it is checked.

        Where it was signed before the latest stop that was heard of, only its units are taken: its time is over.
        """
        grant = self.grant = answer.grant
        self.pending = None
        self.consumers = grant.consumers
        if answer.version >= self.version:
            self.version, self.state, self.reason = answer.version, LeaseState.ACTIVE, ""
        if grant.stop_epoch >= self.stop_epoch:
            self.stop_epoch = grant.stop_epoch
            self._granted_ns = self._drawn_ns
            self.soft_ns = self._drawn_ns + grant.soft_ms * NS_PER_MS
            self.hard_ns = self._drawn_ns + grant.ttl_ms * NS_PER_MS

    def hear(self, status: LeaseStatus) -> bool:
        """Take what the custodian says of the lease; True where that was news.

        The last word counts, with one exception: a ledger that has forgotten a stop does not undo it.
        """
        before = (self.version, self.state, self.quarantined)
        self.quarantined = self.quarantined or status.quarantined
        self.version = status.version
        if status.stop_epoch > self.stop_epoch:
            # Whatever was granted before the stop is over, even if nothing was heard of the stop itself.
            self.stop_epoch = status.stop_epoch
            self.soft_ns = self.hard_ns = 0
            self.waits_for = "the custodian has been asked for it once more"
        if status.stop_epoch == self.stop_epoch or status.state is not LeaseState.ACTIVE:
            self.state, self.reason = status.state, status.reason
        return (self.version, self.state, self.quarantined) != before

    # What follows.

    @property
    def barred(self) -> bool:
        """Whether a renewal would be refused."""
        return self.quarantined or self.state is not LeaseState.ACTIVE

    @property
    def until_ns(self) -> int:
        """No query may start from then on; 0 where none may start at all."""
        return self.soft_ns if self.loaded and not self.barred else 0

    def phase(self, now_ns: int) -> Phase:
        """Where the lease is."""
        if self.quarantined:
            return Phase.QUARANTINED
        if self.state is LeaseState.STOPPED:
            return Phase.STOPPED
        if self.state is LeaseState.PAUSED:
            return Phase.PAUSED
        if self.grant is None or not self.hard_ns:
            return Phase.WAITING
        if now_ns >= self.hard_ns:
            return Phase.EXPIRED
        if now_ns >= self.soft_ns:
            return Phase.SOFT
        return Phase.SERVING if self.loaded else Phase.WAITING

    def wipe(self, now_ns: int) -> bool:
        """Whether key and weights must not be in memory."""
        return now_ns >= self.hard_ns or self.quarantined or self.state is LeaseState.STOPPED

    def renew_ns(self) -> int:
        """When to ask for time: 0, which is at once, before the first grant."""
        return self._granted_ns + (self.soft_ns - self._granted_ns) // _RENEW_AFTER if self.soft_ns else 0

    def refusal(self, now_ns: int) -> BlindAIError:
        """What a query is told that may not start now."""
        words = f": {self.reason}" if self.reason else ""
        match self.phase(now_ns):
            case Phase.QUARANTINED:
                return LeaseStopped(
                    f"the custodian of this model bars this enclave from it{words}",
                    code="lease.quarantined",
                    hint="the borrower has to settle this with the custodian, then restart the enclave",
                )
            case Phase.STOPPED:
                return LeaseStopped(
                    f"the custodian has stopped this model{words}",
                    code="lease.stopped",
                    hint="it runs again, without a restart, once the custodian resumes it",
                )
            case Phase.PAUSED:
                return LeaseStopped(
                    f"the custodian has paused this model{words}",
                    code="lease.paused",
                    hint="it runs again, without a restart, once the custodian resumes it",
                )
            case Phase.SOFT | Phase.EXPIRED:
                return LeaseExpired(
                    "the lease of this model has run out, and the custodian cannot be reached to renew it",
                    code="lease.expired",
                    hint="the enclave goes on trying; its operator should look at the line to the custodian",
                )
            case Phase.WAITING | Phase.SERVING:
                return Unavailable(
                    f"this model is on loan and not here yet: {self.waits_for}",
                    code="lease.waiting",
                    hint="try again soon",
                )


def _check_sense(grant: Grant) -> None:
    """Refuse what no custodian can mean, whatever was asked."""
    if not 0 < grant.soft_ms <= grant.ttl_ms <= MAX_TTL_MS:
        _refuse("is for no time that makes sense")
    if grant.unit is not Unit.QUERIES:
        _refuse("counts in another unit than queries")
    if not grant.quantities.keys() <= grant.consumers.keys():
        _refuse("gives units to somebody whom it does not name")
    if ANYONE in grant.consumers and len(grant.consumers) > 1:
        _refuse("is for anyone and for somebody at once")


def _refuse(fault: str) -> NoReturn:
    raise Unavailable(f"the custodian's grant {fault}", code="lease.grant")
