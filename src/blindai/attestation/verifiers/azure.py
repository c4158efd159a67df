"""Verify Azure confidential VMs: evidence in, claims out. Pure: no clock, no network, no file.

From the processor to the nonce, each link vouches for the next:

    hardware report        signed by the processor, made at boot by the paravisor (VMPL 0, or the TD itself)
    runtime data           the report's report_data is their SHA-256
    HCLAkPub               stands in the runtime data: the attestation key of the paravisor's virtual TPM
    TPM quote              signed by that key; its qualifying data are what the relying party asked for

The steps, by the names under which they are recorded:

    evidence      the paravisor's report, the hardware report and the TPM's quote can be parsed and belong to this TEE
    endorsements  as for SEV-SNP (`amd`) or TDX (`intel`)
    quote         the processor signed the hardware report; it commits to the key; the key signed the quote and PCRs

A report that was not asked for at VMPL 0 is refused in the step `platform`: the guest could have chosen its
report_data. Left to the policy: all that it decides for the processor's own evidence, the PCRs, and what the virtual
machine was set up with (`console`, `no_secure_boot` in `Claims.flags`).

Source: Microsoft, "Guest attestation design for confidential VMs".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from blindai.attestation.anchors import Anchor
from blindai.attestation.claims import Claims, Location
from blindai.attestation.evidence import TEE, Evidence
from blindai.attestation.result import Checklist
from blindai.attestation.verifiers import amd, intel
from blindai.attestation.verifiers.azure_report import SNP_REPORT, HclReport, parse
from blindai.attestation.verifiers.certificates import refusal
from blindai.attestation.verifiers.tpm_quote import UnverifiedQuote, check_quote, parse_quote
from blindai.errors import AttestationError

# How the parts of the evidence are called where byte ranges are shown.
_HCL_REPORT = "azure.hcl_report"
_HARDWARE_REPORT = "azure.hcl_report[0x20:]"
_TD_QUOTE = "azure.td_quote"


def verify(evidence: Evidence, *, anchors: Sequence[Anchor], now: datetime, checks: Checklist) -> Claims:
    """Verify the quote of an Azure confidential VM's virtual TPM, up to the processor.

    Args:
        evidence: of `TEE.AZURE_SEV_SNP` or `TEE.AZURE_TDX`.
        anchors: the roots on which the processor's chain may end.
        now: the time of the verification, with its time zone; used in whole seconds.
        checks: where the steps are recorded, in order, up to the first refusal.

    Raises:
        AttestationError: with the step and the code of the first check that refused.
        ValueError: `now` has no time zone.
    """
    with checks.check(
        "evidence", expected=f"the virtual TPM of {evidence.tee}", name="evidence of the virtual TPM"
    ) as check:
        if evidence.azure is None:
            raise AttestationError(
                "the quote came without the report of Azure's paravisor",
                code="evidence.hcl",
                expected="NV index 0x01400001 of the virtual TPM",
                got="none",
            )
        report = parse(evidence.azure.hcl_report)
        quote = parse_quote(evidence.quote, evidence.tpm)
        tee = TEE.AZURE_SEV_SNP if report.kind == SNP_REPORT else TEE.AZURE_TDX
        check.got = f"the virtual TPM of {tee}"
        if tee is not evidence.tee:
            raise AttestationError("the report is of another TEE than the evidence says", code="evidence.tee")
    hardware = _verify_hardware(evidence, report, anchors=anchors, now=now, checks=checks)
    with checks.check(
        "quote", expected="the processor vouches for the virtual TPM", name="quote of the virtual TPM"
    ) as check:
        runtime_end = report.runtime_start + len(report.runtime_data)
        digest = report.report_data[:32].hex()
        check.uses(_HCL_REPORT, report.runtime_start, runtime_end, "SHA-256, compared with report_data", digest)
        check.compares(hardware, "report_data", hardware.report_data.hex())
        report.require_vouched(hardware.report_data)
        check_quote(quote, report.ak, check, signer="HCLAkPub")
        check.got = "verified"
    if hardware.vmpl:
        with checks.check("platform", expected="VMPL 0") as check:
            check.compares(hardware, "vmpl", str(hardware.vmpl))
            raise AttestationError(
                "the report was not made by Azure's paravisor, but by the guest above it",
                code="platform.vmpl",
                got=f"VMPL {hardware.vmpl}",
                likely="the guest asked for a report over keys of its own",
            )
    return _claims(evidence.tee, hardware, quote, report)


def _verify_hardware(
    evidence: Evidence, report: HclReport, *, anchors: Sequence[Anchor], now: datetime, checks: Checklist
) -> Claims:
    if evidence.tee is TEE.AZURE_SEV_SNP:
        return amd.verify_report(
            report.hardware_report,
            evidence.amd,
            tee=evidence.tee,
            anchors=anchors,
            now=now,
            checks=checks,
            of=_HARDWARE_REPORT,
        )
    td_quote = evidence.azure.td_quote if evidence.azure else None
    if td_quote is None:
        with checks.check("endorsements", expected="a quote of the trust domain"):
            raise refusal(
                "missing",
                "the evidence came without the trust domain's quote, so that no processor vouches for it",
                expected="a quote over the TD report of the paravisor",
                got="none",
                likely="the machine could not reach Azure's quoting service (IMDS)",
            )
    inner = Evidence(tee=TEE.INTEL_TDX, quote=td_quote, intel_collateral=evidence.intel_collateral)
    inner_checks = Checklist()
    try:
        claims = intel.verify(inner, anchors=anchors, now=now, checks=inner_checks)
    finally:
        checks.adopt(inner_checks.checks, renamed={"quote": _TD_QUOTE})
    locations = {name: Location(_TD_QUOTE, place.start, place.end) for name, place in claims.locations.items()}
    return msgspec.structs.replace(claims, locations=locations)


def _claims(tee: TEE, hardware: Claims, quote: UnverifiedQuote, report: HclReport) -> Claims:
    register = "launch_digest" if tee is TEE.AZURE_SEV_SNP else "mrtd"
    configuration = report.configuration
    return msgspec.structs.replace(
        hardware,
        tee=tee,
        report_data=quote.attest.extra_data,
        measurements={register: hardware.measurements[register]} | quote.measurements,
        svns=hardware.svns | quote.svns,
        flags=hardware.flags
        | {"console": configuration.console_enabled, "no_secure_boot": not configuration.secure_boot},
        locations=hardware.locations | quote.locations,
    )
