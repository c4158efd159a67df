"""Ledgers for tests, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blindai.custody import tables
from blindai.web.database import Database
from lending import Custodian, assert_sound


@pytest.fixture
def custodian(database: Database, tmp_path: Path) -> Iterator[Custodian]:
    """A ledger that has lent nothing yet. Whatever a test does with it, its books must balance in the end."""
    with database.write() as connection:
        tables.metadata.create_all(connection)
    made = Custodian(database, tmp_path)
    yield made
    for lease in made.ledger.versions():
        assert_sound(database, made.keys.public_key, lease)
