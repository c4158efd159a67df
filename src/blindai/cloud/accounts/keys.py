"""API keys of an account. What is kept of one is its id and its SHA-256: a copy of the database signs nobody in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from blindai.cloud import tables
from blindai.cloud.accounts import audit
from blindai.errors import InvalidInput, PermissionDenied, QuotaExceeded, Unavailable
from blindai.wire import api_key
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import KeyId, Scope
from blindai.wire.cloud_api import CreatedKey, KeyEntry, NewKey

# In force at one time, of one account: a key for each program and person. An enclave asks about 256 keys in one
# question (`wire.cloud.MAX_KEYS`), so that one account cannot fill two.
MAX_KEYS: Final = 100

# Rows of one account, of keys that are not in force any more too. Beyond it the oldest of those are forgotten: who
# makes and revokes keys in a loop must not fill the disk, nor a page.
MAX_KEPT: Final = 1000

# Two keys with the same id are one in 2 * 10**14 pairs.
MAX_TRIES: Final = 5

CREATED: Final = "key.created"
REVOKED: Final = "key.revoked"

_DAY_SECONDS: Final = 24 * 3600


def create(connection: Connection, namespace: str, user: str, new: NewKey, *, at: int) -> CreatedKey:
    """Make a key, and show it for the only time. The account is locked.

    Raises:
        InvalidInput: `account.key_request`.
        QuotaExceeded: `account.keys`.
    """
    new = _checked(new)
    _require_room(connection, namespace, at)
    expires_at = None if new.expires_in_days is None else at + new.expires_in_days * _DAY_SECONDS
    values = {
        "namespace": namespace,
        "name": new.name,
        "scopes": " ".join(scope.value for scope in Scope if scope in new.scopes),
        "created_by": user,
        "created_at": at,
        "expires_at": expires_at,
    }
    key = _insert(connection, values)
    audit.note(connection, namespace, user, CREATED, key.id, at=at)
    row = connection.execute(select(tables.api_keys).where(tables.api_keys.c.id == key.id)).one()
    return CreatedKey(key.text, _entry(row))


def of(connection: Connection, namespace: str) -> tuple[KeyEntry, ...]:
    """The keys of an account, the newest first."""
    keys = tables.api_keys.c
    query = select(tables.api_keys).where(keys.namespace == namespace).order_by(keys.created_at.desc(), keys.id)
    return tuple(_entry(row) for row in connection.execute(query))


def revoke(connection: Connection, namespace: str, user: str, key_id: str, *, others: bool, at: int) -> KeyEntry:
    """Take a key out of force. One that was revoked before stays as it was. The account is locked.

    Args:
        others: `user` may revoke keys that they have not made.

    Raises:
        InvalidInput: `account.key_unknown`.
        PermissionDenied: `account.role`: it is somebody else's.
    """
    keys = tables.api_keys.c
    query = select(tables.api_keys).where(keys.id == key_id, keys.namespace == namespace)
    row = connection.execute(query).one_or_none() if _is_key_id(key_id) else None
    if row is None:
        raise InvalidInput("the account has no such key", code="account.key_unknown")
    if not others and row.created_by != user:
        raise PermissionDenied("somebody else has made this key: an admin may revoke it", code="account.role")
    if row.revoked_at is None:
        connection.execute(update(tables.api_keys).where(keys.id == key_id).values(revoked_at=at))
        audit.note(connection, namespace, user, REVOKED, key_id, at=at)
        row = connection.execute(query).one()
    return _entry(row)


def revoke_all(connection: Connection, namespace: str, user: str, *, made_by: str | None = None, at: int) -> None:
    """Take every key of an account out of force, or every one that one member has made. The account is locked.

    Args:
        user: who brought it about.
    """
    keys = tables.api_keys.c
    query = select(keys.id).where(keys.namespace == namespace, keys.revoked_at.is_(None)).order_by(keys.id)
    if made_by is not None:
        query = query.where(keys.created_by == made_by)
    for key_id in connection.execute(query).scalars().all():
        connection.execute(update(tables.api_keys).where(keys.id == key_id).values(revoked_at=at))
        audit.note(connection, namespace, user, REVOKED, key_id, at=at)


def _checked(new: NewKey) -> NewKey:
    """`new`, held to its type: forms make one without decoding it."""
    try:
        checked = msgspec.convert(msgspec.to_builtins(new), NewKey)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the key cannot be made: {error}", code="account.key_request") from error
    if api_key.PATTERN.search(checked.name):
        raise InvalidInput("the name of a key cannot be a key: it is shown to others", code="account.key_request")
    return checked


def _require_room(connection: Connection, namespace: str, at: int) -> None:
    keys = tables.api_keys.c
    mine = keys.namespace == namespace
    ended = or_(keys.revoked_at.is_not(None), keys.expires_at <= at)
    counted = select(func.count()).select_from(tables.api_keys).where(mine)
    total = connection.execute(counted).scalar_one()
    over = connection.execute(counted.where(ended)).scalar_one()
    if total - over >= MAX_KEYS:
        raise QuotaExceeded(
            f"the account has {MAX_KEYS} keys, which is as many as it may",
            code="account.keys",
            hint="revoke one that is not in use",
        )
    if total >= MAX_KEPT:
        oldest = select(keys.id).where(mine, ended).order_by(keys.created_at, keys.id).limit(total - MAX_KEPT + 1)
        connection.execute(delete(tables.api_keys).where(keys.id.in_(oldest.scalar_subquery())))


def _insert(connection: Connection, values: dict[str, object]) -> ApiKey:
    for _ in range(MAX_TRIES):
        key = ApiKey.new()
        try:
            with connection.begin_nested():
                connection.execute(insert(tables.api_keys).values(id=key.id, digest=key.digest, **values))
        except IntegrityError:
            continue
        return key
    raise Unavailable("no key was made", code="unavailable.database", hint="try again")


def _is_key_id(text: str) -> bool:
    try:
        msgspec.convert(text, KeyId)
    except msgspec.ValidationError:
        return False
    return True


def _entry(row: Row[Any]) -> KeyEntry:
    return KeyEntry(
        id=row.id,
        namespace=row.namespace,
        name=row.name,
        scopes=tuple(Scope(word) for word in row.scopes.split()),
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        expires_at=_moment(row.expires_at),
        used_at=_moment(row.used_at),
        revoked_at=_moment(row.revoked_at),
        made_by=row.created_by,
    )


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
