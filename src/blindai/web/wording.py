"""How pages say numbers, times and spans of time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from markupsafe import Markup

# As `static/live.js` says spans.
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))

# Two units are told while the larger one is small: "1 h 20 min", but "12 h".
_TELLING: Final = 10

# The page's script keeps both running.
_AGO: Final = Markup('<time datetime="{}" title="{}" data-ago>{}</time>')
_LEFT: Final = Markup('<time datetime="{}" title="{}" data-left>{}</time>')


def number(value: int) -> str:
    """1234567 as "1,234,567"."""
    return f"{value:,}"


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


def exact(at: datetime) -> str:
    """A moment to the second, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


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
        return {"ago": self.ago, "exact": exact, "left": self.left, "number": number, "span": span}

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
