"""The certificates of a TPM: from its endorsement key (EK) to its maker's root.

    maker's root          named by the policy, by its public key
       |
    intermediate CAs
       |
    EK certificate        says: this key is in a TPM of ours, and never leaves it

Source: TCG EK Credential Profile 2.6 for TPM family 2.0, section 3; RFC 5280. Makers use RSA and elliptic curves, and
chains of one to four certificates above the EK. Their revocation lists are not looked at: a maker withdraws a whole
CA, and then the policy drops its root.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindai.attestation.anchors import Anchor
from blindai.attestation.verifiers.certificates import (
    SIMULATED_VENDOR,
    UNPARSABLE,
    Window,
    anchor_of,
    common_name,
    load_der,
    read_whole,
    refusal,
    require_current,
    require_issued_by,
)
from blindai.attestation.verifiers.tpm_structures import RSA_BITS

# The EK's, three CAs and a root are the longest chains of today's makers.
MAX_CHAIN = 6
# An EK certificate is kept in the TPM's own memory and takes 1 to 2 KB.
MAX_CERTIFICATE_BYTES = 4096

EK_CERTIFICATE_USAGE = x509.ObjectIdentifier("2.23.133.8.1")  # tcg-kp-EKCertificate

# A critical extension that is not among these would restrict the certificate in a way that nobody here looks at.
_UNDERSTOOD = frozenset(
    {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.SubjectAlternativeName.oid,  # the maker, model and version of the TPM
        x509.CertificatePolicies.oid,
    }
)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class CheckedChain(msgspec.Struct, frozen=True):
    """A chain of which everything is checked.

    Attributes:
        anchor: on which it ends.
        spki: the EK's SubjectPublicKeyInfo, DER.
        not_after: when the first of its certificates runs out, UTC.
    """

    anchor: Anchor
    spki: bytes
    not_after: datetime


def check_chain(certificates: Sequence[bytes], anchors: Sequence[Anchor], now: datetime) -> CheckedChain:
    """Check the chain of an EK certificate at `now`.

    Args:
        certificates: the EK's first, then each one's issuer, up to a self-signed root; DER.
        anchors: the roots that the policy names, of makers of TPMs.
        now: UTC.

    Raises:
        AttestationError: step `endorsements`; `endorsements.missing`, `endorsements.malformed`, `endorsements.anchor`,
            `endorsements.chain`, `endorsements.role`, `endorsements.certificate.*`.
    """
    chain = _parse(certificates)
    root = chain[-1]
    anchor = anchor_of(root, anchors, simulated=common_name(root).startswith(SIMULATED_VENDOR))
    for certificate, issuer in zip(chain, (*chain[1:], root), strict=True):
        require_issued_by(certificate, issuer)
    _require_role(chain[0], _endorsement_fault(chain[0]), expected="the certificate of an endorsement key")
    for below, certificate in enumerate(chain[1:]):
        _require_role(certificate, _authority_fault(certificate, below), expected="the certificate of a CA")
    windows = [
        Window(
            # Makers leave the subject empty: the TPM is named in the alternative name, if at all.
            common_name(certificate) or ("the CA's certificate" if index else "the EK certificate"),
            "certificate",
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
        )
        for index, certificate in enumerate(chain)
    ]
    require_current(windows, now)
    spki = chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return CheckedChain(anchor, spki, min(window.not_after for window in windows))


def _parse(certificates: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    if len(certificates) < 2:
        raise refusal(
            "missing",
            "the evidence came without the certificates of the TPM, so that nothing can be verified",
            expected="the EK certificate and those up to its maker's root",
            got=f"{len(certificates)} certificates",
            likely="the operator did not give the certificates of the TPM's maker to the server",
        )
    if len(certificates) > MAX_CHAIN or any(len(der) > MAX_CERTIFICATE_BYTES for der in certificates):
        raise refusal(
            "malformed",
            "the certificates of the TPM are larger than any genuine ones",
            expected=f"at most {MAX_CHAIN} of {MAX_CERTIFICATE_BYTES} bytes",
            got=f"{len(certificates)} of up to {max(map(len, certificates))} bytes",
        )
    try:
        chain = tuple(map(load_der, certificates))
        for certificate in chain:
            read_whole(certificate)
    except UNPARSABLE as error:
        raise refusal("malformed", "the certificates of the TPM cannot be parsed", got=str(error)) from error
    return chain


def _require_role(certificate: x509.Certificate, fault: str, *, expected: str) -> None:
    fault = fault or _algorithm_fault(certificate)
    if not fault:
        unknown = [item for item in certificate.extensions if item.critical and item.oid not in _UNDERSTOOD]
        fault = f"a critical extension {unknown[0].oid.dotted_string}" if unknown else ""
    if fault:
        raise refusal(
            "role",
            "a certificate stands in a place for which it was not issued",
            expected=expected,
            got=f"{common_name(certificate) or 'a certificate'} with {fault}",
        )


def _algorithm_fault(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    strong = (isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS) or (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)
    )
    if not strong or not isinstance(certificate.signature_hash_algorithm, _HASHES):
        return "a key or signature of another kind than RSA from 2048 bits or NIST curves, with SHA-2"
    return ""


def _endorsement_fault(certificate: x509.Certificate) -> str:
    found = certificate.extensions
    try:
        usage = found.get_extension_for_class(x509.KeyUsage).value
        purposes = found.get_extension_for_class(x509.ExtendedKeyUsage).value
        constraints = found.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as error:
        return f"something missing: {error}"
    if constraints.ca or usage.key_cert_sign or usage.crl_sign:
        return "the rights of a CA"
    if not (usage.key_encipherment or usage.key_agreement):
        return "a key usage that does not cover credentials"
    if EK_CERTIFICATE_USAGE not in purposes:
        return f"another purpose than {EK_CERTIFICATE_USAGE.dotted_string}"
    return ""


def _authority_fault(certificate: x509.Certificate, below: int) -> str:
    """`below`: how many other CAs stand between this one and the EK."""
    found = certificate.extensions
    try:
        usage = found.get_extension_for_class(x509.KeyUsage).value
        constraints = found.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as error:
        return f"something missing: {error}"
    if not constraints.ca or not usage.key_cert_sign:
        return "no right to issue certificates"
    if constraints.path_length is not None and constraints.path_length < below:
        return f"a path length of {constraints.path_length}"
    return ""
