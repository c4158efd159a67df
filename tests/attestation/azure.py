"""Simulated Azure confidential VMs, good and tampered with, at a fixed time."""

from __future__ import annotations

from functools import cache
from typing import Any

from tests.attestation import simulation, snp

from blindai.attestation.anchors import Anchor
from blindai.attestation.attesters.azure import AzureAttester
from blindai.attestation.evidence import TEE, Evidence, IntelCollateral
from blindai.attestation.simulated.azure import AzureFaults, SimulatedAzure
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.attestation.simulated.tpm import SimulatedTpm
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot

NOW = simulation.NOW
REPORT_DATA = simulation.REPORT_DATA
TEES = (TEE.AZURE_SEV_SNP, TEE.AZURE_TDX)


def anchors() -> tuple[Anchor, ...]:
    return snp.anchor(), simulation.anchor()


@cache
def tpm() -> SimulatedTpm:
    """The virtual TPM of all machines here, after its boot."""
    found = SimulatedTpm(SimulatedTpmRoot.generate(), ak="rsa", clock=lambda: NOW)
    found.boot()
    return found


@cache
def trust_domain() -> SimulatedIntel:
    return simulation.platform("tdx-v4", measurements={"mrtd": "1d" * 48})


def machine(tee: TEE, **faults: Any) -> SimulatedAzure:
    processor = snp.healthy() if tee is TEE.AZURE_SEV_SNP else trust_domain()
    return SimulatedAzure(processor, tpm(), AzureFaults(**faults))


def collateral() -> IntelCollateral:
    return trust_domain().collateral()


def good(tee: TEE, **faults: Any) -> Evidence:
    from msgspec.structs import replace

    found = machine(tee, **faults)
    evidence = AzureAttester(found, found).attest(REPORT_DATA)
    return evidence if tee is TEE.AZURE_SEV_SNP else replace(evidence, intel_collateral=collateral())
