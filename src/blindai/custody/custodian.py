"""A custodian as it lies on a disk: a folder, a database, and the ledger that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from blindai.custody import migrations
from blindai.custody.clock import SYSTEM_LEDGER_CLOCK, LedgerClock
from blindai.custody.keys import CustodianKeys, stored_lock
from blindai.custody.ledger import Ledger
from blindai.custody.operators import Operators
from blindai.web.database import Database
from blindai.web.place import data_folder

if TYPE_CHECKING:
    from blindai.custody.unlocking import Lock, Unlock

DATABASE_FILE: Final = "custodian.sqlite3"
KEY_FILE: Final = "unlock.key"


@dataclass(frozen=True)
class Place:
    """Where a custodian is.

    Attributes:
        data: the folder of its files.
        database: a path, or postgresql://...
    """

    data: Path
    database: str

    @classmethod
    def at(cls, data: Path | None = None, database: str | None = None) -> Self:
        """The place in `data`, by default in the user's data folder; its database is a file there unless one is named.

        Raises:
            ConfigurationError: `configuration.data`, the folder cannot be made.
        """
        folder = data_folder("custodian", data)
        return cls(folder, database or str(folder / DATABASE_FILE))

    @property
    def key_file(self) -> Path:
        """What opens the custodian's keys, unless another file or a passphrase does."""
        return self.data / KEY_FILE

    @property
    def artefacts(self) -> Path:
        """The folder of sealed models."""
        return self.data / "artefacts"

    @property
    def tls(self) -> Path:
        """The folder of the operators' port's own certificate."""
        return self.data / "tls"


class Custodian:
    """A custodian whose keys are open. Closed at the end of a `with` block.

    Attributes:
        place: where it is.
        database, keys, ledger: its parts.
    """

    def __init__(
        self, place: Place, database: Database, keys: CustodianKeys, *, clock: LedgerClock = SYSTEM_LEDGER_CLOCK
    ) -> None:
        self.place = place
        self.database = database
        self.keys = keys
        self.ledger = Ledger(database, keys, clock=clock)

    @cached_property
    def operators(self) -> Operators:
        """The accounts of those who decide. Made when first asked for, because it takes a while by design."""
        return Operators(self.database)

    @classmethod
    def open(
        cls,
        place: Place,
        unlock: Callable[[Lock | None], Unlock],
        *,
        clock: LedgerClock = SYSTEM_LEDGER_CLOCK,
    ) -> Self:
        """Open the custodian at `place`; make it, where there is none.

        Args:
            unlock: gives what opens the keys, told how they are locked; None where none were made yet.
            clock: decides when grants have run out.

        Raises:
            ConfigurationError: as `Database.open`, `migrations.upgrade` and `CustodianKeys.open`.
            Unavailable: `unavailable.*`, the database does not answer.
        """
        database = Database.open(place.database)
        try:
            migrations.upgrade(database)
            keys = CustodianKeys.open(database, unlock(stored_lock(database)))
        except BaseException:
            database.dispose()
            raise
        return cls(place, database, keys, clock=clock)

    def close(self) -> None:
        self.database.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
