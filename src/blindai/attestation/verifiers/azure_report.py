"""The report of Azure's paravisor (HCL): the hardware report made at boot, and the runtime data it commits to.

The paravisor runs inside the confidential VM, below its operating system, and keeps the virtual TPM. It had the
processor sign the digest of its runtime data, which hold the public key with which the virtual TPM signs quotes.

Source: Microsoft, "Guest attestation design for confidential VMs", attestation report format (NV index 0x01400001).
Integers are little-endian.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from blindai.errors import AttestationError

HARDWARE_REPORT_BYTES = 1184  # room for an SEV-SNP report; a TD report is shorter and padded with zeros
TD_REPORT_BYTES = 1024  # TDREPORT_STRUCT (Intel TDX module ABI, section 3.10)
MAX_REPORT_BYTES = 1 << 14  # the NV index has 2600 bytes

_HEADER = struct.Struct("<4sIIII12s")  # signature, version, size of the whole, request, status, reserved
_REQUEST = struct.Struct("<IIIII")  # size with this head, version, type of hardware report, hash, size of the data
_SIGNATURE = b"HCLA"
_HEADER_VERSIONS = (1, 2)
_REQUEST_VERSION = 1
_ATTESTATION_REQUEST = 2
_SHA256 = 1
_REPORT_DATA_BYTES = 64

SNP_REPORT = 2
TD_REPORT = 4

AK_NAME = "HCLAkPub"
MIN_AK_BITS = 2048  # TPM 2.0 keys of Azure have 2048 bits
MAX_AK_BITS = 4096


class _Key(msgspec.Struct, frozen=True):
    """A JSON Web Key (RFC 7517) of kind RSA (RFC 7518, section 6.3.1)."""

    kid: str
    kty: str
    e: Annotated[str, msgspec.Meta(max_length=16)]
    n: Annotated[str, msgspec.Meta(max_length=1024)]


class VmConfiguration(msgspec.Struct, frozen=True, rename="kebab"):
    """How the virtual machine was set up, as the paravisor saw it.

    Attributes:
        console_enabled: the serial console reaches the guest.
        secure_boot: the firmware starts signed code alone.
        tpm_enabled: the guest has the virtual TPM.
    """

    console_enabled: bool
    secure_boot: bool
    tpm_enabled: bool


class _RuntimeData(msgspec.Struct, frozen=True, rename="kebab"):
    keys: tuple[_Key, ...]
    vm_configuration: VmConfiguration


class HclReport(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed report, not yet believed.

    Attributes:
        kind: `SNP_REPORT` or `TD_REPORT`.
        hardware_report: the SEV-SNP report or the TD report.
        runtime_data: the JSON that `report_data` of the hardware report commits to, and where it stands.
        configuration: from the runtime data.
        ak: the public key of the virtual TPM's attestation key, from the runtime data.
    """

    kind: int
    hardware_report: bytes
    runtime_data: bytes
    runtime_start: int
    configuration: VmConfiguration
    ak: rsa.RSAPublicKey

    @property
    def report_data(self) -> bytes:
        """What the hardware report must carry: SHA-256 of the runtime data, filled up with zeros."""
        return hashlib.sha256(self.runtime_data).digest().ljust(_REPORT_DATA_BYTES, b"\0")

    def require_vouched(self, report_data: bytes) -> None:
        """Refuse runtime data to which the hardware report does not commit.

        Raises:
            AttestationError: `quote.runtime_data`, step `quote`.
        """
        if not hmac.compare_digest(self.report_data, report_data):
            raise AttestationError(
                "the processor does not vouch for the keys of the virtual TPM",
                code="quote.runtime_data",
                step="quote",
                expected=self.report_data.hex(),
                got=report_data.hex(),
                likely="runtime data of another virtual machine stand beside this report",
            )


def parse(report: bytes) -> HclReport:
    """Parse a report strictly; what fills the rest of the NV index must be zeros.

    Raises:
        AttestationError: `evidence.hcl`, step `evidence`.
    """
    if len(report) > MAX_REPORT_BYTES:
        raise _malformed(f"it has {len(report)} bytes")
    try:
        signature, version, size, request, status, reserved = _HEADER.unpack_from(report)
        at = _HEADER.size + HARDWARE_REPORT_BYTES
        data_size, data_version, kind, hash_type, length = _REQUEST.unpack_from(report, at)
    except struct.error as error:
        raise _malformed("it ends too early") from error
    start = at + _REQUEST.size
    runtime = report[start : start + length]
    for holds, fault in (
        (signature == _SIGNATURE and version in _HEADER_VERSIONS, "it does not begin as one"),
        (request == _ATTESTATION_REQUEST, f"it is of request type {request}"),
        (status == 0 and not any(reserved), f"it has status {status:#x}, or reserved bytes that are not zero"),
        (data_version == _REQUEST_VERSION and kind in {SNP_REPORT, TD_REPORT}, f"it holds a report of type {kind}"),
        (hash_type == _SHA256, f"it uses hash {hash_type} in place of SHA-256"),
        (len(runtime) == length and data_size == _REQUEST.size + length, "its lengths contradict each other"),
        (size == start + length, "its lengths contradict each other"),
        (not any(report[start + length :]), "something follows it"),
    ):
        if not holds:
            raise _malformed(fault)
    hardware = report[_HEADER.size : at]
    if kind == TD_REPORT:
        if any(hardware[TD_REPORT_BYTES:]):
            raise _malformed("something follows its TD report")
        hardware = hardware[:TD_REPORT_BYTES]
    data = _runtime_data(runtime)
    return HclReport(
        kind=kind,
        hardware_report=hardware,
        runtime_data=runtime,
        runtime_start=start,
        configuration=data.vm_configuration,
        ak=_attestation_key(data),
    )


def _runtime_data(runtime: bytes) -> _RuntimeData:
    try:
        return msgspec.json.decode(runtime, type=_RuntimeData)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(f"its runtime data are not what they should be: {error}") from error


def _attestation_key(data: _RuntimeData) -> rsa.RSAPublicKey:
    keys = [key for key in data.keys if key.kid == AK_NAME]
    if len(keys) != 1 or keys[0].kty != "RSA":
        raise _malformed(f"its runtime data do not hold one RSA key {AK_NAME}")
    modulus, exponent = _integer(keys[0].n), _integer(keys[0].e)
    if not MIN_AK_BITS <= modulus.bit_length() <= MAX_AK_BITS:
        raise _malformed(f"{AK_NAME} has {modulus.bit_length()} bits")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as error:
        raise _malformed(f"{AK_NAME} is no key: {error}") from error


def _integer(text: str) -> int:
    """Base64url without padding (RFC 7518, section 2, Base64urlUInt)."""
    try:
        return int.from_bytes(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise _malformed(f"{AK_NAME} is not base64url") from error


def _malformed(reason: str) -> AttestationError:
    return AttestationError(
        f"the report of Azure's paravisor cannot be parsed: {reason}", code="evidence.hcl", step="evidence", got=reason
    )
