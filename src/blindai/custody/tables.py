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
