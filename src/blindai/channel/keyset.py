"""The keys of one enclave instance: made at start, held in memory, gone with the process.

One TLS key, an HPKE key to which others may seal, a receipt key, and a connection-proof key for the
resumed gate. The evidence commits to all of them at once through the digest of the public keyset.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cached_property

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.x509.oid import NameOID

from blindai.crypto import hpke
from blindai.crypto.digests import tagged_sha256

KEYSET_DOMAIN = "blindai/keyset/v1"

# Long enough that clients seldom see a change, short enough that a leaked TLS key is soon worthless.
KEYSET_LIFETIME = timedelta(hours=24)

# Of the keys with which an enclave calls, and of the TLS key of whom it calls. They are not replaced: an instance is
# its keyset, and other keys would be another instance, to which nothing was granted. No process runs for longer; what
# bounds the trust in an instance is its grants, which are over in minutes.
INSTANCE_LIFETIME = timedelta(days=3653)

# X.509 clocks of clients differ; nobody relies on this date, but some tools refuse a certificate of the future.
CERTIFICATE_BACKDATE = timedelta(hours=1)

# TCG DICE conceptual message wrapper: where RA-TLS tools look for evidence (draft-ietf-rats-msg-wrap, section 4).
CMW_EXTENSION = x509.ObjectIdentifier("2.23.133.5.4.9")


class Keyset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The public half. Keys in lower-case hex; `not_after` in seconds since the epoch, UTC.

    Attributes:
        tls_spki_sha256: SHA-256 of the SubjectPublicKeyInfo of the TLS key (P-256).
        hpke_public_key: X25519, 32 bytes (RFC 9180, DHKEM(X25519, HKDF-SHA256)).
        receipt_key: Ed25519, 32 bytes.
        proof_key: Ed25519, 32 bytes; signs the statement of a resumed gate.
    """

    tls_spki_sha256: str
    hpke_public_key: str
    receipt_key: str
    proof_key: str
    not_after: int

    @property
    def digest(self) -> str:
        """SHA-256 in hex; the statement's `keyset_digest`.

        Raises:
            ValueError: a field is outside the canonical encoding.
        """
        return tagged_sha256(KEYSET_DOMAIN, msgspec.to_builtins(self))

    @property
    def expires_at(self) -> datetime:
        """`not_after` as a time.

        Raises:
            ValueError, OverflowError, OSError: it is not a time that this platform can hold.
        """
        return datetime.fromtimestamp(self.not_after, UTC)


class PrivateKeyset:
    """A keyset with its private keys, which have no way out of this object but their use."""

    def __init__(self, now: datetime, lifetime: timedelta = KEYSET_LIFETIME) -> None:
        self.tls_key = ec.generate_private_key(ec.SECP256R1())
        self._proof_key = ed25519.Ed25519PrivateKey.generate()
        self._receipt_key = ed25519.Ed25519PrivateKey.generate()
        self._hpke_key = x25519.X25519PrivateKey.generate()
        self.not_before = now
        self.public = Keyset(
            tls_spki_sha256=spki_sha256(self.tls_key.public_key()),
            hpke_public_key=self._hpke_key.public_key().public_bytes_raw().hex(),
            receipt_key=self._receipt_key.public_key().public_bytes_raw().hex(),
            proof_key=self._proof_key.public_key().public_bytes_raw().hex(),
            not_after=int((now + lifetime).timestamp()),
        )

    @cached_property
    def digest(self) -> str:
        return self.public.digest

    def prove(self, message: bytes) -> bytes:
        """Sign with the connection-proof key (Ed25519, RFC 8032): 64 bytes."""
        return self._proof_key.sign(message)

    def sign(self, message: bytes) -> bytes:
        """Sign with the receipt key (Ed25519, RFC 8032): 64 bytes."""
        return self._receipt_key.sign(message)

    def open_sealed(self, sealed: bytes, info: bytes) -> bytes:
        """What was sealed to the HPKE key (`crypto.hpke`).

        Raises:
            ValueError: it was sealed to another key, with other `info`, or changed.
        """
        return hpke.open_sealed(self._hpke_key, sealed, info)

    def certificate(self, cmw: bytes | None = None) -> x509.Certificate:
        """Self-signed. `cmw` is a CBOR conceptual message wrapper for tools that look for evidence here.

        Our own client relies on nothing in this certificate but the public key.
        """
        return self_signed(
            self.tls_key, "BlindAI enclave", not_before=self.not_before, not_after=self.public.expires_at, cmw=cmw
        )


def self_signed(
    key: ec.EllipticCurvePrivateKey, name: str, *, not_before: datetime, not_after: datetime, cmw: bytes | None = None
) -> x509.Certificate:
    """A certificate for a TLS key that something else than certificates vouches for. `cmw` as in `certificate`."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before - CERTIFICATE_BACKDATE)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if cmw is not None:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(CMW_EXTENSION, _der_octet_string(cmw)), critical=False
        )
    return builder.sign(key, hashes.SHA256())


def spki_sha256(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256, in hex, of the key's SubjectPublicKeyInfo in DER (RFC 5280, section 4.1.2.7)."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki)
    return digest.finalize().hex()


def _der_octet_string(body: bytes) -> bytes:
    """An OCTET STRING in DER (X.690, sections 8.1.3 and 8.7): the `cbor` choice of a wrapper in X.509."""
    length = len(body)
    if length < 0x80:
        return bytes([0x04, length]) + body
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([0x04, 0x80 | len(size)]) + size + body
