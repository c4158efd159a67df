"""Portable executables of UEFI: their sections, and the Authenticode digest that firmware measures.

Sources: Microsoft PE Format; Microsoft "Windows Authenticode Portable Executable Signature Format", section
"Calculating the PE Image Hash"; TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.5.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from blindai.errors import ConfigurationError

MAX_IMAGE_BYTES = 2 << 30  # a UKI with a large initrd; a PE file cannot exceed 4 GiB
MAX_SECTIONS = 96  # the Windows loader's limit; a UKI has some 15

_DOS_HEADER_BYTES = 64
_COFF = struct.Struct("<HHIIIHH")
_SECTION = struct.Struct("<8sIIII16x")
_OPTIONAL_MAGICS = {0x10B: 96, 0x20B: 112}  # PE32, PE32+: where the data directories begin
_HEADER_BYTES_AT = 60  # SizeOfHeaders, in the optional header
_CHECKSUM_AT = 64
_CERTIFICATES = 4  # index of the data directory that locates the signatures
_DIRECTORY = struct.Struct("<II")


class Section(NamedTuple):
    """One section: what the file holds of it, and its size in memory."""

    name: str
    memory_bytes: int
    offset: int
    file_bytes: int


@dataclass(frozen=True)
class PeImage:
    """A parsed image.

    Attributes:
        data: the whole file.
        sections: in the order of the file's section table.
        authenticode: SHA-256 of the image without its checksum and signatures; signing does not change it.
    """

    data: bytes = field(repr=False)
    sections: tuple[Section, ...]
    authenticode: bytes

    @classmethod
    def parse(cls, data: bytes) -> PeImage:
        """Parse an image.

        Raises:
            ConfigurationError: `measure.pe`: this is no PE image, or one that firmware would not load.
        """
        try:
            return cls._parse(data)
        except struct.error as error:
            raise pe_error("it ends inside its headers") from error

    @classmethod
    def _parse(cls, data: bytes) -> PeImage:
        if len(data) < _DOS_HEADER_BYTES or data[:2] != b"MZ":
            raise pe_error("it does not begin with MZ")
        (at,) = struct.unpack_from("<I", data, 0x3C)
        if data[at : at + 4] != b"PE\0\0":
            raise pe_error("its PE signature is missing")
        _, count, _, _, _, optional_bytes, _ = _COFF.unpack_from(data, at + 4)
        optional = at + 4 + _COFF.size
        (magic,) = struct.unpack_from("<H", data, optional)
        if magic not in _OPTIONAL_MAGICS or not 0 < count <= MAX_SECTIONS:
            raise pe_error(f"its optional header is of type {magic:#x}, with {count} sections")
        table = optional + optional_bytes
        (header_bytes,) = struct.unpack_from("<I", data, optional + _HEADER_BYTES_AT)
        if not table + count * _SECTION.size <= header_bytes <= len(data):
            raise pe_error(f"its headers cannot have {header_bytes} bytes")
        rows = [_SECTION.unpack_from(data, table + number * _SECTION.size) for number in range(count)]
        sections = tuple(
            Section(name.rstrip(b"\0").decode("latin-1"), memory_bytes, offset, file_bytes)
            for name, memory_bytes, _, file_bytes, offset in rows
        )
        directories = optional + _OPTIONAL_MAGICS[magic]
        (directory_count,) = struct.unpack_from("<I", data, directories - 4)
        entry = directories + _CERTIFICATES * _DIRECTORY.size
        if directory_count > _CERTIFICATES and entry + _DIRECTORY.size > table:
            raise pe_error("its data directories reach into the section table")
        signed = directory_count > _CERTIFICATES
        signatures_at, signatures_bytes = _DIRECTORY.unpack_from(data, entry) if signed else (0, 0)
        if signatures_bytes and signatures_at + signatures_bytes != len(data):
            raise pe_error("its signatures do not end the file")
        end = len(data) - signatures_bytes
        _require_apart(sections, header_bytes, end)
        skipped = [(optional + _CHECKSUM_AT, 4)] + ([(entry, _DIRECTORY.size)] if signed else [])
        return cls(data, sections, _authenticode(data, skipped, header_bytes, sections, end))

    def content(self, section: Section) -> bytes:
        """What memory holds of `section` once the image is loaded: cut or filled up with zeros to its memory size."""
        held = self.data[section.offset : section.offset + min(section.file_bytes, section.memory_bytes)]
        return held + bytes(section.memory_bytes - len(held))


def _require_apart(sections: tuple[Section, ...], header_bytes: int, end: int) -> None:
    """Refuse sections that overlap: what is measured of them would not be what runs."""
    placed = sorted((section.offset, section.file_bytes, section.name) for section in sections if section.file_bytes)
    for offset, size, name in placed:
        if offset < header_bytes or offset + size > end:
            raise pe_error(f"section {name!r} lies outside the file")
    for (offset, size, name), (after, _, other) in pairwise(placed):
        if offset + size > after:
            raise pe_error(f"sections {name!r} and {other!r} overlap")


def _authenticode(
    data: bytes, skipped: list[tuple[int, int]], header_bytes: int, sections: tuple[Section, ...], end: int
) -> bytes:
    digest = hashlib.sha256()
    at = 0
    for start, size in skipped:
        digest.update(data[at:start])
        at = start + size
    digest.update(data[at:header_bytes])
    hashed = header_bytes
    for section in sorted(sections, key=lambda section: section.offset):
        if section.file_bytes:
            digest.update(data[section.offset : section.offset + section.file_bytes])
            hashed += section.file_bytes
    # Whatever follows the sections. As edk2 does, this counts the bytes hashed so far, not where the last one stood.
    digest.update(data[hashed:end])
    return digest.digest()


def pe_error(reason: str) -> ConfigurationError:
    """The refusal of an image, ready to be raised."""
    return ConfigurationError(f"this is no image that UEFI loads: {reason}", code="measure.pe")
