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

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from blindai.errors import AttestationError

SIMULATED_VENDOR = "SIMULATED"  # in place of Intel in the names of a simulated platform

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")  # profile specification, section 1.3.5

# What pyca/cryptography raises on bytes that are not the certificate or list they claim to be.
_UNPARSABLE = (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, UnsupportedAlgorithm)


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


class Window(msgspec.Struct, frozen=True):
    """When one endorsement is valid; both ends belong to it.

    Attributes:
        subject: how messages call the endorsement.
        kind: `certificate`, `crl`, `tcb_info` or `qe_identity`, as codes call it.
    """

    subject: str
    kind: str
    not_before: datetime
    not_after: datetime


def refusal(code: str, message: str, *, expected: str = "", got: str = "", likely: str = "") -> AttestationError:
    """An error of step `endorsements`; `code` is given without that prefix."""
    return AttestationError(
        message, code=f"endorsements.{code}", step="endorsements", expected=expected, got=got, likely=likely
    )


def parse_chain(pem: str, *, what: str, length: int) -> tuple[x509.Certificate, ...]:
    """Parse a chain of exactly `length` certificates in canonical PEM.

    Anything else in the text, or another spelling of the same certificates, would be bytes that no signature
    covers: a second quote that differs and verifies just as well.

    Raises:
        AttestationError: `endorsements.malformed`.
    """
    try:
        chain = tuple(x509.load_pem_x509_certificates(pem.encode("ascii")))
        canonical = "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in chain)
        for certificate in chain:
            _read_whole(certificate)
    except _UNPARSABLE as error:
        raise refusal("malformed", f"the {what} cannot be parsed", got=str(error)) from error
    if pem not in (canonical, canonical.removesuffix("\n")):
        raise refusal("malformed", f"the {what} holds more than its certificates", expected="canonical PEM")
    if len(chain) != length:
        raise refusal(
            "malformed", f"the {what} is of the wrong length", expected=f"{length} certificates", got=f"{len(chain)}"
        )
    return chain


def _read_whole(certificate: x509.Certificate) -> None:
    """Have every field parsed now: pyca/cryptography does it on first use, and raises there."""
    _ = (
        certificate.subject,
        certificate.issuer,
        certificate.extensions,
        certificate.public_key(),
        certificate.signature_hash_algorithm,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def spki_sha256(certificate: x509.Certificate) -> str:
    """Lower-case hex SHA-256 of the certificate's SubjectPublicKeyInfo."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


def common_name(certificate: x509.Certificate) -> str:
    """The one common name of the subject, or an empty string."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


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


def require_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Refuse a certificate that `issuer` did not sign.

    Raises:
        AttestationError: `endorsements.chain`.
    """
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_UNPARSABLE) as error:
        raise refusal(
            "chain",
            "a certificate is not signed by the next one in its chain",
            expected=f"{common_name(certificate)} signed by {common_name(issuer)}",
            got=str(error) or "a signature that does not verify",
        ) from error


def parse_crl(der_hex: str, issuer: x509.Certificate, *, what: str) -> x509.CertificateRevocationList:
    """Parse a revocation list and require that `issuer` signed it.

    Raises:
        AttestationError: `endorsements.malformed`, `endorsements.crl.signature`.
    """
    try:
        crl = x509.load_der_x509_crl(decode_hex(der_hex, what=what))
        key = issuer.public_key()
        genuine = (
            crl.issuer == issuer.subject
            and isinstance(key, ec.EllipticCurvePublicKey)
            and isinstance(crl.signature_hash_algorithm, hashes.SHA256)
            and crl.is_signature_valid(key)
        )
        _ = (crl.last_update_utc, crl.next_update_utc, [entry.revocation_date_utc for entry in crl])
    except _UNPARSABLE as error:
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


def require_not_revoked(certificates: Iterable[x509.Certificate], crl: x509.CertificateRevocationList) -> None:
    """Refuse a certificate that its issuer has revoked.

    Raises:
        AttestationError: `endorsements.revoked`.
    """
    for certificate in certificates:
        entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
        if entry is not None:
            raise refusal(
                "revoked",
                f"{common_name(certificate)} is revoked: what it signs proves nothing any more",
                expected="a certificate that is on no revocation list",
                got=f"serial number {certificate.serial_number:x}, revoked {entry.revocation_date_utc:%Y-%m-%d}",
                likely="the platform's keys were compromised, or the platform was withdrawn",
            )


def certificate_windows(certificates: Iterable[x509.Certificate]) -> tuple[Window, ...]:
    """When each certificate is valid."""
    return tuple(
        Window(common_name(item), "certificate", item.not_valid_before_utc, item.not_valid_after_utc)
        for item in certificates
    )


def crl_window(crl: x509.CertificateRevocationList, *, what: str) -> Window:
    """When a revocation list is current. At `nextUpdate` itself the next one is out: that second is not included.

    Raises:
        AttestationError: `endorsements.malformed` if it has no end.
    """
    if crl.next_update_utc is None:
        raise refusal("malformed", f"the {what} does not say when the next one comes", expected="nextUpdate")
    return Window(what, "crl", crl.last_update_utc, crl.next_update_utc - timedelta(seconds=1))


def require_current(windows: Sequence[Window], now: datetime) -> None:
    """Refuse endorsements that are not valid at `now`.

    Raises:
        AttestationError: `endorsements.KIND.not_yet_valid` or `endorsements.KIND.expired`.
    """
    for window in windows:
        if now < window.not_before:
            raise refusal(
                f"{window.kind}.not_yet_valid",
                f"{window.subject} is not valid yet",
                expected=f"valid from {window.not_before:%Y-%m-%dT%H:%M:%SZ}",
                got=f"the time here is {now:%Y-%m-%dT%H:%M:%SZ}",
                likely="the clock of this machine is behind",
            )
        if now > window.not_after:
            raise refusal(
                f"{window.kind}.expired",
                f"{window.subject} has expired",
                expected=f"valid until {window.not_after:%Y-%m-%dT%H:%M:%SZ}",
                got=f"the time here is {now:%Y-%m-%dT%H:%M:%SZ}",
                likely="the operator does not renew its collateral, or the clock of this machine is ahead",
            )
