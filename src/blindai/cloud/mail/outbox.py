"""A folder in place of a mail server: for development, and for sites where something else carries mail away."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import Final

from blindai.cloud.mail.message import Message
from blindai.errors import ConfigurationError, Unavailable

SENDER: Final = "cloud@localhost"


class Outbox:
    """Writes each mail into a file of its own, `TIME-RANDOM.eml`, so that their names sort by time.

    The files hold links that let their reader in: the folder and they are for their owner alone.

    Raises:
        ConfigurationError: `configuration.outbox`, if the folder cannot be made.
    """

    def __init__(self, folder: Path, *, sender: str = SENDER) -> None:
        self._folder = folder
        self._sender = sender
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the folder {folder} for mails cannot be made: {error.strerror}", code="configuration.outbox"
            ) from error

    def send(self, message: Message) -> None:
        """Write `message`.

        Raises:
            Unavailable: `unavailable.mail`.
        """
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.eml"
        started = self._folder / f".{name}"
        try:
            with os.fdopen(os.open(started, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(message.encoded(self._sender).as_bytes())
            # Whoever watches the folder sees whole mails.
            started.rename(self._folder / name)
        except OSError as error:
            raise Unavailable(
                f"a mail cannot be written into {self._folder}: {error.strerror}", code="unavailable.mail"
            ) from error
