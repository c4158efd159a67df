"""The tables that every web program has, made in the metadata of that program.

Times are whole seconds of the wall clock since 1970. They decide only who must sign in again and who must wait before
the next try: a clock that is wrong costs somebody a sign-in, and gives nobody what is not theirs.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, MetaData, String, Table

# A digest in hex.
_DIGEST = String(64)


def session_table(metadata: MetaData) -> Table:
    """Who is signed in: one row per browser. `id` is the digest of what the browser's cookie holds."""
    return Table(
        "sessions",
        metadata,
        Column("id", _DIGEST, primary_key=True),
        Column("account", String(64), nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("seen_at", BigInteger, nullable=False),
        Index("sessions_account", "account"),
    )


def attempt_table(metadata: MetaData) -> Table:
    """Failed sign-ins. `key` is the digest of an account, an address, or both; no name of a stranger's is kept."""
    return Table(
        "sign_in_attempts",
        metadata,
        Column("key", _DIGEST, primary_key=True),
        Column("failures", BigInteger, nullable=False),
        Column("failed_at", BigInteger, nullable=False),
        Column("succeeded_at", BigInteger, nullable=False),
        Index("sign_in_attempts_failed_at", "failed_at"),
    )
