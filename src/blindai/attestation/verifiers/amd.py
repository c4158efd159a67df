"""Verify AMD SEV-SNP attestation reports: evidence in, claims out. Pure: no clock, no network, no file.

The steps, by the names under which they are recorded:

    evidence      the report has the layout of its version, and its guest asked for it
    endorsements  the certificates are whole, current, unrevoked, in their roles, under a trust anchor; they are for
                  this processor, at the firmware that the report states
    quote         the VCEK or VLEK signed the report

Two refusals belong to later steps and are recorded there: a platform that is not as its guest's policy demands
(`debug`), and versions of the firmware that contradict each other (`tcb`). Left to the policy: report_data,
registers, debug and all other bits of guest policy and platform, VMPL, the lowest versions of the firmware, which
products, keys and processors, and whether a revocation list must be there (`Claims.crl_checked`).

`Claims.flags["smt"]` is what the platform does (SMT_EN), not what the guest's policy would allow. `Claims.tcb` holds
the lowest version of each part, of those that ran at launch, that are committed, that run, and to which the signing
key is bound: a floor for it is a floor for all four. Each of them is in `Claims.svns`, as in `launch_microcode`.

Sources: AMD SEV-SNP Firmware ABI Specification 56860; AMD VCEK Certificate and KDS Interface Specification 57230.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from blindai.attestation.anchors import Anchor, Vendor
from blindai.attestation.claims import Claims, Location
from blindai.attestation.evidence import TEE, AmdEndorsements, Evidence
from blindai.attestation.result import Checklist, OpenCheck
from blindai.attestation.verifiers.amd_certificates import CheckedChain, check_chain
from blindai.attestation.verifiers.amd_report import (
    PLACES,
    PLATFORM_BITS,
    REGISTERS,
    REPORT_BYTES,
    SIGNED_BYTES,
    TCBS,
    UnverifiedReport,
    parse,
)
from blindai.attestation.verifiers.certificates import refusal, require_current, whole_second
from blindai.errors import AttestationError

_ECDSA = ec.ECDSA(hashes.SHA384())

# Claims by their names in `Claims.locations`, and where in the report they stand.
_LOCATIONS = {name: name for name in ("report_data", "vmpl", "guest_svn", "chip_id", *REGISTERS)} | {
    "debug": "policy",
    "flags": "platform_info",
    "tcb": "reported_tcb",
    "signing_key": "signing_key",
    "product": "cpuid",
}

# What the platform must be where the guest's policy says so: the names of `amd_report.PLATFORM_BITS`.
_DEMANDED = ("rapl_disabled", "ciphertext_hiding")

# What only the guest's policy says; of all else that it may say, the platform says whether it is so.
_POLICY_FLAGS = ("migratable", "single_socket", "cxl", "mem_aes_256_xts", "page_swap_disabled")

_Versions = dict[str, dict[str, int]]


def verify(evidence: Evidence, *, anchors: Sequence[Anchor], now: datetime, checks: Checklist) -> Claims:
    """Verify an SEV-SNP report with the endorsements beside it, and say what it proves.

    Args:
        evidence: of `TEE.AMD_SEV_SNP`.
        anchors: the roots on which its chain may end; only those of AMD's hardware are looked at.
        now: the time of the verification, with its time zone; used in whole seconds.
        checks: where each step is recorded, in order, up to the first refusal.

    Raises:
        AttestationError: with the step and the code of the first check that refused.
        ValueError: `now` has no time zone.
    """
    return verify_report(evidence.quote, evidence.amd, tee=evidence.tee, anchors=anchors, now=now, checks=checks)


def verify_report(
    report: bytes,
    endorsements: AmdEndorsements | None,
    *,
    tee: TEE,
    anchors: Sequence[Anchor],
    now: datetime,
    checks: Checklist,
    of: str = "quote",
) -> Claims:
    """Verify one report, wherever it comes from. Records the steps `evidence`, `endorsements` and `quote`.

    Args:
        report: 1184 bytes, nothing behind them.
        endorsements: what vouches for its key.
        tee: which TEE the claims are about.
        anchors, now, checks: as in `verify`.
        of: what the report is called where byte ranges are shown.

    Raises:
        AttestationError: with the step and the code of the first check that refused.
        ValueError: `now` has no time zone.
    """
    now = whole_second(now)
    with checks.check("evidence", expected="an SEV-SNP report, version 2, 3 or 5") as check:
        parsed = parse(report)
        check.got = f"an SEV-SNP report, version {parsed.version}, signed by its {parsed.signing_key.upper()}"
        check.uses(of, 0, REPORT_BYTES, "layout: known bits only, zeros where nothing is defined")
    anchors = tuple(anchor for anchor in anchors if anchor.vendor is Vendor.AMD)
    with checks.check("endorsements", expected=", ".join(anchor.name for anchor in anchors)) as check:
        if endorsements is None:
            raise refusal(
                "missing",
                "the evidence came without certificates, so that nothing can be verified",
                expected="VCEK or VLEK, ASK or ASVK, and ARK beside the report",
                got="none",
                likely="the enclave's host cannot reach AMD's key distribution service (KDS)",
            )
        chain = check_chain(endorsements, anchors)
        check.ranges.extend(chain.ranges)
        versions = _require_for(parsed, chain, check, of)
        require_current(chain.windows, now)
        check.got = f"{chain.anchor.name}, {'with' if chain.crl_checked else 'without a'} revocation list"
    key_name = chain.signing_key.upper()
    with checks.check("quote", expected=f"signed by the {key_name} of this anchor") as check:
        check.uses(of, 0, SIGNED_BYTES, f"SHA-384, signed by the {key_name} (ECDSA P-384)")
        for name in ("signature_r", "signature_s"):
            _uses(check, of, parsed, name, f"{name[-1]} of the signature, little-endian")
        _require_signature(parsed, chain)
        check.got = "verified"
    _require_guest_policy(parsed, checks, of)
    _require_tcb_order(parsed, versions, checks, of)
    return _claims(parsed, chain, versions, tee=tee, of=of)


def _require_for(report: UnverifiedReport, chain: CheckedChain, check: OpenCheck, of: str) -> _Versions:
    """Refuse endorsements of another key, processor or firmware than the report states.

    Returns:
        The security versions of each part of the firmware, for each of `TCBS`.
    """
    product = chain.product
    _uses(check, of, report, "signing_key", "SIGNING_KEY, compared with the certificate")
    if report.signing_key != chain.signing_key:
        raise refusal(
            "signing_key",
            "the certificate is of another kind than the key that the report names",
            expected=report.signing_key.upper(),
            got=chain.signing_key.upper(),
            likely="the host sent a VCEK although the cloud signs with its VLEK, or the other way round",
        )
    if report.cpu is not None:
        _uses(check, of, report, "cpuid", f"family, model and stepping, compared with those of {product.name}")
        if not product.has_cpu(*report.cpu):
            raise refusal(
                "product",
                "the certificates are for another product line than the report",
                expected=f"a processor of {product.name}",
                got="family {:#x}, model {:#x}".format(*report.cpu),
            )
    versions: _Versions = {}
    for name in TCBS:
        parts = product.versions(report.tcbs[name])
        if parts is None:
            raise refusal(
                "tcb",
                "the certificates are for processors that state their firmware in another way than the report",
                expected=f"{name} in the layout of {product.name}, zeros where nothing is defined",
                got=report.tcbs[name].hex(),
            )
        versions[name] = parts
    _uses(check, of, report, "reported_tcb", "compared with the certificate's TCB")
    if versions["reported_tcb"] != chain.tcb:
        raise refusal(
            "tcb",
            "the certificate is for other firmware than the report states",
            expected=_listed(versions["reported_tcb"]),
            got=_listed(chain.tcb),
            likely="the host was updated, and its certificate was not fetched again",
        )
    if chain.hwid is not None and any(report.chip_id):
        _uses(check, of, report, "chip_id", "compared with the certificate's HWID")
        if report.chip_id != chain.hwid.ljust(len(report.chip_id), b"\0"):
            raise refusal(
                "chip",
                "the certificate is for another processor than the report",
                expected=report.chip_id.hex(),
                got=chain.hwid.hex(),
                likely="the certificate of another host was sent",
            )
    return versions


def _require_signature(report: UnverifiedReport, chain: CheckedChain) -> None:
    try:
        chain.key.verify(encode_dss_signature(*report.signature), report.signed, _ECDSA)
    except InvalidSignature as error:
        raise AttestationError(
            "the report was altered after it was signed",
            code="quote.signature",
            step="quote",
            expected=f"a signature by the {chain.signing_key.upper()} of this chip and firmware",
            got="a signature that does not verify",
        ) from error


def _require_guest_policy(report: UnverifiedReport, checks: Checklist, of: str) -> None:
    """Refuse a platform that is not as the guest's policy demands: firmware would never have launched it there."""
    contradictions = [name for name in _DEMANDED if name in report.policy and name not in report.platform]
    if "smt" in report.platform and "smt" not in report.policy:
        contradictions.append("smt")
    if contradictions:
        with checks.check("debug", expected="a platform as the guest's own policy demands") as check:
            for name in ("policy", "platform_info"):
                _uses(check, of, report, name, "compared with each other")
            raise AttestationError(
                "the platform is not as the guest's own policy demands",
                code="platform.guest_policy",
                expected=f"guest policy: {', '.join(sorted(report.policy)) or 'nothing'}",
                got=f"platform: {', '.join(sorted(report.platform)) or 'nothing'}; contradiction: {contradictions[0]}",
                likely="simultaneous multithreading is on although the guest forbids it, or a protection is off",
            )


