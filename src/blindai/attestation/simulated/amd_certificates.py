"""Certificates and revocation lists in AMD's profile, with SIMULATED in every name.

Source: AMD VCEK Certificate and KDS Interface Specification 57230, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from blindai.attestation.simulated import der
from blindai.attestation.simulated.certificates import Validity
from blindai.attestation.verifiers.amd_certificates import (
    CSP_ID,
    HWID,
    PRODUCT_NAME,
    RESERVED_TCB_PARTS,
    STRUCT_VERSION,
    TCB_PARTS,
    Role,
)
from blindai.attestation.verifiers.amd_product import Product
from blindai.attestation.verifiers.certificates import SIMULATED_VENDOR

ORGANISATION = "SIMULATED: not AMD, not hardware"
CLOUD = "SIMULATED cloud"  # CSP_ID of a VLEK
STEPPING = "B0"

VCEK_SERIAL_NUMBER = 0  # of every VCEK

_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), hashes.SHA384.digest_size)
_IA5_STRING, _BIT_STRING = 0x16, 0x03

# pyca/cryptography writes no serial number 0. It stands in for it until the bytes are signed once more.
_PLACEHOLDER = 1
_TBS_SERIAL_NUMBER = slice(9, 12)  # behind tag and length (4 bytes) and version (5)


class ReportSigner(msgspec.Struct, frozen=True, kw_only=True):
    """What the extensions of a VCEK or VLEK say.

    Attributes:
        product: its product line.
        tcb: the security version of each part of the firmware.
        hwid: identity of the chip; None makes it a VLEK.
    """

    product: Product
    tcb: Mapping[str, int]
    hwid: bytes | None


def issue_authority(
    role: Role, product: Product, key: rsa.RSAPrivateKey, *, signer: rsa.RSAPrivateKey, issuer: Role, validity: Validity
) -> x509.Certificate:
    """Issue an ARK (whose `issuer` is its own role), an ASK or an ASVK."""
    builder = (
        _builder(name(role, product), name(issuer, product), key.public_key(), validity)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=role.path_length), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=role.signs_crls,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    return builder.sign(signer, hashes.SHA384(), rsa_padding=_PSS)


def issue_signer(
    role: Role,
    signer: ReportSigner,
    key: ec.EllipticCurvePublicKey,
    *,
    serial_number: int,
    issuer_key: rsa.RSAPrivateKey,
    issuer: Role,
    validity: Validity,
) -> bytes:
    """Issue a VCEK or VLEK, in DER. As in AMD's, the HWID is not wrapped in an OCTET STRING."""
    product = signer.product
    is_vcek = signer.hwid is not None
    builder = _builder(name(role, product), name(issuer, product), key, validity).serial_number(
        serial_number or _PLACEHOLDER
    )
    code_name = f"{product.name}-{STEPPING}" if is_vcek else product.name
    values = {
        STRUCT_VERSION: der.integer(product.struct_version),
        PRODUCT_NAME: der.tlv(_IA5_STRING, code_name.encode()),
        **{TCB_PARTS[part]: der.integer(version) for part, version in signer.tcb.items()},
        **{part: der.integer(0) for part in RESERVED_TCB_PARTS[product.struct_version :]},
    }
    if signer.hwid is not None:
        values[HWID] = signer.hwid
    else:
        values[CSP_ID] = der.tlv(_IA5_STRING, CLOUD.encode())
    for oid, value in values.items():
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    certificate = builder.sign(issuer_key, hashes.SHA384(), rsa_padding=_PSS)
    if serial_number:
        return certificate.public_bytes(Encoding.DER)
    tbs = bytearray(certificate.tbs_certificate_bytes)
    tbs[_TBS_SERIAL_NUMBER] = der.integer(serial_number)
    return resign(bytes(tbs), certificate.public_bytes(Encoding.DER), issuer_key)


def revoke(
    root: Role, product: Product, key: rsa.RSAPrivateKey, serial_numbers: Iterable[int], *, validity: Validity
) -> bytes:
    """Issue AMD's revocation list, in DER."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name(root, product))
        .last_update(validity.not_before)
        .next_update(validity.not_after)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    for serial_number in serial_numbers:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(serial_number or _PLACEHOLDER)
            .revocation_date(validity.not_before)
            .build()
        )
    crl = builder.sign(key, hashes.SHA384(), rsa_padding=_PSS)
    date = _UTC_TIME
    tbs = crl.tbs_certlist_bytes.replace(der.integer(_PLACEHOLDER) + date, der.integer(VCEK_SERIAL_NUMBER) + date)
    return resign(tbs, crl.public_bytes(Encoding.DER), key)


def resign(tbs: bytes, like: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """Sign `tbs` as `like` is signed, a certificate or list whose part to be signed is as long."""
    size = key.key_size // 8
    algorithm = like[4 + len(tbs) : -(size + 5)]  # 5: tag and length of the signature, and its count of unused bits
    signature = key.sign(tbs, _PSS, hashes.SHA384())
    return der.sequence(tbs, algorithm, der.tlv(_BIT_STRING, b"\0" + signature))


def name(role: Role, product: Product) -> x509.Name:
    """The distinguished name of a simulated `role` in a product line."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{SIMULATED_VENDOR} {role.name.format(product.name)}"),
        ]
    )


_UTC_TIME = b"\x17"  # the tag of the revocation date, which follows a serial number


def _builder(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, validity: Validity
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
    )
