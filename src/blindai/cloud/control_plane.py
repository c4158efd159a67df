"""A control plane as it lies on a disk: a folder, a database, a signing key, and what they make."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from blindai.cloud import migrations
from blindai.cloud.accounts import Accounts
from blindai.cloud.fleet import Fleet
from blindai.cloud.identity import People
from blindai.cloud.keys import SigningKey
from blindai.web.database import Database
from blindai.web.place import data_folder

if TYPE_CHECKING:
    from blindai.cloud.mail import Mailer
    from blindai.cloud.site import Site
    from blindai.web.passwords import Passwords

DATABASE_FILE: Final = "cloud.sqlite3"
KEY_FILE: Final = "signing.key"


@dataclass(frozen=True)
class Place:
    """Where a control plane is.

    Attributes:
        data: the folder of its files.
        database: a path, or postgresql://...
        key_file: holds the signing key. Several control planes of one cloud share it, and the database.
    """

    data: Path
    database: str
    key_file: Path

    @classmethod
    def at(
        cls, data: Path | None = None, database: str | None = None, key_file: Path | None = None, *, make: bool = True
    ) -> Self:
        """The place in `data`, by default in the user's data folder; database and key are files there unless given.

        Args:
            make: the folder, where there is none.

        Raises:
            ConfigurationError: `configuration.data`, the folder cannot be made.
        """
        folder = data_folder("cloud", data, make=make)
        return cls(folder, database or str(folder / DATABASE_FILE), key_file or folder / KEY_FILE)

    @property
    def outbox(self) -> Path:
        """The folder of mail, where no server was named that sends it."""
        return self.data / "outbox"

    @property
    def tls(self) -> Path:
        """The folder of the own certificate of the port for people."""
        return self.data / "tls"


class ControlPlane:
    """A control plane whose key is open. Closed at the end of a `with` block.

    Args:
        passwords: how they are hashed.
        clock: wall clock, in seconds since 1970.

    Attributes:
        place: where it is.
        site: what it is called, and where people find it.
        database: its tables.
        accounts, people, fleet: who may act for which account; who they are; the enclaves and what they report.
    """

    def __init__(
        self,
        place: Place,
        site: Site,
        mail: Mailer,
        database: Database,
        key: SigningKey,
        *,
        passwords: Passwords | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.place = place
        self.site = site
        self.database = database
        self._key = key
        self.accounts = Accounts(database, mail, site, clock=clock)
        self.people = People(database, mail, site, accounts=self.accounts, passwords=passwords, clock=clock)
        self.fleet = Fleet(database, key.sign, public_key=key.public_key, clock=clock)

    @classmethod
    def open(
        cls,
        place: Place,
        site: Site,
        mail: Mailer,
        *,
        passwords: Passwords | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Open the control plane at `place`; make it, where there is none.

        Raises:
            ConfigurationError: as `Database.open`, `migrations.upgrade` and `SigningKey.kept_in`.
            Unavailable: `unavailable.*`, the database does not answer.
        """
        key = SigningKey.kept_in(place.key_file)
        database = Database.open(place.database)
        try:
            migrations.upgrade(database)
            return cls(place, site, mail, database, key, passwords=passwords, clock=clock)
        except BaseException:
            database.dispose()
            raise

    @property
    def public_key(self) -> str:
        """By which enclaves know it (Ed25519, 64 hex digits)."""
        return self._key.public_key

    def sign(self, message: bytes) -> bytes:
        """Sign with the control plane's key; see `SigningKey.sign`."""
        return self._key.sign(message)

    def close(self) -> None:
        self.database.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
