"""Bytes and certificates in the spellings that JSON offers: base64, hex, lists of numbers, PEM."""

from __future__ import annotations

import base64
import binascii
import re

from blindai.errors import AttestationError

# Hex first: text of a few bytes or more that is both is never meant as base64.
_HEX = re.compile(r"(?:[0-9a-f]{2})+|(?:[0-9A-F]{2})+")
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----([A-Za-z0-9+/=\s]+)-----END \1-----\s*")


class UnreadableOctets(AttestationError):
    """Not bytes in any spelling that is known here; the caller says whose bytes they were."""


def octets(value: object) -> bytes:
    """The bytes of `value`: base64 (RFC 4648, section 4), hex, or a list of numbers from 0 to 255.

    Raises:
        UnreadableOctets: it is none of these.
    """
    try:
        if isinstance(value, str):
            if _HEX.fullmatch(value):
                return bytes.fromhex(value)
            return base64.b64decode("".join(value.split()), validate=True)
        if isinstance(value, list):
            return bytes(value)
    except (ValueError, TypeError, binascii.Error, OverflowError) as error:
        raise UnreadableOctets(f"bytes cannot be read: {error}") from error
    raise UnreadableOctets(f"bytes cannot be read from {type(value).__name__}")


def documents(value: object) -> list[bytes]:
    """Certificates or revocation lists in DER, in their order.

    Args:
        value: PEM text of any number of them, base64 or hex of one in DER or of PEM text, or a list of these; None
            for no document.

    Raises:
        UnreadableOctets: it is none of these.
    """
    if value is None:
        return []
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [document for item in value for document in _documents(item)]
    return _documents(value)


def _documents(value: object) -> list[bytes]:
    text = value if isinstance(value, str) and "-----BEGIN" in value else None
    if text is None:
        data = octets(value)
        if not data.lstrip().startswith(b"-----BEGIN"):
            return [data] if data else []
        text = data.decode("ascii", "replace")
    found = list(_PEM.finditer(text))
    if not found or "".join(match[0] for match in found) != text.lstrip():
        raise UnreadableOctets("there is more in the PEM text than its documents")
    return [octets("".join(match[2].split())) for match in found]
