"""One mail: to one person, in plain text."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, make_msgid
from typing import Final, Protocol

from blindai.errors import InvalidInput

# RFC 5321, section 4.5.3.1.3, less the brackets.
MAX_ADDRESS_CHARACTERS: Final = 254

# A subject of ours is a few words and the names of a site and an account. One line (RFC 5322, section 2.1.1).
MAX_SUBJECT_CHARACTERS: Final = 200

# What it takes to be one address in a header and in an SMTP command, and nothing more. `identity.email` is stricter.
_ADDRESS: Final = re.compile(r"[!#-'*+\-./0-9=?A-Z^_`a-z{|}~]+@[A-Za-z0-9.-]+", re.ASCII)


@dataclass(frozen=True)
class Message:
    """A mail that nobody has sent yet.

    Attributes:
        to: one address.
        subject: one line.
        text: the body; lines end with a line feed.

    Raises:
        InvalidInput: `mail.header`, if the address or the subject would be more than one header.
    """

    to: str
    subject: str
    text: str

    def __post_init__(self) -> None:
        if len(self.to) > MAX_ADDRESS_CHARACTERS or not _ADDRESS.fullmatch(self.to):
            raise InvalidInput("a mail goes to one address", code="mail.header")
        if not 0 < len(self.subject) <= MAX_SUBJECT_CHARACTERS or not self.subject.isprintable():
            raise InvalidInput("the subject of a mail is one line", code="mail.header")

    def __repr__(self) -> str:
        # The text may hold a link that lets its reader in.
        return f"Message(to={self.to!r}, subject={self.subject!r})"

    def encoded(self, sender: str, *, clock: Callable[[], float] = time.time) -> EmailMessage:
        """The mail as RFC 5322 has it.

        Args:
            sender: the address in `From`; what stands behind its @ is in the message's name, too.
        """
        mail = EmailMessage(policy=SMTP)
        mail["From"] = sender
        mail["To"] = self.to
        mail["Subject"] = self.subject
        mail["Date"] = format_datetime(datetime.fromtimestamp(int(clock()), UTC))
        mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
        # No answer by a machine is wanted (RFC 3834, section 5).
        mail["Auto-Submitted"] = "auto-generated"
        # Links stay in one piece, for people who read the file.
        mail.set_content(self.text, cte="7bit" if self.text.isascii() else "quoted-printable")
        return mail


class Mailer(Protocol):
    """Takes mails. Thread-safe."""

    def send(self, message: Message) -> None:
        """Take `message`.

        Raises:
            Unavailable: `unavailable.mail`: it was not taken.
        """
        ...
