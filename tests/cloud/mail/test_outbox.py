"""Mails in a folder."""

from __future__ import annotations

import email
import email.policy
from pathlib import Path

import pytest

from blindai.cloud.mail import Message, Outbox
from blindai.errors import ConfigurationError, Unavailable


def test_each_mail_is_a_file_and_their_names_sort_by_time(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "outbox"
    outbox = Outbox(folder)
    for number in range(3):
        outbox.send(Message(f"alice{number}@example.org", "Hello", "https://cloud.example/verify?link=" + "x" * 100))
    files = sorted(folder.iterdir())
    mails = [email.message_from_bytes(path.read_bytes(), policy=email.policy.default) for path in files]
    assert [mail["To"] for mail in mails] == [f"alice{number}@example.org" for number in range(3)]
    assert all(path.suffix == ".eml" for path in files)
    # A person can copy the link out of the file.
    assert b"?link=" + b"x" * 100 in files[0].read_bytes()


def test_mails_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    Outbox(folder).send(Message("alice@example.org", "Hello", "text"))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError) as caught:
        Outbox(tmp_path / "file" / "outbox")
    assert caught.value.code == "configuration.outbox"


def test_a_mail_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    (tmp_path / "outbox").rmdir()
    with pytest.raises(Unavailable) as caught:
        outbox.send(Message("alice@example.org", "Hello", "text"))
    assert caught.value.code == "unavailable.mail"
