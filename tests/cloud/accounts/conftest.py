"""Every test of accounts runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest

from account_world import World
from blindai.web.database import Database


@pytest.fixture
def world(shared_database: Database) -> World:
    return World(shared_database)
