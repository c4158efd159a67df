"""The layout of an SEV-SNP attestation report: versions 2, 3 and 5, 1184 bytes each.

Parsing proves nothing. It only takes the bytes apart, and refuses what no firmware writes: reserved bytes and bits
that are set, numbers that have no meaning, another length.

Source: AMD SEV-SNP Firmware ABI Specification 56860, revision 1.58, sections 4.3 (guest policy) and 7.3
(ATTESTATION_REPORT). Version 3 added the processor's CPUID, version 5 the mitigation vectors.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import msgspec

from blindai.errors import AttestationError

REPORT_BYTES = 0x4A0
SIGNED_BYTES = 0x2A0
VERSIONS = (2, 3, 5)

ECDSA_P384_SHA384 = 1  # SIGNATURE_ALGO, chapter 10
SIGNING_KEYS = {0: "vcek", 1: "vlek"}  # SIGNING_KEY
UNSIGNED = 7
MAX_VMPL = 3
HOST_REQUESTED = 0xFFFFFFFF  # VMPL of a report that the hypervisor asked for (SNP_HV_REPORT_REQ)

POLICY_MUST_BE_ONE = 1 << 17
POLICY_BITS = {
    "smt": 16,
    "migratable": 18,
    "debug": 19,
    "single_socket": 20,
    "cxl": 21,
    "mem_aes_256_xts": 22,
    "rapl_disabled": 23,
    "ciphertext_hiding": 24,
    "page_swap_disabled": 25,
}
PLATFORM_BITS = {
    "smt": 0,
    "tsme": 1,
    "ecc": 2,
    "rapl_disabled": 3,
    "ciphertext_hiding": 4,
    "alias_check": 5,
    "iommu_write_safe": 6,
    "tio": 7,
}
_ABI_VERSION = 0xFFFF  # the lowest firmware ABI that the guest accepts
_KNOWN_POLICY = _ABI_VERSION | POLICY_MUST_BE_ONE | sum(1 << bit for bit in POLICY_BITS.values())
_KNOWN_PLATFORM = sum(1 << bit for bit in PLATFORM_BITS.values())
_AUTHOR_KEY_EN, _MASK_CHIP_KEY, _SIGNING_KEY = 1 << 0, 1 << 1, 0b111 << 2

# Where what others compare or hash stands: first byte, and first byte behind it.
PLACES: dict[str, tuple[int, int]] = {
    "version": (0x000, 0x004),
    "guest_svn": (0x004, 0x008),
    "policy": (0x008, 0x010),
    "family_id": (0x010, 0x020),
    "image_id": (0x020, 0x030),
    "vmpl": (0x030, 0x034),
    "signature_algorithm": (0x034, 0x038),
    "current_tcb": (0x038, 0x040),
    "platform_info": (0x040, 0x048),
    "signing_key": (0x048, 0x04C),
    "report_data": (0x050, 0x090),
    "launch_digest": (0x090, 0x0C0),
    "host_data": (0x0C0, 0x0E0),
    "id_key_digest": (0x0E0, 0x110),
    "author_key_digest": (0x110, 0x140),
    "reported_tcb": (0x180, 0x188),
    "cpuid": (0x188, 0x18B),
    "chip_id": (0x1A0, 0x1E0),
    "committed_tcb": (0x1E0, 0x1E8),
    "launch_tcb": (0x1F0, 0x1F8),
    "signature_r": (0x2A0, 0x2E8),
    "signature_s": (0x2E8, 0x330),
}
REGISTERS = ("launch_digest", "host_data", "id_key_digest", "author_key_digest", "family_id", "image_id")
TCBS = ("reported_tcb", "committed_tcb", "current_tcb", "launch_tcb")

# Reserved in every version, and in those below the one that gave it a meaning.
_RESERVED = ((0x04C, 0x050), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0), (0x330, 0x4A0))
_RESERVED_BELOW = {3: PLACES["cpuid"], 5: (0x1F8, 0x208)}

_HEAD = struct.Struct("<IIQ32xIIQQI")
_SIGNATURE_NUMBER_BYTES = 48  # of P-384, little-endian, in a field of 72


class UnverifiedReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a report says of itself. Anyone can write these bytes: believe them only once they are verified.

    Attributes:
        raw: all 1184 bytes.
        policy: the names in `POLICY_BITS` that the guest's policy sets.
        platform: the names in `PLATFORM_BITS` that the platform sets.
        signing_key: `vcek` or `vlek`.
        cpu: family and model; None in version 2.
        chip_id: 64 bytes; zeros if it is masked.
        tcbs: the raw TCB_VERSION of each of `TCBS`.
        signature: r and s.
    """

    raw: bytes
    version: int
    guest_svn: int
    policy: frozenset[str]
    vmpl: int
    platform: frozenset[str]
    signing_key: str
    cpu: tuple[int, int] | None
    tcbs: dict[str, bytes]
    signature: tuple[int, int]

    @property
    def signed(self) -> bytes:
        return self.raw[:SIGNED_BYTES]

    @property
    def chip_id(self) -> bytes:
        return self.field("chip_id")

    def field(self, name: str) -> bytes:
        """The bytes at one of `PLACES`."""
        start, end = PLACES[name]
        return self.raw[start:end]


