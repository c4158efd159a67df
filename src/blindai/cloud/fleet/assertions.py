"""Who holds a key, and what they may do with it, at one moment of the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from blindai.cloud.fleet.usage import month_of
from blindai.cloud.tables import api_keys, months, namespaces
from blindai.wire.cloud import MAX_TTL_MS, Assertion, AuthorisationRequest, Quotas, Scope

if TYPE_CHECKING:
    from collections.abc import Collection

# `used_at` of a key is written at most this often.
USED_SECONDS: Final = 60


@dataclass(frozen=True)
class Findings:
    """What the database says of the keys of one question.

    Attributes:
        assertions: of those that are in force.
        refused: digests of the others.
        unmarked: ids of keys whose last use was noted too long ago.
    """

    assertions: tuple[Assertion, ...]
    refused: tuple[str, ...]
    unmarked: tuple[str, ...]


def find(connection: sa.Connection, instance: str, asked: AuthorisationRequest, *, now: float) -> Findings:
    """Look up the keys that `instance` asks about."""
    digests = tuple(dict.fromkeys(asked.keys))
    rows = {row.digest: row for row in connection.execute(_in_force(digests, now))}
    return Findings(
        assertions=tuple(
            Assertion(
                nonce=asked.nonce,
                instance=instance,
                key=digest,
                key_id=row.id,
                namespace=row.namespace,
                scopes=tuple(Scope(name) for name in row.scopes.split()),
                quotas=_quotas(row),
                ttl_ms=_ttl_ms(row.expires_at, now),
            )
            for digest, row in rows.items()
        ),
        refused=tuple(digest for digest in digests if digest not in rows),
        unmarked=tuple(row.id for row in rows.values() if row.used_at is None or row.used_at <= now - USED_SECONDS),
    )


def mark_used(connection: sa.Connection, keys: Collection[str], *, now: int) -> None:
    """Note that these keys, by id, are in use."""
    # In one order, as whoever else marks some of them.
    held = sa.select(api_keys.c.id).where(api_keys.c.id.in_(keys)).order_by(api_keys.c.id).with_for_update()
    connection.execute(held).all()
    connection.execute(sa.update(api_keys).where(api_keys.c.id.in_(keys)).values(used_at=now))


def _in_force(digests: Collection[str], now: float) -> sa.Select[Any]:
    used = sa.and_(months.c.namespace == namespaces.c.name, months.c.month == month_of(now))
    return (
        sa.select(
            api_keys.c.digest,
            api_keys.c.id,
            api_keys.c.namespace,
            api_keys.c.scopes,
            api_keys.c.expires_at,
            api_keys.c.used_at,
            namespaces.c.max_models,
            namespaces.c.max_bytes,
            namespaces.c.per_minute,
            namespaces.c.per_month,
            sa.func.coalesce(months.c.queries, 0).label("month_queries"),
        )
        .join(namespaces, namespaces.c.name == api_keys.c.namespace)
        .outerjoin(months, used)
        .where(
            api_keys.c.digest.in_(digests),
            api_keys.c.revoked_at.is_(None),
            sa.or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now),
            namespaces.c.closed_at.is_(None),
        )
    )


def _quotas(row: sa.Row[Any]) -> Quotas:
    return Quotas(
        models=row.max_models,
        model_bytes=row.max_bytes,
        requests_per_minute=row.per_minute,
        requests_left=None if row.per_month is None else max(0, row.per_month - row.month_queries),
    )


def _ttl_ms(expires_at: int | None, now: float) -> int:
    """No longer than the key itself is good for."""
    return MAX_TTL_MS if expires_at is None else max(1, min(MAX_TTL_MS, int((expires_at - now) * 1000)))
