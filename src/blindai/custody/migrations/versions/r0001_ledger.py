"""The ledger: leases, accounts, instances, what passes between them, and the log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "leases",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("borrower", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("model_key", sa.LargeBinary(), nullable=False),
        sa.Column("artefact", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("policy_digest", sa.String(length=64), nullable=False),
        sa.Column("unit", sa.String(length=16), nullable=False),
        sa.Column("soft_ms", sa.BigInteger(), nullable=False),
        sa.Column("ttl_ms", sa.BigInteger(), nullable=False),
        sa.Column("tranche_max", sa.BigInteger(), nullable=False),
        sa.Column("max_instances", sa.Integer(), nullable=False),
        sa.Column("approvals", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("budget", sa.BigInteger(), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("stop_epoch", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("changed_version", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.String(length=27), nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("log_count", sa.BigInteger(), nullable=False),
        sa.Column("log_head", sa.String(length=64), nullable=False),
        sa.CheckConstraint(
            "0 <= spent AND spent <= granted AND granted <= budget", name=op.f("ck_leases_never_overspent")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("public_key", sa.String(length=64), nullable=False),
        sa.Column("lock", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secrets")),
    )
    op.create_table(
        "accounts",
        sa.Column("lease", sa.String(length=32), nullable=False),
        sa.Column("consumer", sa.String(length=63), nullable=False),
        sa.Column("budget", sa.BigInteger(), nullable=True),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("token_epoch", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("0 <= spent AND spent <= granted", name=op.f("ck_accounts_never_overspent")),
        sa.CheckConstraint("budget IS NULL OR granted <= budget", name=op.f("ck_accounts_within_budget")),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name=op.f("fk_accounts_lease")),
        sa.PrimaryKeyConstraint("lease", "consumer", name=op.f("pk_accounts")),
    )
    op.create_table(
        "events",
        sa.Column("lease", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.String(length=27), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("by", sa.String(length=100), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("prev", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("signature", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name=op.f("fk_events_lease")),
        sa.PrimaryKeyConstraint("lease", "seq", name=op.f("pk_events")),
    )
    op.create_table(
        "instances",
        sa.Column("lease", sa.String(length=32), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("keyset", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("first_seen", sa.String(length=27), nullable=False),
        sa.Column("last_seen", sa.String(length=27), nullable=False),
        sa.Column("grant_seq", sa.BigInteger(), nullable=False),
        sa.Column("grant_head", sa.String(length=64), nullable=False),
        sa.Column("record_seq", sa.BigInteger(), nullable=False),
        sa.Column("record_head", sa.String(length=64), nullable=False),
        sa.Column("record_closed_ms", sa.BigInteger(), nullable=False),
        sa.Column("running", sa.Boolean(), nullable=False),
        sa.Column("granted_at", sa.String(length=27), nullable=True),
        sa.Column("deadline_boot", sa.Text(), nullable=True),
        sa.Column("deadline_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("deadline_length_ms", sa.BigInteger(), nullable=True),
        sa.Column("acknowledged_version", sa.BigInteger(), nullable=False),
        sa.Column("acknowledged_at", sa.String(length=27), nullable=True),
        sa.Column("refunded", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name=op.f("fk_instances_lease")),
        sa.PrimaryKeyConstraint("lease", "id", name=op.f("pk_instances")),
    )
    op.create_index("ix_instances_lease_last_seen", "instances", ["lease", "last_seen"], unique=False)
    op.create_index("ix_instances_lease_running", "instances", ["lease", "running"], unique=False)
    op.create_table(
        "proposals",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("lease", sa.String(length=32), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("proposed_at", sa.String(length=27), nullable=False),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name=op.f("fk_proposals_lease")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_proposals")),
        sa.UniqueConstraint("id", name=op.f("uq_proposals_id")),
    )
    op.create_index("ix_proposals_lease_state", "proposals", ["lease", "state"], unique=False)
    op.create_table(
        "usage",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("lease", sa.String(length=32), nullable=False),
        sa.Column("at", sa.String(length=27), nullable=False),
        sa.Column("consumer", sa.String(length=63), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name=op.f("fk_usage_lease")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage")),
    )
    op.create_index("ix_usage_lease_at", "usage", ["lease", "at"], unique=False)
    op.create_table(
        "agreements",
        sa.Column("proposal", sa.String(length=32), nullable=False),
        sa.Column("operator", sa.String(length=100), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["proposal"], ["proposals.id"], name=op.f("fk_agreements_proposal")),
        sa.PrimaryKeyConstraint("proposal", "operator", name=op.f("pk_agreements")),
    )
    op.create_table(
        "grants",
        sa.Column("lease", sa.String(length=32), nullable=False),
        sa.Column("instance", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("renewal_digest", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["lease", "instance"], ["instances.lease", "instances.id"], name="fk_grants_instance"),
        sa.PrimaryKeyConstraint("lease", "instance", "seq", name=op.f("pk_grants")),
    )
    op.create_table(
        "holdings",
        sa.Column("lease", sa.String(length=32), nullable=False),
        sa.Column("instance", sa.String(length=64), nullable=False),
        sa.Column("consumer", sa.String(length=63), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("0 <= spent AND spent <= granted", name=op.f("ck_holdings_never_overspent")),
        sa.ForeignKeyConstraint(
            ["lease", "consumer"], ["accounts.lease", "accounts.consumer"], name="fk_holdings_account"
        ),
        sa.ForeignKeyConstraint(
            ["lease", "instance"], ["instances.lease", "instances.id"], name="fk_holdings_instance"
        ),
        sa.PrimaryKeyConstraint("lease", "instance", "consumer", name=op.f("pk_holdings")),
    )
    op.create_table(
        "records",
        sa.Column("lease", sa.String(length=32), nullable=False),
        sa.Column("instance", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["lease", "instance"], ["instances.lease", "instances.id"], name="fk_records_instance"),
        sa.PrimaryKeyConstraint("lease", "instance", "seq", name=op.f("pk_records")),
    )
    op.create_table(
        "requests",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("lease", sa.String(length=32), nullable=False),
        sa.Column("consumer", sa.String(length=63), nullable=False),
        sa.Column("wanted", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("filed_at", sa.String(length=27), nullable=False),
        sa.Column("decided_at", sa.String(length=27), nullable=True),
        sa.Column("decided_by", sa.String(length=100), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("circumstances", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["lease", "consumer"], ["accounts.lease", "accounts.consumer"], name="fk_requests_account"
        ),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name=op.f("fk_requests_lease")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_requests")),
        sa.UniqueConstraint("id", name=op.f("uq_requests_id")),
    )
    op.create_index("ix_requests_lease_consumer", "requests", ["lease", "consumer"], unique=False)
    op.create_index(
        "ux_requests_pending",
        "requests",
        ["lease", "consumer"],
        unique=True,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    # ### end Alembic commands ###
