"""What an enclave tells a consumer of the lease of a model: the answer of `GET /v2/models/{model}/lease`."""

from __future__ import annotations

import msgspec

STATES = ("waiting", "serving", "soft", "expired", "paused", "stopped", "quarantined")
"""The states of a lease, as the enclave knows them. Only while `serving` a query may run."""


class LeaseRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request for more budget.

    Attributes:
        id: the custodian's name for it.
        state: `pending`, `approved` or `denied`.
        reason: the custodian's words to the consumer.
        granted: units that were approved.
    """

    id: str
    state: str
    reason: str = ""
    granted: int = 0


class ModelLease(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a lease stands for the consumer who asks.

    Attributes:
        model: the model's id.
        state: one of `STATES`.
        reason: the custodian's words, where the lease is paused or stopped.
        used: units that were spent by all instances of the enclave, as far as this one knows.
        budget: units that the consumer may spend in all.
        soft_ms: until no new query starts, unless the lease is renewed before.
        hard_ms: until key and weights are wiped, unless the lease is renewed before.
        request: the latest request for more budget.
    """

    model: str
    state: str
    reason: str = ""
    used: int = 0
    budget: int = 0
    soft_ms: int = 0
    hard_ms: int = 0
    request: LeaseRequest | None = None

    @property
    def left(self) -> int:
        """Units that may still be spent."""
        return max(0, self.budget - self.used)
