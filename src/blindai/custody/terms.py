"""The terms of a lease: everything that is agreed when a model is lent, checked before anything is stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blindai.attestation.policy import Policy
from blindai.custody.amounts import require_amount
from blindai.errors import ConfigurationError, InvalidInput
from blindai.wire.custody import ANYONE, MAX_AMOUNT, MAX_CONSUMERS, Unit

# The dead man's switch. An enclave renews after a third of the soft time, every 15 seconds as it comes: two renewals
# may be lost before a query is refused, and a query that has started then has another 15 seconds to end.
DEFAULT_SOFT_MS: Final = 45_000
DEFAULT_TTL_MS: Final = 60_000

# A third of it must be enough for a renewal over a slow line.
MIN_SOFT_MS: Final = 300
# A cut line may keep a stopped model alive for this long. Longer is no dead man's switch.
MAX_TTL_MS: Final = 24 * 60 * 60 * 1000

# What one instance holds of one consumer's budget at most, and so what its crash can cost. At ten thousand queries a
# second it asks for more every second.
DEFAULT_TRANCHE: Final = 10_000

# Clones that may serve at once. Each is counted at every renewal.
MAX_INSTANCES: Final = 1_000

# Operators who must agree; more than this have not met in one room.
MAX_APPROVALS: Final = 16

# What people read on one line.
MAX_NAME_CHARACTERS: Final = 100

MODEL_KEY_BYTES: Final = 32

_PART: Final = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
_MODEL_ID: Final = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_CONSUMER: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a lease is made of.

    Attributes:
        name: for people.
        borrower: who runs the enclave, for people.
        model_id: as consumers call it, `namespace/name`.
        model_digest: SHA-256 of the model in clear, in hex, as the header of the sealed model has it.
        artefact: file of the sealed model.
        policy: text of the manifest by which enclaves are appraised.
        budget: units that may be spent in all.
        consumers: by name, the budget of each, or None where only the lease's bounds it.
        open_to_anyone: there are no consumers and no tokens: whoever reaches the enclave spends from the lease.
        unit: what is counted.
        soft_ms, ttl_ms: from the challenge of a renewal on, when no new query starts, and when key and weights go.
        tranche_max: units of one consumer that one instance may hold.
        max_instances: instances that may hold a grant at once.
        approvals: operators who must agree to a resume or a raise.
        any_chip: accept a policy that lists no processors. Whoever owns some machine, anywhere, whose protection is
            broken can then forge evidence that the policy accepts (TEE.fail, 2025).

    Raises:
        ConfigurationError: `lease.*`; and `policy.*`, from the manifest.
        InvalidInput: `amount.*`, about a budget; `lease.consumers`, about a name.
    """

    name: str
    borrower: str
    model_id: str
    model_digest: str
    artefact: Path
    policy: str
    budget: int
    consumers: Mapping[str, int | None] = field(default_factory=dict)
    open_to_anyone: bool = False
    unit: Unit = Unit.QUERIES
    soft_ms: int = DEFAULT_SOFT_MS
    ttl_ms: int = DEFAULT_TTL_MS
    tranche_max: int = DEFAULT_TRANCHE
    max_instances: int = 1
    approvals: int = 1
    any_chip: bool = False

    def __post_init__(self) -> None:
        _require_name(self.name, "name", "lease.name")
        _require_name(self.borrower, "borrower", "lease.borrower")
        if _MODEL_ID.fullmatch(self.model_id) is None or ".." in self.model_id:
            raise _wrong("lease.model_id", "a model is called namespace/name, in a-z, 0-9, '.', '_' and '-'")
        if _DIGEST.fullmatch(self.model_digest) is None:
            raise _wrong("lease.model_digest", "the model's digest is SHA-256 in 64 lower-case hex digits")
        if self.unit != Unit.QUERIES:
            raise _wrong("lease.unit", f"this release counts queries, not {self.unit}")
        self._require_times()
        _require_count(self.tranche_max, MAX_AMOUNT, "lease.tranche_max")
        _require_count(self.max_instances, MAX_INSTANCES, "lease.max_instances")
        _require_count(self.approvals, MAX_APPROVALS, "lease.approvals")
        require_amount(self.budget)
        self._require_consumers()
        self._require_chips()

    @property
    def accounts(self) -> dict[str, int | None]:
        """The budgets of all accounts; that of `ANYONE` alone for a lease that is open to anyone."""
        return {ANYONE: None} if self.open_to_anyone else dict(self.consumers)

    def appraisal_policy(self) -> Policy:
        """`policy`, read."""
        return Policy.parse(self.policy, f"the policy of {self.name}")

    def _require_times(self) -> None:
        for name, value in (("soft_ms", self.soft_ms), ("ttl_ms", self.ttl_ms)):
            if type(value) is not int:
                raise _wrong("lease.time", f"{name} is a whole number of milliseconds")
        if not MIN_SOFT_MS <= self.soft_ms < self.ttl_ms <= MAX_TTL_MS:
            raise _wrong(
                "lease.time",
                f"soft_ms is at least {MIN_SOFT_MS}, ttl_ms is more than that and at most {MAX_TTL_MS}; "
                f"these are {self.soft_ms} and {self.ttl_ms}",
            )

    def _require_consumers(self) -> None:
        if self.open_to_anyone and self.consumers:
            raise _wrong("lease.consumers", "a lease that is open to anyone names no consumers")
        if len(self.consumers) > MAX_CONSUMERS:
            raise _wrong("lease.consumers", f"a lease has at most {MAX_CONSUMERS} consumers")
        for name, budget in self.consumers.items():
            require_consumer(name)
            if budget is not None:
                require_amount(budget)

    def _require_chips(self) -> None:
        if not self.appraisal_policy().chips and not self.any_chip:
            raise ConfigurationError(
                "the policy lists no processors, so that evidence of any broken one could be forged",
                code="lease.chips",
                hint="list the borrower's under [chips], or say that any chip will do",
            )


def require_consumer(name: str) -> None:
    """Refuse what is no consumer's name.

    Raises:
        InvalidInput: `lease.consumers`.
    """
    if type(name) is not str or _CONSUMER.fullmatch(name) is None:
        raise InvalidInput(
            "a consumer is called by at most 63 of a-z, 0-9, '.', '_' and '-', first a letter or digit",
            code="lease.consumers",
        )


def _require_name(value: str, what: str, code: str) -> None:
    if type(value) is not str or not value.strip() or len(value) > MAX_NAME_CHARACTERS or not value.isprintable():
        raise ConfigurationError(f"the {what} is 1 to {MAX_NAME_CHARACTERS} printable characters", code=code)


def _require_count(value: int, most: int, code: str) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise _wrong(code, f"{code.partition('.')[2]} is a whole number from 1 to {most}")


def _wrong(code: str, message: str) -> ConfigurationError:
    return ConfigurationError(message, code=code)
