"""The first tables."""

from __future__ import annotations

from alembic import op

from blindai.cloud.tables import metadata

# Named after the program: a database of the custodian, whose releases are numbers, is no earlier one of ours.
revision = "cloud_0001"
down_revision = None


def upgrade() -> None:
    """From nothing."""
    metadata.create_all(op.get_bind())
