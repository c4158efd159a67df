"""The table of GUIDs at the end of a virtual machine's firmware image, where its metadata are found.

Source: edk2, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm ("GUIDed structure").
"""

from __future__ import annotations

import struct
from uuid import UUID

from blindai.errors import ConfigurationError

# OVMF is built with 2, 4 or 8 MiB; QEMU maps at most 8 MiB of flash below 4 GiB by default.
MAX_FIRMWARE_BYTES = 16 << 20

PAGE_BYTES = 4096

FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
_AFTER_TABLE = 32  # bytes of reset vector behind the table
_ENTRY = struct.Struct("<H16s")  # size of the whole entry, GUID; what an entry holds stands before it
_OFFSET = struct.Struct("<I")


def guid_table(image: bytes) -> dict[UUID, bytes]:
    """The entries of the table: GUID to content.

    Raises:
        ConfigurationError: `measure.firmware`; the image is no firmware, has no such table, or a damaged one.
    """
    if not image or len(image) % PAGE_BYTES:
        raise firmware_error(f"its size, {len(image)} bytes, is not a whole number of pages")
    end = len(image) - _AFTER_TABLE
    size, guid = _ENTRY.unpack_from(image, end - _ENTRY.size)
    if UUID(bytes_le=guid) != FOOTER:
        raise firmware_error("the table of GUIDs that OVMF has at its end is missing")
    start = end - size
    if size < _ENTRY.size or start < 0:
        raise firmware_error("the table of GUIDs has an impossible size")
    entries: dict[UUID, bytes] = {}
    end -= _ENTRY.size
    while end > start:
        if end - start < _ENTRY.size:
            raise firmware_error("the table of GUIDs ends inside an entry")
        size, guid = _ENTRY.unpack_from(image, end - _ENTRY.size)
        if not _ENTRY.size <= size <= end - start:
            raise firmware_error("an entry of the table of GUIDs has an impossible size")
        key = UUID(bytes_le=guid)
        if key in entries:
            raise firmware_error(f"the table of GUIDs lists {key} twice")
        entries[key] = image[end - size : end - _ENTRY.size]
        end -= size
    return entries


def metadata_offset(image: bytes, entry: bytes) -> int:
    """Where the metadata begin that `entry` points at: it holds their distance from the end of the image.

    Raises:
        ConfigurationError: `measure.firmware`.
    """
    if len(entry) < _OFFSET.size:
        raise firmware_error("the entry that points at the metadata is too short")
    distance: int = _OFFSET.unpack_from(entry)[0]
    if not 0 < distance <= len(image):
        raise firmware_error("the metadata lie outside the image")
    return len(image) - distance


def firmware_error(reason: str) -> ConfigurationError:
    """The refusal of a firmware image, ready to be raised."""
    return ConfigurationError(f"this firmware image cannot be measured: {reason}", code="measure.firmware")
