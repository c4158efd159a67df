"""API keys: `bai_sk_`, 30 random characters, 6 characters of checksum, all of base62.

The checksum (CRC-32 of what stands before it, as of other keys that secret scanners know) protects nothing: it tells a
key that was mistyped or cut off from one that was refused, without asking anyone. A key is shown once, when it is made.
What is kept of it is its SHA-256, which nobody can turn back: 30 characters of base62 are 178 bits.

For secret scanners: `bai_sk_[0-9A-Za-z]{36}`.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass
from typing import Final

from blindai.errors import AuthenticationError

PREFIX: Final = "bai_sk_"
PATTERN: Final = re.compile(PREFIX + r"[0-9A-Za-z]{36}", re.ASCII)

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_CHARACTERS: Final = 30
_CHECKSUM_CHARACTERS: Final = 6  # 62**6 > 2**32

# Of the random characters, those that name the key in lists and logs. The others are 130 bits.
_SHOWN_CHARACTERS: Final = 8


@dataclass(frozen=True)
class ApiKey:
    """A key. Its text is a secret, and stands in no representation.

    Attributes:
        text: the whole of it.
    """

    text: str

    def __repr__(self) -> str:
        return f"ApiKey({self.id})"

    __str__ = __repr__

    @property
    def id(self) -> str:
        """What the key is called where it must not be shown."""
        return self.text[: len(PREFIX) + _SHOWN_CHARACTERS]

    @property
    def digest(self) -> str:
        """SHA-256 in hex: what is stored and asked about."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @classmethod
    def new(cls) -> ApiKey:
        """A key that nobody had before."""
        body = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
        return cls(body + _checksum(body))

    @classmethod
    def parse(cls, text: str) -> ApiKey:
        """Read what somebody typed or pasted; nobody is asked whether the key is in force.

        Raises:
            AuthenticationError: `authentication.key_format`. The text is not repeated.
        """
        text = text.strip()
        if not text.startswith(PREFIX):
            raise _refused(f"this is not an API key: one begins with {PREFIX}")
        if not PATTERN.fullmatch(text):
            length = len(PREFIX) + _RANDOM_CHARACTERS + _CHECKSUM_CHARACTERS
            raise _refused(f"the API key is incomplete or altered: one has {length} letters and digits")
        if _checksum(text[:-_CHECKSUM_CHARACTERS]) != text[-_CHECKSUM_CHARACTERS:]:
            raise _refused("the API key is mistyped: its last 6 characters are not the checksum of the others")
        return cls(text)


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    digits = []
    for _ in range(_CHECKSUM_CHARACTERS):
        value, digit = divmod(value, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _refused(message: str) -> AuthenticationError:
    return AuthenticationError(
        message, code="authentication.key_format", hint="copy the key once more from where it is kept, or make another"
    )
