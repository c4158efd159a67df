"""The rule of the ledger stands in the database too: whoever writes around the ledger cannot overspend either."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from blindai.custody.tables import metadata
from blindai.web.database import Database
from lending import Custodian


@pytest.fixture
def lease(database: Database, tmp_path: Path) -> str:
    """A lease of 100 units; `alice` may have 40, was granted 10 and has spent 4."""
    with database.write() as connection:
        metadata.create_all(connection)
    custodian = Custodian(database, tmp_path)
    lease = custodian.lend(consumers={"alice": 40})
    instance = custodian.instance(lease)
    instance.renew({"alice": 10})
    instance.spend("alice", 4)
    instance.renew()
    instance.request("alice")
    return lease


@pytest.mark.parametrize("constraint", ["never_overspent", "within_budget"])
def test_the_constraints_have_names(constraint: str) -> None:
    names = {str(item.name) for table in metadata.tables.values() for item in table.constraints}
    assert any(constraint in name for name in names)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE leases SET granted = 101",
        "UPDATE leases SET budget = 9",
        "UPDATE leases SET spent = 11",
        "UPDATE leases SET spent = -1",
        "UPDATE leases SET granted = 3",
        "UPDATE accounts SET granted = 41",
        "UPDATE accounts SET budget = 9",
        "UPDATE accounts SET spent = 11",
        "UPDATE accounts SET spent = -1",
        "UPDATE holdings SET spent = 11",
        "UPDATE holdings SET granted = 3",
        "UPDATE holdings SET spent = -1",
        # The same renewal, record, entry or account a second time.
        "INSERT INTO grants SELECT * FROM grants",
        "INSERT INTO records SELECT * FROM records",
        "INSERT INTO events SELECT * FROM events",
        "INSERT INTO accounts SELECT * FROM accounts",
        # Units in the hands of nobody, or of an account that is not there.
        "UPDATE holdings SET instance = 'ff'",
        "UPDATE holdings SET consumer = 'mallory'",
        "UPDATE accounts SET lease = 'lease-bbbbbbbbbbbbbbbb'",
        # A second request of a consumer who has one that is undecided.
        (
            "INSERT INTO requests SELECT number + 1, 'request-bbbbbbbbbbbbbbbb', lease, consumer, wanted, state,"
            " filed_at, decided_at, decided_by, granted, reason, circumstances FROM requests"
        ),
    ],
)
def test_the_database_refuses_what_the_ledger_would_never_write(database: Database, lease: str, statement: str) -> None:
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(sa.text(statement))
    with database.read() as connection:
        row = connection.execute(sa.text("SELECT budget, granted, spent FROM leases")).one()
    assert tuple(row) == (100, 10, 4)


def test_an_account_without_a_budget_is_bound_by_the_lease(database: Database, lease: str) -> None:
    with database.write() as connection:
        connection.execute(sa.text("UPDATE accounts SET budget = NULL, granted = 1000000"))
        connection.execute(sa.text("UPDATE accounts SET budget = 40, granted = 10"))
