"""A simulated AMD platform: real SEV-SNP reports, real certificates, no hardware.

What it emits passes byte for byte through the same verifier as evidence of real processors, under a root that no
policy accepts unless it names it. It protects nothing: whoever reads this process's memory has every key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from blindai.attestation.anchors import Anchor
from blindai.attestation.evidence import TEE, AmdEndorsements, Evidence, require_report_data
from blindai.attestation.simulated import amd_certificates, amd_report, certificates
from blindai.attestation.simulated.amd_certificates import VCEK_SERIAL_NUMBER, ReportSigner
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.attestation.simulated.certificates import Validity
from blindai.attestation.verifiers.amd_certificates import ARK, ISSUERS
from blindai.attestation.verifiers.amd_product import PRODUCTS, TCB_BYTES, Product
from blindai.attestation.verifiers.amd_report import (
    PLATFORM_BITS,
    POLICY_BITS,
    POLICY_MUST_BE_ONE,
    TCBS,
    UNSIGNED,
    VERSIONS,
)

DEFAULT_REPORT_VERSION = 3  # what current firmware of all three product lines writes

AUTHORITY_LIFETIME = timedelta(days=25 * 365)  # as AMD's
SIGNER_LIFETIME = timedelta(days=7 * 365)  # as AMD's
CRL_LIFETIME = timedelta(days=30)

# The list is made anew well before it ends, so that a client with a long-lived connection is not cut off.
RENEWAL_MARGIN = timedelta(days=7)

TCB = {"fmc": 1, "boot_loader": 4, "tee": 0, "snp": 23, "microcode": 213}
CPUIDS = {"Milan": bytes([0x19, 0x01, 0x01]), "Genoa": bytes([0x19, 0x11, 0x01]), "Turin": bytes([0x1A, 0x02, 0x01])}
REGISTER_BYTES = {
    "launch_digest": 48,
    "host_data": 32,
    "id_key_digest": 48,
    "author_key_digest": 48,
    "family_id": 16,
    "image_id": 16,
}
_ABI_VERSION = 0x0137  # the lowest that the guest accepts: 1.55
_USUAL_POLICY, _USUAL_PLATFORM = frozenset({"smt"}), frozenset({"smt", "ecc", "alias_check"})
_SIGNING_KEY_NUMBERS = {"vcek": 0, "vlek": 1}

SigningKey = Literal["vcek", "vlek"]
ProductName = Literal["Milan", "Genoa", "Turin"]
Revocable = Literal["signer", "authority"]


class AmdFaults(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with the platform, for tests and demonstrations. By default nothing is.

    Attributes:
        policy: names of bits of the guest's policy to flip, such as `debug`, `migratable` or `smt`.
        platform: names of bits of the platform to flip, such as `smt`.
        vmpl: the privilege level of who asks for reports.
        masked_chip: CHIP_ID is zeros.
        masked_key: the firmware signs nothing.
        tcbs: versions that differ from the others, as in `{"launch_tcb": {"snp": 5}}`.
        certificate_tcb: versions that differ in the certificate.
        other_chip: the certificate is for another chip.
        cpu: the product line whose CPUID is in the report.
        authority_product: the product line of the ASK or ASVK.
        other_authority: the ASVK issues the VCEK, or the ASK the VLEK.
        other_signing_key: the report names the other key.
        signer_shift, crl_shift: move the validity of the VCEK or VLEK, and of the revocation list.
        revoked: what to put on the revocation list.
        without_crl, without_endorsements: what not to send.
    """

    policy: frozenset[str] = frozenset()
    platform: frozenset[str] = frozenset()
    vmpl: int = 0
    masked_chip: bool = False
    masked_key: bool = False
    tcbs: dict[str, dict[str, int]] = {}
    certificate_tcb: dict[str, int] = {}
    other_chip: bool = False
    cpu: ProductName | None = None
    authority_product: ProductName | None = None
    other_authority: bool = False
    other_signing_key: bool = False
    signer_shift: timedelta = timedelta()
    crl_shift: timedelta = timedelta()
    revoked: frozenset[Revocable] = frozenset()
    without_crl: bool = False
    without_endorsements: bool = False


