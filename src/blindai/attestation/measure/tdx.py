"""Reference values of Intel TDX: MRTD from a firmware image, RTMRs from an event log.

The build of a TD hashes one 128-byte record for each page that is added and, where the firmware's metadata ask for
it, one record and the content for each 256 bytes of a page. Its order is the hypervisor's choice: see `PageOrder`.

Sources: Intel TDX Module Base Architecture Specification, section "TD Measurement"; Intel TDX Module ABI,
TDH.MEM.PAGE.ADD and TDH.MR.EXTEND; Intel TDX Virtual Firmware Design Guide, section 11 (metadata).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from blindai.attestation.measure.firmware import PAGE_BYTES, firmware_error, guid_table, metadata_offset
from blindai.errors import ConfigurationError

TDX_METADATA = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
EXTEND_MR = 1 << 0  # section attribute: the content is measured as well
PAGE_AUG = 1 << 1  # section attribute: memory that the guest accepts later; it is not part of MRTD

MAX_SECTIONS = 64  # OVMF has 6 to 9
MAX_SECTION_BYTES = 64 << 20  # a td-shim payload with its kernel; OVMF's largest section is its code, below 4 MiB

_CHUNK_BYTES = 256
_HEADER = struct.Struct("<4sIII")  # signature, length, version, number of sections
_SECTION = struct.Struct("<IIQQII")
_RECORD = struct.Struct("<16sQ104x")


class PageOrder(StrEnum):
    """In which order a hypervisor adds and measures the pages of a section; MRTD depends on it.

    `PAGE`: each page is measured right after it was added (KVM of Linux 6.16 and later, KVM_TDX_INIT_MEM_REGION).
    `SECTION`: all pages of a section are added, then all are measured (Intel's earlier out-of-tree QEMU).
    """

    PAGE = "page"
    SECTION = "section"


class Section(NamedTuple):
    """One section of TDX metadata, as in the image."""

    data_offset: int
    data_bytes: int
    address: int
    memory_bytes: int
    kind: int
    attributes: int


def mrtd(image: bytes, order: PageOrder = PageOrder.PAGE) -> str:
    """The MRTD of a TD that is launched with this firmware: SHA-384, lower-case hex.

    Args:
        image: the whole firmware image (TDVF), as it is given to the hypervisor.
        order: what the hypervisor does.

    Raises:
        ConfigurationError: `measure.firmware`, `measure.metadata`.
    """
    digest = hashlib.sha384()
    for section in sections(image):
        if section.attributes & PAGE_AUG:
            continue
        pages = range(section.address, section.address + section.memory_bytes, PAGE_BYTES)
        if order is PageOrder.SECTION:
            for page in pages:
                digest.update(_RECORD.pack(b"MEM.PAGE.ADD", page))
        for page in pages:
            if order is PageOrder.PAGE:
                digest.update(_RECORD.pack(b"MEM.PAGE.ADD", page))
            if section.attributes & EXTEND_MR:
                at = section.data_offset + page - section.address
                for chunk in range(0, PAGE_BYTES, _CHUNK_BYTES):
                    digest.update(_RECORD.pack(b"MR.EXTEND", page + chunk))
                    digest.update(image[at + chunk : at + chunk + _CHUNK_BYTES])
    return digest.hexdigest()


def sections(image: bytes) -> tuple[Section, ...]:
    """The sections that the TDX metadata of a firmware image list, in their order, checked for sense.

    Raises:
        ConfigurationError: `measure.firmware`: the image is no firmware; `measure.metadata`: it has no TDX metadata,
            or sections that no hypervisor could load or that no page order measures alike.
    """
    table = guid_table(image)
    if TDX_METADATA not in table:
        raise ConfigurationError(
            "this firmware image has no TDX metadata",
            code="measure.metadata",
            hint="give the image that the TD is launched with, such as OVMF.inteltdx.fd",
        )
    at = metadata_offset(image, table[TDX_METADATA])
    if at + _HEADER.size > len(image):
        raise firmware_error("the TDX metadata lie outside the image")
    signature, length, version, count = _HEADER.unpack_from(image, at)
    if signature != b"TDVF" or version != 1:
        raise _metadata_error("they do not begin with TDVF, version 1")
    end = at + _HEADER.size + count * _SECTION.size
    if not 0 < count <= MAX_SECTIONS or length != end - at or end > len(image):
        raise _metadata_error(f"they are {length} bytes with {count} sections")
    found = tuple(map(Section._make, _SECTION.iter_unpack(image[at + _HEADER.size : end])))
    for problem in _problems(found, len(image)):
        raise _metadata_error(problem)
    return found


def _problems(found: tuple[Section, ...], image_bytes: int) -> Iterator[str]:
    for number, section in enumerate(found):
        if section.address % PAGE_BYTES or section.memory_bytes % PAGE_BYTES:
            yield f"section {number} does not fill whole pages"
        if section.memory_bytes > MAX_SECTION_BYTES and not section.attributes & PAGE_AUG:
            yield f"section {number} has {section.memory_bytes} bytes, more than any firmware"
        if section.data_offset + section.data_bytes > image_bytes:
            yield f"section {number} lies outside the image"
        if section.attributes & ~(EXTEND_MR | PAGE_AUG):
            yield f"section {number} has the unknown attributes {section.attributes:#x}"
        if section.attributes & EXTEND_MR and section.data_bytes != section.memory_bytes:
            yield f"section {number} is measured, and its memory is not all in the image"
    for lower, upper in pairwise(sorted(found, key=lambda section: section.address)):
        if lower.address + lower.memory_bytes > upper.address:
            yield f"two sections overlap at {upper.address:#x}"


def _metadata_error(reason: str) -> ConfigurationError:
    return ConfigurationError(f"the TDX metadata of this firmware cannot be used: {reason}", code="measure.metadata")
