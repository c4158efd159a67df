"""A real SMTP server on a socket, which keeps what it is sent."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

USER = "cloud@example.org"
PASSWORD = "a password of a mail account"


@dataclass
class MailServer:
    """What reached it.

    Attributes:
        port: on 127.0.0.1.
        closed: mails are taken only from whoever signs in.
        refuse: an answer to mails in place of taking them.
    """

    port: int = 0
    closed: bool = False
    refuse: str = ""
    received: list[Envelope] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - its name
        if self.closed and not session.authenticated:
            return "530 5.7.0 Authentication required"
        if self.refuse:
            return self.refuse
        self.received.append(envelope)
        assert server.transport is not None
        self.encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
        return "250 taken"


def _authenticated(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=right, handled=False)


@contextmanager
def mail_server(context: ssl.SSLContext, tls: Literal["implicit", "starttls", "none"]) -> Iterator[MailServer]:
    """A server at work in a thread.

    Args:
        tls: from the beginning, after STARTTLS, or not at all. Where there is TLS, mails are taken only from whoever
            signs in.
    """
    kept = MailServer()
    with socket.create_server(("127.0.0.1", 0)) as free:
        kept.port = free.getsockname()[1]
    settings: dict[str, Any] = {}
    if tls == "implicit":
        # The server would tell nobody without STARTTLS that they can sign in: it does not know what it speaks through.
        settings = {"ssl_context": context, "auth_require_tls": False}
    elif tls == "starttls":
        settings = {"tls_context": context, "require_starttls": True}
    kept.closed = tls != "none"
    controller = Controller(kept, hostname="127.0.0.1", port=kept.port, authenticator=_authenticated, **settings)
    controller.start()
    try:
        yield kept
    finally:
        controller.stop()
