"""TLS for the port that serves pages: with a certificate that was given, or with one that the program makes itself.

A browser does not know one of the program's own. People compare its fingerprint once, with the one that the server
shows when it starts.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blindai.crypto import secret_file
from blindai.errors import ConfigurationError

_FILE: Final = "pages.pem"

# Nobody renews it, and nobody relies on its end: who has compared the fingerprint has compared the key.
_LIFETIME: Final = timedelta(days=3650)
_BACKDATING: Final = timedelta(hours=1)

# A certificate and a key take two kilobytes, a chain some more.
_MAX_PEM_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class PagesTls:
    """What the port shows.

    Attributes:
        context: for its connections.
        fingerprint: SHA-256 of the certificate, as browsers show it.
        own: whether the program made it.
    """

    context: ssl.SSLContext
    fingerprint: str
    own: bool

    @classmethod
    def given(cls, certificate: Path, key: Path) -> PagesTls:
        """From two PEM files: certificate and chain, and the private key.

        Raises:
            ConfigurationError: `configuration.tls`.
        """
        context = _context()
        try:
            # An encrypted key would ask for its passphrase on a terminal that a server does not have.
            context.load_cert_chain(certificate, key, password=_no_passphrase)
            fingerprint = _fingerprint(certificate.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"certificate {certificate} and key {key} cannot be used: {error}",
                code="configuration.tls",
                hint="--tls-cert takes the certificate with its chain, --tls-key its key, both PEM, not encrypted",
            ) from error
        return cls(context, fingerprint, own=False)

    @classmethod
    def own_in(cls, folder: Path, host: str) -> PagesTls:
        """From the program's own certificate in `folder`, which is made once, for `host` and this machine.

        Raises:
            ConfigurationError: `configuration.tls`.
        """
        path = folder / _FILE
        context = _context()
        try:
            if not path.exists():
                secret_file.create(path, _self_signed(host, datetime.now(UTC)))
            pem = secret_file.read(path, _MAX_PEM_BYTES)
            context.load_cert_chain(path, password=_no_passphrase)
            fingerprint = _fingerprint(pem)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the certificate made for the pages cannot be used: {path}: {error}",
                code="configuration.tls",
                hint=f"remove {path.name} to have another made, or give --tls-cert and --tls-key",
            ) from error
        return cls(context, fingerprint, own=True)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted")


def _fingerprint(pem: bytes) -> str:
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex(":").upper()


def _self_signed(host: str, now: datetime) -> bytes:
    """Key and certificate in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "BlindAI")])
    names = dict.fromkeys([host, "localhost", "127.0.0.1", "::1"])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATING)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(one) for one in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.encode("idna").decode("ascii"))
