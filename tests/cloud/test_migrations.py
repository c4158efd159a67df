"""Migrations lead to the control plane's tables, from any release; what is another program's is left alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from blindai.cloud import migrations
from blindai.cloud.migrations import upgrade
from blindai.cloud.tables import metadata
from blindai.custody import migrations as custodian
from blindai.errors import ConfigurationError
from blindai.web import migrations as web_migrations
from blindai.web.database import Database
from table_shapes import made_at_once, revisions, shape, version


def test_migrations_lead_to_the_tables_of_the_code(database: Database) -> None:
    expected = made_at_once(database, metadata)
    upgrade(database)
    assert shape(database) == expected
    assert expected.keys() == metadata.tables.keys()
    upgrade(database)
    assert shape(database) == expected


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


def test_many_processes_may_start_at_once(database_url: str) -> None:
    databases = [Database.open(database_url) for _ in range(4)]
    with ThreadPoolExecutor(len(databases)) as pool:
        list(pool.map(upgrade, databases))
    assert shape(databases[0]).keys() == metadata.tables.keys()
    for database in databases:
        database.dispose()


@pytest.mark.parametrize(
    ("first", "second"), [(custodian, migrations), (migrations, custodian)], ids=["custodian first", "cloud first"]
)
def test_a_custodian_and_a_control_plane_do_not_share_a_database(
    database: Database, first: object, second: object
) -> None:
    """Both have a table of sessions: who is signed in at one must not be at the other."""
    assert not set(revisions(custodian)) & set(revisions(migrations))
    getattr(first, "upgrade")(database)  # noqa: B009 - modules have no type that says so
    before = shape(database)
    with pytest.raises(ConfigurationError) as caught:
        getattr(second, "upgrade")(database)  # noqa: B009 - as above
    assert caught.value.code == "configuration.database_version"
    assert shape(database) == before


def test_tables_of_another_program_are_left_alone(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("CREATE TABLE users (of_cars TEXT)"))
    with pytest.raises(ConfigurationError) as caught:
        upgrade(database)
    assert caught.value.code == "configuration.database"
    assert shape(database).keys() == {"users"}
