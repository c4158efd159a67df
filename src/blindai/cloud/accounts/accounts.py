"""Accounts: who works in which, what they may do there, and which keys there are.

To somebody who is no member, an account that exists looks like one that does not, whatever they ask for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, select

from blindai.cloud import tables
from blindai.cloud.accounts import audit, invitations, keys, members, namespaces
from blindai.cloud.accounts.audit import MAX_ENTRIES, AuditEntry
from blindai.cloud.accounts.invitations import Invitation
from blindai.cloud.accounts.members import Member
from blindai.cloud.accounts.namespaces import AccountQuotas, Kind
from blindai.cloud.accounts.roles import ALLOWED, Action, Role
from blindai.cloud.identity.email import normalised
from blindai.web.database import Database, retrying
from blindai.wire.cloud_api import CreatedKey, KeyEntry, Membership, NewKey

if TYPE_CHECKING:
    from blindai.cloud.mail import Mailer
    from blindai.cloud.site import Site

_USER: Final = re.compile(r"user-[a-z2-7]{16}", re.ASCII)


class Accounts:
    """The accounts in one database. Thread-safe; each method is one transaction, but for those that take a connection.

    Every method that takes a user and an account refuses with `account.unknown` (InvalidInput) whoever is no member of
    it, and with `account.role` (PermissionDenied) members whose role does not allow it.

    Args:
        mail: where invitations go.
        quotas: of accounts that are opened from now on.
        clock: wall clock, in seconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        mail: Mailer,
        site: Site,
        *,
        quotas: AccountQuotas | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._mail = mail
        self._site = site
        self._quotas = quotas or AccountQuotas()
        self._clock = clock

    def open_personal(self, connection: Connection, user_id: str, name: str) -> None:
        """Give a new user their own account, in the transaction that makes the user.

        Raises:
            InvalidInput: `account.name`, `account.taken`.
        """
        namespaces.insert_account(connection, name, user_id, kind=Kind.PERSONAL, quotas=self._quotas, at=self._now())

    def drop_unverified(self, connection: Connection, user_id: str) -> None:
        """Remove what `open_personal` made for a user who never verified their address. The name is free again."""
        rows, users = tables.members.c, tables.users.c
        own = (
            select(rows.namespace)
            .join_from(tables.members, tables.users, users.id == rows.user)
            .where(rows.user == user_id, users.verified_at.is_(None))
        )
        for name in connection.execute(own).scalars().all():
            namespaces.remove_account(connection, name)

    @retrying
    def create_organisation(self, user_id: str, name: str) -> Membership:
        """Open an organisation, with its maker as its admin.

        Raises:
            InvalidInput: `account.name`, `account.taken`.
            QuotaExceeded: `account.organisations`.
        """
        with self._database.write() as connection:
            namespaces.require_room_for_organisation(connection, user_id)
            namespaces.insert_account(
                connection, name, user_id, kind=Kind.ORGANISATION, quotas=self._quotas, at=self._now()
            )
        return Membership(namespace=name, kind=Kind.ORGANISATION.value, role=Role.ADMIN)

    def memberships(self, user_id: str) -> tuple[Membership, ...]:
        """The accounts that a user works in, their own first; none before their address is verified."""
        with self._database.read() as connection:
            return namespaces.memberships(connection, user_id)

    def require(self, user_id: str, namespace: str, action: Action) -> Role:
        """The role of a user who may do `action` in an account."""
        with self._database.read() as connection:
            return namespaces.require_member(connection, user_id, namespace, action)[0]

    @retrying
    def close(self, user_id: str, namespace: str) -> None:
        """Close an organisation, with all of its keys. Its name stays taken.

        Raises:
            InvalidInput: `account.personal`: that one is closed when its user leaves.
        """
        with self._database.write() as connection:
            self._organisation(connection, user_id, namespace, Action.CLOSE)
            self._close(connection, namespace, user_id)

    def left(self, connection: Connection, user_id: str) -> None:
        """End all that a user has here, in the transaction in which they leave and before their address is removed.

        Their own account is closed, and organisations that have no other member. The keys that they have made in
        others are revoked, and the log calls them by their id.

        Raises:
            InvalidInput: `account.last_admin`: an organisation with other members would have no admin.
        """
        rows = tables.members.c
        own = select(rows.namespace).where(rows.user == user_id).order_by(rows.namespace)
        for name in connection.execute(own).scalars().all():
            namespaces.lock_account(connection, name)
            roles = members.roles_of(connection, name)
            if set(roles) == {user_id}:
                self._close(connection, name, user_id)
            elif user_id in roles:
                self._remove(connection, name, user_id, user_id)
        email = connection.execute(
            select(tables.users.c.email).where(tables.users.c.id == user_id)
        ).scalar_one_or_none()
        if email is not None:
            invitations.end_all_to(connection, email)
            audit.forget_address(connection, email, user_id)

    def members(self, user_id: str, namespace: str) -> tuple[Member, ...]:
        """The members of an account, by address."""
        with self._database.read() as connection:
            namespaces.require_member(connection, user_id, namespace, Action.VIEW)
            return members.of(connection, namespace)

    @retrying
    def set_role(self, user_id: str, namespace: str, member: str, role: Role) -> None:
        """Give a member another role. As a viewer they have no keys: those that they have made are revoked.

        Args:
            member: id of a user.

        Raises:
            InvalidInput: `account.member_unknown`, `account.last_admin`, `account.personal`.
        """
        with self._database.write() as connection:
            self._organisation(connection, user_id, namespace, Action.MEMBERS)
            _require_user_id(member)
            members.change_role(connection, namespace, user_id, member, Role(role), at=self._now())
            if role is not Role.ADMIN:
                invitations.end_all_by(connection, namespace, member)

    @retrying
    def remove_member(self, user_id: str, namespace: str, member: str) -> None:
        """End a membership and revoke the keys that the member has made. Everybody may end their own.

        Raises:
            InvalidInput: `account.member_unknown`, `account.last_admin`, `account.personal`.
        """
        with self._database.write() as connection:
            self._organisation(connection, user_id, namespace, None if member == user_id else Action.MEMBERS)
            _require_user_id(member)
            self._remove(connection, namespace, user_id, member)

    def invitations(self, user_id: str, namespace: str) -> tuple[Invitation, ...]:
        """The invitations that nobody has accepted yet, by address."""
        with self._database.read() as connection:
            namespaces.require_member(connection, user_id, namespace, Action.MEMBERS)
            return invitations.of(connection, namespace)

    def invite(self, user_id: str, namespace: str, email: str, role: Role) -> Invitation:
        """Send an invitation, in place of an earlier one to the same address.

        Raises:
            InvalidInput: `identity.email`, `account.member`, `account.personal`.
            QuotaExceeded: `account.invitations`, `account.members`.
            Unavailable: `unavailable.mail`: the invitation is there, but no mail was sent; it can be sent again.
        """
        invitation, link = self._invite(user_id, namespace, email, Role(role))
        self._mail.send(
            invitations.mail(
                self._site,
                namespace,
                inviter=invitation.invited_by,
                email=invitation.email,
                role=invitation.role,
                link=link,
            )
        )
        return invitation

    @retrying
    def withdraw(self, user_id: str, namespace: str, email: str) -> None:
        """Take an invitation back: its link is dead.

        Raises:
            InvalidInput: `identity.email`; `account.invitation`: there is none to this address; `account.personal`.
        """
        with self._database.write() as connection:
            self._organisation(connection, user_id, namespace, Action.MEMBERS)
            invitations.withdraw(connection, namespace, user_id, normalised(email), at=self._now())

    @retrying
    def accept(self, user_id: str, link: str) -> Membership:
        """Become a member by the secret of a link that was sent by mail. It works once.

        Raises:
            InvalidInput: `account.invitation`, for one that was used, was withdrawn, or has expired; `account.member`.
            PermissionDenied: `account.invitation_address`: it went to another address.
            QuotaExceeded: `account.members`.
        """
        with self._database.write() as connection:
            # The user first, as where a user leaves: two transactions that wait for each other would both be lost.
            user = select(tables.users.c.id).where(tables.users.c.id == user_id)
            connection.execute(user.with_for_update(read=True, key_share=True)).one_or_none()
            namespace = invitations.account_of(connection, link)
            namespaces.lock_account(connection, namespace)
            role = invitations.accept(connection, namespace, user_id, link, at=self._now())
        return Membership(namespace=namespace, kind=Kind.ORGANISATION.value, role=role)

    @retrying
    def create_key(self, user_id: str, namespace: str, new: NewKey) -> CreatedKey:
        """Make a key. Its text is in the answer and nowhere else.

        Raises:
            InvalidInput: `account.key_request`.
            QuotaExceeded: `account.keys`.
        """
        with self._database.write() as connection:
            namespaces.require_member(connection, user_id, namespace, Action.KEYS, lock=True)
            return keys.create(connection, namespace, user_id, new, at=self._now())

    def keys(self, user_id: str, namespace: str) -> tuple[KeyEntry, ...]:
        """The keys of an account, revoked ones too, the newest first."""
        with self._database.read() as connection:
            namespaces.require_member(connection, user_id, namespace, Action.KEYS)
            return keys.of(connection, namespace)

    @retrying
    def revoke_key(self, user_id: str, namespace: str, key_id: str) -> KeyEntry:
        """Take a key out of force; once more changes nothing. An admin may do so, and the member who has made it.

        Raises:
            InvalidInput: `account.key_unknown`.
            PermissionDenied: `account.role`: somebody else has made it.
        """
        with self._database.write() as connection:
            role, _ = namespaces.require_member(connection, user_id, namespace, Action.KEYS, lock=True)
            others = Action.ALL_KEYS in ALLOWED[role]
            return keys.revoke(connection, namespace, user_id, key_id, others=others, at=self._now())

    def audit(
        self, user_id: str, namespace: str, *, before: int | None = None, limit: int = MAX_ENTRIES
    ) -> tuple[AuditEntry, ...]:
        """The log of an account, the newest first.

        Args:
            before: only entries with smaller ids, for the next page.
            limit: at most this many.
        """
        with self._database.read() as connection:
            namespaces.require_member(connection, user_id, namespace, Action.AUDIT)
            return audit.entries(connection, namespace, before=before, limit=limit)

    def note(self, connection: Connection, namespace: str | None, user: str | None, action: str, subject: str) -> None:
        """Write into the log, in the transaction of what is noted. No secret belongs there."""
        audit.note(connection, namespace, user, action, subject, at=self._now())

    @retrying
    def _invite(self, user_id: str, namespace: str, email: str, role: Role) -> tuple[Invitation, str]:
        with self._database.write() as connection:
            self._organisation(connection, user_id, namespace, Action.MEMBERS)
            address = normalised(email)
            link = invitations.invite(connection, namespace, user_id, address, role, at=self._now())
            (made,) = [one for one in invitations.of(connection, namespace) if one.email == address]
        return made, link

    def _organisation(self, connection: Connection, user_id: str, namespace: str, action: Action | None) -> None:
        _, kind = namespaces.require_member(connection, user_id, namespace, action, lock=True)
        namespaces.require_organisation(kind)

    def _close(self, connection: Connection, namespace: str, user_id: str) -> None:
        now = self._now()
        keys.revoke_all(connection, namespace, user_id, at=now)
        invitations.end_all(connection, namespace)
        members.remove_all(connection, namespace)
        namespaces.close_account(connection, namespace, user_id, at=now)

    def _remove(self, connection: Connection, namespace: str, user_id: str, member: str) -> None:
        members.remove(connection, namespace, user_id, member, at=self._now())
        invitations.end_all_by(connection, namespace, member)

    def _now(self) -> int:
        return int(self._clock())


def _require_user_id(text: str) -> None:
    if not _USER.fullmatch(text):
        raise members.unknown()
