"""Passwords of the people who sign in: how they are stored, checked, and what is too weak.

Stored is Argon2id (RFC 9106, section 4, second recommended option: 64 MiB, 3 passes, 4 lanes), as a string that names
its own parameters: a hash of older parameters is made anew at the next sign-in.
"""

from __future__ import annotations

import unicodedata
from functools import cached_property
from threading import BoundedSemaphore
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from blindai.errors import AuthenticationError, InvalidInput

# NIST SP 800-63B-4, section 3.1.1.2: at least 15 characters where the password is the only factor, no rules on what
# kinds of characters it holds, and a length of at least 64 must be possible.
MIN_CHARACTERS: Final = 15
MAX_BYTES: Final = 1024

# "aaaaaaaaaaaaaaaa" and "12121212121212121" are long and still among the first guesses.
MIN_DISTINCT_CHARACTERS: Final = 6

# A part of the password that is the account's name helps whoever guesses; shorter names occur in words by chance.
MIN_NAME_CHARACTERS: Final = 4

# Each check takes 64 MiB for a moment: strangers must not make the process hold more of them.
MAX_CONCURRENT: Final = 4


class Passwords:
    """Makes and checks hashes of passwords.

    Args:
        hasher: its parameters are those of new hashes.
    """

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
        self._slots = BoundedSemaphore(MAX_CONCURRENT)

    @cached_property
    def _nobody(self) -> str:
        """Checked in place of the hash of an account that does not exist, so that the answer takes as long."""
        return self._hasher.hash("the password of nobody")

    def hash(self, password: str) -> str:
        """The hash of `password`, as a PHC string."""
        with self._slots:
            return self._hasher.hash(_normalised(password))

    def verify(self, stored: str | None, password: str) -> str | None:
        """Check `password` against a stored hash; None stands for an account that does not exist, and never matches.

        Returns:
            A hash to store instead, where the stored one is of other parameters than new ones are; else None.

        Raises:
            AuthenticationError: `authentication.password`, whatever was wrong.
        """
        with self._slots:
            # Made by the first check, whatever it is of.
            nobody = self._nobody
            try:
                self._hasher.verify(stored or nobody, _normalised(password))
            except (VerificationError, InvalidHashError):
                raise refused() from None
            if stored is None:
                raise refused()
            return self._hasher.hash(_normalised(password)) if self._hasher.check_needs_rehash(stored) else None


def refused() -> AuthenticationError:
    """The one answer to a name or a password that is wrong: it does not say which."""
    return AuthenticationError("the name or the password is wrong", code="authentication.password")


def require_strength(password: str, *, name: str) -> None:
    """Refuse a new password that would be guessed.

    Raises:
        InvalidInput: `password.length`, `password.repetition` or `password.name`; the message says the reason.
    """
    password = unicodedata.normalize("NFC", password)
    if len(password) < MIN_CHARACTERS:
        raise InvalidInput(
            f"the password has {len(password)} characters; at least {MIN_CHARACTERS} are needed, "
            "because nothing else protects the account",
            code="password.length",
            hint="four or five words that do not belong together are easy to remember",
        )
    if len(password.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InvalidInput(f"the password is longer than {MAX_BYTES} bytes", code="password.length")
    if len(set(password)) < MIN_DISTINCT_CHARACTERS:
        raise InvalidInput(
            f"the password is made of fewer than {MIN_DISTINCT_CHARACTERS} different characters, "
            "which is among the first guesses",
            code="password.repetition",
        )
    if len(name) >= MIN_NAME_CHARACTERS and name.casefold() in password.casefold():
        raise InvalidInput("the password holds the name of the account, which is a first guess", code="password.name")


def _normalised(password: str) -> bytes:
    """One password typed on two keyboards is one byte string (NFC, as in NIST SP 800-63B-4, section 3.1.1.2)."""
    encoded = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_BYTES:
        raise refused()
    return encoded
