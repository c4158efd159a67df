"""A short fault campaign: a few steps and histories between real processes. `make campaign` makes hundreds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fault_histories import History, Site, Step, killed_at, nursed

SEED = 20261121
HISTORIES = 2
LENGTH = 4

# One at which each of the two has promised something that the other does not know.
STEPS = [Step(1, 7, True, "custodian"), Step(1, 8, False, "enclave"), Step(1, 0, False, "custodian")]


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    processes = 1 if "://" not in database_url else 2
    with nursed(), Site(tmp_path, database_url, processes=processes, chance=random.Random(SEED)) as made:
        yield made


@pytest.mark.timeout(300)  # a busy machine takes seconds to start a process, and dozens are started
def test_nothing_is_overspent_or_lost_between_processes(site: Site, figures: Callable[[str], None]) -> None:
    for step in STEPS:
        assert killed_at(site, step, random.Random(f"{SEED} {step}")), f"{step} was not reached"
    for number in range(HISTORIES):
        history = History(site, random.Random(f"{SEED} {number}"), str(number))
        history.live(LENGTH)
        history.end()
    counts = {what: count for what, count in sorted(site.happened.items()) if not what.startswith("refused")}
    figures(f"{site.dialect}, seed {SEED}: {', '.join(f'{count} {what}' for what, count in counts.items())}")
    assert site.findings == []
