"""Certificates and revocation lists in Intel's profile, with SIMULATED in every name.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification 1.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from blindai.attestation.simulated import der
from blindai.attestation.verifiers.certificates import SIMULATED_VENDOR
from blindai.attestation.verifiers.intel_certificates import SGX_EXTENSION, Role

ORGANISATION = "SIMULATED: not Intel, not hardware"

# Everything is issued as of a day ago, so that a client whose clock is a little behind accepts it.
BACKDATING = timedelta(days=1)


class Validity(msgspec.Struct, frozen=True):
    """From and to, both included."""

    not_before: datetime
    not_after: datetime


class Issuer(msgspec.Struct, frozen=True):
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class PlatformIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What the SGX extension of a PCK certificate says about one processor.

    Attributes:
        ppid, platform_instance_id: 16 bytes each.
        cpu_svn: the 16 component SVNs.
        fmspc: 6 bytes, family of processors. pce_id: 2 bytes.
        dynamic, cached_keys, smt: the configuration flags; true on real cloud machines.
    """

    ppid: bytes
    platform_instance_id: bytes
    cpu_svn: bytes
    pce_svn: int
    fmspc: bytes
    pce_id: bytes = bytes(2)
    dynamic: bool = True
    cached_keys: bool = True
    smt: bool = True


def issue(
    role: Role,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: Issuer | None,
    validity: Validity,
    platform: PlatformIdentity | None = None,
) -> x509.Certificate:
    """Issue a certificate for the public half of `key`; without an issuer it is self-signed.

    Args:
        role: gives the common name, basic constraints and key usage.
        key: the subject's; only its public half goes into the certificate, unless it signs itself.
        issuer: who signs.
        validity: from and to.
        platform: for a PCK certificate, what its SGX extension says.
    """
    is_ca = role.path_length is not None
    subject = name(role.names[0])
    signing_key = key if issuer is None else issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_ca,
                content_commitment=not is_ca,
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
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=role.path_length), critical=True)
    )
    if platform is not None:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(SGX_EXTENSION, sgx_extension(platform)), critical=False
        )
    return builder.sign(signing_key, hashes.SHA256())


def revoke(
    issuer: Issuer, revoked: Iterable[x509.Certificate], *, validity: Validity
) -> x509.CertificateRevocationList:
    """Issue a revocation list. Verifiers insist on its number and its authority key identifier."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(validity.not_before)
        .next_update(validity.not_after)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    for certificate in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(validity.not_before)
            .build()
        )
    return builder.sign(issuer.key, hashes.SHA256())


def digest(purpose: str, size: int = 32) -> bytes:
    """A made-up measurement of a part that does not exist here; the same on every simulated platform."""
    algorithm = hashlib.sha256 if size == 32 else hashlib.sha384
    return algorithm(f"{SIMULATED_VENDOR} {purpose}".encode()).digest()


def pem(*chain: x509.Certificate) -> str:
    """The certificates in PEM, one after the other."""
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in chain)


def name(role: str) -> x509.Name:
    """The distinguished name of a simulated `role`."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, f"{SIMULATED_VENDOR} {role}"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
        ]
    )


def sgx_extension(platform: PlatformIdentity) -> bytes:
    """The value of the SGX extension (profile specification, section 1.3.5), in DER."""
    components = [
        _entry(f"2.{index}", der.integer(svn)) for index, svn in enumerate([*platform.cpu_svn, platform.pce_svn], 1)
    ]
    return der.sequence(
        _entry("1", der.octets(platform.ppid)),
        _entry("2", der.sequence(*components, _entry("2.18", der.octets(platform.cpu_svn)))),
        _entry("3", der.octets(platform.pce_id)),
        _entry("4", der.octets(platform.fmspc)),
        _entry("5", der.tlv(der.ENUMERATED, b"\x01")),  # SGX type: scalable
        _entry("6", der.octets(platform.platform_instance_id)),
        _entry(
            "7",
            der.sequence(
                _entry("7.1", der.boolean(platform.dynamic)),
                _entry("7.2", der.boolean(platform.cached_keys)),
                _entry("7.3", der.boolean(platform.smt)),
            ),
        ),
    )


def _entry(arc: str, value: bytes) -> bytes:
    return der.sequence(der.object_identifier(f"{SGX_EXTENSION.dotted_string}.{arc}"), value)
