r"""Intel's certificate hierarchy: who may sign what, and proof that they did.

                      SGX Root CA
            /              |            \
    SGX PCK Platform CA    |     SGX TCB Signing      signs TCB info and QE identity
    (or Processor CA)      |
            |          root CRL                       revokes PCK CAs and TCB signers
    SGX PCK Certificate    signs the quoting enclave's report
            + PCK CRL                                 revokes PCK certificates

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification 1.5, with RFC 5280.
The verification library below follows chains; it does not look at roles, so that a PCK certificate, whose key
every platform owns, could sign TCB info there. Here each certificate must be exactly what its place demands.
"""

from __future__ import annotations

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from blindai.attestation.verifiers.certificates import (
    UNPARSABLE,
    as_they_are,
    common_name,
    load_pem,
    read_whole,
    refusal,
    require_whole_signature,
)

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")  # profile specification, section 1.3.5

# A PCK chain, the longest, has 4 to 5 KB.
MAX_CHAIN_CHARACTERS = 16384


class Role(msgspec.Struct, frozen=True):
    """What a certificate in a given place must look like.

    Attributes:
        names: allowed common names, without the vendor's name in front.
        path_length: of a CA; None for an end entity, which may sign neither certificates nor lists.
        platform: whether it carries the SGX extension, which describes one platform.
    """

    names: tuple[str, ...]
    path_length: int | None = None
    platform: bool = False


ROOT = Role(("SGX Root CA",), path_length=1)
PCK_CA = Role(("SGX PCK Platform CA", "SGX PCK Processor CA"), path_length=0)
PCK = Role(("SGX PCK Certificate",), platform=True)
TCB_SIGNER = Role(("SGX TCB Signing",))


def parse_chain(pem: str, *, what: str, length: int) -> tuple[x509.Certificate, ...]:
    """Parse a chain of exactly `length` certificates in canonical PEM.

    Anything else in the text, or another spelling of the same certificates, would be bytes that no signature
    covers: a second quote that differs and verifies just as well.

    Raises:
        AttestationError: `endorsements.malformed`.
    """
    try:
        chain = load_pem(pem, maximum=MAX_CHAIN_CHARACTERS)
        canonical = "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in chain)
        for certificate in chain:
            read_whole(certificate)
    except UNPARSABLE as error:
        raise refusal("malformed", f"the {what} cannot be parsed", got=str(error)) from error
    if pem not in (canonical, canonical.removesuffix("\n")):
        raise refusal("malformed", f"the {what} holds more than its certificates", expected="canonical PEM")
    if len(chain) != length:
        raise refusal(
            "malformed", f"the {what} is of the wrong length", expected=f"{length} certificates", got=f"{len(chain)}"
        )
    return chain


def vendor(root: x509.Certificate) -> str:
    """The name in front of the role in a root's common name: `Intel`, or `SIMULATED`."""
    return common_name(root).removesuffix(ROOT.names[0]).strip()


def require_role(certificate: x509.Certificate, role: Role, *, vendor: str) -> None:
    """Refuse a certificate that is not made for its place.

    Raises:
        AttestationError: `endorsements.role`.
    """
    name = common_name(certificate)
    allowed = tuple(f"{vendor} {suffix}" for suffix in role.names)
    fault = ""
    if name not in allowed:
        fault = f"a certificate named {name!r}"
    elif not _is_p256_sha256(certificate):
        fault = "another algorithm than ECDSA on P-256 with SHA-256"
    else:
        fault = _extension_fault(certificate.extensions, role)
    if fault:
        raise refusal(
            "role",
            "a certificate stands in a place for which it was not issued",
            expected=" or ".join(allowed),
            got=fault,
        )


def _is_p256_sha256(certificate: x509.Certificate) -> bool:
    key = certificate.public_key()
    return (
        isinstance(key, ec.EllipticCurvePublicKey)
        and isinstance(key.curve, ec.SECP256R1)
        and isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    )


def _extension_fault(extensions: x509.Extensions, role: Role) -> str:
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        return str(error)
    is_ca = role.path_length is not None
    if constraints.ca != is_ca or constraints.path_length != role.path_length:
        return f"basic constraints CA={constraints.ca}, path length {constraints.path_length}"
    if (usage.key_cert_sign, usage.crl_sign) != (is_ca, is_ca) or not (is_ca or usage.digital_signature):
        return "another key usage"
    if any(extension.oid == SGX_EXTENSION for extension in extensions) != role.platform:
        return "no SGX extension" if role.platform else "an SGX extension"
    return ""


def parse_crl(der_hex: str, issuer: x509.Certificate, *, what: str) -> x509.CertificateRevocationList:
    """Parse a revocation list and require that `issuer` signed it.

    Raises:
        AttestationError: `endorsements.malformed`, `endorsements.crl.signature`.
    """
    try:
        with as_they_are():
            crl = x509.load_der_x509_crl(decode_hex(der_hex, what=what))
            _ = crl.issuer
        key = issuer.public_key()
        genuine = (
            crl.issuer == issuer.subject
            and isinstance(key, ec.EllipticCurvePublicKey)
            and isinstance(crl.signature_hash_algorithm, hashes.SHA256)
            and crl.is_signature_valid(key)
        )
        _ = (crl.last_update_utc, crl.next_update_utc, [entry.revocation_date_utc for entry in crl])
        require_whole_signature(crl)
    except UNPARSABLE as error:
        raise refusal("malformed", f"the {what} cannot be parsed", got=str(error)) from error
    if not genuine:
        raise refusal(
            "crl.signature",
            f"the {what} is not signed by its issuer",
            expected=f"signed by {common_name(issuer)}",
            got=crl.issuer.rfc4514_string(),
        )
    return crl


def decode_hex(text: str, *, what: str) -> bytes:
    """Decode lower-case hex, and only that: `bytes.fromhex` would skip spaces.

    Raises:
        AttestationError: `endorsements.malformed`.
    """
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if not data or data.hex() != text:
        raise refusal("malformed", f"the {what} cannot be parsed", expected="lower-case hex", got=repr(text[:16]))
    return data
