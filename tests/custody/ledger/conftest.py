"""Ledgers for tests, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blindai.custody import tables
from blindai.web.database import Database
from lending import Custodian, assert_sound


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def books(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with the custodian's tables, for all tests of a module: making one takes longer than most of them."""
    server = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    url = server.create() if server else str(tmp_path_factory.mktemp("books") / "ledger.sqlite3")
    database = Database.open(url)
    with database.write() as connection:
        tables.metadata.create_all(connection)
    yield database
    database.dispose()
    if server:
        server.drop(url)


@pytest.fixture
def custodian(books: Database, tmp_path: Path) -> Iterator[Custodian]:
    """A ledger that has lent nothing yet. Whatever a test does with it, its books must balance in the end."""
    with books.write() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())
    made = Custodian(books, tmp_path)
    yield made
    for lease in made.ledger.versions():
        assert_sound(books, made.keys.public_key, lease)
