"""What certificates and revocation lists of all vendors have in common.

Who may sign what differs from vendor to vendor and stands beside each verifier.
Source: RFC 5280.
"""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from blindai.attestation.anchors import Anchor
from blindai.errors import AttestationError

SIMULATED_VENDOR = "SIMULATED"  # in place of the vendor in the names of a simulated platform

# What pyca/cryptography raises on bytes that are not the certificate or list they claim to be.
UNPARSABLE = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)


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


_warnings = threading.Lock()


@contextmanager
def as_they_are() -> Iterator[None]:
    """Read certificates and lists that pyca/cryptography warns of, without a word to the terminal of whoever verifies.

    All VCEKs have serial number 0, against RFC 5280, section 4.1.2.2; pyca/cryptography may one day refuse that. Names
    may have attributes of odd lengths. Both are covered by the issuer's signature, whatever they are. Only these
    warnings are silenced, and only within this block; the list of filters is one for all threads, hence the lock.
    """
    with _warnings, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Parsed a serial number", CryptographyDeprecationWarning)
        warnings.filterwarnings("ignore", "Attribute's length must be", UserWarning)
        yield


def load_der(der: bytes) -> x509.Certificate:
    """Load one certificate.

    Raises:
        ValueError: and all else in `UNPARSABLE`.
    """
    with as_they_are():
        return x509.load_der_x509_certificate(der)


def load_pem(pem: str, *, maximum: int) -> tuple[x509.Certificate, ...]:
    """Load the certificates of a chain in PEM, if they have at most `maximum` characters: each takes its time.

    Raises:
        ValueError: and all else in `UNPARSABLE`.
    """
    if len(pem) > maximum:
        raise ValueError(f"it has {len(pem)} characters, and genuine ones have at most {maximum}")
    with as_they_are():
        return tuple(x509.load_pem_x509_certificates(pem.encode("ascii")))


def whole_second(now: datetime) -> datetime:
    """`now` in UTC, in the whole seconds in which certificates count.

    Raises:
        ValueError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("now must have a time zone")
    return now.astimezone(UTC).replace(microsecond=0)


def refusal(code: str, message: str, *, expected: str = "", got: str = "", likely: str = "") -> AttestationError:
    """An error of step `endorsements`; `code` is given without that prefix."""
    return AttestationError(
        message, code=f"endorsements.{code}", step="endorsements", expected=expected, got=got, likely=likely
    )


def read_whole(certificate: x509.Certificate) -> None:
    """Have every field of `certificate` parsed now: pyca/cryptography does it on first use, and raises there.

    Raises:
        ValueError: and all else in `UNPARSABLE`.
    """
    with as_they_are():
        _ = (
            certificate.subject,
            certificate.issuer,
            certificate.extensions,
            certificate.public_key(),
            certificate.signature_hash_algorithm,
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
        )
    require_whole_signature(certificate)


def serial_number(certificate: x509.Certificate) -> int:
    """As the issuer chose it, which may be zero or negative."""
    with as_they_are():
        return certificate.serial_number


def require_whole_signature(signed: x509.Certificate | x509.CertificateRevocationList) -> None:
    """Refuse a signature that claims not to fill its last byte.

    It is a BIT STRING, whose count of unused bits no signature covers: pyca/cryptography reads past it, so that with
    another count the same certificate would verify in a second form.

    Raises:
        ValueError: the count is not 0.
    """
    if not signed.public_bytes(Encoding.DER).endswith(b"\0" + signed.signature):
        raise ValueError("the signature has unused bits")


def spki_sha256(certificate: x509.Certificate) -> str:
    """Lower-case hex SHA-256 of the certificate's SubjectPublicKeyInfo."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


def common_name(certificate: x509.Certificate) -> str:
    """The one common name of the subject, or an empty string."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def anchor_of(root: x509.Certificate, anchors: Sequence[Anchor], *, simulated: bool) -> Anchor:
    """The trust anchor that `root` is, by its public key.

    Args:
        root: the last certificate of a chain.
        anchors: the trust anchors of its vendor.
        simulated: the root says of itself that it is simulated; this only words the refusal.

    Raises:
        AttestationError: `endorsements.anchor`.
    """
    fingerprint = spki_sha256(root)
    for anchor in anchors:
        if anchor.spki_sha256 == fingerprint:
            return anchor
    raise refusal(
        "anchor",
        "the certificates end on a root that is no trust anchor here",
        expected=", ".join(f"{anchor.name} ({anchor.spki_sha256[:16]}..)" for anchor in anchors) or "no root at all",
        got=f"{common_name(root)} ({fingerprint[:16]}..)",
        likely=(
            "this is a simulated platform, which proves nothing about hardware; a policy must allow its root by name"
            if simulated
            else "a forged chain, or the policy names another root"
        ),
    )


def require_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Refuse a certificate that `issuer` did not sign.

    Raises:
        AttestationError: `endorsements.chain`.
    """
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNPARSABLE) as error:
        raise refusal(
            "chain",
            "a certificate is not signed by the next one in its chain",
            expected=f"{common_name(certificate)} signed by {common_name(issuer)}",
            got=str(error) or "a signature that does not verify",
        ) from error


def require_not_revoked(certificates: Iterable[x509.Certificate], crl: x509.CertificateRevocationList) -> None:
    """Refuse a certificate that its issuer has revoked.

    Raises:
        AttestationError: `endorsements.revoked`.
    """
    for certificate in certificates:
        number = serial_number(certificate)
        with as_they_are():
            entry = crl.get_revoked_certificate_by_serial_number(number)
        if entry is not None:
            raise refusal(
                "revoked",
                f"{common_name(certificate)} is revoked: what it signs proves nothing any more",
                expected="a certificate that is on no revocation list",
                got=f"serial number {number:x}, revoked {entry.revocation_date_utc:%Y-%m-%d}",
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
