"""Simulated NVIDIA GPUs and switches: real reports, real certificates, no hardware.

What they emit passes through the same verifier as evidence of real devices, under a root that no policy accepts unless
it names it. It protects nothing: whoever reads this process's memory has every key.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Self

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from blindai.attestation.anchors import Vendor
from blindai.attestation.evidence import DeviceEvidence, DeviceKind
from blindai.attestation.simulated.certificates import BACKDATING, Issuer, Validity, pem
from blindai.attestation.simulated.root import ROOT_LIFETIME, CertifiedRoot
from blindai.attestation.verifiers.certificates import SIMULATED_VENDOR
from blindai.attestation.verifiers.nvidia_certificates import FWID_EXTENSION, FWID_PREFIX, ROOT_NAME
from blindai.attestation.verifiers.nvidia_report import (
    ALL_BLOCKS,
    DMTF,
    DRIVER,
    FEATURES,
    FIRMWARE,
    FWID,
    GET_MEASUREMENTS,
    MEASUREMENTS,
    NONCE_BYTES,
    SIGNATURE_BYTES,
    SIGNATURE_REQUESTED,
    VERSION,
)

ORGANISATION = "SIMULATED: not NVIDIA, not hardware"

CHIPS = {DeviceKind.NVIDIA_GPU: "GH100", DeviceKind.NVIDIA_SWITCH: "LS10"}
MEASUREMENT_COUNT = 64
SIMULATED_DRIVER = "550.90.07"
SIMULATED_VBIOS = "96.00.9F.00.01"
SIMULATED_SWITCH_BIOS = "96.10.6D.00.01"

_DIGEST_VALUE = 0x01  # kind of measurement: mutable firmware, as a digest
_SECP384R1 = ec.SECP384R1()


class SimulatedNvidiaRoot(CertifiedRoot):
    """The simulated counterpart of NVIDIA's device identity CA."""

    file: ClassVar[str] = "nvidia-root.pem"
    name: ClassVar[str] = f"{SIMULATED_VENDOR} {ROOT_NAME}"
    vendor: ClassVar[Vendor] = Vendor.NVIDIA

    @classmethod
    def generate(cls, now: datetime | None = None) -> Self:
        """Make a root that lives in memory only."""
        key = ec.generate_private_key(_SECP384R1)
        start = (now or datetime.now(UTC)) - BACKDATING
        return cls(key, issue(ROOT_NAME, key, issuer=None, validity=Validity(start, start + ROOT_LIFETIME)))


