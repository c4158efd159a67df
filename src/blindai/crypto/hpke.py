"""Sealing to a public key: HPKE (RFC 9180) in base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.

Base mode says nothing about who sealed. Whoever needs to know has that signed beside it.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)

OVERHEAD_BYTES: Final = 32 + 16
"""The encapsulated key and the tag."""


def seal(public_key: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Encapsulated key and ciphertext, for the holder of the private half alone.

    Args:
        public_key: X25519, 32 bytes.
        plaintext: what is sealed; `OVERHEAD_BYTES` longer when sealed.
        info: what both sides must agree on for it to open.

    Raises:
        ValueError: `public_key` is none, or one of the few points that would give the secret away.
    """
    return _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public_key), info)


def open_sealed(private_key: X25519PrivateKey, sealed: bytes, info: bytes) -> bytes:
    """What was sealed.

    Raises:
        ValueError: it was sealed to another key, with other `info`, or changed.
    """
    try:
        return _SUITE.decrypt(sealed, private_key, info)
    except InvalidTag as error:
        raise ValueError("this was not sealed to this key, or not for this purpose") from error
