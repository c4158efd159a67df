"""The options that say where a custodian is and what opens its keys, and the custodian that they describe."""

from __future__ import annotations

import getpass
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from blindai.cli.console import err
from blindai.cli.database import DatabaseAddress, DatabaseFile, database_address
from blindai.cli.extras import require_extra
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from blindai.custody.custodian import Custodian
    from blindai.custody.unlocking import Lock, Unlock

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="FOLDER", help="The custodian's files; by default in your data folder."),
]
UnlockFile = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="What opens the custodian's keys; else unlock.key in --data."),
]
AskPassphrase = Annotated[
    bool, typer.Option("--passphrase", help="At the first start: lock the keys with a passphrase that you type.")
]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", metavar="FILE", help="A file that holds the passphrase, one line.")
]


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """The options as they were given."""

    data: Data = None
    database: DatabaseAddress = None
    database_file: DatabaseFile = None
    key_file: UnlockFile = None
    passphrase: AskPassphrase = False
    passphrase_file: PassphraseFile = None

    def open(self) -> Custodian:
        """The custodian, with its keys open. Where there is none yet, a new one.

        Raises:
            ConfigurationError: `configuration.*`, `custodian.locked`, `custodian.unlock`, `custodian.keys`.
            Unavailable: `unavailable.*`, the database does not answer.
        """
        require_custodian_extra()
        from blindai.custody.custodian import Custodian, Place
        from blindai.custody.unlocking import KeyFile, Passphrase, PassphraseLock

        if sum((self.key_file is not None, self.passphrase, self.passphrase_file is not None)) > 1:
            raise ConfigurationError(
                "give one of --key-file, --passphrase and --passphrase-file", code="custodian.unlock"
            )
        place = Place.at(self.data, database_address(self.database, self.database_file))
        key_file = KeyFile(self.key_file or place.key_file)

        def unlock(lock: Lock | None) -> Unlock:
            if self.passphrase_file is not None:
                return Passphrase.read(self.passphrase_file)
            if self.passphrase or (isinstance(lock, PassphraseLock) and self.key_file is None):
                return Passphrase(ask("Passphrase of the custodian's keys", twice=lock is None))
            return key_file

        custodian = Custodian.open(place, unlock)
        if key_file.made:
            err.print(f"made [bold]{escape(str(key_file.path))}[/]: it opens the custodian's keys")
            err.print("  keep a copy of it, and keep it apart from copies of the database: both together are the keys")
        return custodian


def ask(what: str, *, twice: bool = False) -> str:
    """What somebody types on the terminal, without showing it.

    Raises:
        ConfigurationError: `configuration.terminal`, there is no terminal; `configuration.typed_twice`.
    """
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{what} cannot be asked for: this is no terminal",
            code="configuration.terminal",
            hint="give it in a file: see --help",
        )
    typed = getpass.getpass(f"{what}: ")
    if twice and getpass.getpass("Once more: ") != typed:
        raise ConfigurationError("the two are not the same", code="configuration.typed_twice")
    return typed


def require_custodian_extra() -> None:
    """Refuse in words where only the client is installed.

    Raises:
        ConfigurationError: `configuration.custodian_missing`.
    """
    modules = ("alembic", "argon2", "uvicorn")
    require_extra("custodian", "custodian", *modules, code="configuration.custodian_missing")
