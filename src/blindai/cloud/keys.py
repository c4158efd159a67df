"""The key by which enclaves know their control plane, in a file that its owner alone can read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from blindai.crypto import secret_file
from blindai.errors import ConfigurationError

# PKCS #8 in PEM (RFC 8410, section 7) has 119 bytes.
_MAX_FILE_BYTES: Final = 4096


class SigningKey:
    """An Ed25519 key. It has no way out of this object but its use.

    Whoever holds it says who may do what in every enclave whose measured configuration names it.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def __repr__(self) -> str:
        return f"SigningKey({self.public_key})"

    @classmethod
    def generate(cls) -> Self:
        """A new key that is kept nowhere."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def kept_in(cls, path: Path) -> Self:
        """The key in `path`; where there is no file yet, a new one.

        Processes that start at the same moment end with the same key.

        Raises:
            ConfigurationError: `configuration.signing_key`, the file cannot be made or read, others may read it, or it
                holds something else.
        """
        try:
            if not path.exists():
                new = Ed25519PrivateKey.generate()
                secret_file.create(path, new.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            key = load_pem_private_key(secret_file.read(path, _MAX_FILE_BYTES), password=None)
        except OSError as error:
            # The words of `secret_file` say what to do where others may read the file.
            raise _unusable(path, error.strerror or str(error)) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            # Not in the words of the parser: they may repeat what is in the file.
            raise _unusable(path, "it holds no key in PEM, or one with a passphrase") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _unusable(path, "its key is not of the kind Ed25519")
        return cls(key)

    @cached_property
    def public_key(self) -> str:
        """Who the control plane is: 64 hex digits."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, message: bytes) -> bytes:
        """Sign with Ed25519 (RFC 8032): 64 bytes. `message` is what `crypto.digests.tagged` gives."""
        return self._key.sign(message)


def _unusable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the signing key in {path} cannot be used: {why}",
        code="configuration.signing_key",
        hint="restore it from a backup; enclaves that were configured for it accept no other",
    )
