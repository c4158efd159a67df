"""Lay out the bytes of SGX version 3 and TDX versions 4 and 5 quotes, as a quoting enclave does.

Written apart from the parser on purpose: where the two disagree on an offset, a test fails.

Sources: Intel SGX DCAP ECDSA Quote Library API, appendix A.4; Intel TDX DCAP Quoting Library API, appendix A.3.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

INTEL_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
P256_KEY_TYPE = 2
SGX, TDX = 0x00, 0x81
TD_REPORT_1_5 = 3
PCK_CHAIN, QE_REPORT = 5, 6


def header(version: int, tee_type: int, *, platform: bytes) -> bytes:
    """48 bytes. `platform`, 16 bytes, stands where the quoting enclave puts its platform id."""
    return struct.pack("<HHIHH16s20s", version, P256_KEY_TYPE, tee_type, 0, 0, INTEL_VENDOR, platform)


def enclave_report(
    *,
    cpu_svn: bytes,
    attributes: int,
    xfrm: bytes,
    mrenclave: bytes,
    mrsigner: bytes,
    isv_prod_id: int,
    isv_svn: int,
    report_data: bytes,
) -> bytes:
    """An SGX report body, 384 bytes."""
    return b"".join(
        [
            cpu_svn,
            bytes(32),  # MISCSELECT, reserved, ISVEXTPRODID
            attributes.to_bytes(8, "little"),
            xfrm,
            mrenclave,
            bytes(32),
            mrsigner,
            bytes(96),  # reserved, CONFIGID
            struct.pack("<HH", isv_prod_id, isv_svn),
            bytes(60),  # CONFIGSVN, reserved, ISVFAMILYID
            report_data,
        ]
    )


def td_report_around(
    registers: Mapping[str, bytes], *, tee_tcb_svn: bytes, attributes: int, xfam: bytes, version: int
) -> tuple[bytes, bytes]:
    """What stands before and after report_data in a TD report: 520 bytes, and 0 (version 4) or 64 (version 5)."""
    before = b"".join(
        [
            tee_tcb_svn,
            registers["mrseam"],
            registers["mrsignerseam"],
            bytes(8),  # SEAMATTRIBUTES
            attributes.to_bytes(8, "little"),
            xfam,
            registers["mrtd"],
            registers["mrconfigid"],
            registers["mrowner"],
            registers["mrownerconfig"],
            registers["rtmr0"],
            registers["rtmr1"],
            registers["rtmr2"],
            registers["rtmr3"],
        ]
    )
    return before, (tee_tcb_svn + registers["mrservicetd"] if version == 5 else b"")


def body_descriptor(version: int) -> bytes:
    """What version 5 puts between header and body: type and size."""
    return struct.pack("<HI", TD_REPORT_1_5, 648) if version == 5 else b""


def certification(
    *, version: int, qe_report: bytes, qe_signature: bytes, qe_auth_data: bytes, pck_chain: bytes
) -> bytes:
    """QE report and PCK chain as they end a quote; versions 4 and 5 wrap them once more."""
    inner = b"".join(
        [
            qe_report,
            qe_signature,
            struct.pack("<H", len(qe_auth_data)),
            qe_auth_data,
            struct.pack("<HI", PCK_CHAIN, len(pck_chain)),
            pck_chain,
        ]
    )
    return inner if version == 3 else struct.pack("<HI", QE_REPORT, len(inner)) + inner


def assemble(signed: bytes, signature: bytes, attestation_key: bytes, certification_data: bytes) -> bytes:
    """The whole quote."""
    authentication = signature + attestation_key + certification_data
    return signed + struct.pack("<I", len(authentication)) + authentication


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """ECDSA with SHA-256 as raw r||s, 64 bytes."""
    r, s = decode_dss_signature(key.sign(message, _ECDSA))
    return r.to_bytes(32) + s.to_bytes(32)


def public_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key as x||y, 64 bytes."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


_ECDSA = ec.ECDSA(hashes.SHA256())
