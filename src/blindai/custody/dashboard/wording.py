"""How the pages say numbers, times and kinds of events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from markupsafe import Markup

from blindai.custody.log import Kind
from blindai.wire.custody import Unit

# As `static/live.js` of the web package says spans.
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))

# Two units are told while the larger one is small: "1 h 20 min", but "12 h".
_TELLING: Final = 10

_SHORT_DIGITS: Final = 12

# The page's script keeps both running.
_AGO: Final = Markup('<time datetime="{}" title="{}" data-ago>{}</time>')
_LEFT: Final = Markup('<time datetime="{}" title="{}" data-left>{}</time>')

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


def number(value: int) -> str:
    """1234567 as "1,234,567"."""
    return f"{value:,}"


def units(value: int, unit: Unit) -> str:
    """A number of units with its unit: "1 query", "1,000 queries"."""
    return f"{number(value)} {_ONE[unit] if value == 1 else unit.value}"


def span(seconds: float) -> str:
    """A length of time: "42 s", "1 min 5 s", "3 h", "12 d"."""
    left = max(0, int(seconds))
    for index, (size, name) in enumerate(_SPANS):
        if left >= size:
            whole, rest = divmod(left, size)
            text = f"{whole} {name}"
            if whole < _TELLING and size > 1 and rest >= _SPANS[index + 1][0]:
                text += f" {rest // _SPANS[index + 1][0]} {_SPANS[index + 1][1]}"
            return text
    return "0 s"


def milliseconds(value: int) -> str:
    """`span`, of milliseconds; below one second as they are."""
    return f"{value} ms" if value < 1000 else span(value / 1000)


def exact(at: datetime) -> str:
    """A moment to the second, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def short(digest: str) -> str:
    """The first digits of a digest, enough to tell it from others by eye."""
    return digest[:_SHORT_DIGITS]


def kind(name: str) -> str:
    """A kind of event in words; one that is not known, as it is."""
    return KINDS.get(name, name)


class Wording:
    """The filters of the templates.

    Args:
        now: the wall clock, in UTC.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now

    @property
    def filters(self) -> dict[str, Any]:
        """By the names that templates call them."""
        return {
            "ago": self.ago,
            "exact": exact,
            "kind": kind,
            "left": self.left,
            "milliseconds": milliseconds,
            "number": number,
            "short": short,
            "span": span,
            "units": units,
        }

    def ago(self, at: datetime) -> Markup:
        """How long ago `at` was; the exact time in the title. Browsers keep it running."""
        seconds = (self.now() - at).total_seconds()
        return _time(at, _AGO, "just now" if seconds < 1 else f"{span(seconds)} ago")

    def left(self, at: datetime) -> Markup:
        """How long it is until `at`, or was since."""
        seconds = (at - self.now()).total_seconds()
        return _time(at, _LEFT, f"in {span(seconds + 0.999)}" if seconds > 0 else f"{span(-seconds)} ago")


def _time(at: datetime, form: Markup, text: str) -> Markup:
    return form.format(at.astimezone(UTC).isoformat(), exact(at), text)
