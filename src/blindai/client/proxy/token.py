"""The local token: what a program must show to use the proxy, since every program of this machine reaches its port."""

from __future__ import annotations

import hmac
import re
import secrets
from pathlib import Path
from typing import Final

from blindai.crypto import secret_file
from blindai.errors import ConfigurationError

# 256 bits: nobody guesses it, however many requests a second the port takes.
TOKEN_BYTES: Final = 32

# A token is a line of text; anything longer is another file given by mistake.
MAX_TOKEN_FILE_BYTES: Final = 4096

# RFC 6750, section 2.1, and long enough not to be guessed.
_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]{16,}=*")


class LocalToken:
    """A token that requests are held against."""

    def __init__(self, text: str) -> None:
        """`text` has the form of a bearer token.

        Raises:
            ConfigurationError: `proxy.token_file`.
        """
        if not _TOKEN.fullmatch(text):
            raise ConfigurationError(
                "this is not a token: 16 or more characters of A-Z a-z 0-9 - . _ ~ + / are",
                code="proxy.token_file",
                hint="name a file that does not exist yet: a token is made and kept there",
            )
        self._bytes = text.encode("ascii")

    @classmethod
    def random(cls) -> LocalToken:
        return cls(secrets.token_urlsafe(TOKEN_BYTES))

    @classmethod
    def kept_in(cls, path: Path) -> LocalToken:
        """The token in the file at `path`; where there is no file, a random one that is kept there from now on.

        Raises:
            ConfigurationError: `proxy.token_file`: others may read the file, or it holds no token.
        """
        try:
            secret_file.create(path, (cls.random().reveal() + "\n").encode("ascii"))
            text = secret_file.read(path, MAX_TOKEN_FILE_BYTES).decode("ascii").strip()
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the token cannot be read from {path}: {error}", code="proxy.token_file"
            ) from error
        return cls(text)

    def reveal(self) -> str:
        """The token itself, to be shown to its owner."""
        return self._bytes.decode("ascii")

    def matches(self, shown: bytes) -> bool:
        """Whether `shown` is this token; how long the answer takes says nothing about the token."""
        return hmac.compare_digest(self._bytes, shown)

    def __repr__(self) -> str:
        return "<LocalToken>"
