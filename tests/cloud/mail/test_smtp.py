"""Mails over SMTP, to a real server on a socket."""

from __future__ import annotations

import email
import email.policy
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from blindai.cloud.mail import Message, Smtp
from blindai.errors import ConfigurationError, Unavailable
from blindai.web.certificate import PagesTls
from mail_server import PASSWORD, USER, MailServer, mail_server

SENDER = "noreply@cloud.example"
MESSAGE = Message("alice@example.org", "A cloud: Grüße", "Guten Tag\n.\nThe line above ends no mail.\n")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server called localhost, and of a client who trusts it."""
    folder = tmp_path_factory.mktemp("tls")
    server = PagesTls.own_in(folder, "localhost").context
    return server, ssl.create_default_context(cafile=folder / "pages.pem")


@pytest.fixture(scope="module", params=["implicit", "starttls"])
def server(
    request: pytest.FixtureRequest, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> Iterator[tuple[MailServer, str]]:
    with mail_server(tls[0], request.param) as running:
        yield running, f"{'smtps' if request.param == 'implicit' else 'smtp'}://{{}}localhost:{running.port}"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return path


def user(url: str) -> str:
    return url.format(USER.replace("@", "%40") + "@")


def test_a_mail_arrives_over_tls_from_whoever_signed_in(
    server: tuple[MailServer, str], tls: tuple[ssl.SSLContext, ssl.SSLContext], password_file: Path
) -> None:
    running, url = server
    Smtp(user(url), SENDER, password_file=password_file, context=tls[1]).send(MESSAGE)
    envelope = running.received.pop()
    assert (envelope.mail_from, envelope.rcpt_tos) == (SENDER, ["alice@example.org"])
    assert running.encrypted.pop()
    assert isinstance(envelope.content, bytes)
    mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert (mail["From"], mail["To"], mail["Subject"]) == (SENDER, MESSAGE.to, MESSAGE.subject)
    assert mail.get_content().replace("\r\n", "\n") == MESSAGE.text


@pytest.mark.parametrize("wrong", ["password", "nobody", "certificate", "refused"])
def test_a_mail_that_is_not_taken_is_said_so_without_a_secret(
    server: tuple[MailServer, str],
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    password_file: Path,
    wrong: Literal["password", "nobody", "certificate", "refused"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running, url = server
    context: ssl.SSLContext | None = tls[1]
    path: Path | None = password_file
    address = user(url)
    match wrong:
        case "password":
            password_file.write_text("another password")
        case "nobody":
            address, path = url.format(""), None
        case "certificate":
            context = None
        case "refused":
            monkeypatch.setattr(running, "refuse", "554 no such user alice@example.org")
    with pytest.raises(Unavailable) as caught:
        Smtp(address, SENDER, password_file=path, context=context).send(MESSAGE)
    assert caught.value.code == "unavailable.mail"
    assert caught.value.__cause__ is None
    for secret in ("another password", PASSWORD, "alice@example.org"):
        assert secret not in str(caught.value)
    assert running.received == []


def test_a_server_without_tls_is_told_nothing(tls: tuple[ssl.SSLContext, ssl.SSLContext], password_file: Path) -> None:
    with mail_server(tls[0], "none") as running:
        smtp = Smtp(f"smtp://user@localhost:{running.port}", SENDER, password_file=password_file, context=tls[1])
        with pytest.raises(Unavailable) as caught:
            smtp.send(MESSAGE)
    assert caught.value.code == "unavailable.mail"
    assert running.received == []


def test_a_server_that_is_not_there_is_unavailable(free_tcp_port: int) -> None:
    with pytest.raises(Unavailable) as caught:
        Smtp(f"smtps://localhost:{free_tcp_port}", SENDER).send(MESSAGE)
    assert caught.value.code == "unavailable.mail"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "http://localhost",
        "smtp://",
        "smtps://user:password@localhost",
        "smtps://localhost/path",
        "smtps://localhost?tls=no",
        "smtps://localhost:x",
        "smtps://localhost:99999",
        "smtps://user@localhost",
        "smtps://b\u00fccher.example",
        "smtps://us%C3%A9r@localhost",
        "smtps://user%0d%0aRSET@localhost",
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Smtp(url, SENDER)
    assert caught.value.code == "configuration.smtp"
    assert "password@" not in str(caught.value)


@pytest.mark.parametrize("sender", ["", "nobody", "A cloud <a@b.c>", "a@b.c\nBcc: d@e.f"])
def test_a_sender_is_one_address(sender: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Smtp("smtps://localhost", sender)
    assert caught.value.code == "configuration.smtp"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"two\nlines", b"\xff", b"gr\xc3\xbcn", b"x" * 2000])
def test_a_password_is_one_line_in_a_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        Smtp("smtps://user@localhost", SENDER, password_file=path)
    assert caught.value.code == "configuration.smtp"
    with pytest.raises(ConfigurationError):
        Smtp("smtps://localhost", SENDER, password_file=path)
