"""The tables of the custodian's database, the same in SQLite and in PostgreSQL."""

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

# The custodian's own keys, locked with what is not in the database (`custody.keys`).
secrets: Final = sa.Table(
    "secrets",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("public_key", sa.String(64), nullable=False),
    sa.Column("lock", sa.Text, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)

# The people who decide (`custody.operators`). `created_at` is in seconds of the wall clock, as in `web.tables`.
operators: Final = sa.Table(
    "operators",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password", sa.Text, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="role"),
)
sessions: Final = session_table(metadata)
sign_in_attempts: Final = attempt_table(metadata)

# Units are below 2**53; times are `custody.log.moment`, which sorts as text.
_MOMENT: Final = sa.String(27)
_HEX32: Final = sa.String(64)
_ID: Final = sa.String(32)
_OPERATOR: Final = sa.String(100)
_CONSUMER: Final = sa.String(63)


def _lease(*, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column("lease", _ID, sa.ForeignKey("leases.id"), primary_key=primary_key, nullable=False)


def _units(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, default=0)


# The rule that everything else is there for stands in the database too: 0 <= spent <= granted <= budget.
leases: Final = sa.Table(
    "leases",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("borrower", sa.Text, nullable=False),
    sa.Column("model_id", sa.Text, nullable=False),
    sa.Column("model_digest", _HEX32, nullable=False),
    sa.Column("model_key", sa.LargeBinary, nullable=False),  # wrapped
    sa.Column("artefact", sa.Text, nullable=False),
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("policy_digest", _HEX32, nullable=False),
    sa.Column("unit", sa.String(16), nullable=False),
    sa.Column("soft_ms", sa.BigInteger, nullable=False),
    sa.Column("ttl_ms", sa.BigInteger, nullable=False),
    sa.Column("tranche_max", sa.BigInteger, nullable=False),
    sa.Column("max_instances", sa.Integer, nullable=False),
    sa.Column("approvals", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    _units("budget"),
    _units("granted"),
    _units("spent"),
    sa.Column("stop_epoch", sa.BigInteger, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("changed_version", sa.BigInteger, nullable=False),
    sa.Column("changed_at", _MOMENT, nullable=False),
    sa.Column("created_at", _MOMENT, nullable=False),
    # The end of the log: whoever writes an entry holds the lock of this row.
    sa.Column("log_count", sa.BigInteger, nullable=False),
    sa.Column("log_head", _HEX32, nullable=False),
    sa.CheckConstraint("0 <= spent AND spent <= granted AND granted <= budget", name="never_overspent"),
)

accounts: Final = sa.Table(
    "accounts",
    metadata,
    _lease(primary_key=True),
    sa.Column("consumer", _CONSUMER, primary_key=True),
    sa.Column("budget", sa.BigInteger, nullable=True),
    _units("granted"),
    _units("spent"),
    sa.Column("token_epoch", sa.BigInteger, nullable=False),
    sa.CheckConstraint("0 <= spent AND spent <= granted", name="never_overspent"),
    sa.CheckConstraint("budget IS NULL OR granted <= budget", name="within_budget"),
)

instances: Final = sa.Table(
    "instances",
    metadata,
    _lease(primary_key=True),
    sa.Column("id", _HEX32, primary_key=True),
    sa.Column("keyset", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("first_seen", _MOMENT, nullable=False),
    sa.Column("last_seen", _MOMENT, nullable=False),
    sa.Column("grant_seq", sa.BigInteger, nullable=False),
    sa.Column("grant_head", _HEX32, nullable=False),
    sa.Column("record_seq", sa.BigInteger, nullable=False),
    sa.Column("record_head", _HEX32, nullable=False),
    sa.Column("record_closed_ms", sa.BigInteger, nullable=False),
    # Whether its latest grant is not known to have run out: few are, of all that ever were.
    sa.Column("running", sa.Boolean, nullable=False),
    # `custody.clock.Deadline` of the latest grant, and when that was, for people.
    sa.Column("granted_at", _MOMENT, nullable=True),
    sa.Column("deadline_boot", sa.Text, nullable=True),
    sa.Column("deadline_at_ms", sa.BigInteger, nullable=True),
    sa.Column("deadline_length_ms", sa.BigInteger, nullable=True),
    sa.Column("acknowledged_version", sa.BigInteger, nullable=False),
    sa.Column("acknowledged_at", _MOMENT, nullable=True),
    sa.Column("refunded", sa.Text, nullable=True),
    sa.Index("ix_instances_lease_last_seen", "lease", "last_seen"),
    sa.Index("ix_instances_lease_running", "lease", "running"),
)


def _instance(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["lease", "instance"], ["instances.lease", "instances.id"], name=f"fk_{table}_instance"
    )


def _account(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["lease", "consumer"], ["accounts.lease", "accounts.consumer"], name=f"fk_{table}_account"
    )


# What of an account's units is in the hands of which instance.
holdings: Final = sa.Table(
    "holdings",
    metadata,
    sa.Column("lease", _ID, primary_key=True),
    sa.Column("instance", _HEX32, primary_key=True),
    sa.Column("consumer", _CONSUMER, primary_key=True),
    _units("granted"),
    _units("spent"),
    _instance("holdings"),
    _account("holdings"),
    sa.CheckConstraint("0 <= spent AND spent <= granted", name="never_overspent"),
)

# Every renewal that was answered; the answers themselves of the latest ones only.
grants: Final = sa.Table(
    "grants",
    metadata,
    sa.Column("lease", _ID, primary_key=True),
    sa.Column("instance", _HEX32, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("renewal_digest", _HEX32, nullable=False),
    sa.Column("digest", _HEX32, nullable=False),
    sa.Column("answer", sa.LargeBinary, nullable=True),
    _instance("grants"),
)

records: Final = sa.Table(
    "records",
    metadata,
    sa.Column("lease", _ID, primary_key=True),
    sa.Column("instance", _HEX32, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("digest", _HEX32, nullable=False),
    _instance("records"),
)

# Units by record, for the curve of consumption.
usage: Final = sa.Table(
    "usage",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    _lease(),
    sa.Column("at", _MOMENT, nullable=False),
    sa.Column("consumer", _CONSUMER, nullable=False),
    _units("units"),
    sa.Index("ix_usage_lease_at", "lease", "at"),
)

requests: Final = sa.Table(
    "requests",
    metadata,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("id", _ID, nullable=False, unique=True),
    _lease(),
    sa.Column("consumer", _CONSUMER, nullable=False),
    _units("wanted"),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("filed_at", _MOMENT, nullable=False),
    sa.Column("decided_at", _MOMENT, nullable=True),
    sa.Column("decided_by", _OPERATOR, nullable=False),
    _units("granted"),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("circumstances", sa.Text, nullable=False),
    _account("requests"),
    sa.Index("ix_requests_lease_consumer", "lease", "consumer"),
    # One undecided request of a consumer at a time.
    sa.Index(
        "ux_requests_pending",
        "lease",
        "consumer",
        unique=True,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    ),
)

proposals: Final = sa.Table(
    "proposals",
    metadata,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("id", _ID, nullable=False, unique=True),
    _lease(),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("arguments", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("proposed_at", _MOMENT, nullable=False),
    sa.Index("ix_proposals_lease_state", "lease", "state"),
)

# The same operator cannot agree twice.
agreements: Final = sa.Table(
    "agreements",
    metadata,
    sa.Column("proposal", _ID, sa.ForeignKey("proposals.id"), primary_key=True),
    sa.Column("operator", _OPERATOR, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
)

# Entries of the log (`custody.log`).
events: Final = sa.Table(
    "events",
    metadata,
    _lease(primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", _MOMENT, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("by", _OPERATOR, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("prev", _HEX32, nullable=False),
    sa.Column("digest", _HEX32, nullable=False),
    sa.Column("signature", sa.String(128), nullable=False),
)
