"""Accounts on a database that the tests of a module share, of each kind."""

from __future__ import annotations

import pytest

from account_world import World
from blindai.web.database import Database


@pytest.fixture
def world(shared_database: Database) -> World:
    return World(shared_database)
