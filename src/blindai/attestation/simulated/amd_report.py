"""Lay out the bytes of an SEV-SNP attestation report, as the firmware does.

Written apart from the parser on purpose: where the two disagree on an offset, a test fails.

Source: AMD SEV-SNP Firmware ABI Specification 56860, section 7.3 (ATTESTATION_REPORT) and chapter 10 (signatures).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ECDSA_P384 = 1
NO_MIGRATION_AGENT = b"\xff" * 32
FIRMWARE_VERSION = bytes([21, 55, 1, 0])  # build, minor, major


def layout(
    *,
    version: int,
    guest_svn: int,
    policy: int,
    vmpl: int,
    platform_info: int,
    key_info: int,
    report_data: bytes,
    registers: Mapping[str, bytes],
    report_id: bytes,
    tcbs: Mapping[str, bytes],
    cpuid: bytes,
    chip_id: bytes,
) -> bytes:
    """What the firmware signs, 672 bytes. `cpuid` is family, model and stepping; version 2 leaves it out."""
    parts = [
        struct.pack("<IIQ", version, guest_svn, policy),
        registers["family_id"],
        registers["image_id"],
        struct.pack("<II", vmpl, ECDSA_P384),
        tcbs["current_tcb"],
        struct.pack("<QII", platform_info, key_info, 0),
        report_data,
        registers["launch_digest"],
        registers["host_data"],
        registers["id_key_digest"],
        registers["author_key_digest"],
        report_id,
        NO_MIGRATION_AGENT,
        tcbs["reported_tcb"],
        (cpuid if version >= 3 else b"").ljust(24, b"\0"),
        chip_id.ljust(64, b"\0"),
        tcbs["committed_tcb"],
        FIRMWARE_VERSION,
        FIRMWARE_VERSION,
        tcbs["launch_tcb"],
    ]
    return b"".join(parts).ljust(672, b"\0")


def sign(key: ec.EllipticCurvePrivateKey, signed: bytes) -> bytes:
    """The whole report, 1184 bytes: r and s, little-endian in 72 bytes each, and zeros."""
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
    return (signed + r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(1184, b"\0")
