"""Numbers, times and kinds in words."""

from __future__ import annotations

import pytest

from blindai.custody.dashboard import wording
from blindai.custody.log import Kind
from blindai.wire.custody import Unit


@pytest.mark.parametrize(("value", "text"), [(300, "300 ms"), (1500, "1 s"), (45_000, "45 s"), (86_400_000, "1 d")])
def test_milliseconds(value: int, text: str) -> None:
    assert wording.milliseconds(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1, Unit.QUERIES, "1 query"),
        (0, Unit.QUERIES, "0 queries"),
        (1_234_567, Unit.QUERIES, "1,234,567 queries"),
        (1, Unit.EPOCHS, "1 epoch"),
    ],
)
def test_units(value: int, unit: Unit, text: str) -> None:
    assert wording.units(value, unit) == text


def test_every_kind_of_event_has_words() -> None:
    assert set(wording.KINDS) == set(Kind)
    assert wording.kind("something.new") == "something.new"
