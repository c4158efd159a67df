"""How alembic runs the files in `versions`: in the transaction of whoever called it."""

from __future__ import annotations

from alembic import context

from blindai.cloud.tables import metadata
from blindai.web.migrations import CONNECTION

# On SQLite too: our transactions hold changes of tables.
context.configure(connection=context.config.attributes[CONNECTION], target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
