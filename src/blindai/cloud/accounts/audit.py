"""Who did what to an account, its members and its keys. Written in the transaction of what it tells of.

An entry has ids and names in it, and no secret: keys stand there by their ids, links and tokens not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select, update

from blindai.cloud import tables
from blindai.errors import harmless
from blindai.wire import api_key

# As the columns have it.
MAX_ACTION: Final = 32
MAX_SUBJECT: Final = 300

# Of one page of the log.
MAX_ENTRIES: Final = 200

# The largest number that the databases can compare an id with. `before` comes out of an address, and may be any.
_MAX_ID: Final = 2**63 - 1


@dataclass(frozen=True)
class AuditEntry:
    """One line of the log.

    Attributes:
        id: later ones have larger ids.
        user: who did it; None for what happened by itself.
        email: of that user, unless they have left.
        action: dotted words, as `key.created`.
        subject: to what, or whom; may be empty.
    """

    id: int
    at: datetime
    user: str | None
    email: str | None
    action: str
    subject: str


def note(
    connection: Connection, namespace: str | None, user: str | None, action: str, subject: str, *, at: int
) -> None:
    """Write an entry.

    Args:
        namespace: the account that it is about; None where it is about the user alone.
        at: seconds since 1970.

    Raises:
        ValueError: `action` is longer than the log has room for.
    """
    if len(action) > MAX_ACTION:
        raise ValueError(f"an action has {MAX_ACTION} characters at most")
    # A key that somebody gave as a name, or pasted into the wrong field, does not get into the log.
    shown = api_key.PATTERN.sub(lambda found: api_key.ApiKey(found[0]).id, harmless(subject))
    connection.execute(
        insert(tables.audit).values(at=at, namespace=namespace, user=user, action=action, subject=shown[:MAX_SUBJECT])
    )


def entries(connection: Connection, namespace: str, *, before: int | None, limit: int) -> tuple[AuditEntry, ...]:
    """The log of an account, the newest first.

    Args:
        before: only entries with smaller ids.
        limit: at most this many, and never more than `MAX_ENTRIES`.
    """
    log, users = tables.audit.c, tables.users.c
    query = (
        select(tables.audit, users.email)
        .join_from(tables.audit, tables.users, users.id == log.user, isouter=True)
        .where(log.namespace == namespace)
        .order_by(log.id.desc())
        .limit(max(0, min(limit, MAX_ENTRIES)))
    )
    rows = connection.execute(query if before is None else query.where(log.id < max(0, min(before, _MAX_ID)))).all()
    emails = _emails(connection, {word for row in rows for word in row.subject.split()})
    return tuple(_entry(row, emails) for row in rows)


def forget_address(connection: Connection, email: str, user: str) -> None:
    """Put the id of a user who leaves in place of their address."""
    log = tables.audit.c
    for row in connection.execute(select(log.id, log.subject).where(log.subject.endswith(email, autoescape=True))):
        words = [user if word == email else word for word in row.subject.split(" ")]
        connection.execute(update(tables.audit).where(log.id == row.id).values(subject=" ".join(words)))


def forget_account(connection: Connection, namespace: str) -> None:
    """Remove the log of an account that never came to be, whose name somebody else may have."""
    connection.execute(delete(tables.audit).where(tables.audit.c.namespace == namespace))


def _emails(connection: Connection, words: set[str]) -> dict[str, str]:
    users = tables.users.c
    ids = sorted(word for word in words if word.startswith("user-"))
    query = select(users.id, users.email).where(users.id.in_(ids), users.email.is_not(None))
    return {row.id: row.email for row in connection.execute(query)}


def _entry(row: Row[Any], emails: dict[str, str]) -> AuditEntry:
    subject = " ".join(emails.get(word, word) for word in row.subject.split(" "))
    return AuditEntry(row.id, datetime.fromtimestamp(row.at, UTC), row.user, row.email, row.action, subject)
