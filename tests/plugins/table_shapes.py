"""What a database says of its tables, and what the history of a program's tables has: for tests of migrations."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine.interfaces import ReflectedIndex

from blindai.web.database import Database


def shape(database: Database) -> dict[str, Any]:
    """Everything that the database says of its tables."""
    with database.read() as connection:
        inspector = sa.inspect(connection)
        return {
            name: {
                "columns": sorted(
                    (column["name"], repr(column["type"]), column["nullable"], column["default"])
                    for column in inspector.get_columns(name)
                ),
                "primary key": inspector.get_pk_constraint(name),
                "foreign keys": sorted(map(repr, inspector.get_foreign_keys(name))),
                "unique": sorted(map(repr, inspector.get_unique_constraints(name))),
                "checks": sorted(map(repr, inspector.get_check_constraints(name))),
                "indexes": sorted(map(_index, inspector.get_indexes(name))),
            }
            for name in inspector.get_table_names()
            if name != "alembic_version"
        }


def made_at_once(database: Database, metadata: sa.MetaData) -> dict[str, Any]:
    """The shape of the tables as the code has them, in a database that is empty before and after."""
    with database.write() as connection:
        metadata.create_all(connection)
    made = shape(database)
    with database.write() as connection:
        metadata.drop_all(connection)
    return made


def revisions(migrations: ModuleType) -> list[str]:
    """The releases of a program's tables, the first one first."""
    config = Config()
    config.set_main_option("script_location", str(Path(str(migrations.__file__)).parent))
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]


def version(database: Database) -> str:
    """The release that the database is at."""
    with database.read() as connection:
        found: str = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one()
    return found


def _index(found: ReflectedIndex) -> str:
    options = {name: str(value) for name, value in found.get("dialect_options", {}).items()}
    return repr(found | {"dialect_options": options})
