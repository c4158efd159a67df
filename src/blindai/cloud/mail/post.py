"""Mails that are handed over in the background.

A page that waits for a mail server says by its time whether a mail was sent, and so whether an address is known. Here
everybody waits for a queue and for nothing else. What is in the queue is lost when the process ends: people can ask for
their mail again.
"""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import Final

import structlog

from blindai.cloud.mail.message import Mailer, Message
from blindai.errors import Unavailable

# At a mail server's pace of a few mails a second these are minutes.
MAX_WAITING: Final = 1_000

# Waits before each try after the first. Servers that put unknown senders off (greylisting) take a mail after minutes.
RETRY_SECONDS: Final = (5.0, 60.0, 600.0)

# For mails that wait when the process is asked to end, and for the one under way. Then they are given up.
CLOSE_SECONDS: Final = 10.0

_log = structlog.get_logger("blindai.cloud.mail")


class Post:
    """A `Mailer` in front of another.

    Args:
        mailer: does the work, in a thread of this.
        retry_seconds: after which a mail is tried again; then it is given up, which the log says without its address.
    """

    def __init__(self, mailer: Mailer, *, retry_seconds: tuple[float, ...] = RETRY_SECONDS) -> None:
        self._mailer = mailer
        self._retry_seconds = retry_seconds
        self._waiting: queue.Queue[tuple[Message, int] | None] = queue.Queue(MAX_WAITING)
        self._timers: set[threading.Timer] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="post", daemon=True)
        self._thread.start()

    def send(self, message: Message) -> None:
        """Put `message` into the queue.

        Raises:
            Unavailable: `unavailable.mail`, if the queue is full or closed.
        """
        self._put(message, 0)

    def close(self) -> None:
        """Deliver what waits, as far as there is time, and end. Mails that would be tried again later are given up."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for timer in self._timers:
                timer.cancel()
            self._timers.clear()
        with suppress(queue.Full):
            self._waiting.put(None, timeout=CLOSE_SECONDS)
        self._thread.join(CLOSE_SECONDS)

    def _put(self, message: Message, tries: int) -> None:
        with self._lock:
            if not self._closed:
                try:
                    self._waiting.put_nowait((message, tries))
                except queue.Full:
                    pass
                else:
                    return
        raise Unavailable("too many mails are waiting", code="unavailable.mail", hint="try again later")

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            message, tries = item
            try:
                self._mailer.send(message)
            except Unavailable as error:
                self._later(message, tries, error)

    def _later(self, message: Message, tries: int, error: Unavailable) -> None:
        with self._lock:
            over = self._closed or tries >= len(self._retry_seconds) or len(self._timers) >= MAX_WAITING
            if not over:
                timer = threading.Timer(self._retry_seconds[tries], self._again, (message, tries + 1))
                timer.daemon = True
                self._timers.add(timer)
                timer.start()
        _log.warning("mail not taken", reason=error.message, given_up=over)

    def _again(self, message: Message, tries: int) -> None:
        with self._lock:
            self._timers.discard(threading.current_thread())
        try:
            self._put(message, tries)
        except Unavailable as error:
            _log.warning("mail not taken", reason=error.message, given_up=True)
