"""Everything about people, in one place for those who ask."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete

from blindai.cloud import tables
from blindai.cloud.identity import export, passkeys, users
from blindai.cloud.identity.command_lines import CommandLines
from blindai.cloud.identity.email import normalised
from blindai.cloud.identity.own_passkeys import OwnPasskeys
from blindai.cloud.identity.passwords import PasswordChanges
from blindai.cloud.identity.registry import wrong_confirmation
from blindai.cloud.identity.sign_up import SignUps
from blindai.errors import InvalidInput
from blindai.web.database import retrying


class People(SignUps, PasswordChanges, OwnPasskeys, CommandLines):
    """The people of one control plane. Thread-safe; each method waits for the database, and writes all or nothing."""

    def export(self, user_id: str) -> dict[str, Any]:
        """Everything that is kept about a user, ready for JSON; secrets are not in it, for only digests are kept.

        Raises:
            InvalidInput: `identity.unknown`.
        """
        with self._database.read() as connection:
            return export.of(connection, user_id)

    def leave(self, user_id: str, *, confirm_email: str) -> None:
        """Delete a user. Their sessions, tokens and keys are dead at once; the address can sign up again.

        Args:
            confirm_email: the user's address, typed once more.

        Raises:
            InvalidInput: `identity.confirmation`, `identity.unknown`, or `account.last_admin`.
        """
        try:
            confirmed = normalised(confirm_email)
        except InvalidInput:
            raise wrong_confirmation() from None

        @retrying
        def leave() -> None:
            with self._database.write() as connection:
                row = users.known(connection, user_id)
                if row.email != confirmed:
                    raise wrong_confirmation()
                self._accounts.left(connection, user_id)
                self._sign_out(connection, user_id)
                self._links.remove_all(connection, user_id)
                passkeys.remove_all(connection, user_id)
                # What they did that was about no account concerns nobody else.
                own = (tables.audit.c.user == user_id) & tables.audit.c.namespace.is_(None)
                connection.execute(delete(tables.audit).where(own))
                users.change(connection, user_id, email=None, password=None, left_at=self._now())
                self._note(connection, user_id, "user.left")

        leave()
        self._tell(self._letters.left(confirmed))
