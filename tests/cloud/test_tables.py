"""What no program may write stands in the database too, and nothing in it has room for what is not to come here."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from account_world import World, everything_in
from blindai.cloud import tables
from blindai.cloud.accounts import Role
from blindai.web.database import Database


@pytest.fixture(scope="module")
def filled(shared_database: Database) -> Database:
    """An organisation `acme` with two members, a key, an invitation and a model."""
    world = World(shared_database)
    admin = world.user("alice")
    world.organisation(admin, "acme")
    second = world.user()
    world.accounts.accept(second, world.invite(admin, "acme", world.email(second), Role.DEVELOPER))
    world.key(admin, "acme")
    world.invite(admin, "acme", "bob@example.org", Role.VIEWER)
    with shared_database.write() as connection:
        connection.execute(
            sa.insert(tables.instances).values(
                id="01" * 32,
                endpoint="https://e.example:443",
                simulated=True,
                verdict="{}",
                current=True,
                first_seen=1,
                last_seen=1,
            )
        )
        for table in ("totals", "usage", "months"):
            rows = tables.metadata.tables[table]
            key = {column.name: 1 if isinstance(column.type, sa.Integer) else "acme" for column in rows.primary_key}
            connection.execute(sa.insert(rows).values(key | ({"instance": "01" * 32} if table == "totals" else {})))
        model = {column.name: 0 if isinstance(column.type, sa.Integer) else "acme" for column in tables.models.c}
        connection.execute(sa.insert(tables.models).values(model))
    return shared_database


@pytest.mark.parametrize(
    "statement",
    [
        # Roles and kinds that nobody has thought of.
        "UPDATE members SET role = 'root'",
        "UPDATE members SET role = 'Admin'",
        "UPDATE namespaces SET kind = 'public'",
        # The same thing a second time.
        "INSERT INTO namespaces SELECT * FROM namespaces",
        "INSERT INTO members SELECT * FROM members",
        "INSERT INTO api_keys SELECT * FROM api_keys",
        "INSERT INTO models SELECT * FROM models",
        "INSERT INTO instances SELECT * FROM instances",
        "INSERT INTO totals SELECT * FROM totals",
        "INSERT INTO usage SELECT * FROM usage",
        "INSERT INTO months SELECT * FROM months",
        "INSERT INTO audit SELECT * FROM audit",
        # One digest of two keys, one address of two users, two invitations of one address.
        (
            "INSERT INTO api_keys (id, digest, namespace, name, scopes, created_by, created_at)"
            " SELECT 'bai_sk_other000', digest, namespace, name, scopes, created_by, created_at FROM api_keys"
        ),
        "INSERT INTO users (id, email, created_at) SELECT 'user-other', email, created_at FROM users",
        (
            "INSERT INTO invitations (id, namespace, email, role, invited_by, created_at)"
            " SELECT 'other', namespace, email, role, invited_by, created_at FROM invitations"
        ),
        # In the hands of nobody, or in an account that is not there.
        "UPDATE members SET \"user\" = 'user-nobody'",
        "UPDATE members SET namespace = 'nowhere'",
        "UPDATE api_keys SET namespace = 'nowhere'",
        "UPDATE invitations SET namespace = 'nowhere'",
        "UPDATE totals SET instance = 'nothing'",
        # A name that was given is given for good.
        "DELETE FROM namespaces WHERE name = 'acme'",
        'DELETE FROM users WHERE id IN (SELECT "user" FROM members)',
    ],
)
def test_the_database_refuses_what_the_control_plane_would_never_write(filled: Database, statement: str) -> None:
    before = everything_in(filled)
    with pytest.raises(IntegrityError), filled.write() as connection:
        connection.execute(sa.text(statement))
    assert everything_in(filled) == before


def test_every_constraint_has_a_name() -> None:
    """Without one, no later release can change it."""
    for table in tables.metadata.tables.values():
        for constraint in table.constraints:
            assert constraint.name, table.name


def test_no_column_has_room_for_a_tensor_or_a_file() -> None:
    """Bytes are those of passkeys and of challenges; long texts are passwords' hashes, verdicts and shapes."""
    binary, long = set(), set()
    for table in tables.metadata.tables.values():
        for column in table.c:
            if isinstance(column.type, sa.LargeBinary):
                binary.add(f"{table.name}.{column.name}")
            elif isinstance(column.type, sa.Text):
                long.add(f"{table.name}.{column.name}")
    assert binary == {"passkeys.public_key", "ceremonies.challenge"}
    assert long == {
        "users.password",
        "passkeys.transports",
        "ceremonies.details",
        "instances.verdict",
        "models.inputs",
        "models.outputs",
        "models.shared_with",
    }
