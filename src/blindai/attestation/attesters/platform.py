"""What an enclave can be run on, by the names of the command line."""

from __future__ import annotations

from enum import StrEnum


class Platform(StrEnum):
    """One way to attest. `AUTO` is whichever of the unsimulated ones this machine is (`detection.detect`)."""

    AUTO = "auto"
    SGX = "sgx"
    TDX = "tdx"
    SEV_SNP = "sev-snp"
    AZURE = "azure"
    TPM = "tpm"
    SIMULATED_TDX = "simulated-tdx"
    SIMULATED_SGX = "simulated-sgx"
    SIMULATED_SNP = "simulated-snp"
