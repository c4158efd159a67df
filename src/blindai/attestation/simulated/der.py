"""Write DER (X.690): the few types that the certificates of simulated platforms need."""

from __future__ import annotations

BOOLEAN, INTEGER, OCTET_STRING, OBJECT_IDENTIFIER, ENUMERATED, SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x0A, 0x30


def sequence(*items: bytes) -> bytes:
    """The items, in this order."""
    return tlv(SEQUENCE, b"".join(items))


def octets(value: bytes) -> bytes:
    """An OCTET STRING."""
    return tlv(OCTET_STRING, value)


def integer(value: int) -> bytes:
    """A number that is not negative."""
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1))  # one bit to spare for the sign


def boolean(value: bool) -> bytes:  # noqa: FBT001 - this encodes a boolean
    """True or false."""
    return tlv(BOOLEAN, b"\xff" if value else b"\x00")


def object_identifier(dotted: str) -> bytes:
    """From its dotted form."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    return tlv(OBJECT_IDENTIFIER, b"".join(_base128(arc) for arc in (40 * first + second, *rest)))


def _base128(value: int) -> bytes:
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def tlv(tag: int, value: bytes) -> bytes:
    """One DER element (X.690, 8.1.3)."""
    if len(value) < 0x80:
        return bytes([tag, len(value)]) + value
    size = len(value).to_bytes((len(value).bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(size)]) + size + value
