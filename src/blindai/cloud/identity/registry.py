"""What everything about people works with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import select

from blindai.cloud import tables
from blindai.cloud.identity.ceremonies import Ceremonies
from blindai.cloud.identity.devices import Devices
from blindai.cloud.identity.letters import Letters
from blindai.cloud.identity.links import Links, Purpose
from blindai.cloud.identity.rates import Rates
from blindai.cloud.identity.tokens import Tokens
from blindai.cloud.mail import Mailer, Message
from blindai.cloud.site import Site
from blindai.errors import InvalidInput, Unavailable
from blindai.web.database import Database
from blindai.web.passwords import Passwords, require_strength
from blindai.web.sessions import Sessions
from blindai.web.throttle import Throttle

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from blindai.cloud.accounts import Accounts

_log = structlog.get_logger("blindai.cloud")


class Registry:
    """The base of `People`: the database, and what writes its parts.

    Args:
        mail: takes mails at once (`mail.Post`); one that is slow would tell by its time which addresses are known.
        clock: wall clock, in seconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        mail: Mailer,
        site: Site,
        *,
        accounts: Accounts,
        passwords: Passwords | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._mail = mail
        self._site = site
        self._accounts = accounts
        self._passwords = passwords or Passwords()
        self._clock = clock
        self._ceremonies = Ceremonies(clock=clock)
        self._devices = Devices(site, clock=clock)
        self._letters = Letters(site)
        self._links = Links(clock=clock)
        self._rates = Rates(clock=clock)
        self._sessions = Sessions(tables.sessions, clock=clock)
        self._throttle = Throttle(tables.sign_in_attempts, clock=clock)
        self._tokens = Tokens(clock=clock)

    def _now(self) -> int:
        return int(self._clock())

    def _tell(self, *messages: Message | None) -> None:
        """Send what must not keep anything from being done."""
        for message in messages:
            if message is not None:
                try:
                    self._mail.send(message)
                except Unavailable as error:
                    _log.warning("mail_not_sent", code=error.code, reason=error.message)

    def _verify_letter(self, connection: Connection, user_id: str, email: str) -> Message:
        """A mail with a new link to finish a sign-up."""
        own = select(tables.members.c.namespace).where(tables.members.c.user == user_id)
        name = connection.execute(own).scalars().first()
        return self._letters.verify(email, name, self._links.make(connection, user_id, email, Purpose.VERIFY))

    def _note(self, connection: Connection, user_id: str, action: str, subject: str = "") -> None:
        """Write into the log what a user did that is about no account."""
        self._accounts.note(connection, None, user_id, action, subject)


def require_good_password(password: str, *, email: str, name: str = "") -> None:
    """Refuse a new password that would be guessed.

    Raises:
        InvalidInput: a `password.*` code.
    """
    require_strength(password, name=name)
    require_strength(password, name=email.partition("@")[0])


def wrong_confirmation() -> InvalidInput:
    """The refusal of an address that was typed to confirm something, and is another one."""
    return InvalidInput("this is not the address that you signed up with", code="identity.confirmation")
