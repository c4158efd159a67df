"""The tables of the control plane's database, the same in SQLite and in PostgreSQL.

Of models and requests there are names, sizes, shapes and counts; no tensor, no file and no digest of either ever comes
here. Of keys, tokens and links there are digests. Times are whole seconds of the wall clock since 1970.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from blindai.web.tables import attempt_table, session_table

metadata: Final = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_DIGEST: Final = sa.String(64)
_USER: Final = sa.String(32)
_EMAIL: Final = sa.String(254)
_NAMESPACE: Final = sa.String(39)
_KEY: Final = sa.String(32)
_ROLE: Final = sa.String(16)


def _time(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, default=0)


def _user(*, nullable: bool = False, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column("user", _USER, sa.ForeignKey("users.id"), nullable=nullable, primary_key=primary_key)


def _namespace(*, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column("namespace", _NAMESPACE, sa.ForeignKey("namespaces.name"), nullable=False, primary_key=primary_key)


# People (`cloud.identity`).

# `email` is in the form in which two addresses are compared. Without a password there is at least one passkey. A user
# who has left keeps the row, without address, password and passkeys, for what the audit log says.
users: Final = sa.Table(
    "users",
    metadata,
    sa.Column("id", _USER, primary_key=True),
    sa.Column("email", _EMAIL, nullable=True, unique=True),
    sa.Column("password", sa.Text, nullable=True),
    _time("created_at"),
    _time("verified_at", nullable=True),
    _time("left_at", nullable=True),
)

# Sign-ups that wait for an answer to their mail are looked through at every sign-up; they are few.
sa.Index(
    "ix_users_unverified",
    users.c.created_at,
    sqlite_where=users.c.verified_at.is_(None),
    postgresql_where=users.c.verified_at.is_(None),
)

# Credentials of WebAuthn. `id` is the credential's in base64url.
passkeys: Final = sa.Table(
    "passkeys",
    metadata,
    sa.Column("id", sa.String(1400), primary_key=True),
    _user(),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("public_key", sa.LargeBinary, nullable=False),
    sa.Column("sign_count", sa.BigInteger, nullable=False),
    sa.Column("transports", sa.Text, nullable=False),
    _time("created_at"),
    _time("used_at", nullable=True),
    sa.Index("ix_passkeys_user", "user"),
)

# Challenges that were handed out, each for one ceremony; `id` is the digest of the visitor's or session's cookie.
ceremonies: Final = sa.Table(
    "ceremonies",
    metadata,
    sa.Column("id", _DIGEST, primary_key=True),
    sa.Column("purpose", sa.String(16), primary_key=True),
    sa.Column("challenge", sa.LargeBinary, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    _time("created_at"),
    sa.Index("ix_ceremonies_created_at", "created_at"),
)

# Links that were sent by mail, by the digest of what is in them.
links: Final = sa.Table(
    "links",
    metadata,
    sa.Column("id", _DIGEST, primary_key=True),
    _user(),
    sa.Column("purpose", sa.String(16), nullable=False),
    sa.Column("email", _EMAIL, nullable=False),
    _time("created_at"),
    sa.Index("ix_links_user", "user"),
)

sessions: Final = session_table(metadata)
sign_in_attempts: Final = attempt_table(metadata)

# Token buckets of what is limited besides sign-ins: `key` is the digest of what is limited and for whom.
rates: Final = sa.Table(
    "rates",
    metadata,
    sa.Column("key", _DIGEST, primary_key=True),
    sa.Column("tokens", sa.Float, nullable=False),
    sa.Column("filled_at", sa.Float, nullable=False),
    sa.Index("ix_rates_filled_at", "filled_at"),
)

# `blindai login`: tokens of command lines, by digest, and the device grants that lead to them (RFC 8628).
access_tokens: Final = sa.Table(
    "access_tokens",
    metadata,
    sa.Column("id", _DIGEST, primary_key=True),
    _user(),
    sa.Column("name", sa.String(64), nullable=False),
    _time("created_at"),
    _time("used_at"),
    sa.Index("ix_access_tokens_user", "user"),
)
device_grants: Final = sa.Table(
    "device_grants",
    metadata,
    sa.Column("id", _DIGEST, primary_key=True),
    sa.Column("user_code", sa.String(16), nullable=False, unique=True),
    _user(nullable=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    _time("created_at"),
    _time("polled_at", nullable=True),
)

# Accounts (`cloud.accounts`).

# A name that was given up is never given to anybody else. Quotas are by row, so that one account may have others.
namespaces: Final = sa.Table(
    "namespaces",
    metadata,
    sa.Column("name", _NAMESPACE, primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    _time("created_at"),
    _time("closed_at", nullable=True),
    sa.Column("max_models", sa.BigInteger, nullable=False),
    sa.Column("max_bytes", sa.BigInteger, nullable=False),
    sa.Column("per_minute", sa.BigInteger, nullable=False),
    sa.Column("per_month", sa.BigInteger, nullable=True),
    sa.CheckConstraint("kind IN ('personal', 'organisation')", name="kind"),
)

members: Final = sa.Table(
    "members",
    metadata,
    _namespace(primary_key=True),
    _user(primary_key=True),
    sa.Column("role", _ROLE, nullable=False),
    _time("joined_at"),
    sa.CheckConstraint("role IN ('viewer', 'developer', 'admin')", name="role"),
    sa.Index("ix_members_user", "user"),
)

invitations: Final = sa.Table(
    "invitations",
    metadata,
    sa.Column("id", _DIGEST, primary_key=True),
    _namespace(),
    sa.Column("email", _EMAIL, nullable=False),
    sa.Column("role", _ROLE, nullable=False),
    sa.Column("invited_by", _USER, nullable=False),
    _time("created_at"),
    sa.UniqueConstraint("namespace", "email"),
)

# `id` is `wire.api_key.ApiKey.id`, `digest` the key's. `scopes` are separated by spaces.
api_keys: Final = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", _KEY, primary_key=True),
    sa.Column("digest", _DIGEST, nullable=False, unique=True),
    _namespace(),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("scopes", sa.String(64), nullable=False),
    sa.Column("created_by", _USER, nullable=False),
    _time("created_at"),
    _time("expires_at", nullable=True),
    _time("used_at", nullable=True),
    _time("revoked_at", nullable=True),
    sa.Index("ix_api_keys_namespace", "namespace"),
)

# Who did what to an account, its members and its keys. It only grows.
audit: Final = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    _time("at"),
    sa.Column("namespace", _NAMESPACE, nullable=True),
    sa.Column("user", _USER, nullable=True),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(300), nullable=False),
    sa.Index("ix_audit_namespace", "namespace", "id"),
    sa.Index("ix_audit_user", "user", "id"),
)

# Enclaves and what they report (`cloud.fleet`).

# One row for each enclave that attested itself; `verdict` is the appraisal, for people to read. `current` is the one
# that serves its endpoint.
instances: Final = sa.Table(
    "instances",
    metadata,
    sa.Column("id", _DIGEST, primary_key=True),
    sa.Column("endpoint", sa.String(308), nullable=False),
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("current", sa.Boolean, nullable=False),
    _time("first_seen"),
    _time("last_seen"),
    sa.Index("ix_instances_endpoint", "endpoint"),
)

# The totals that an instance has reported last; what is above them is new. Empty texts stand for nobody.
totals: Final = sa.Table(
    "totals",
    metadata,
    sa.Column("instance", _DIGEST, sa.ForeignKey("instances.id"), primary_key=True),
    sa.Column("namespace", _NAMESPACE, primary_key=True),
    sa.Column("key_id", _KEY, primary_key=True),
    _count("queries"),
    _count("failed"),
    _count("limited"),
    _count("uploads"),
    _count("deletions"),
)

# For quotas and plots. `hour` is the number of hours since 1970.
usage: Final = sa.Table(
    "usage",
    metadata,
    sa.Column("namespace", _NAMESPACE, primary_key=True),
    sa.Column("key_id", _KEY, primary_key=True),
    sa.Column("hour", sa.BigInteger, primary_key=True),
    _count("queries"),
    _count("failed"),
    _count("limited"),
    _count("uploads"),
    _count("deletions"),
)

# What month quotas are counted against: `month` is year * 12 + month - 1, in UTC.
months: Final = sa.Table(
    "months",
    metadata,
    sa.Column("namespace", _NAMESPACE, primary_key=True),
    sa.Column("month", sa.BigInteger, primary_key=True),
    _count("queries"),
)

models: Final = sa.Table(
    "models",
    metadata,
    sa.Column("endpoint", sa.String(308), primary_key=True),
    sa.Column("namespace", _NAMESPACE, primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("instance", _DIGEST, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("inputs", sa.Text, nullable=False),
    sa.Column("outputs", sa.Text, nullable=False),
    sa.Column("visibility", sa.String(16), nullable=False),
    sa.Column("shared_with", sa.Text, nullable=False),
    _count("queries"),
    _time("used_at", nullable=True),
    _time("reported_at"),
    sa.Index("ix_models_namespace", "namespace"),
)
