"""Mails by SMTP (RFC 5321), over TLS only, to the server of the site's own provider (RFC 6409)."""

from __future__ import annotations

import smtplib
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from blindai.cloud.mail.message import Message
from blindai.errors import ConfigurationError, InvalidInput, Unavailable

# Of each step. A server that takes longer keeps a thread that others wait for.
TIMEOUT_SECONDS: Final = 20

# RFC 8314, section 3.3, and RFC 6409, section 3.1.
_PORTS: Final = {"smtps": 465, "smtp": 587}

# A password of a mail account is a line.
_MAX_PASSWORD_BYTES: Final = 1024


class Smtp:
    """Hands mails to one server, each over a connection of its own.

    Args:
        url: `smtps://[user@]host[:port]`, TLS from the beginning, or `smtp://[user@]host[:port]`, where STARTTLS must
            succeed before anything is said.
        sender: the address that mails come from.
        password_file: holds the password of `user`; a line end at its end does not count.
        context: for TLS; the system's authorities unless given.

    Raises:
        ConfigurationError: `configuration.smtp`.
    """

    def __init__(
        self, url: str, sender: str, *, password_file: Path | None = None, context: ssl.SSLContext | None = None
    ) -> None:
        self._implicit, self._host, self._port, self._user = _address(url)
        if (password_file is None) != (not self._user):
            raise _wrong("an SMTP server wants a user and the file of a password, or neither")
        self._sender = _sender(sender)
        self._password = "" if password_file is None else _password(password_file)
        self._context = context or ssl.create_default_context()

    def send(self, message: Message) -> None:
        """Hand `message` over.

        Raises:
            Unavailable: `unavailable.mail`, if it was not taken.
        """
        mail = message.encoded(self._sender)
        try:
            with self._connection() as server:
                if not self._implicit:
                    server.starttls(context=self._context)
                    server.ehlo()
                if self._user:
                    server.login(self._user, self._password)
                server.send_message(mail, from_addr=self._sender, to_addrs=[message.to])
        except (OSError, smtplib.SMTPException) as error:
            # Not in the server's words: they may repeat what it was told.
            raise Unavailable(
                f"the mail server {self._host} did not take a mail ({type(error).__name__})", code="unavailable.mail"
            ) from None

    def _connection(self) -> smtplib.SMTP:
        if self._implicit:
            return smtplib.SMTP_SSL(self._host, self._port, timeout=TIMEOUT_SECONDS, context=self._context)
        return smtplib.SMTP(self._host, self._port, timeout=TIMEOUT_SECONDS)


def _address(url: str) -> tuple[bool, str, int, str]:
    """Whether TLS comes first, the host, the port and the user."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _wrong("the address of the SMTP server cannot be read") from None
    if (
        parts.scheme not in _PORTS
        or not host
        or not url.isascii()
        or parts.path not in {"", "/"}
        or parts.query
        or parts.fragment
    ):
        raise _wrong("the address of an SMTP server is smtps://user@host:port or smtp://user@host:port")
    if parts.password is not None:
        raise _wrong("the password of an SMTP server does not stand in its address, but in a file")
    user = unquote(parts.username or "")
    if not user.isascii() or (user and not user.isprintable()):
        raise _wrong("the user of an SMTP server is printable ASCII")
    return parts.scheme == "smtps", host, port or _PORTS[parts.scheme], user


def _sender(sender: str) -> str:
    try:
        return Message(sender, "-", "").to
    except InvalidInput:
        raise _wrong("the sender of mails is one address") from None


def _password(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(f"the file {path} of the mail server's password cannot be read") from error
    password = text.rstrip("\r\n")
    # `smtplib` signs in with ASCII alone.
    if not password or len(text) > _MAX_PASSWORD_BYTES or not password.isprintable() or not password.isascii():
        raise _wrong(f"the file {path} holds no password")
    return password


def _wrong(message: str) -> ConfigurationError:
    return ConfigurationError(message, code="configuration.smtp")
