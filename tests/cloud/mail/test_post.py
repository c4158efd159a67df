"""Mails in the background."""

from __future__ import annotations

import threading

import pytest
import structlog

from blindai.cloud.mail import Message, Post, post
from blindai.errors import Unavailable

WAIT_SECONDS = 20


class Door:
    """A mailer that takes mails when a test lets it, or refuses the first few."""

    def __init__(self, *, open_at_first: bool = True, refusals: int = 0) -> None:
        self.opened = threading.Event()
        self.tried = threading.Semaphore(0)
        self.refusals = refusals
        self.sent: list[str] = []
        if open_at_first:
            self.opened.set()

    def send(self, message: Message) -> None:
        assert self.opened.wait(WAIT_SECONDS)
        self.tried.release()
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("the mail server is away", code="unavailable.mail")
        self.sent.append(message.to)


def mail(number: int) -> Message:
    return Message(f"alice{number}@example.org", "Hello", "text")


def test_nobody_waits_for_the_mail_server() -> None:
    door = Door(open_at_first=False)
    queue = Post(door)
    for number in range(3):
        queue.send(mail(number))
    assert door.sent == []
    door.opened.set()
    queue.close()
    assert door.sent == [f"alice{number}@example.org" for number in range(3)]


def test_a_mail_is_tried_again_and_then_given_up() -> None:
    door = Door(refusals=5)
    with structlog.testing.capture_logs() as logs:
        queue = Post(door, retry_seconds=(0.0, 0.0))
        queue.send(mail(0))
        for _ in range(3):
            assert door.tried.acquire(timeout=WAIT_SECONDS)
        queue.close()
    assert [entry["given_up"] for entry in logs] == [False, False, True]
    assert "alice" not in str(logs)
    assert door.refusals == 2


def test_a_mail_that_is_taken_later_arrives_once() -> None:
    door = Door(refusals=1)
    queue = Post(door, retry_seconds=(0.0,))
    queue.send(mail(0))
    for _ in range(2):
        assert door.tried.acquire(timeout=WAIT_SECONDS)
    queue.close()
    assert door.sent == ["alice0@example.org"]


def test_a_queue_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "MAX_WAITING", 2)
    door = Door(open_at_first=False)
    queue = Post(door)
    # Two wait, and one may be with the door already.
    said = []
    for number in range(4):
        try:
            queue.send(mail(number))
        except Unavailable as error:
            said.append(error.code)
    assert set(said) == {"unavailable.mail"}
    door.opened.set()
    queue.close()


def test_a_closed_queue_takes_nothing() -> None:
    queue = Post(Door())
    queue.close()
    queue.close()
    with pytest.raises(Unavailable) as caught:
        queue.send(mail(0))
    assert caught.value.code == "unavailable.mail"


def test_closing_does_not_wait_for_later_tries() -> None:
    door = Door(refusals=1)
    queue = Post(door, retry_seconds=(3600.0,))
    queue.send(mail(0))
    assert door.tried.acquire(timeout=WAIT_SECONDS)
    queue.close()
    assert door.sent == []
