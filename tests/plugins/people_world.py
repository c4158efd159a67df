"""People without the rest of a control plane: mails are a list, time stands until a test moves it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from argon2 import PasswordHasher

from account_world import SITE, ListMailer, new_name
from blindai.cloud.accounts import Accounts
from blindai.cloud.identity import People, User
from blindai.errors import BlindAIError
from blindai.web.database import Database
from blindai.web.passwords import Passwords
from blindai.web.sessions import Session
from hand_clock import HandClock
from software_authenticator import SoftwareAuthenticator

PASSWORD = "correct horse battery staple"
OTHER = "another long pass phrase"

_LINK = re.compile(r"[?&]link=([A-Za-z0-9_-]+)")


class CountedPasswords(Passwords):
    """Cheap ones, that count what would be dear.

    Attributes:
        work: hashes made and hashes checked.
    """

    def __init__(self) -> None:
        super().__init__(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        self.work: list[str] = []

    def hash(self, password: str) -> str:
        self.work.append("hash")
        return super().hash(password)

    def verify(self, stored: str | None, password: str) -> str | None:
        self.work.append("verify")
        return super().verify(stored, password)


@dataclass
class PeopleWorld:
    """People on `database`.

    Attributes:
        place: an address of this world alone, as databases are shared between tests.
    """

    database: Database
    clock: HandClock = field(default_factory=HandClock)
    mail: ListMailer = field(default_factory=ListMailer)
    passwords: CountedPasswords = field(default_factory=CountedPasswords)
    place: str = field(default_factory=lambda: new_name("place"))

    def __post_init__(self) -> None:
        self.accounts = Accounts(self.database, self.mail, SITE, clock=self.clock)
        self.people = People(
            self.database, self.mail, SITE, accounts=self.accounts, passwords=self.passwords, clock=self.clock
        )
        self.authenticator = SoftwareAuthenticator(SITE.url)

    def address(self) -> str:
        """An address that no test has used before."""
        return f"{new_name('alice')}@example.org"

    def link(self, email: str) -> str:
        """What is in the last link that was sent there."""
        found = [_LINK.findall(message.text) for message in self.mail.sent if message.to == email]
        return str(next(links[-1] for links in reversed(found) if links))

    def mails(self, email: str) -> list[str]:
        """The subjects of the mails that were sent there, without the site's name."""
        return [one.subject.removeprefix(f"{SITE.name}: ") for one in self.mail.sent if one.to == email]

    def sign_up(self, email: str = "", name: str = "", password: str = PASSWORD) -> str:
        """Somebody signs up; their address."""
        email = email or self.address()
        self.people.sign_up(email, password, name or new_name("alice"), address=self.place)
        return email

    def user(self, email: str = "", name: str = "") -> User:
        """Somebody who has signed up and confirmed the address."""
        return self.people.verify(self.link(self.sign_up(email, name)))

    def sign_in(self, user: User, password: str = PASSWORD) -> Session:
        return self.people.sign_in(user.email, password, address=self.place)

    def passkey_user(self) -> User:
        """Somebody who has a passkey and no password."""
        email = self.address()
        options = self.people.sign_up_passkey_options(email, new_name("bob"), visitor=email, address=self.place)
        self.people.sign_up_passkey(email, self.authenticator.create(options), address=self.place)
        return self.people.verify(self.link(email))

    def sign_in_passkey(self, visitor: str = "", **wrong: Any) -> Session:
        """Sign in with the last passkey."""
        visitor = visitor or new_name("visitor")
        options = self.people.sign_in_options(visitor, address=self.place)
        answer = self.authenticator.get(options, **wrong)
        return self.people.sign_in_passkey(visitor, answer, address=self.place)

    def add_passkey(self, user: User, session: Session, name: str = "phone", **wrong: Any) -> str:
        """Add a passkey; its id."""
        options = self.people.add_passkey_options(user.id, session.id)
        answer = self.authenticator.create(options, **wrong)
        return self.people.add_passkey(user.id, session.id, answer, name).id

    def token(self, user: User, name: str = "laptop") -> str:
        """A command line signs in."""
        codes = self.people.device_codes(name, address=self.place)
        self.people.decide_device(user.id, codes.user_code, True)
        return self.people.device_token(codes.device_code).access_token


def code_of(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """With which code this is refused."""
    with pytest.raises(BlindAIError) as caught:
        call(*args, **kwargs)
    return caught.value.code
