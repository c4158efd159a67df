"""Trust anchors: the roots on which certificate chains may end, by the fingerprint of their public key."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from blindai.attestation.evidence import TEE


class Vendor(StrEnum):
    """Whose hardware a root vouches for. A root never vouches for another's."""

    INTEL = "intel"
    AMD = "amd"
    NVIDIA = "nvidia"
    TPM = "tpm"


class Anchor(msgspec.Struct, frozen=True):
    """A root that a policy trusts. The certificate itself travels with the evidence and is matched by its key.

    Attributes:
        name: how results and screens call it.
        vendor: whose hardware it vouches for.
        spki_sha256: lower-case hex SHA-256 of the root's SubjectPublicKeyInfo in DER (RFC 5280, section 4.1.2.7).
        simulated: this root belongs to a simulated platform; what it vouches for is not hardware.
    """

    name: str
    vendor: Vendor
    spki_sha256: str
    simulated: bool = False


# The key of https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer
INTEL_SGX_ROOT = Anchor(
    "Intel SGX Root CA", Vendor.INTEL, "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
)

# The keys of https://kdsintf.amd.com/vcek/v1/{Milan,Genoa,Turin}/cert_chain; VLEK chains end on the same.
AMD_ROOTS = (
    Anchor("ARK-Milan", Vendor.AMD, "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9"),
    Anchor("ARK-Genoa", Vendor.AMD, "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831"),
    Anchor("ARK-Turin", Vendor.AMD, "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08"),
)

NVIDIA_DEVICE_ROOT = Anchor(
    "NVIDIA Device Identity CA", Vendor.NVIDIA, "a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4"
)

# Whose root the evidence of each TEE ends on.
VENDORS: dict[TEE, Vendor] = {
    TEE.INTEL_SGX: Vendor.INTEL,
    TEE.INTEL_TDX: Vendor.INTEL,
    TEE.AMD_SEV_SNP: Vendor.AMD,
    TEE.AZURE_SEV_SNP: Vendor.AMD,
    TEE.AZURE_TDX: Vendor.INTEL,
    TEE.TPM: Vendor.TPM,
}

INTEL_TEES = frozenset(tee for tee, vendor in VENDORS.items() if vendor is Vendor.INTEL)
AMD_TEES = frozenset(tee for tee, vendor in VENDORS.items() if vendor is Vendor.AMD)

# There are many makers of TPMs: a policy names the roots that it trusts.
_ROOTS: dict[Vendor, tuple[Anchor, ...]] = {Vendor.INTEL: (INTEL_SGX_ROOT,), Vendor.AMD: AMD_ROOTS, Vendor.TPM: ()}
VENDOR_ANCHORS = {tee: _ROOTS[vendor] for tee, vendor in VENDORS.items()}
