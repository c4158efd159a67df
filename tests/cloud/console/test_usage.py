"""What was used: sums by day, what the plots get, and the page."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from blindai.cloud.console.usage import SHOWN_DAYS, SHOWN_HOURS, days, plots
from blindai.wire.cloud import UsageTotal
from blindai.wire.cloud_api import UsageHour
from cloud_scene import CloudScene
from console_world import Person

NOW = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_hours_become_days_of_utc() -> None:
    hours = [
        UsageHour(hour=datetime(2026, 2, 28, 0, tzinfo=UTC), queries=1, uploads=1),
        UsageHour(hour=datetime(2026, 2, 28, 23, tzinfo=UTC), queries=2, failed=1, deletions=4),
        UsageHour(hour=datetime(2026, 3, 1, 0, tzinfo=UTC), queries=5, limited=3),
    ]
    assert days(hours) == (
        UsageHour(hour=datetime(2026, 2, 28, tzinfo=UTC), queries=3, failed=1, uploads=1, deletions=4),
        UsageHour(hour=datetime(2026, 3, 1, tzinfo=UTC), queries=5, limited=3),
    )
    assert days([]) == ()


def test_plots_have_a_point_for_every_hour_and_day() -> None:
    this = NOW.replace(minute=0)
    made = plots([UsageHour(hour=this - HOUR, queries=2, failed=1), UsageHour(hour=this, limited=3)], NOW)
    hours, dates = made["hours"], made["days"]
    assert len(hours["times"]) == len(hours["queries"]) == SHOWN_HOURS
    assert len(dates["times"]) == len(dates["limited"]) == SHOWN_DAYS
    assert hours["times"][-1] == int(this.timestamp())
    assert (hours["queries"][-2:], hours["failed"][-2:], hours["limited"][-2:]) == ([2, 0], [1, 0], [0, 3])
    # The last hour of February, and the first of March.
    assert (dates["queries"][-2:], dates["limited"][-2:]) == ([2, 0], [0, 3])
    assert sum(hours["queries"]) == sum(dates["queries"]) == 2


def test_the_page_tells_what_the_plots_show(alice: Person, small_scene: CloudScene) -> None:
    page = "/accounts/alice/usage"
    assert "Nothing was asked yet" in alice.get(page).words
    key = small_scene.key(alice.id, "alice")
    total = UsageTotal(namespace="alice", key_id=key.id, queries=1200, failed=34, limited=5, uploads=2, deletions=1)
    small_scene.played().report(totals=(total,))
    answer = alice.get(page)
    assert "Queries this month 1,200 of 100,000" in answer.words
    assert "1,200 34 5 2 1" in answer.words
    assert 'data-counts="/accounts/alice/usage/counts"' in answer.text
    counts = alice.get(page + "/counts")
    assert counts.header("content-type") == "application/json"
    told = json.loads(counts.body)
    assert (told["hours"]["queries"][-1], told["days"]["failed"][-1]) == (1200, 34)


def test_others_see_nothing_of_it(bob: Person, alice: Person) -> None:
    assert alice.get("/accounts/alice/usage/counts").status == 200
    for path in ("usage", "usage/counts"):
        refused, unknown = bob.get(f"/accounts/alice/{path}"), bob.get(f"/accounts/nowhere/{path}")
        assert (refused.status, refused.words) == (404, unknown.words.replace("nowhere", "alice"))
