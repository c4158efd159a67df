"""The table of GUIDs at the end of a firmware image, whole and damaged."""

from __future__ import annotations

import struct

import pytest

from artefacts import FOOTER, PAGE, TDX_METADATA, image_with
from blindai.attestation.measure.firmware import guid_table, metadata_offset
from blindai.errors import ConfigurationError


def test_the_entries_are_found() -> None:
    entries = [(TDX_METADATA, b"abcd"), (FOOTER, b"")]
    assert guid_table(image_with(entries)) == dict(entries)


def damaged(at: int, value: bytes) -> bytes:
    """An image with one entry of four bytes; `at` counts from the end of the table."""
    image = bytearray(image_with([(TDX_METADATA, b"abcd")]))
    end = len(image) - 32 + at
    image[end : end + len(value)] = value
    return bytes(image)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "whole number of pages"),
        (bytes(PAGE - 1), "whole number of pages"),
        (bytes(PAGE), "is missing"),
        (damaged(-18, struct.pack("<H", 17)), "impossible size"),
        (damaged(-18, struct.pack("<H", 0xFFFF)), "impossible size"),
        (damaged(-18, struct.pack("<H", 18 + 22 + 5)), "ends inside an entry"),
        (damaged(-36, struct.pack("<H", 17)), "an entry of the table"),
        (damaged(-36, struct.pack("<H", 23)), "an entry of the table"),
        (image_with([(TDX_METADATA, b"a"), (TDX_METADATA, b"b")]), "twice"),
    ],
)
def test_a_damaged_table_is_refused(image: bytes, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as refused:
        guid_table(image)
    assert refused.value.code == "measure.firmware"


@pytest.mark.parametrize("entry", [b"abc", struct.pack("<I", 0), struct.pack("<I", PAGE + 1)])
def test_metadata_outside_the_image(entry: bytes) -> None:
    with pytest.raises(ConfigurationError) as refused:
        metadata_offset(bytes(PAGE), entry)
    assert refused.value.code == "measure.firmware"
