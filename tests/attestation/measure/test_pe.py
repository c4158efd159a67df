"""PE images: the Authenticode digest against osslsigncode's, and damaged images."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artefacts import KERNEL, pe_image, uki
from blindai.attestation.measure.pe import PeImage
from blindai.errors import ConfigurationError

# What osslsigncode 2.9 signs for these images: `osslsigncode sign -h sha256 ...`, then `verify`, "Current message
# digest". The images are made of constants by the module artefacts.
OSSLSIGNCODE_UKI = "3737491b7a42f6edbc83620548240401a39bf2868efa812b92b752c9e1992b21"
OSSLSIGNCODE_KERNEL = "da7c40d445f6b5301d867910a54b020761b9e3222315a3cb3b9dc223a8865e49"

OPTIONAL = 0x98
CHECKSUM = OPTIONAL + 64
SIGNATURES = OPTIONAL + 112 + 4 * 8
SECTIONS = OPTIONAL + 240


@pytest.mark.parametrize(("image", "digest"), [(uki(), OSSLSIGNCODE_UKI), (KERNEL, OSSLSIGNCODE_KERNEL)])
def test_authenticode_is_that_of_osslsigncode(image: bytes, digest: str) -> None:
    assert PeImage.parse(image).authenticode.hex() == digest


def test_signing_does_not_change_the_digest() -> None:
    signature = b"signature" * 8
    signed = bytearray(KERNEL + signature)
    struct.pack_into("<II", signed, SIGNATURES, len(KERNEL), len(signature))
    struct.pack_into("<I", signed, CHECKSUM, 0xDEADBEEF)
    assert PeImage.parse(bytes(signed)).authenticode.hex() == OSSLSIGNCODE_KERNEL


@pytest.mark.parametrize("at", [0x10, CHECKSUM - 5, CHECKSUM + 4, SIGNATURES - 1, SECTIONS + 36, 0x3FF, 0x400, -1])
def test_every_other_byte_counts(at: int) -> None:
    changed = bytearray(KERNEL)
    changed[at] ^= 0x40
    assert PeImage.parse(bytes(changed)).authenticode.hex() != OSSLSIGNCODE_KERNEL


def test_data_behind_the_sections_count() -> None:
    digests = {PeImage.parse(pe_image([(".a", b"x")], trailer=trailer)).authenticode for trailer in (b"", b"y", b"yz")}
    assert len(digests) == 3


def test_an_image_without_a_directory_of_signatures() -> None:
    image = bytearray(KERNEL)
    struct.pack_into("<I", image, OPTIONAL + 108, 4)
    assert PeImage.parse(bytes(image)).authenticode.hex() != OSSLSIGNCODE_KERNEL


def test_content_is_cut_or_filled_to_its_memory_size() -> None:
    image = PeImage.parse(pe_image([(".a", b"abc"), (".b", b"abc")], memory={".b": 1000}))
    assert [image.content(section) for section in image.sections] == [b"abc", b"abc".ljust(1000, b"\0")]


def changed(at: int, form: str, *values: int) -> bytes:
    image = bytearray(uki())
    struct.pack_into(form, image, at, *values)
    return bytes(image)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "MZ"),
        (b"MZ" + bytes(100), "PE signature"),
        (uki()[:0x9A], "ends inside"),
        (uki()[:0x200], "headers"),
        (changed(0x3C, "<I", 0xFFFFFFF0), "PE signature"),
        (changed(OPTIONAL, "<H", 0x107), "0x107"),
        (changed(0x86, "<H", 0), "0 sections"),
        (changed(0x86, "<H", 97), "97 sections"),
        (changed(0x94, "<H", 0xFFFF), "headers cannot"),
        (changed(0x94, "<H", 130), "data directories"),
        (changed(OPTIONAL + 60, "<I", 0x7FFFFFFF), "headers cannot"),
        (changed(SIGNATURES, "<II", 0x400, 16), "do not end the file"),
        (changed(SECTIONS + 16, "<II", 0x200, 0x200), "outside the file"),
        (changed(SECTIONS + 16, "<II", 0x200, 0xFFFFFE00), "outside the file"),
        (changed(SECTIONS + 16, "<I", 0x400), "overlap"),
    ],
)
def test_a_damaged_image_is_refused(image: bytes, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as refused:
        PeImage.parse(image)
    assert refused.value.code == "measure.pe"


@pytest.mark.parametrize("length", range(0, 0x400, 13))
def test_no_truncation_of_the_headers_is_accepted(length: int) -> None:
    with pytest.raises(ConfigurationError) as refused:
        PeImage.parse(uki()[:length])
    assert refused.value.code == "measure.pe"


@given(at=st.integers(0, 0x3FF), value=st.integers(0, 255))
def test_no_damage_crashes(at: int, value: int) -> None:
    image = bytearray(uki())
    image[at] = value
    with suppress(ConfigurationError):  # anything else is a crash
        PeImage.parse(bytes(image))
