"""How the custodian's pages say amounts and kinds of events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from blindai.custody.log import Kind
from blindai.web import wording as frame
from blindai.web.wording import number, span
from blindai.wire.custody import Unit

_SHORT_DIGITS: Final = 12

_ONE: Final = {Unit.QUERIES: "query", Unit.TOKENS: "token", Unit.SECONDS: "second", Unit.EPOCHS: "epoch"}

KINDS: Final[Mapping[str, str]] = {
    Kind.LEASE_CREATED: "Lease created",
    Kind.CONSUMER_ADDED: "Consumer added",
    Kind.TOKEN_ISSUED: "Token issued",
    Kind.TOKENS_REVOKED: "Tokens revoked",
    Kind.INSTANCE_ATTESTED: "Instance attested",
    Kind.INSTANCE_CLOSED: "Instance closed",
    Kind.INSTANCE_QUARANTINED: "Instance quarantined",
    Kind.GRANT_ISSUED: "Grant issued",
    Kind.RECORD_ACCEPTED: "Record accepted",
    Kind.REQUEST_FILED: "Budget requested",
    Kind.REQUEST_APPROVED: "Request approved",
    Kind.REQUEST_DENIED: "Request denied",
    Kind.BUDGET_RAISED: "Budget raised",
    Kind.LEASE_PAUSED: "Lease paused",
    Kind.LEASE_STOPPED: "Lease stopped",
    Kind.LEASE_RESUMED: "Lease resumed",
    Kind.PROPOSAL_MADE: "Proposal made",
    Kind.PROPOSAL_AGREED: "Proposal agreed to",
    Kind.PROPOSAL_WITHDRAWN: "Proposal withdrawn",
    Kind.STOP_ACKNOWLEDGED: "Stop acknowledged",
}


def units(value: int, unit: Unit) -> str:
    """A number of units with its unit: "1 query", "1,000 queries"."""
    return f"{number(value)} {_ONE[unit] if value == 1 else unit.value}"


def milliseconds(value: int) -> str:
    """`span`, of milliseconds; below one second as they are."""
    return f"{value} ms" if value < 1000 else span(value / 1000)


def short(digest: str) -> str:
    """The first digits of a digest, enough to tell it from others by eye."""
    return digest[:_SHORT_DIGITS]


def kind(name: str) -> str:
    """A kind of event in words; one that is not known, as it is."""
    return KINDS.get(name, name)


class Wording(frame.Wording):
    """The filters of the custodian's templates."""

    @property
    def filters(self) -> dict[str, Any]:
        return super().filters | {"kind": kind, "milliseconds": milliseconds, "short": short, "units": units}
