"""What is kept about one person, for that person (Regulation (EU) 2016/679, articles 15 and 20)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from blindai.cloud import tables
from blindai.cloud.identity import users
from blindai.errors import InvalidInput


def of(connection: Connection, user_id: str) -> dict[str, Any]:
    """Every row about a user. Digests of passwords, keys, tokens and links stay here: they are worth something to a
    thief and nothing to the user.

    Failed sign-ins and rates are counted for a day under digests of addresses; what they are about cannot be read.

    Raises:
        InvalidInput: `identity.unknown`.
    """  # noqa: D205 - one sentence
    row = users.find(connection, user_id)
    if row is None:
        raise InvalidInput("there is no such user", code="identity.unknown")
    links, keys, log = tables.links.c, tables.api_keys.c, tables.audit.c
    accounts, invitations, sessions = tables.members.c, tables.invitations.c, tables.sessions.c
    grants, passkeys, tokens = tables.device_grants.c, tables.passkeys.c, tables.access_tokens.c

    def rows(*columns: Any, where: Any, order: Any) -> list[dict[str, Any]]:
        found = connection.execute(select(*columns).where(where).order_by(order)).mappings()
        return [{name: _said(name, value) for name, value in one.items()} for one in found]

    return {
        "user": {
            "id": row.id,
            "email": row.email,
            "has_password": row.password is not None,
            "created_at": _said("created_at", row.created_at),
            "verified_at": _said("verified_at", row.verified_at),
        },
        "passkeys": rows(
            passkeys.id,
            passkeys.name,
            passkeys.sign_count,
            passkeys.transports,
            passkeys.created_at,
            passkeys.used_at,
            where=passkeys.user == user_id,
            order=passkeys.created_at,
        ),
        "sessions": rows(
            sessions.created_at, sessions.seen_at, where=sessions.account == user_id, order=sessions.created_at
        ),
        "command_lines": rows(
            tokens.name, tokens.created_at, tokens.used_at, where=tokens.user == user_id, order=tokens.created_at
        ),
        "device_grants": rows(
            grants.name, grants.state, grants.created_at, where=grants.user == user_id, order=grants.created_at
        ),
        "links": rows(
            links.purpose, links.email, links.created_at, where=links.user == user_id, order=links.created_at
        ),
        "memberships": rows(
            accounts.namespace,
            accounts.role,
            accounts.joined_at,
            where=accounts.user == user_id,
            order=accounts.namespace,
        ),
        "invitations": rows(
            invitations.namespace,
            invitations.role,
            invitations.created_at,
            where=(invitations.email == row.email) | (invitations.invited_by == user_id),
            order=invitations.created_at,
        ),
        "api_keys": rows(
            keys.id,
            keys.namespace,
            keys.name,
            keys.scopes,
            keys.created_at,
            keys.expires_at,
            keys.used_at,
            keys.revoked_at,
            where=keys.created_by == user_id,
            order=keys.created_at,
        ),
        "log": rows(log.at, log.namespace, log.action, log.subject, where=log.user == user_id, order=log.id),
    }


def _said(name: str, value: Any) -> Any:
    """Times as RFC 3339 has them."""
    if isinstance(value, int) and (name == "at" or name.endswith("_at")):
        return datetime.fromtimestamp(value, UTC).isoformat()
    return value
