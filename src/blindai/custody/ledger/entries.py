"""The log of a lease, read back (`custody.log`; `leases.Change.note` writes it)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from blindai.custody import tables
from blindai.custody.log import Entry, Kind, SignedEntry

_EVENTS: Final = tables.events


def rows(
    connection: sa.Connection, lease: str, *, after: int, limit: int | None
) -> Iterator[sa.Row[tuple[object, ...]]]:
    """The rows with numbers above `after`, in order; at most `limit`."""
    query = sa.select(_EVENTS).where(_EVENTS.c.lease == lease, _EVENTS.c.seq > after).order_by(_EVENTS.c.seq)
    yield from connection.execute(query.limit(limit))


def signed(connection: sa.Connection, lease: str, *, after: int, limit: int | None) -> list[SignedEntry]:
    """The same, as they were signed."""
    return [
        SignedEntry(
            Entry(
                lease=row.lease,
                seq=row.seq,
                at=row.at,
                kind=Kind(row.kind),
                by=row.by,
                detail=row.detail,
                prev=row.prev,
            ),
            row.signature,
        )
        for row in rows(connection, lease, after=after, limit=limit)
    ]
