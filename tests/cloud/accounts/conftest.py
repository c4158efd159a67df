"""Every test of accounts runs on SQLite and on PostgreSQL; the tests of a module share a database, and no name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from account_world import World, prepared, sqlite_in
from blindai.web.database import Database
from postgresql import PostgreSQL


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if request.param == "sqlite":
        database = prepared(sqlite_in(tmp_path_factory.mktemp("cloud")))
        yield database
        database.dispose()
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    url = server.create()
    database = prepared(url)
    yield database
    database.dispose()
    server.drop(url)


@pytest.fixture
def world(shared_database: Database) -> World:
    return World(shared_database)
