"""The enclaves of the cloud, and what was found when they attested themselves to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from blindai.attestation.evidence import TEE
from blindai.attestation.result import Outcome
from blindai.cloud.accounts import Action
from blindai.cloud.console.overview import endpoint
from blindai.cloud.console.visit import ACCOUNT, Address, Visit

if TYPE_CHECKING:
    from starlette.responses import Response

    from blindai.cloud.fleet import InstanceView

# Enclaves that were in the place of the present ones. An endpoint that is restarted often has many.
MAX_EARLIER: Final = 50

# What protects the memory of an enclave, by what evidence calls it.
PLATFORMS: Final = {
    TEE.INTEL_SGX: "Intel SGX",
    TEE.INTEL_TDX: "Intel TDX",
    TEE.AMD_SEV_SNP: "AMD SEV-SNP",
    TEE.AZURE_SEV_SNP: "AMD SEV-SNP on Azure",
    TEE.AZURE_TDX: "Intel TDX on Azure",
    TEE.TPM: "a TPM, which protects no memory",
}


def platform(instance: InstanceView) -> str:
    """What protects the enclave, in words."""
    name = (instance.verdict.get("claims") or {}).get("tee", "")
    return PLATFORMS.get(name, name) or "unknown"


def passed(instance: InstanceView) -> int:
    """How many checks passed."""
    return sum(check.get("outcome") == Outcome.PASS for check in instance.verdict.get("checks", ()))


async def enclaves_page(visit: Visit) -> Response:
    """Each enclave with the checks of its latest attestation."""
    found = await visit.ask(visit.plane.fleet.instances)
    shown = [(one, platform(one), passed(one)) for one in found]
    return visit.page(
        "enclaves.html",
        present=[row for row in shown if row[0].present],
        earlier=[row for row in shown if not row[0].present][:MAX_EARLIER],
        home=await endpoint(visit),
    )


ADDRESSES: Final = (Address("GET", ACCOUNT + "/enclaves", enclaves_page, Action.VIEW),)
