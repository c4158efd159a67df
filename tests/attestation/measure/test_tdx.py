"""MRTD of firmware images, held to a second implementation that shares nothing with the first."""

from __future__ import annotations

import hashlib
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artefacts import PAGE, TDX_METADATA, TDX_SECTIONS, image_with, tdx_firmware, tdx_metadata
from blindai.attestation.measure.tdx import PageOrder, mrtd
from blindai.errors import ConfigurationError


def oracle(image: bytes, order: PageOrder) -> str:
    """MRTD, by listing every operation of the TDX module first and hashing the list afterwards.

    It finds the metadata by their signature instead of through the table of GUIDs.
    """
    at = image.index(b"TDVF")
    (count,) = struct.unpack_from("<I", image, at + 12)
    operations: list[tuple[int, int, int, bytes]] = []  # sort keys of section, page and pass, then the record
    for number in range(count):
        row = image[at + 16 + 32 * number : at + 48 + 32 * number]
        data, _, address, size, _, flags = struct.unpack("<2I2Q2I", row)
        if flags & 2:
            continue
        for page in range(size // PAGE):
            place = address + page * PAGE
            add = b"MEM.PAGE.ADD".ljust(16, b"\0") + place.to_bytes(8, "little") + bytes(104)
            extend = b""
            for chunk in range(16 if flags & 1 else 0):
                where = data + page * PAGE + chunk * 256
                extend += b"MR.EXTEND".ljust(16, b"\0") + (place + chunk * 256).to_bytes(8, "little") + bytes(104)
                extend += image[where : where + 256]
            if order is PageOrder.PAGE:
                operations.append((number, page, 0, add + extend))
            else:
                operations += [(number, 0, page, add), (number, 1, page, extend)]
    return hashlib.sha384(b"".join(record for *_, record in sorted(operations))).hexdigest()


@pytest.mark.parametrize("order", PageOrder)
def test_mrtd_agrees_with_a_second_implementation(order: PageOrder) -> None:
    image = tdx_firmware()
    assert mrtd(image, order) == oracle(image, order)


def test_the_order_of_pages_matters() -> None:
    assert mrtd(tdx_firmware(), PageOrder.PAGE) != mrtd(tdx_firmware(), PageOrder.SECTION)


@given(
    measured=st.integers(0, 3),
    memory=st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0, 2])), max_size=4),
    order=st.sampled_from(PageOrder),
)
def test_mrtd_agrees_for_any_layout(measured: int, memory: list[tuple[int, int]], order: PageOrder) -> None:
    sections = [(0, measured * PAGE, 0xFFFF0000, measured * PAGE, 0, 1)]
    for number, (pages, flags) in enumerate(memory):
        sections.append((0, 0, 0x800000 + number * 8 * PAGE, pages * PAGE, 3, flags))
    image = tdx_firmware(sections)
    assert mrtd(image, order) == oracle(image, order)


def test_every_byte_of_measured_code_counts() -> None:
    image = bytearray(tdx_firmware())
    before = mrtd(bytes(image))
    image[0] ^= 1  # the variables are added, and not measured
    assert mrtd(bytes(image)) == before
    image[2 * PAGE] ^= 1
    assert mrtd(bytes(image)) != before


CODE, VARIABLES, MEMORY = TDX_SECTIONS[:3]


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ([], "0 sections"),
        ([MEMORY] * 65, "65 sections"),
        ([CODE, (0, 0, 0xFFFFF000, PAGE, 3, 0)], "overlap"),
        ([(0, 0, 0x800001, PAGE, 3, 0)], "whole pages"),
        ([(0, 0, 0x800000, PAGE - 1, 3, 0)], "whole pages"),
        ([(0, 0, 0, 1 << 40, 3, 0)], "more than any firmware"),
        ([(2 * PAGE, 3 * PAGE, 0xFFFFD000, 3 * PAGE, 0, 1)], "outside the image"),
        ([(0, PAGE, 0xFFFFD000, 2 * PAGE, 0, 1)], "not all in the image"),
        ([(0, 0, 0x800000, PAGE, 3, 4)], "unknown attributes"),
    ],
)
def test_sections_that_cannot_be_are_refused(sections: list[tuple[int, ...]], reason: str) -> None:
    metadata = tdx_metadata(sections)
    image = image_with([(TDX_METADATA, struct.pack("<I", 4096))], pages=4)
    image = image[:-4096] + metadata + image[-4096 + len(metadata) :]
    with pytest.raises(ConfigurationError, match=reason) as refused:
        mrtd(image)
    assert refused.value.code == "measure.metadata"


def test_a_wrong_signature_is_refused() -> None:
    image = image_with([(TDX_METADATA, struct.pack("<I", 1024))], tdx_metadata(signature=b"TDVG"))
    with pytest.raises(ConfigurationError, match="TDVF") as refused:
        mrtd(image)
    assert refused.value.code == "measure.metadata"


def test_firmware_without_tdx_metadata() -> None:
    with pytest.raises(ConfigurationError, match="no TDX metadata") as refused:
        mrtd(image_with([]))
    assert refused.value.code == "measure.metadata"


def test_metadata_at_the_very_end() -> None:
    with pytest.raises(ConfigurationError) as refused:
        mrtd(image_with([(TDX_METADATA, struct.pack("<I", 15))]))
    assert refused.value.code == "measure.firmware"


@given(st.binary(max_size=2 * PAGE))
def test_no_input_crashes(data: bytes) -> None:
    with pytest.raises(ConfigurationError):
        mrtd(data)


@given(at=st.integers(len(tdx_firmware()) - 1024, len(tdx_firmware()) - 33), value=st.integers(0, 255))
def test_no_damage_crashes(at: int, value: int) -> None:
    image = bytearray(tdx_firmware())
    image[at] = value
    with suppress(ConfigurationError):  # anything else is a crash
        mrtd(bytes(image))
