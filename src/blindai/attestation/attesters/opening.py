"""From the name of a platform to its attester."""

from __future__ import annotations

from blindai.attestation.attesters.attester import Attester
from blindai.attestation.attesters.files import Files
from blindai.attestation.attesters.gramine import GramineAttester
from blindai.attestation.attesters.platform import Platform
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.attesters.tsm import TsmAttester
from blindai.attestation.evidence import TEE
from blindai.errors import ConfigurationError

SIMULATED_TEES = {
    Platform.SIMULATED_TDX: TEE.INTEL_TDX,
    Platform.SIMULATED_SGX: TEE.INTEL_SGX,
    Platform.SIMULATED_SNP: TEE.AMD_SEV_SNP,
}


def open_attester(platform: Platform, *, files: Files | None = None) -> Attester:
    """Make the attester of a platform. Whether the platform is there shows when evidence is first asked of it.

    Args:
        platform: which; `AUTO` is for `detection.detect` to resolve.
        files: the machine's files; by default, those of this one.

    Raises:
        ConfigurationError: `simulated.root`.
    """
    match platform:
        case Platform.SGX:
            return GramineAttester(files=files)
        case Platform.TDX:
            return TsmAttester(TEE.INTEL_TDX, files=files)
        case Platform.SEV_SNP:
            return TsmAttester(TEE.AMD_SEV_SNP, files=files)
        case Platform.AZURE | Platform.TPM:
            raise ConfigurationError(f"there is no attester of {platform} yet", code="attester.missing")
        case Platform.SIMULATED_TDX | Platform.SIMULATED_SGX | Platform.SIMULATED_SNP:
            return SimulatedAttester(tee=SIMULATED_TEES[platform])
        case Platform.AUTO:
            raise ValueError("detect() says which platform it is")
