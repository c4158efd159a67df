"""The maker of simulated TPMs: its root, and the certificates of their endorsement keys.

Source: TCG EK Credential Profile 2.6 for TPM family 2.0, section 3.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import ClassVar, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from blindai.attestation.anchors import Vendor
from blindai.attestation.simulated.certificates import BACKDATING
from blindai.attestation.simulated.root import ROOT_LIFETIME, CertifiedRoot
from blindai.attestation.verifiers.certificates import SIMULATED_VENDOR
from blindai.attestation.verifiers.tpm_certificates import EK_CERTIFICATE_USAGE
from blindai.attestation.verifiers.tpm_structures import PublicKey

ROOT_NAME = f"{SIMULATED_VENDOR} TPM Root CA"
ORGANISATION = f"{SIMULATED_VENDOR}: no maker of TPMs, not hardware"
EK_LIFETIME = timedelta(days=10 * 365)

TPM_MANUFACTURER = x509.ObjectIdentifier("2.23.133.2.1")
TPM_MODEL = x509.ObjectIdentifier("2.23.133.2.2")
TPM_VERSION = x509.ObjectIdentifier("2.23.133.2.3")


class SimulatedTpmRoot(CertifiedRoot):
    """The simulated counterpart of the root CA of a maker of TPMs, and the anchor that a policy may name."""

    file: ClassVar[str] = "tpm-root.pem"
    name: ClassVar[str] = ROOT_NAME
    vendor: ClassVar[Vendor] = Vendor.TPM

    @classmethod
    def generate(cls, now: datetime | None = None) -> Self:
        """Make a root that lives in memory only."""
        key = ec.generate_private_key(ec.SECP256R1())
        start = (now or datetime.now(UTC)) - BACKDATING
        name = _name(ROOT_NAME)
        builder = _builder(name, name, key.public_key(), start, start + ROOT_LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(certificates=True), critical=True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    def certify(
        self,
        ek: PublicKey,
        now: datetime,
        *,
        purpose: x509.ObjectIdentifier = EK_CERTIFICATE_USAGE,
        certificates: bool = False,
    ) -> x509.Certificate:
        """Certify an endorsement key.

        Args:
            ek: its public half.
            now: from when on it is valid.
            purpose: the extended key usage.
            certificates: let it issue certificates, which no EK may.
        """
        made_by = x509.Name(
            [
                x509.NameAttribute(TPM_MANUFACTURER, "id:53494D55"),
                x509.NameAttribute(TPM_MODEL, SIMULATED_VENDOR),
                x509.NameAttribute(TPM_VERSION, "id:00000001"),
            ]
        )
        builder = _builder(_name(f"{SIMULATED_VENDOR} TPM EK"), self.certificate.subject, ek, now, now + EK_LIFETIME)
        return (
            builder.add_extension(x509.BasicConstraints(ca=certificates, path_length=None), critical=True)
            .add_extension(_usage(certificates=certificates, key=ek), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DirectoryName(made_by)]), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, certificates: bool, key: PublicKey | None = None) -> x509.KeyUsage:
    on_curve = isinstance(key, ec.EllipticCurvePublicKey)
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=key is not None and not on_curve,
        data_encipherment=False,
        key_agreement=on_curve,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
        ]
    )
