"""Exports of real leases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lease_world import World, full_life


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, list[bytes]]]:
    """A full life, and its export: made once, not to be changed."""
    made = World(tmp_path_factory.mktemp("life"))
    yield made, made.export(full_life(made))
    made.close()
