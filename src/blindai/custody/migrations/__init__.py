"""The history of the custodian's tables; see `web.migrations`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from blindai.custody.tables import metadata
from blindai.web import migrations

if TYPE_CHECKING:
    from blindai.web.database import Database

_LOCK: Final = 0xB11DA1


def upgrade(database: Database) -> None:
    """As `web.migrations.upgrade`, for the custodian's tables."""
    migrations.upgrade(database, metadata, folder=Path(__file__).parent, lock=_LOCK)
