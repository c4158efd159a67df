"""Where a control plane is, and what it needs to be installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blindai.cli.database import database_address
from blindai.cli.extras import require_extra
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from blindai.web.database import Database

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="FOLDER", help="The control plane's files; by default in your data folder."),
]


@contextmanager
def existing_database(data: Path | None, database: str | None, database_file: Path | None) -> Iterator[Database]:
    """The database of a control plane that has been served before, for commands beside the server.

    Raises:
        ConfigurationError: `configuration.cloud_absent`, there is none; `configuration.*`, as `Database.open`.
        Unavailable: `unavailable.*`, the database does not answer.
    """
    require_cloud_extra()
    from blindai.cloud import migrations
    from blindai.cloud.control_plane import Place
    from blindai.web.database import Database

    place = Place.at(data, database_address(database, database_file), make=False)
    if "://" not in place.database and not Path(place.database).is_file():
        raise ConfigurationError(
            f"there is no control plane in {place.data}: {place.database} does not exist",
            code="configuration.cloud_absent",
            hint="name its folder or its database: --data FOLDER, --database URL; `blindai cloud serve` makes one",
        )
    opened = Database.open(place.database)
    try:
        migrations.upgrade(opened)
        yield opened
    finally:
        opened.dispose()


def require_cloud_extra() -> None:
    """Refuse in words where only the client is installed.

    Raises:
        ConfigurationError: `configuration.cloud_missing`.
    """
    modules = ("alembic", "argon2", "uvicorn", "webauthn")
    require_extra("cloud", "control plane", *modules, code="configuration.cloud_missing")
