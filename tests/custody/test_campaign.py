"""A short fault campaign: a few steps and histories between real processes. `make campaign` makes hundreds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from fault_histories import History, Site, Step, killed_at
from postgresql import PostgreSQL, program

SEED = 20261121
HISTORIES = 2
LENGTH = 4

# One at which each of the two has promised something that the other does not know.
STEPS = [Step(1, 7, True, "custodian"), Step(1, 8, False, "enclave"), Step(1, 0, False, "custodian")]


def play(folder: Path, database_url: str | None, *, processes: int) -> Site:
    with Site(folder, database_url, processes=processes, chance=random.Random(SEED)) as site:
        for step in STEPS:
            assert killed_at(site, step, random.Random(f"{SEED} {step}")), f"{step} was not reached"
        for number in range(HISTORIES):
            history = History(site, random.Random(f"{SEED} {number}"), str(number))
            history.live(LENGTH)
            history.end()
    return site


@pytest.fixture(scope="module")
def sites(
    request: pytest.FixtureRequest, forked: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[Site]]]:
    """What becomes of a custodian on each database. They mostly wait, for leases to expire: so both play at once."""
    folder = tmp_path_factory.mktemp("campaign")
    with ThreadPoolExecutor() as pool:
        begun = {"sqlite": pool.submit(play, folder / "sqlite", None, processes=1)}
        if program("initdb") is not None:
            server: PostgreSQL = request.getfixturevalue("postgresql")
            begun["postgresql"] = pool.submit(play, folder / "postgresql", server.create(), processes=2)
        yield begun


@pytest.mark.timeout(300)  # a busy machine takes seconds to start a process, and dozens are started
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_nothing_is_overspent_or_lost_between_processes(
    request: pytest.FixtureRequest,
    sites: Mapping[str, Future[Site]],
    dialect: str,
    figures: Callable[[str], None],
) -> None:
    if dialect not in sites:
        request.getfixturevalue("postgresql")  # which says why not
    site = sites[dialect].result()
    counts = {what: count for what, count in sorted(site.happened.items()) if not what.startswith("refused")}
    figures(f"{site.dialect}, seed {SEED}: {', '.join(f'{count} {what}' for what, count in counts.items())}")
    assert site.dialect == dialect
    assert site.findings == []
