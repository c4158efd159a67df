"""The statement: what evidence says about one TLS connection, and how it becomes the 64 bytes of report_data.

Both ends build it for themselves from their own side of the live connection. A relying party never
takes a field of it from its peer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated

import msgspec

from blindai.attestation.evidence import DeviceEvidence
from blindai.crypto.canonical import MAX_SAFE_INTEGER, Canonical
from blindai.crypto.digests import tagged, tagged_sha256

VERSION = 1
STATEMENT_DOMAIN = "blindai/statement/v1"
RESUME_DOMAIN = "blindai/resume/v1"
CONFIG_DOMAIN = "blindai/config/v1"
DEVICES_DOMAIN = "blindai/devices/v1"
DEVICE_NONCE_PREFIX = b"gpu"

# RFC 8446, section 7.5, with the relying party's nonce as the exporter's context.
EXPORTER_LABEL = b"EXPORTER-BlindAI-v1"
EXPORTER_LENGTH = 32
NONCE_LENGTH = 32


# 32 bytes in lower-case hex; held to when a statement is decoded, so that every statement has a canonical encoding.
Hex32 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Role(StrEnum):
    """What the attested party does on this connection; keeps evidence of one direction out of the other."""

    SERVER = "server"
    CLIENT = "client"


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All digests, `nonce` and `ekm` in lower-case hex.

    Attributes:
        nonce: 32 bytes from the relying party, new for each gate.
        ekm: exported keying material of this TLS connection, 32 bytes.
        spki_sha256: of the TLS key that the attested party proved to hold.
        keyset_digest, devices_digest, config_digest: what else the attested party commits to.
    """

    role: Role
    nonce: Hex32
    ekm: Hex32
    spki_sha256: Hex32
    keyset_digest: Hex32
    devices_digest: Hex32
    config_digest: Hex32
    v: Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)] = VERSION

    @property
    def message(self) -> bytes:
        """What is hashed: the domain, a zero byte, the canonical text."""
        return self._tagged(STATEMENT_DOMAIN)

    @property
    def report_data(self) -> bytes:
        """SHA-512 of `message`: 64 bytes, the full report_data of SGX, TDX and SEV-SNP."""
        return hashlib.sha512(self.message).digest()

    @property
    def resume_message(self) -> bytes:
        """What the connection-proof key signs in a resumed gate."""
        return self._tagged(RESUME_DOMAIN)

    def _tagged(self, domain: str) -> bytes:
        return tagged(domain, msgspec.to_builtins(self))


def config_digest(config: Mapping[str, Canonical]) -> str:
    """Digest of a measured configuration, in hex.

    Raises:
        ValueError: `config` is outside the canonical encoding.
    """
    return tagged_sha256(CONFIG_DOMAIN, config)


def device_nonce(nonce: bytes, spki_sha256: bytes) -> bytes:
    """What the devices beside the processor sign for one gate, 32 bytes.

    Args:
        nonce: the relying party's, 32 bytes.
        spki_sha256: of the TLS key of the attested party, 32 bytes.
    """
    return hashlib.sha256(DEVICE_NONCE_PREFIX + nonce + spki_sha256).digest()


def devices_digest(devices: Sequence[DeviceEvidence]) -> str:
    """Digest of the evidence of all devices as it is sent, in this order; in hex."""
    entries = [
        {
            "kind": str(device.kind),
            "report": hashlib.sha256(device.report).hexdigest(),
            "certificates": hashlib.sha256(device.certificates.encode(errors="surrogatepass")).hexdigest(),
        }
        for device in devices
    ]
    return tagged_sha256(DEVICES_DOMAIN, {"devices": entries})


# The digest for an enclave that attests no devices beside its CPU.
NO_DEVICES = devices_digest(())
