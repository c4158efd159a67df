"""Verifiers: evidence in, claims out; one per vendor, chosen by what the evidence says it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from blindai.attestation.anchors import Anchor
from blindai.attestation.claims import Claims
from blindai.attestation.evidence import TEE, Activation, Evidence
from blindai.attestation.result import Checklist
from blindai.attestation.verifiers import amd, azure, intel, tpm

__all__ = ["verify"]

_VERIFIERS = {
    TEE.INTEL_SGX: intel.verify,
    TEE.INTEL_TDX: intel.verify,
    TEE.AMD_SEV_SNP: amd.verify,
    TEE.AZURE_SEV_SNP: azure.verify,
    TEE.AZURE_TDX: azure.verify,
}


def verify(
    evidence: Evidence,
    *,
    anchors: Sequence[Anchor],
    now: datetime,
    checks: Checklist,
    activation: Activation | None = None,
) -> Claims:
    """Verify evidence of any kind. Pure: no clock, no network, no file.

    Records the steps `evidence`, `endorsements` and `quote` in `checks`, in this order, up to the first refusal.

    Args:
        evidence: the quote and its endorsements; `tee` chooses the verifier, which then holds it to that.
        anchors: the roots on which certificate chains may end; none means that everything is refused.
        now: the time of the verification, with its time zone.
        checks: where the checks are recorded.
        activation: of the attestation key, where the TEE is a TPM.

    Raises:
        AttestationError: with the step and the code of the first check that refused.
        ValueError: `now` has no time zone.
    """
    if evidence.tee is TEE.TPM:
        return tpm.verify(evidence, anchors=anchors, now=now, checks=checks, activation=activation)
    return _VERIFIERS[evidence.tee](evidence, anchors=anchors, now=now, checks=checks)
