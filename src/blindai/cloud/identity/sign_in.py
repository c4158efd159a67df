"""Signing in, by password or by passkey, and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blindai.cloud.identity import authenticators, passkeys, users
from blindai.cloud.identity.ceremonies import Purpose as Ceremony
from blindai.cloud.identity.email import normalised
from blindai.cloud.identity.rates import CHALLENGES, MAILS
from blindai.cloud.identity.registry import Registry
from blindai.cloud.identity.users import User
from blindai.errors import InvalidInput, PermissionDenied
from blindai.web.database import retrying
from blindai.web.passwords import refused
from blindai.web.sessions import Session

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

    from blindai.cloud.identity.authenticators import Presented
    from blindai.cloud.mail import Message


class SignIns(Registry):
    """Sessions: how they begin and end, and whose they are."""

    def sign_in(self, email: str, password: str, *, address: str) -> Session:
        """Begin a session.

        Raises:
            AuthenticationError: `authentication.password`, whatever was wrong.
            PermissionDenied: `identity.unverified`, after the right password only; the mail is sent again.
            Throttled: `authentication.throttled`.
        """
        try:
            account = known = normalised(email)
        except InvalidInput:
            # Nobody's: it is counted and answered like an address that is not known, and not shown to the database,
            # which refuses some texts.
            account, known = email, ""
        row = self._begin(account, known, address)
        # Outside of a transaction: it takes a while by design.
        renewed = self._passwords.verify(None if row is None else row.password, password)
        if row is None:
            raise refused()
        session, message = self._admit(row, account, address, renewed)
        self._tell(message)
        if session is None:
            raise _unverified()
        return session

    @retrying
    def sign_in_options(self, visitor: str, *, address: str) -> str:
        """What the browser needs to use a passkey. It is the same for everybody: the passkey says whose it is.

        Args:
            visitor: cookie of the browser; only it can use the answer.

        Returns:
            JSON for `navigator.credentials.get`.

        Raises:
            Throttled: `quota.rate`.
        """
        with self._database.write() as connection:
            self._rates.take_place(connection, CHALLENGES, address)
            challenge = self._ceremonies.begin(connection, visitor, Ceremony.SIGN_IN)
        return authenticators.request_options(self._site, challenge)

    def sign_in_passkey(self, visitor: str, response_json: str, *, address: str) -> Session:
        """Begin a session with the answer of a passkey.

        Raises:
            AuthenticationError: `authentication.passkey`, or `identity.passkey_cloned`.
            InvalidInput: `identity.ceremony`, `identity.passkey`, `identity.origin`, `identity.user_verification`.
            PermissionDenied: `identity.unverified`; the mail is sent again.
            Throttled: `quota.rate`.
        """
        challenge = self._challenge(visitor, address)
        answer = authenticators.presented(response_json)
        session, message, error = self._admit_passkey(challenge, answer)
        self._tell(message)
        if session is None:
            raise error or passkeys.unknown()
        return session

    def user_of(self, session_id: str) -> User | None:
        """Whose session this is, if it is one that has not ended. `touch` keeps it from ending."""
        with self._database.read() as connection:
            session = self._sessions.find(connection, session_id)
            row = None if session is None else users.find(connection, session.account)
        return None if row is None or row.verified_at is None else users.user_of(row)

    def touch(self, session_id: str) -> None:
        """Note that a session is in use. It writes once a minute at most."""
        with self._database.read() as connection:
            session = self._sessions.find(connection, session_id)
            if session is None or not self._sessions.is_stale(connection, session):
                return
        # Between reading and this, it may have ended: then there is no row to write.
        self._touch(session)

    @retrying
    def sign_out(self, session_id: str) -> None:
        """End one session; an id that is none is no error."""
        with self._database.write() as connection:
            self._sessions.end(connection, session_id)

    @retrying
    def sign_out_everywhere(self, user_id: str) -> None:
        """End all sessions and access tokens of a user."""
        with self._database.write() as connection:
            self._sign_out(connection, user_id)

    def _sign_out(self, connection: Connection, user_id: str, *, keep: str | None = None) -> None:
        self._sessions.end_all(connection, user_id, keep=keep)
        self._tokens.remove_all(connection, user_id)
        self._devices.remove_all(connection, user_id)

    @retrying
    def _touch(self, session: Session) -> None:
        with self._database.write() as connection:
            self._sessions.touch(connection, session)

    @retrying
    def _begin(self, account: str, email: str, address: str) -> Row[Any] | None:
        with self._database.write() as connection:
            self._throttle.begin(connection, account, address)
            return users.find_email(connection, email)

    @retrying
    def _admit(
        self, row: Row[Any], account: str, address: str, renewed: str | None
    ) -> tuple[Session | None, Message | None]:
        """Begin a session of somebody who knew the password; or send them their link again."""
        with self._database.write() as connection:
            found = users.find(connection, row.id, lock=True)
            if found is None or found.password != row.password:
                raise refused()
            self._throttle.succeed(connection, account, address)
            if renewed is not None:
                users.change(connection, found.id, password=renewed)
            return self._session(connection, found)

    def _session(self, connection: Connection, row: Row[Any]) -> tuple[Session | None, Message | None]:
        if row.verified_at is not None:
            return self._sessions.begin(connection, row.id), None
        if self._rates.may(connection, MAILS, row.email):
            return None, self._verify_letter(connection, row.id, row.email)
        return None, None

    @retrying
    def _challenge(self, visitor: str, address: str) -> bytes:
        """Take the visitor's challenge: whatever comes of it, it was its only use."""
        with self._database.write() as connection:
            self._rates.take_place(connection, CHALLENGES, address)
            return self._ceremonies.take(connection, visitor, Ceremony.SIGN_IN).challenge

    @retrying
    def _admit_passkey(
        self, challenge: bytes, answer: Presented
    ) -> tuple[Session | None, Message | None, Exception | None]:
        with self._database.write() as connection:
            key = passkeys.find(connection, answer.id)
            if key is None or answer.user != key.user.encode():
                return None, None, passkeys.unknown()
            count = authenticators.sign_count(self._site, challenge, answer, bytes(key.public_key))
            row = users.known(connection, key.user)
            if not passkeys.used(connection, key, count, now=self._now()):
                return None, self._letters.passkey_cloned(row.email, key.name), passkeys.cloned()
            session, message = self._session(connection, row)
            return session, message, None if session else _unverified()


def _unverified() -> PermissionDenied:
    return PermissionDenied(
        "the address is not confirmed yet", code="identity.unverified", hint="open the link in the mail that we sent"
    )