def parse(report: bytes) -> UnverifiedReport:
    """Take a report apart without verifying anything.

    Raises:
        AttestationError: step `evidence`; `evidence.malformed` (another length, or reserved bits that are set),
            `evidence.unsupported` (a version, signature algorithm, key, policy bit or platform bit that is not known
            here, or a report that the host asked for), `evidence.unsigned` (the platform signs no reports).
    """
    if len(report) != REPORT_BYTES:
        raise _malformed(f"{REPORT_BYTES} bytes", f"{len(report)} bytes")
    version, guest_svn, policy, vmpl, algorithm, _, platform, key_info = _HEAD.unpack_from(report)
    if version not in VERSIONS:
        raise _unsupported("version 2, 3 or 5", f"version {version}")
    if algorithm != ECDSA_P384_SHA384:
        raise _unsupported(f"signature algorithm {ECDSA_P384_SHA384}, ECDSA on P-384", f"algorithm {algorithm}")
    if vmpl > MAX_VMPL:
        got = "a report that the host asked for" if vmpl == HOST_REQUESTED else f"VMPL {vmpl}"
        raise _unsupported(f"a report that the guest asked for, at VMPL 0 to {MAX_VMPL}", got)
    if not policy & POLICY_MUST_BE_ONE:
        raise _malformed("bit 17 of the guest policy set", f"guest policy {policy:#x}")
    for what, value, known in (("guest policy", policy, _KNOWN_POLICY), ("platform info", platform, _KNOWN_PLATFORM)):
        if value & ~known:
            raise _unsupported(f"no bits of the {what} but {known:#x}", f"{value & ~known:#x}")
    below = [place for first, place in _RESERVED_BELOW.items() if version < first]
    for start, end in (*_RESERVED, *below):
        if any(report[start:end]):
            raise _malformed(f"zeros from {start:#x} to {end:#x}", report[start:end].hex())
    return UnverifiedReport(
        raw=report,
        version=version,
        guest_svn=guest_svn,
        policy=_named(policy, POLICY_BITS),
        vmpl=vmpl,
        platform=_named(platform, PLATFORM_BITS),
        signing_key=_signing_key(key_info),
        cpu=(report[0x188], report[0x189]) if version >= 3 else None,
        tcbs={name: report[slice(*PLACES[name])] for name in TCBS},
        signature=(_number(report, "signature_r"), _number(report, "signature_s")),
    )


def _signing_key(key_info: int) -> str:
    """Which key signed. With MASK_CHIP_KEY the firmware does not use the VCEK; a VLEK it may."""
    if key_info & ~(_AUTHOR_KEY_EN | _MASK_CHIP_KEY | _SIGNING_KEY):
        raise _malformed("no bits of the key information above the fifth", f"{key_info:#x}")
    number = (key_info & _SIGNING_KEY) >> 2
    name = SIGNING_KEYS.get(number)
    if number == UNSIGNED or (name == "vcek" and key_info & _MASK_CHIP_KEY):
        raise AttestationError(
            "the platform does not sign its reports, so that they prove nothing",
            code="evidence.unsigned",
            step="evidence",
            expected="a report signed by the VCEK or the VLEK",
            got=f"key information {key_info:#x}",
            likely="the host has masked the chip's key (MASK_CHIP_KEY of SNP_CONFIG) and has no VLEK",
        )
    if name is None:
        raise _unsupported("signing key 0 (VCEK) or 1 (VLEK)", f"signing key {number}")
    return name


def _number(report: bytes, name: str) -> int:
    start, end = PLACES[name]
    padding = report[start + _SIGNATURE_NUMBER_BYTES : end]
    if any(padding):
        raise _malformed(f"zeros behind the {_SIGNATURE_NUMBER_BYTES} bytes of {name}", padding.hex())
    return int.from_bytes(report[start:end], "little")


def _named(value: int, bits: Mapping[str, int]) -> frozenset[str]:
    return frozenset(name for name, bit in bits.items() if value >> bit & 1)


def _malformed(expected: str, got: str) -> AttestationError:
    return AttestationError(
        "the report is malformed", code="evidence.malformed", step="evidence", expected=expected, got=got
    )


def _unsupported(expected: str, got: str) -> AttestationError:
    return AttestationError(
        "the report is of a kind that this verifier does not know",
        code="evidence.unsupported",
        step="evidence",
        expected=expected,
        got=got,
    )
