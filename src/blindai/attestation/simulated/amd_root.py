"""The root of simulated AMD platforms."""

from __future__ import annotations

import hashlib
from typing import ClassVar, Self

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from blindai.attestation.anchors import Anchor, Vendor
from blindai.attestation.simulated.root import KeptRoot
from blindai.attestation.verifiers.amd_certificates import RSA_BITS
from blindai.attestation.verifiers.certificates import SIMULATED_VENDOR

_BEGIN = b"-----BEGIN"


class SimulatedAmdRoot(KeptRoot):
    """The simulated counterpart of AMD's ARKs: one key for all product lines, and the anchor that a policy may name.

    It takes a second or so to make, so that it is made only where an AMD platform is simulated. The key of the ASK
    and the ASVK is kept beside it for the same reason. Certificates are made as they are needed, and differ in
    their names only.
    """

    file: ClassVar[str] = "amd-root.pem"

    def __init__(self, key: rsa.RSAPrivateKey, authority_key: rsa.RSAPrivateKey) -> None:
        self.key = key
        self.authority_key = authority_key
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.anchor = Anchor(
            name=f"{SIMULATED_VENDOR} ARK",
            vendor=Vendor.AMD,
            spki_sha256=hashlib.sha256(spki).hexdigest(),
            simulated=True,
        )

    @classmethod
    def generate(cls) -> Self:
        """Make a root that lives in memory only."""
        return cls(*(rsa.generate_private_key(65537, RSA_BITS) for _ in range(2)))

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Parse what `to_pem` wrote.

        Raises:
            ValueError: these are not the two keys of a simulated root.
        """
        _, *blocks = pem.split(_BEGIN)
        # To look whether the primes are primes takes half a second, at the start of each client. `generate` made them.
        keys = [
            load_pem_private_key(_BEGIN + block, password=None, unsafe_skip_rsa_key_validation=True) for block in blocks
        ]
        rsa_keys = [key for key in keys if isinstance(key, rsa.RSAPrivateKey)]
        if len(rsa_keys) != 2 or len(keys) != 2:
            raise ValueError("these are not the two keys of a simulated AMD root")
        return cls(*rsa_keys)

    def to_pem(self) -> bytes:
        """Both private keys (PKCS #8, not encrypted): that of the root, then that of what it certifies."""
        text = b"".join(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            for key in (self.key, self.authority_key)
        )
        return b"SIMULATED: the keys of a platform that is not AMD's and not hardware\n" + text
