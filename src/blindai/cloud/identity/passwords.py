"""Changing a password, and choosing a new one by mail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blindai.cloud.identity import passkeys, users
from blindai.cloud.identity.email import normalised
from blindai.cloud.identity.links import Link, Purpose
from blindai.cloud.identity.rates import MAILS, PASSWORD_CHANGES, RESETS
from blindai.cloud.identity.registry import require_good_password
from blindai.cloud.identity.sign_in import SignIns
from blindai.cloud.identity.users import User
from blindai.errors import InvalidInput
from blindai.web.database import retrying
from blindai.web.passwords import refused

if TYPE_CHECKING:
    from sqlalchemy import Row

    from blindai.cloud.mail import Message


class PasswordChanges(SignIns):
    """New passwords for old ones, and for lost ones."""

    def change_password(self, user_id: str, old: str, new: str, *, keep: str) -> None:
        """Give a user another password. Their other sessions and their access tokens end.

        Args:
            keep: id of the session that goes on.

        Raises:
            AuthenticationError: `authentication.password`: `old` is wrong.
            InvalidInput: a `password.*` code; `identity.no_password`; `identity.unknown`.
            Throttled: `quota.rate`.
        """
        row = self._count_change(user_id)
        if row.password is None:
            # A session alone must not be enough for a second way in.
            raise InvalidInput(
                "you have no password",
                code="identity.no_password",
                hint="sign out, and ask for a new password by mail",
            )
        require_good_password(new, email=row.email)
        self._passwords.verify(row.password, old)
        self._change_password(row, self._passwords.hash(new), keep)
        self._tell(self._letters.password_changed(row.email))

    def request_reset(self, email: str, *, address: str) -> None:
        """Send a mail with a link to choose a new password, if somebody has this address. Nobody else hears which.

        Raises:
            InvalidInput: `identity.email`.
            Throttled: `quota.rate`.
        """
        self._tell(self._reset_letter(normalised(email), address))

    def reset(self, link: str, new: str) -> User:
        """Choose a new password with the link from a mail.

        All that could sign the user in before ends: sessions, access tokens, passkeys, and other links. Somebody who
        asks for this may do so because another one got in.

        Raises:
            InvalidInput: `identity.link`, or a `password.*` code; then the link stays good.
        """
        with self._database.read() as connection:
            found = self._links.find(connection, link, Purpose.RESET)
        require_good_password(new, email=found.email)
        user = self._reset(link, found, self._passwords.hash(new))
        self._tell(self._letters.password_reset(user.email))
        return user

    @retrying
    def _count_change(self, user_id: str) -> Row[Any]:
        with self._database.write() as connection:
            self._rates.take(connection, PASSWORD_CHANGES, user_id)
            return users.known(connection, user_id)

    @retrying
    def _change_password(self, row: Row[Any], stored: str, keep: str) -> None:
        with self._database.write() as connection:
            if users.known(connection, row.id).password != row.password:
                raise refused()
            users.change(connection, row.id, password=stored)
            self._sign_out(connection, row.id, keep=keep)
            self._links.remove_all(connection, row.id)
            self._note(connection, row.id, "user.password_changed")

    @retrying
    def _reset_letter(self, email: str, address: str) -> Message | None:
        with self._database.write() as connection:
            self._rates.take_place(connection, RESETS, address)
            self._rates.take(connection, MAILS, email)
            row = users.find_email(connection, email)
            if row is None:
                return None
            if row.verified_at is None:
                return self._verify_letter(connection, row.id, email)
            return self._letters.reset(email, self._links.make(connection, row.id, email, Purpose.RESET))

    @retrying
    def _reset(self, link: str, found: Link, stored: str) -> User:
        with self._database.write() as connection:
            self._links.take(connection, link, Purpose.RESET)
            users.known(connection, found.user)
            users.change(connection, found.user, password=stored)
            self._sign_out(connection, found.user)
            self._links.remove_all(connection, found.user)
            passkeys.remove_all(connection, found.user)
            self._note(connection, found.user, "user.password_reset")
            return users.user_of(users.known(connection, found.user))
