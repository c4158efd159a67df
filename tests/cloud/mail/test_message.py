"""One mail, and no more than one, whatever is in it."""

from __future__ import annotations

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.cloud.mail import Message
from blindai.errors import InvalidInput

SENDER = "noreply@cloud.example"


def test_a_mail_says_who_what_and_when() -> None:
    mail = Message("alice@example.org", "A cloud: Hello", "One\n\nTwo\n").encoded(SENDER, clock=lambda: 0.0)
    assert mail["Date"] == "Thu, 01 Jan 1970 00:00:00 +0000"
    assert mail["Message-ID"].endswith("@cloud.example>")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content_type() == "text/plain"
    assert b"\r\n\r\nOne\r\n\r\nTwo\r\n" in mail.as_bytes()


@pytest.mark.parametrize(
    ("to", "subject"),
    [
        ("", "subject"),
        ("alice", "subject"),
        ("alice@example.org, bob@example.org", "subject"),
        ("alice@example.org\nBcc: bob@example.org", "subject"),
        ("<alice@example.org>", "subject"),
        ("al\u0456ce@example.org", "subject"),
        ("x" * 250 + "@example.org", "subject"),
        ("alice@example.org", ""),
        ("alice@example.org", "subject\nBcc: bob@example.org"),
        ("alice@example.org", "subject\r\n\r\ntext"),
        ("alice@example.org", "subject\x00"),
        ("alice@example.org", "\u2028subject"),
        ("alice@example.org", "x" * 201),
    ],
)
def test_what_would_be_another_header_is_refused(to: str, subject: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Message(to, subject, "text")
    assert caught.value.code == "mail.header"


@given(st.text(max_size=60), st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_whatever_is_in_a_mail_it_has_our_headers_and_no_others(subject: str, text: str) -> None:
    try:
        message = Message("alice@example.org", subject, text)
    except InvalidInput:
        return
    read = email.message_from_bytes(message.encoded(SENDER).as_bytes(), policy=email.policy.default)
    assert sorted(read.keys()) == sorted(
        {
            "From",
            "To",
            "Subject",
            "Date",
            "Message-ID",
            "Auto-Submitted",
            "Content-Type",
            "Content-Transfer-Encoding",
            "MIME-Version",
        }
    )
    assert read["To"] == "alice@example.org"
    assert not read.is_multipart()


def test_the_text_stands_in_no_representation() -> None:
    assert "secret" not in repr(Message("alice@example.org", "subject", "secret"))
