"""Control planes for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_scene import CloudScene
from lease_enclaves import Platform


@pytest.fixture(scope="session")
def platform() -> Platform:
    """The machine of all enclaves."""
    return Platform()


@pytest.fixture
def scene(tmp_path: Path, database_url: str, platform: Platform) -> Iterator[CloudScene]:
    """A control plane, on SQLite and on PostgreSQL."""
    with CloudScene(tmp_path, database_url, platform=platform) as one:
        yield one


@pytest.fixture
def small_scene(tmp_path: Path, platform: Platform) -> Iterator[CloudScene]:
    """A control plane on SQLite alone."""
    with CloudScene(tmp_path, platform=platform) as one:
        yield one
