"""The passkeys that a user who is signed in adds and removes."""

from __future__ import annotations

from blindai.cloud.identity import authenticators, passkeys, users
from blindai.cloud.identity.ceremonies import Ceremony, over
from blindai.cloud.identity.ceremonies import Purpose as Asked
from blindai.cloud.identity.labels import require_label
from blindai.cloud.identity.passkeys import Passkey
from blindai.cloud.identity.registry import Registry
from blindai.web.database import retrying


class OwnPasskeys(Registry):
    """A user's passkeys."""

    def passkeys(self, user_id: str) -> tuple[Passkey, ...]:
        """The passkeys of a user, the oldest first."""
        with self._database.read() as connection:
            return passkeys.of(connection, user_id)

    @retrying
    def add_passkey_options(self, user_id: str, session_id: str) -> str:
        """What the browser needs to make one more passkey.

        Args:
            session_id: only this session can add it.

        Returns:
            JSON for `navigator.credentials.create`.

        Raises:
            InvalidInput: `identity.unknown`.
        """
        with self._database.write() as connection:
            row = users.known(connection, user_id)
            mine = tuple(one.id for one in passkeys.of(connection, user_id))
            challenge = self._ceremonies.begin(connection, session_id, Asked.ADD, user=user_id)
        return authenticators.creation_options(self._site, challenge, user_id=user_id, email=row.email, exclude=mine)

    def add_passkey(self, user_id: str, session_id: str, response_json: str, name: str) -> Passkey:
        """Add a passkey.

        Args:
            name: what its user calls it.

        Raises:
            InvalidInput: `identity.ceremony`, `identity.passkey`, `identity.origin`, `identity.user_verification`,
                `identity.passkey_taken`, `identity.passkey_name`, `identity.unknown`.
            QuotaExceeded: `identity.passkeys`.
        """
        require_label(name, code="identity.passkey_name")
        ceremony = self._take(user_id, session_id)
        made = authenticators.registered(self._site, ceremony.challenge, response_json)

        @retrying
        def add() -> tuple[Passkey, str]:
            with self._database.write() as connection:
                row = users.known(connection, user_id)
                passkey = passkeys.add(connection, user_id, made, name, now=self._now())
                self._note(connection, user_id, "user.passkey_added", name)
                return passkey, row.email

        passkey, email = add()
        self._tell(self._letters.passkey_added(email, name))
        return passkey

    def remove_passkey(self, user_id: str, passkey_id: str) -> None:
        """Remove a passkey.

        Raises:
            InvalidInput: `identity.passkey_unknown`, `identity.last_passkey`, `identity.unknown`.
        """

        @retrying
        def remove() -> tuple[Passkey, str]:
            with self._database.write() as connection:
                row = users.known(connection, user_id)
                passkey = passkeys.remove(connection, user_id, passkey_id, has_password=row.password is not None)
                self._note(connection, user_id, "user.passkey_removed", passkey.name)
                return passkey, row.email

        passkey, email = remove()
        self._tell(self._letters.passkey_removed(email, passkey.name))

    @retrying
    def _take(self, user_id: str, session_id: str) -> Ceremony:
        """What this user began in this session, which has not ended since."""
        with self._database.write() as connection:
            ceremony = self._ceremonies.take(connection, session_id, Asked.ADD)
            session = self._sessions.find(connection, session_id)
        if session is None or {session.account, ceremony.details["user"]} != {user_id}:
            raise over()
        return ceremony
