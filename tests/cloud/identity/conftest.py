"""Every test of people runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest

from blindai.web.database import Database
from people_world import PeopleWorld


@pytest.fixture
def world(shared_database: Database) -> PeopleWorld:
    return PeopleWorld(shared_database)
