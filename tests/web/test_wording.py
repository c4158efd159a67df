"""Numbers and times in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from blindai.web import wording

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (65, "1 min 5 s"),
        (600, "10 min"),
        (659, "10 min"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (36_061, "10 h"),
        (86_400 * 2 + 3600, "2 d 1 h"),
        (86_400 * 400, "400 d"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert wording.span(seconds) == text


def test_times_are_relative_with_the_exact_one_in_the_title() -> None:
    filters = wording.Wording(lambda: NOW).filters
    ago = filters["ago"](NOW - timedelta(minutes=3))
    assert ago == (
        '<time datetime="2026-06-01T11:57:00+00:00" title="2026-06-01 11:57:00 UTC" data-ago>3 min ago</time>'
    )
    assert ">just now<" in filters["ago"](NOW)
    assert ">just now<" in filters["ago"](NOW + timedelta(days=365))
    assert ">in 42 s<" in filters["left"](NOW + timedelta(seconds=41.5))
    assert ">5 s ago<" in filters["left"](NOW - timedelta(seconds=5))


def test_times_of_other_zones_are_told_in_utc() -> None:
    assert wording.exact(NOW.astimezone(timezone(timedelta(hours=9)))) == "2026-06-01 12:00:00 UTC"
