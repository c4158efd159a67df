"""Trust anchors: the roots on which certificate chains may end, by the fingerprint of their public key."""

from __future__ import annotations

import msgspec


class Anchor(msgspec.Struct, frozen=True):
    """A root that a policy trusts. The certificate itself travels with the evidence and is matched by its key.

    Attributes:
        name: how results and screens call it.
        spki_sha256: lower-case hex SHA-256 of the root's SubjectPublicKeyInfo in DER (RFC 5280, section 4.1.2.7).
        simulated: this root belongs to a simulated platform; what it vouches for is not hardware.
    """

    name: str
    spki_sha256: str
    simulated: bool = False


# The key of https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer
INTEL_SGX_ROOT = Anchor("Intel SGX Root CA", "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e")
