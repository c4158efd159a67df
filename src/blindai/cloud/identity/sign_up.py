"""Signing up. Whoever does it hears the same, after about the same work, whether or not the address is known.

What differs is the mail. An account's name that is taken is refused, for names are no secret; that, too, does not
depend on the address.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, select

from blindai.cloud import tables
from blindai.cloud.identity import authenticators, passkeys, users
from blindai.cloud.identity.authenticators import Registered
from blindai.cloud.identity.ceremonies import Purpose as Ceremony
from blindai.cloud.identity.email import normalised
from blindai.cloud.identity.links import LIFETIME_SECONDS, Purpose
from blindai.cloud.identity.rates import CHALLENGES, MAILS, SIGN_UPS
from blindai.cloud.identity.registry import Registry, require_good_password
from blindai.cloud.identity.users import User
from blindai.web.database import retrying

if TYPE_CHECKING:
    from blindai.cloud.mail import Message

# Sign-ups that were not finished are removed at the next ones, so many at each.
_SWEEP: Final = 50

# What the passkey of a sign-up is called.
FIRST_PASSKEY: Final = "my first passkey"


class SignUps(Registry):
    """Signing up, by password or by passkey."""

    def sign_up(self, email: str, password: str, name: str, *, address: str) -> None:
        """Take a sign-up, and send a mail.

        Args:
            name: of the personal account.
            address: from where, for counting.

        Raises:
            InvalidInput: `identity.email`, `account.name`, `account.taken`, or a `password.*` code.
            Throttled: `quota.rate`.
            Unavailable: `unavailable.mail`.
        """
        email = normalised(email)
        require_good_password(password, email=email, name=name)
        self._count(address, email)
        stored = self._passwords.hash(password)
        self._mail.send(self._enter(users.new_id(), email, name, password=stored))

    @retrying
    def sign_up_passkey_options(self, email: str, name: str, *, visitor: str, address: str) -> str:
        """What the browser needs to make a passkey for a sign-up.

        Args:
            visitor: cookie of the browser; only it can finish the sign-up.

        Returns:
            JSON for `navigator.credentials.create`.

        Raises:
            InvalidInput: `identity.email`, `account.name`, `account.taken`.
            Throttled: `quota.rate`.
        """
        email = normalised(email)
        user_id = users.new_id()
        with self._database.write() as connection:
            self._rates.take_place(connection, CHALLENGES, address)
            self._sweep(connection)
            known = users.find_email(connection, email, lock=True)
            with _undone(connection):
                # An own sign-up of before, whose mail got lost, holds the name.
                if known is not None and known.verified_at is None:
                    self._drop(connection, known.id)
                self._open(connection, user_id, name)
            challenge = self._ceremonies.begin(
                connection, visitor, Ceremony.SIGN_UP, user=user_id, email=email, name=name
            )
        return authenticators.creation_options(self._site, challenge, user_id=user_id, email=email)

    def sign_up_passkey(self, visitor: str, response_json: str, *, address: str) -> None:
        """As `sign_up`, with a passkey in place of a password.

        Raises:
            InvalidInput: `identity.ceremony`, `identity.passkey`, `identity.origin`, `identity.user_verification`,
                `identity.passkey_taken`, `account.taken`.
            Throttled: `quota.rate`.
            Unavailable: `unavailable.mail`.
        """

        @retrying
        def take() -> tuple[bytes, dict[str, str]]:
            with self._database.write() as connection:
                ceremony = self._ceremonies.take(connection, visitor, Ceremony.SIGN_UP)
            return ceremony.challenge, ceremony.details

        challenge, details = take()
        made = authenticators.registered(self._site, challenge, response_json)
        self._count(address, details["email"])
        self._mail.send(self._enter(details["user"], details["email"], details["name"], passkey=made))

    @retrying
    def verify(self, link: str) -> User:
        """Finish a sign-up with the link from the mail. It signs nobody in: who reads a mail need not be who signed up.

        Raises:
            InvalidInput: `identity.link`.
        """
        with self._database.write() as connection:
            found = self._links.take(connection, link, Purpose.VERIFY)
            row = users.known(connection, found.user)
            if row.verified_at is None:
                users.change(connection, row.id, verified_at=self._now())
                self._note(connection, row.id, "user.verified")
            self._links.remove_all(connection, row.id)
            return users.user_of(users.known(connection, row.id))

    @retrying
    def _count(self, address: str, email: str) -> None:
        """Before the work that is dear, and whatever comes of it."""
        with self._database.write() as connection:
            self._rates.take_place(connection, SIGN_UPS, address)
            self._rates.take(connection, MAILS, email)

    @retrying
    def _enter(
        self, user_id: str, email: str, name: str, *, password: str | None = None, passkey: Registered | None = None
    ) -> Message:
        """Write a sign-up down, unless there is a user with this address; and the mail that says so."""
        with self._database.write() as connection:
            # Those who sign up with one address at once come one after the other.
            self._rates.hold(connection, MAILS, email)
            self._sweep(connection)
            known = users.find_email(connection, email, lock=True)
            if known is not None and known.verified_at is not None:
                with _undone(connection):
                    self._open(connection, users.new_id(), name, password=password, passkey=passkey)
                return self._letters.already(email, self._links.make(connection, known.id, email, Purpose.RESET))
            if known is not None:
                # Of two sign-ups the later one counts: the one before may have been a stranger's, who would know the
                # password of an account that the owner of the address believes to be theirs.
                self._drop(connection, known.id)
            self._open(connection, user_id, name, email=email, password=password, passkey=passkey)
            return self._verify_letter(connection, user_id, email)

    def _open(
        self,
        connection: Connection,
        user_id: str,
        name: str,
        *,
        email: str | None = None,
        password: str | None = None,
        passkey: Registered | None = None,
    ) -> None:
        users.add(connection, user_id, email=email, password=password, now=self._now())
        if passkey is not None:
            passkeys.add(connection, user_id, passkey, FIRST_PASSKEY, now=self._now())
        self._accounts.open_personal(connection, user_id, name)

    def _sweep(self, connection: Connection) -> None:
        """Remove sign-ups that were not finished, and with them the hold on their names."""
        rows = tables.users.c
        late = (
            select(rows.id)
            .where(rows.verified_at.is_(None), rows.created_at <= self._now() - LIFETIME_SECONDS[Purpose.VERIFY])
            .limit(_SWEEP)
            .with_for_update(skip_locked=True)
        )
        for user_id in connection.execute(late).scalars().all():
            self._drop(connection, user_id)

    def _drop(self, connection: Connection, user_id: str) -> None:
        self._accounts.drop_unverified(connection, user_id)
        passkeys.remove_all(connection, user_id)
        self._links.remove_all(connection, user_id)
        users.remove(connection, user_id)


@contextmanager
def _undone(connection: Connection) -> Iterator[None]:
    """Do what is within, and leave nothing of it."""
    savepoint = connection.begin_nested()
    try:
        yield
    finally:
        savepoint.rollback()
