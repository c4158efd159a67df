"""Write the structures of a TPM 2.0, byte for byte as one does.

Source: TCG TPM 2.0 Library, part 2 (Structures); TCG PC Client Platform Firmware Profile 1.06, section 10.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from blindai.attestation.credential import sized
from blindai.attestation.eventlog import EV_NO_ACTION, SPECIFICATION, TPM_ALG_SHA256
from blindai.attestation.verifiers.tpm_structures import PCR_COUNT, Algorithm, Attributes, PublicKey

_P256 = 0x0003
_HEADER_PCR = 0


def attest(
    *,
    magic: int,
    kind: int,
    signer: bytes,
    extra_data: bytes,
    clock: int,
    resets: int,
    restarts: int,
    firmware_version: int,
    selection: Iterable[int],
    pcr_digest: bytes,
) -> bytes:
    """TPMS_ATTEST of a quote."""
    return b"".join(
        [
            struct.pack(">IH", magic, kind),
            sized(signer),
            sized(extra_data),
            struct.pack(">QIIBQ", clock, resets, restarts, 1, firmware_version),
            struct.pack(">IHB", 1, Algorithm.SHA256, PCR_COUNT // 8),
            sum(1 << index for index in selection).to_bytes(PCR_COUNT // 8, "little"),
            sized(pcr_digest),
        ]
    )


def public(
    key: PublicKey, attributes: Attributes, *, policy: bytes = b"", scheme: Algorithm | None = None, aes_bits: int = 0
) -> bytes:
    """TPMT_PUBLIC of an RSA key or one on P-256, named with SHA-256; `scheme` uses SHA-256."""
    kind = Algorithm.RSA if isinstance(key, rsa.RSAPublicKey) else Algorithm.ECC
    parts = [struct.pack(">HHI", kind, Algorithm.SHA256, attributes), sized(policy)]
    parts.append(struct.pack(">HHH", Algorithm.AES, aes_bits, Algorithm.CFB) if aes_bits else _number(Algorithm.NULL))
    parts.append(_number(Algorithm.NULL) if scheme is None else struct.pack(">HH", scheme, Algorithm.SHA256))
    if isinstance(key, ec.EllipticCurvePublicKey):
        numbers = key.public_numbers()
        parts.append(struct.pack(">HH", _P256, Algorithm.NULL))
        parts += [sized(number.to_bytes(32)) for number in (numbers.x, numbers.y)]
    else:
        parts.append(struct.pack(">HI", key.key_size, 0))
        parts.append(sized(key.public_numbers().n.to_bytes(key.key_size // 8)))
    return b"".join(parts)


def signature(scheme: Algorithm, *parts: bytes) -> bytes:
    """TPMT_SIGNATURE with SHA-256: one part for RSA, r and s for ECDSA."""
    return struct.pack(">HH", scheme, Algorithm.SHA256) + b"".join(map(sized, parts))


def log_header() -> bytes:
    """The entry that begins a log of the SHA-256 bank alone (TCG_EfiSpecIDEvent)."""
    description = (
        SPECIFICATION + struct.pack("<IBBBBI", 0, 0, 2, 105, 2, 1) + struct.pack("<HHB", TPM_ALG_SHA256, 32, 0)
    )
    return struct.pack("<II20sI", _HEADER_PCR, EV_NO_ACTION, bytes(20), len(description)) + description


def log_event(pcr: int, kind: int, digest: bytes, data: bytes) -> bytes:
    """One entry (TCG_PCR_EVENT2)."""
    return struct.pack("<IIIH", pcr, kind, 1, TPM_ALG_SHA256) + digest + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    return struct.pack(">H", value)
