"""The history of a program's tables: a folder with one file in `versions` for each change, applied in order.

Whoever changes the tables writes another file there; the tests compare where the files lead with the tables. A file
that was released never changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from blindai.errors import ConfigurationError
from blindai.web.database import POSTGRESQL, Database, retrying

# Where env.py finds the connection, in the attributes of alembic's configuration.
CONNECTION: Final = "connection"

_TARGET: Final = "head"


@retrying
def upgrade(database: Database, metadata: sa.MetaData, *, folder: Path, lock: int) -> None:
    """Make the tables, or bring those of an earlier release to the form of this one. All of it, or nothing.

    Args:
        metadata: the tables.
        folder: of the history.
        lock: two processes that start at once take turns by it (PostgreSQL documentation, 9.27.10); any number will do.

    Raises:
        ConfigurationError: `configuration.database_version`, if a later release has been here;
            `configuration.database`, if the database holds other tables of these names.
        Unavailable: as `Database.write`.
    """
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    with database.write() as connection:
        if database.dialect == POSTGRESQL:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))
        _require_ours(connection, metadata, ScriptDirectory.from_config(config), database.name)
        config.attributes[CONNECTION] = connection
        command.upgrade(config, _TARGET)


def _require_ours(connection: Connection, metadata: sa.MetaData, script: ScriptDirectory, name: str) -> None:
    reached = MigrationContext.configure(connection).get_current_heads()
    known = {revision.revision for revision in script.walk_revisions()}
    if not known.issuperset(reached):
        raise ConfigurationError(
            f"{name} was written by a later release of this program",
            code="configuration.database_version",
            hint="install that release, or restore the backup that was made before",
        )
    if not reached and metadata.tables.keys() & set(sa.inspect(connection).get_table_names()):
        raise ConfigurationError(
            f"{name} holds tables of another program", code="configuration.database", hint="give an empty database"
        )
