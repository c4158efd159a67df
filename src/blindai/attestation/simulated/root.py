"""The roots of simulated platforms: one of each per installation, made on first use, never a production anchor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from platformdirs import user_data_dir

from blindai.attestation.anchors import Anchor, Vendor
from blindai.attestation.simulated import certificates
from blindai.attestation.verifiers.certificates import SIMULATED_VENDOR, spki_sha256
from blindai.attestation.verifiers.intel_certificates import ROOT
from blindai.crypto import secret_file
from blindai.errors import ConfigurationError

ROOT_FILE = "intel-root.pem"  # private key and certificate together: one file is created atomically, two are not
ROOT_LIFETIME = timedelta(days=30 * 365)


class KeptRoot(ABC):
    """What the simulated roots of all vendors share: one file for each installation.

    Attributes:
        file: its name; private keys and certificates are together in it.
        anchor: what a policy names to accept the platforms under this root.
    """

    file: ClassVar[str]
    anchor: Anchor

    @classmethod
    @abstractmethod
    def generate(cls) -> Self:
        """Make a root that lives in memory only."""

    @classmethod
    @abstractmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Parse what `to_pem` wrote.

        Raises:
            ValueError: this is no simulated root.
        """

    @abstractmethod
    def to_pem(self) -> bytes:
        """All that is secret, not encrypted, and the certificate, where there is one."""

    @classmethod
    def load_or_create(cls, directory: Path | None = None) -> Self:
        """Load this installation's root, or make it: readable by its owner only, and the same for all processes.

        Args:
            directory: where it is kept; by default `simulated` in the user's data folder.

        Raises:
            ConfigurationError: `simulated.root`; the folder cannot be written or the file is damaged.
        """
        return cls._load(directory, make=True)

    @classmethod
    def load(cls, directory: Path | None = None) -> Self | None:
        """Load this installation's root if there is one, or give None.

        Raises:
            ConfigurationError: `simulated.root`; the file cannot be read or is damaged.
        """
        path = (directory or default_directory()) / cls.file
        return cls._load(directory, make=False) if path.exists() else None

    @classmethod
    def _load(cls, directory: Path | None, *, make: bool) -> Self:
        path = (directory or default_directory()) / cls.file
        try:
            if make and not path.exists():
                secret_file.create(path, cls.generate().to_pem())
            return cls.from_pem(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the root of the simulated platform cannot be used: {path}: {error}",
                code="simulated.root",
                hint=f"check the permissions of {path.parent}, or remove {path.name} to have a new root made",
            ) from error


class CertifiedRoot(KeptRoot):
    """A root with a key on an elliptic curve, its certificate, and the anchor that a policy may name.

    Attributes:
        name: of the anchor.
        vendor: whose root it stands in for.
    """

    name: ClassVar[str]
    vendor: ClassVar[Vendor]

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self.key = key
        self.certificate = certificate
        self.anchor = Anchor(self.name, self.vendor, spki_sha256(certificate), simulated=True)

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Parse what `to_pem` wrote.

        Raises:
            ValueError: this is no key and certificate of a simulated root.
        """
        key = load_pem_private_key(pem, password=None)
        certificate = x509.load_pem_x509_certificate(pem)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError("key and certificate do not belong together")
        return cls(key, certificate)

    def to_pem(self) -> bytes:
        """The private key (PKCS #8, not encrypted) followed by the certificate."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + self.certificate.public_bytes(Encoding.PEM)


class SimulatedRoot(CertifiedRoot):
    """The simulated counterpart of Intel's root CA."""

    file = ROOT_FILE
    name = f"{SIMULATED_VENDOR} {ROOT.names[0]}"
    vendor = Vendor.INTEL

    @classmethod
    def generate(cls, now: datetime | None = None) -> Self:
        """Make a root that lives in memory only."""
        key = ec.generate_private_key(ec.SECP256R1())
        start = (now or datetime.now(UTC)) - certificates.BACKDATING
        validity = certificates.Validity(start, start + ROOT_LIFETIME)
        return cls(key, certificates.issue(ROOT, key, issuer=None, validity=validity))


def default_directory() -> Path:
    """Where this installation keeps its simulated root."""
    return Path(user_data_dir("blindai", appauthor=False)) / "simulated"
