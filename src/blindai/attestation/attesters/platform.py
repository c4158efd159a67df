"""What an enclave can be run on, by the names of the command line."""

from __future__ import annotations

from enum import StrEnum

# The kernel's resource manager, through which several programs can share a TPM, and where Linux keeps its boot log.
TPM_DEVICE = "/dev/tpmrm0"
TPM_TCTI = f"device:{TPM_DEVICE}"
BOOT_LOG_FILE = "/sys/kernel/security/tpm0/binary_bios_measurements"


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