class DeviceFaults(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a device, for tests and demonstrations. By default nothing is.

    Attributes:
        nonce: signed in place of the one that was asked for.
        other_fwid: the report names another firmware than the certificate.
        without_fwid: the report names no firmware.
        unsigned: the signature is zeros.
        measurements: values by index, in place of the usual ones.
    """

    nonce: bytes = b""
    other_fwid: bool = False
    without_fwid: bool = False
    unsigned: bool = False
    measurements: dict[int, str] = {}


class SimulatedDevice:
    """One simulated GPU or switch. Safe to call from several threads.

    Args:
        root: the simulated root.
        kind: GPU or switch.
        number: tells the devices of one machine apart.
        chip: such as `GH100`, `GB100` or `LS10`; by default the usual one of its kind.
        driver, firmware: as the device reports them; `firmware` as `96.00.9F.00.01`.
        mode: the number of the feature flag: 0 single, 1 multi, 2 protected PCIe; None reports none.
        faults: what is wrong with it.
        now: the time of making, UTC.
    """

    def __init__(
        self,
        root: SimulatedNvidiaRoot,
        *,
        kind: DeviceKind = DeviceKind.NVIDIA_GPU,
        number: int = 1,
        chip: str = "",
        driver: str = SIMULATED_DRIVER,
        firmware: str = "",
        mode: int | None = None,
        faults: DeviceFaults | None = None,
        now: datetime | None = None,
    ) -> None:
        self.kind = kind
        self.chip = chip or CHIPS[kind]
        self.anchor = root.anchor
        is_gpu = kind is DeviceKind.NVIDIA_GPU
        self.driver = driver if is_gpu else ""
        self.firmware = firmware or (SIMULATED_VBIOS if is_gpu else SIMULATED_SWITCH_BIOS)
        self._mode = mode
        self._faults = faults or DeviceFaults()
        self._fwid = hashlib.sha384(f"{SIMULATED_VENDOR} firmware {self.firmware}".encode()).digest()
        start = (now or datetime.now(UTC)) - BACKDATING
        self._key = ec.generate_private_key(_SECP384R1)
        self.chain = self._certify(root, number, Validity(start, start + timedelta(days=365 * 10)))

    def attest(self, nonce: bytes) -> DeviceEvidence:
        """Have `nonce`, 32 bytes, signed with the device's measurements.

        Raises:
            ValueError: `nonce` is not 32 bytes.
        """
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"nonce is {NONCE_BYTES} bytes, not {len(nonce)}")
        signed = self._request(self._faults.nonce or nonce) + self._response()
        r, s = decode_dss_signature(self._key.sign(signed, ec.ECDSA(hashes.SHA384())))
        half = SIGNATURE_BYTES // 2
        signature = bytes(SIGNATURE_BYTES) if self._faults.unsigned else r.to_bytes(half) + s.to_bytes(half)
        return DeviceEvidence(kind=self.kind, report=signed + signature, certificates=pem(*self.chain))

    def measurements(self) -> dict[int, str]:
        """What it reports, by index."""
        usual = {
            index: hashlib.sha384(f"{SIMULATED_VENDOR} {self.chip} {index}".encode()).hexdigest()
            for index in range(1, MEASUREMENT_COUNT + 1)
        }
        return usual | self._faults.measurements

    def _request(self, nonce: bytes) -> bytes:
        return bytes([VERSION, GET_MEASUREMENTS, SIGNATURE_REQUESTED, ALL_BLOCKS]) + nonce + b"\0"

    def _response(self) -> bytes:
        record = b"".join(_block(index, bytes.fromhex(value)) for index, value in self.measurements().items())
        fwid = bytes(len(self._fwid)) if self._faults.other_fwid else self._fwid
        fields = [(FIRMWARE, self._firmware())]
        if self.driver:
            fields.append((DRIVER, self.driver.encode() + b"\0"))
        if not self._faults.without_fwid:
            fields.append((FWID, fwid))
        if self._mode is not None:
            fields.append((FEATURES, bytes([self._mode])))
        opaque = b"".join(
            number.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value for number, value in fields
        )
        head = bytes([VERSION, MEASUREMENTS, 0, 0, len(self.measurements())]) + len(record).to_bytes(3, "little")
        return head + record + os.urandom(NONCE_BYTES) + len(opaque).to_bytes(2, "little") + opaque

    def _firmware(self) -> bytes:
        if self.kind is DeviceKind.NVIDIA_SWITCH:
            return self.firmware.encode()
        *version, last = (int(part, 16) for part in self.firmware.split("."))
        return bytes(reversed(version)) + bytes([last]) + bytes(3)

    def _certify(self, root: SimulatedNvidiaRoot, number: int, validity: Validity) -> tuple[x509.Certificate, ...]:
        chain = [root.certificate]
        issuer = Issuer(root.certificate, root.key)
        for role in (f"{self.chip} Identity", f"{self.chip} Provisioner ICA 1", f"{self.chip} A01 device {number}"):
            key = ec.generate_private_key(_SECP384R1)
            issuer = Issuer(issue(role, key, issuer=issuer, validity=validity), key)
            chain.append(issuer.certificate)
        chain.append(issue(f"{self.chip} A01 FMC", self._key, issuer=issuer, validity=validity, fwid=self._fwid))
        return tuple(reversed(chain))


def issue(
    role: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: Issuer | None,
    validity: Validity,
    fwid: bytes = b"",
) -> x509.Certificate:
    """Issue a certificate for the public half of `key`; without an issuer it is self-signed.

    Args:
        role: the common name, after SIMULATED.
        key: the subject's.
        issuer: who signs.
        validity: from and to.
        fwid: the firmware to which the key belongs, 48 bytes: makes it a device's own and no CA's.
    """
    is_ca = not fwid
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, f"{SIMULATED_VENDOR} {role}"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=is_ca,
                crl_sign=is_ca,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if is_ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    else:
        value = x509.UnrecognizedExtension(FWID_EXTENSION, FWID_PREFIX + fwid)
        builder = builder.add_extension(value, critical=False)
    return builder.sign(key if issuer is None else issuer.key, hashes.SHA384())


def _block(index: int, value: bytes) -> bytes:
    measured = bytes([_DIGEST_VALUE]) + len(value).to_bytes(2, "little") + value
    return bytes([index, DMTF]) + len(measured).to_bytes(2, "little") + measured