def _require_tcb_order(report: UnverifiedReport, versions: _Versions, checks: Checklist, of: str) -> None:
    """Refuse a report whose key is bound to newer firmware than is committed, or that is committed but not running.

    Reported, committed and current TCB never decrease in this order (ABI specification, section 3.3); the TCB at
    launch may be older than all of them, or newer than what was rolled back to since.
    """
    reported, committed, current = (versions[name] for name in ("reported_tcb", "committed_tcb", "current_tcb"))
    if all(reported[part] <= committed[part] <= current[part] for part in reported):
        return
    with checks.check("tcb", expected="reported <= committed <= current") as check:
        for name in ("reported_tcb", "committed_tcb", "current_tcb"):
            _uses(check, of, report, name, "compared with each other")
        raise AttestationError(
            "the versions of the firmware in the report contradict each other",
            code="tcb.rollback",
            expected="reported <= committed <= current",
            got=f"reported {_listed(reported)}; committed {_listed(committed)}; current {_listed(current)}",
            likely="older firmware was loaded than the platform had committed to",
        )


def _claims(report: UnverifiedReport, chain: CheckedChain, versions: _Versions, *, tee: TEE, of: str) -> Claims:
    parts = chain.product.tcb
    flags = {name: name in report.policy for name in _POLICY_FLAGS}
    flags |= {name: name in report.platform for name in PLATFORM_BITS}
    return Claims(
        tee=tee,
        simulated=chain.simulated,
        anchor=chain.anchor.name,
        report_data=report.field("report_data"),
        measurements={name: report.field(name).hex() for name in REGISTERS},
        svns={"guest_svn": report.guest_svn}
        | {f"{name.removesuffix('_tcb')}_{part}": versions[name][part] for name in TCBS for part in parts},
        debug="debug" in report.policy,
        flags=flags,
        chip_id=report.chip_id.hex() if any(report.chip_id) else "",
        product=chain.product.name,
        signing_key=chain.signing_key,
        tcb={part: min(versions[name][part] for name in TCBS) for part in parts},
        vmpl=report.vmpl,
        crl_checked=chain.crl_checked,
        locations={
            claim: Location(of, *PLACES[place])
            for claim, place in _LOCATIONS.items()
            if claim != "product" or report.cpu is not None
        },
        not_after=min(window.not_after for window in chain.windows),
    )


def _uses(check: OpenCheck, of: str, report: UnverifiedReport, name: str, use: str) -> None:
    check.uses(of, *PLACES[name], use, report.field(name).hex())


def _listed(versions: dict[str, int]) -> str:
    return " ".join(f"{part} {version}" for part, version in versions.items())
