"""Accounts on a database that the tests of a module share, of each kind."""

from __future__ import annotations

import pytest

from account_world import Staff, World
from blindai.web.database import Database


@pytest.fixture
def world(shared_database: Database) -> World:
    return World(shared_database)


@pytest.fixture(scope="module")
def standing(shared_database: Database) -> Staff:
    """An organisation and its members for tests of what is refused: none of them changes it."""
    return World(shared_database).staff()
