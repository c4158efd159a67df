"""A clock, and the tables of the web in a database."""

from __future__ import annotations

import pytest
from sqlalchemy import MetaData, Table

from blindai.web.database import Database
from blindai.web.tables import attempt_table, session_table
from hand_clock import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def session_rows(database: Database) -> Table:
    return _made(database, session_table(MetaData()))


@pytest.fixture
def attempt_rows(database: Database) -> Table:
    return _made(database, attempt_table(MetaData()))


def _made(database: Database, table: Table) -> Table:
    with database.write() as connection:
        table.create(connection)
    return table
