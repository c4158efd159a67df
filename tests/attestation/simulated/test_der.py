from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from blindai.attestation.simulated.der import _base128, integer, object_identifier, tlv


@given(st.integers(0, 2**64))
def test_integers_are_encoded_without_a_byte_too_many(value: int) -> None:
    tag, size, *content = integer(value)
    assert (tag, size) == (0x02, len(content))
    assert int.from_bytes(content, signed=True) == value
    assert len(content) == 1 or content[0] != 0 or content[1] & 0x80


@given(st.integers(0, 2**40))
def test_arcs_are_encoded_in_base_128(value: int) -> None:
    *head, last = _base128(value)
    assert all(byte & 0x80 for byte in head)
    assert last < 0x80
    decoded = 0
    for byte in (*head, last):
        decoded = decoded << 7 | byte & 0x7F
    assert decoded == value


@pytest.mark.parametrize("dotted", ["1.2.840.113741.1.13.1.2.18", "2.5.29.15"])
def test_object_identifiers_are_those_of_the_library(dotted: str) -> None:
    name = x509.Name([x509.NameAttribute(x509.ObjectIdentifier(dotted), "x")])
    assert object_identifier(dotted) in name.public_bytes()


@pytest.mark.parametrize(
    ("size", "head"), [(0, "0400"), (127, "047f"), (128, "048180"), (255, "0481ff"), (256, "04820100")]
)
def test_lengths_are_encoded_in_their_shortest_form(size: int, head: str) -> None:
    assert tlv(0x04, bytes(size)) == bytes.fromhex(head) + bytes(size)