class SimulatedAmd:
    """One simulated processor with one SEV-SNP guest on it. Safe to call from several threads.

    Args:
        root: the simulated root; `SimulatedAmdRoot.load_or_create()` for this installation's own.
        product: its product line.
        report_version: 2, 3 or 5.
        signing_key: what signs reports: the chip's own VCEK, or a cloud's VLEK.
        measurements: registers by their names in `Claims`, lower-case hex; all others are zeros.
        guest_svn: the guest's security version.
        faults: what is wrong with it.
        clock: the time, UTC.
    """

    def __init__(
        self,
        root: SimulatedAmdRoot,
        *,
        product: ProductName = "Milan",
        report_version: int = DEFAULT_REPORT_VERSION,
        signing_key: SigningKey = "vcek",
        measurements: Mapping[str, str] | None = None,
        guest_svn: int = 0,
        faults: AmdFaults | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if report_version not in VERSIONS:
            raise ValueError(f"there is no report version {report_version}")
        self.tee = TEE.AMD_SEV_SNP
        self.anchor: Anchor = root.anchor
        self.product: Product = PRODUCTS[product]
        self.report_version = report_version
        self.signing_key: SigningKey = signing_key
        self.guest_svn = guest_svn
        self.faults = faults or AmdFaults()
        self._root = root
        self._clock = clock
        self._registers = _registers(measurements or {})
        self._key = ec.generate_private_key(ec.SECP384R1())
        self._chip_id = self._derive("chip")[: self.product.hwid_bytes]
        self._tcbs = {name: self._tcb(self.faults.tcbs.get(name, {})) for name in TCBS}
        self._serial_number = VCEK_SERIAL_NUMBER if signing_key == "vcek" else x509.random_serial_number()
        self._issue(clock())
        self._crl, self._renew_at = self._issue_crl()

    def attest(self, report_data: bytes) -> Evidence:
        """Make a report over `report_data` and put the endorsements beside it.

        Raises:
            ValueError: `report_data` is not 64 bytes.
        """
        return Evidence(
            tee=self.tee,
            quote=self.report(report_data, self.faults.vmpl),
            amd=None if self.faults.without_endorsements else self.endorsements(),
        )

    def report(self, report_data: bytes, vmpl: int = 0) -> bytes:
        """The signed report alone, 1184 bytes.

        Raises:
            ValueError: `report_data` is not 64 bytes.
        """
        require_report_data(report_data)
        faults = self.faults
        policy = _bits(_USUAL_POLICY ^ faults.policy, POLICY_BITS) | POLICY_MUST_BE_ONE | _ABI_VERSION
        signed = amd_report.layout(
            version=self.report_version,
            guest_svn=self.guest_svn,
            policy=policy,
            vmpl=vmpl,
            platform_info=_bits(_USUAL_PLATFORM ^ faults.platform, PLATFORM_BITS),
            key_info=self._key_info(),
            report_data=report_data,
            registers=self._registers,
            report_id=self._derive("guest")[:32],
            tcbs=self._tcbs,
            cpuid=CPUIDS[faults.cpu or self.product.name],
            chip_id=b"" if faults.masked_chip else self._chip_id,
        )
        return signed.ljust(1184, b"\0") if faults.masked_key else amd_report.sign(self._key, signed)

    def endorsements(self) -> AmdEndorsements:
        """Certificates and revocation list; the list is made anew where it nears its end."""
        if self._clock() >= self._renew_at:
            self._crl, self._renew_at = self._issue_crl()
        return AmdEndorsements(
            certificate=self._certificate,
            authority=self._authority.public_bytes(Encoding.DER),
            root=self._root_certificate.public_bytes(Encoding.DER),
            crl=None if self.faults.without_crl else self._crl,
        )

    def _derive(self, purpose: str) -> bytes:
        """64 bytes that stay the same for one installation."""
        return hashlib.sha512(bytes.fromhex(self.anchor.spki_sha256) + purpose.encode()).digest()

    def _tcb(self, changes: Mapping[str, int]) -> bytes:
        versions = TCB | dict(changes)
        tcb = bytearray(TCB_BYTES)
        for part, at in self.product.tcb.items():
            tcb[at] = versions[part]
        return bytes(tcb)

    def _key_info(self) -> int:
        if self.faults.masked_key:
            return UNSIGNED << 2 | 0b10
        return (_SIGNING_KEY_NUMBERS[self.signing_key] ^ self.faults.other_signing_key) << 2

    def _issue(self, now: datetime) -> None:
        root, product, faults = self._root, self.product, self.faults
        start = now - certificates.BACKDATING
        validity = Validity(start, start + AUTHORITY_LIFETIME)
        role, authority = ISSUERS[self.signing_key]
        if faults.other_authority:
            authority = next(issuer for _, issuer in ISSUERS.values() if issuer is not authority)
        of = PRODUCTS[faults.authority_product] if faults.authority_product else product
        self._root_certificate = amd_certificates.issue_authority(
            ARK, product, root.key, signer=root.key, issuer=ARK, validity=validity
        )
        self._authority = amd_certificates.issue_authority(
            authority, of, root.authority_key, signer=root.key, issuer=ARK, validity=validity
        )
        chip = self._derive("other chip")[: product.hwid_bytes] if faults.other_chip else self._chip_id
        versions = TCB | faults.tcbs.get("reported_tcb", {}) | faults.certificate_tcb
        start += faults.signer_shift
        self._certificate = amd_certificates.issue_signer(
            role,
            ReportSigner(
                product=product,
                tcb={part: versions[part] for part in product.tcb},
                hwid=chip if self.signing_key == "vcek" else None,
            ),
            self._key.public_key(),
            serial_number=self._serial_number,
            issuer_key=root.authority_key,
            issuer=authority,
            validity=Validity(start, start + SIGNER_LIFETIME),
        )

    def _issue_crl(self) -> tuple[bytes, datetime]:
        now = self._clock()
        start = now + self.faults.crl_shift - certificates.BACKDATING
        serial_numbers = []
        if "authority" in self.faults.revoked:
            serial_numbers.append(self._authority.serial_number)
        if "signer" in self.faults.revoked:
            serial_numbers.append(self._serial_number)
        crl = amd_certificates.revoke(
            ARK, self.product, self._root.key, serial_numbers, validity=Validity(start, start + CRL_LIFETIME)
        )
        return crl, now - certificates.BACKDATING + CRL_LIFETIME - RENEWAL_MARGIN


def _bits(names: frozenset[str], bits: Mapping[str, int]) -> int:
    return sum(1 << bits[name] for name in names)


def _registers(values: Mapping[str, str]) -> dict[str, bytes]:
    unknown = set(values) - set(REGISTER_BYTES)
    if unknown:
        raise ValueError(f"this TEE has no register {', '.join(sorted(unknown))}")
    registers = {name: bytes.fromhex(values.get(name, "00" * size)) for name, size in REGISTER_BYTES.items()}
    for name, value in registers.items():
        if len(value) != REGISTER_BYTES[name]:
            raise ValueError(f"{name} is {REGISTER_BYTES[name]} bytes, not {len(value)}")
    return registers
