"""Accounts without the rest of a control plane: users are rows, mails are a list, time stands until a test moves it."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from blindai.cloud import tables
from blindai.cloud.accounts import AccountQuotas, Accounts, Role, members, namespaces
from blindai.cloud.accounts.namespaces import Kind
from blindai.cloud.mail import Message
from blindai.cloud.site import Site
from blindai.web.database import Database
from blindai.wire.cloud_api import NewKey
from hand_clock import HandClock

SITE = Site("BlindAI Cloud", "https://cloud.example")

_LINK = re.compile(r"\?link=(\S+)")


class ListMailer:
    """Keeps mails."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message) -> None:
        self.sent.append(message)


def new_name(prefix: str = "acme") -> str:
    """A name that no test has used before."""
    return f"{prefix}-{secrets.token_hex(5)}"


@dataclass
class World:
    """Accounts on `database`, and who is in them.

    Attributes:
        secrets: what was shown or mailed once, and must be stored nowhere.
    """

    database: Database
    clock: HandClock = field(default_factory=HandClock)
    mail: ListMailer = field(default_factory=ListMailer)
    quotas: AccountQuotas = field(default_factory=AccountQuotas)
    secrets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.accounts = Accounts(self.database, self.mail, SITE, quotas=self.quotas, clock=self.clock)

    def user(self, name: str | None = None, *, verified: bool = True, email: str | None = None) -> str:
        """A new user, with a personal account; their id."""
        with self.database.write() as connection:
            return self._user(connection, name or new_name("alice"), verified=verified, email=email)

    def email(self, user_id: str) -> str:
        with self.database.read() as connection:
            found = connection.execute(sa.select(tables.users.c.email).where(tables.users.c.id == user_id)).scalar_one()
        return str(found)

    def organisation(self, admin: str, name: str | None = None) -> str:
        """A new organisation; its name."""
        return self.accounts.create_organisation(admin, name or new_name()).namespace

    def invite(self, admin: str, namespace: str, email: str, role: Role) -> str:
        """What is in the link of an invitation."""
        self.accounts.invite(admin, namespace, email, role)
        found = _LINK.search(self.mail.sent[-1].text)
        assert found
        self.secrets.append(found[1])
        return found[1]

    def key(self, user_id: str, namespace: str, name: str = "laptop", **options: Any) -> str:
        """A new key; its id."""
        created = self.accounts.create_key(user_id, namespace, NewKey(name=name, **options))
        self.secrets.append(created.api_key)
        return created.entry.id

    def staff(self) -> Staff:
        """An organisation with one of each role, and somebody who has nothing to do with it."""
        namespace, now = new_name(), int(self.clock())
        with self.database.write() as connection:
            staff = Staff(namespace, *(self._user(connection, new_name("alice")) for _ in range(4)))
            namespaces.insert_account(
                connection, namespace, staff.admin, kind=Kind.ORGANISATION, quotas=self.quotas, at=now
            )
            members.join(connection, namespace, staff.developer, Role.DEVELOPER, at=now)
            members.join(connection, namespace, staff.viewer, Role.VIEWER, at=now)
        return staff

    def _user(self, connection: sa.Connection, name: str, *, verified: bool = True, email: str | None = None) -> str:
        user_id = "user-" + base64.b32encode(secrets.token_bytes(10)).decode().lower()
        now = int(self.clock())
        row = {"id": user_id, "email": email or f"{name}@example.org", "created_at": now}
        connection.execute(sa.insert(tables.users).values(**row, verified_at=now if verified else None))
        self.accounts.open_personal(connection, user_id, name)
        return user_id

    def rows(self, table: sa.Table, **where: object) -> list[sa.Row[Any]]:
        with self.database.read() as connection:
            query = sa.select(table).where(*(table.c[name] == value for name, value in where.items()))
            return list(connection.execute(query))


@dataclass(frozen=True)
class Staff:
    """The ids of users, by role in `namespace`."""

    namespace: str
    admin: str
    developer: str
    viewer: str
    stranger: str

    def __iter__(self) -> Iterator[str]:
        return iter((self.admin, self.developer, self.viewer, self.stranger))


def everything_in(database: Database) -> str:
    """All that stands in any column of any table, as text."""
    with database.read() as connection:
        return "\n".join(
            repr(tuple(row)) for table in tables.metadata.sorted_tables for row in connection.execute(sa.select(table))
        )


def prepared(url: str) -> Database:
    """The database at `url`, with the tables in it."""
    database = Database.open(url)
    with database.write() as connection:
        tables.metadata.create_all(connection)
    return database


def sqlite_in(folder: Path) -> str:
    return str(folder / "cloud.sqlite3")
