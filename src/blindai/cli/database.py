"""The options that say where a program's database is. A password in them would be seen by others on the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from blindai.errors import ConfigurationError

DatabaseAddress = Annotated[
    str | None,
    typer.Option(
        "--database", metavar="URL", help="postgresql://user@host/name, or a SQLite file; else one in --data."
    ),
]
DatabaseFile = Annotated[
    Path | None,
    typer.Option("--database-file", metavar="FILE", help="A file that holds the URL, where a password is in it."),
]

# The URL of a database is one line of text.
_MAX_URL_BYTES: Final = 4096


def database_address(database: str | None, file: Path | None) -> str | None:
    """The address, whose password nobody but the owner of a file could have read; None where none was given.

    Raises:
        ConfigurationError: `configuration.database`, `configuration.database_password`.
    """
    if database is not None and file is not None:
        raise ConfigurationError("give one of --database and --database-file", code="configuration.database")
    if file is not None:
        return _line(file)
    if database is not None and "://" in database:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            password = make_url(database).password
        except ArgumentError:
            password = None  # not an address; `Database.open` says so
        if password is not None:
            raise ConfigurationError(
                "the address of the database holds a password, which others on this machine can read",
                code="configuration.database_password",
                hint="put the address into a file: --database-file FILE; or the password into ~/.pgpass",
            )
    return database


def _line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_URL_BYTES + 1).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the address of the database cannot be read from {path}: {error}", code="configuration.database"
        ) from error
    if not text or len(text) > _MAX_URL_BYTES or "\n" in text:
        raise ConfigurationError(f"{path} does not hold the address of a database", code="configuration.database")
    return text
