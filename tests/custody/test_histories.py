"""Never overspent, in any history: clones, restarts, replays, lost messages, stops and clocks, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from lease_histories import histories
from lease_world import World

# In so many, each kind of event comes up. The campaign (`make campaign`) runs many more.
EXAMPLES = 12
STEPS = 30


@pytest.mark.timeout(300)  # hundreds of transactions, each of which waits for the disk
def test_nothing_is_overspent_in_any_history(tmp_path: Path, database_url: str, figures: Callable[[str], None]) -> None:
    world = World(tmp_path, database_url)
    machine = histories(world)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            database=None,
        ),
    )
    figures(f"{world.database.dialect}: {', '.join(f'{count} {what}' for what, count in machine.happened.items())}")
    assert machine.happened["histories"] >= EXAMPLES
    world.close()
