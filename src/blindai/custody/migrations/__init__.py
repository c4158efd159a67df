"""The history of the custodian's tables: one file in `versions` for each change, applied in order.

Whoever changes `custody.tables` writes another file there; the tests compare where the files lead with the tables. A
file that was released never changes.
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

from blindai.custody.tables import metadata
from blindai.errors import ConfigurationError
from blindai.web.database import POSTGRESQL, Database, retrying

# Where env.py finds the connection.
CONNECTION: Final = "connection"

# Two processes that start at once take turns (PostgreSQL documentation, 9.27.10); any number will do.
_LOCK: Final = 0xB11DA1

_TARGET: Final = "head"


@retrying
def upgrade(database: Database) -> None:
    """Make the tables, or bring those of an earlier release to the form of this one. All of it, or nothing.

    Raises:
        ConfigurationError: `configuration.database_version`, if a later release has been here;
            `configuration.database`, if the database holds other tables of these names.
        Unavailable: as `Database.write`.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with database.write() as connection:
        if database.dialect == POSTGRESQL:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        _require_ours(connection, ScriptDirectory.from_config(config), database.name)
        config.attributes[CONNECTION] = connection
        command.upgrade(config, _TARGET)


def _require_ours(connection: Connection, script: ScriptDirectory, name: str) -> None:
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
