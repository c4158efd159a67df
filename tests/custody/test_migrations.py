"""Migrations lead to the tables that the code has, from any release, in any order of processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from blindai.custody import migrations
from blindai.custody.migrations import upgrade
from blindai.custody.tables import metadata
from blindai.errors import ConfigurationError
from blindai.web import migrations as web_migrations
from blindai.web.database import Database
from table_shapes import made_at_once, revisions, shape, version


def test_migrations_lead_to_the_tables_of_the_code(database: Database) -> None:
    expected = made_at_once(database, metadata)
    upgrade(database)
    assert shape(database) == expected
    assert expected.keys() == metadata.tables.keys()


@pytest.mark.parametrize("release", revisions(migrations))
def test_every_earlier_release_is_brought_here(
    database: Database, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(web_migrations, "_TARGET", release)
        upgrade(database)
        assert version(database) == release
    upgrade(database)
    assert version(database) == revisions(migrations)[-1]
    assert shape(database).keys() == metadata.tables.keys()


def test_upgrade_of_what_is_up_to_date_changes_nothing(database: Database) -> None:
    upgrade(database)
    before = shape(database)
    upgrade(database)
    assert shape(database) == before


def test_many_processes_may_start_at_once(database_url: str) -> None:
    databases = [Database.open(database_url) for _ in range(4)]
    with ThreadPoolExecutor(len(databases)) as pool:
        list(pool.map(upgrade, databases))
    assert shape(databases[0]).keys() == metadata.tables.keys()
    for database in databases:
        database.dispose()


def test_later_release_is_refused_and_left_as_it_is(database: Database) -> None:
    upgrade(database)
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    before = shape(database)
    with pytest.raises(ConfigurationError) as caught:
        upgrade(database)
    assert caught.value.code == "configuration.database_version"
    assert shape(database) == before


def test_tables_of_another_program_are_left_alone(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("CREATE TABLE leases (of_flats TEXT)"))
    with pytest.raises(ConfigurationError) as caught:
        upgrade(database)
    assert caught.value.code == "configuration.database"
    assert shape(database).keys() == {"leases"}


def test_upgrade_that_fails_in_the_middle_leaves_nothing(database: Database) -> None:
    # An index of this name is what the last revision cannot make again.
    with database.write() as connection:
        connection.execute(sa.text("CREATE TABLE other (x INTEGER)"))
        connection.execute(sa.text("CREATE INDEX sign_in_attempts_failed_at ON other (x)"))
    with pytest.raises(sa.exc.DBAPIError):
        upgrade(database)
    assert shape(database).keys() == {"other"}


def test_rule_of_the_money_stands_in_the_database(database: Database) -> None:
    upgrade(database)
    table = metadata.tables["leases"]
    filling = {
        column.name: 0 if isinstance(column.type, sa.Integer) else b"" if column.name == "model_key" else ""
        for column in table.columns
    }
    for overspent in (
        {"budget": 1, "granted": 2},
        {"budget": 2, "granted": 1, "spent": 2},
        {"budget": 1, "granted": 1, "spent": -1},
    ):
        with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
            connection.execute(table.insert().values(filling | overspent))
