"""What a policy requires of firmware and microcode: the step `tcb` of an appraisal, which differs by vendor.

Intel judges its platforms and publishes the verdict as a status; AMD publishes versions only, which the policy judges
itself; of a TPM's host nothing is published that one could hold against it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from blindai.attestation.anchors import AMD_TEES
from blindai.attestation.claims import Claims
from blindai.attestation.evidence import TEE
from blindai.attestation.policy import Policy
from blindai.attestation.policy.reference_values import NOT_REPORTED
from blindai.attestation.policy.tcb import OUT_OF_DATE_STATUSES, REVOKED
from blindai.attestation.result import OpenCheck
from blindai.errors import AttestationError

_LIKELY_TCB = {
    "OutOfDate": "the host lacks a firmware or microcode update",
    "OutOfDateConfigurationNeeded": "the host lacks a firmware or microcode update and a BIOS setting",
    "ConfigurationNeeded": "a BIOS setting of the host leaves a known weakness open",
    "ConfigurationAndSWHardeningNeeded": "a BIOS setting of the host leaves a known weakness open",
    "SWHardeningNeeded": "the code in the enclave has to work around a known weakness of the processor",
    "TDRelaunchAdvised": "the host was updated, but the trust domain still runs as it was launched before",
    "TDRelaunchAdvisedConfigurationNeeded": "the host was updated, but the trust domain was not launched anew",
}


def unrequired(claims: Claims, policy: Policy) -> str:
    """Why the policy requires nothing of this platform's firmware, or an empty string if it does."""
    if claims.tee is TEE.TPM:
        return "a TPM reports no TCB status"
    if claims.tee in AMD_TEES and not policy.amd.require_crl and not policy.amd.minimum_tcb.get(claims.product):
        return f"{_versions(claims.tcb)}: the policy asks for no versions of {claims.product}'s firmware"
    return ""


def require(claims: Claims, policy: Policy, now: datetime, check: OpenCheck) -> None:
    """Refuse firmware and microcode that the policy does not accept; notes on `check` what was compared.

    Raises:
        AttestationError: `tcb.crl` or `tcb.floor` (AMD); `tcb.revoked`, `tcb.status`, `tcb.grace`,
            `tcb.evaluation_number` or `tcb.advisory` (Intel).
    """
    (_require_versions if claims.tee in AMD_TEES else _require_status)(claims, policy, now, check)


def ends(claims: Claims, policy: Policy) -> list[datetime]:
    """The moments at which the policy stops accepting this platform by itself."""
    if claims.tcb_status in OUT_OF_DATE_STATUSES and claims.tcb_date is not None:
        return [claims.tcb_date + timedelta(days=policy.tcb.grace_days)]
    return []


def _require_versions(claims: Claims, policy: Policy, _now: datetime, check: OpenCheck) -> None:
    floor = policy.amd.minimum_tcb.get(claims.product, {})
    place = policy.place("amd", "minimum_tcb", claims.product)
    revocation = "revocation list" if policy.amd.require_crl else ""
    floors = " ".join(f"{part}>={version}" for part, version in floor.items())
    check.expected = "; ".join(filter(None, [revocation, floors]))
    check.got = f"{'revocation list' if claims.crl_checked else 'no revocation list'}; {_versions(claims.tcb)}"
    if policy.amd.require_crl and not claims.crl_checked:
        raise AttestationError(
            "no revocation list says whether the platform's certificates still hold",
            code="tcb.crl",
            expected=f"AMD's revocation list beside the certificates ({policy.place('amd', 'require_crl')})",
            got="none",
            likely="the enclave's host does not fetch it from AMD's key distribution service (KDS)",
        )
    if floor:
        check.compares(claims, "tcb", _versions(claims.tcb))
    below = [part for part, version in floor.items() if claims.tcb.get(part, -1) < version]
    if below:
        part = below[0]
        raise AttestationError(
            "the host's firmware or microcode is older than you accept",
            code="tcb.floor",
            expected=f"{part} at least {floor[part]} ({policy.place('amd', 'minimum_tcb', claims.product, part)})",
            got=f"{part} {claims.tcb.get(part, NOT_REPORTED)}",
            likely="the host lacks a firmware or microcode update, or went back to an older one",
        )
    if floor:
        check.expected += f" ({place})"


def _require_status(claims: Claims, policy: Policy, now: datetime, check: OpenCheck) -> None:
    required = policy.tcb
    status, number = claims.tcb_status, claims.tcb_evaluation_data_number
    date = "of unknown date" if claims.tcb_date is None else f"of {claims.tcb_date:%Y-%m-%d}"
    check.expected = " or ".join(required.statuses)
    check.got = ", ".join([f"{status or NOT_REPORTED} {date}", f"evaluation data {number}", *claims.advisories])
    place = policy.place("tcb", "statuses")
    if status == REVOKED:
        raise AttestationError(
            "the platform is revoked: its attestation keys may be in anyone's hands",
            code="tcb.revoked",
            got=status,
            likely="the processor has a flaw that no update repairs, or its keys were extracted",
        )
    if status not in required.statuses:
        raise AttestationError(
            "the host's firmware or microcode is not in a state that you accept",
            code="tcb.status",
            expected=f"{check.expected} ({place})",
            got=status or NOT_REPORTED,
            likely=_LIKELY_TCB.get(status, "a status that is newer than this release"),
            hint=f"ask the operator to update, or list {status} under [tcb] statuses" if status else "",
        )
    if status in OUT_OF_DATE_STATUSES:
        _require_grace(claims, policy, now)
    if number < required.minimum_evaluation_data_number:
        raise AttestationError(
            "the platform was judged by TCB data that are too old",
            code="tcb.evaluation_number",
            expected=f"at least {required.minimum_evaluation_data_number} "
            f"({policy.place('tcb', 'minimum_evaluation_data_number')})",
            got=str(number),
            likely="the operator holds back newer collateral, which may say that the platform is out of date",
        )
    denied = [advisory for advisory in claims.advisories if advisory in required.denied_advisories]
    if denied:
        raise AttestationError(
            "a security advisory that you do not accept applies to the platform",
            code="tcb.advisory",
            expected=f"none of {', '.join(required.denied_advisories)} ({policy.place('tcb', 'denied_advisories')})",
            got=", ".join(denied),
            likely=_LIKELY_TCB.get(status, "the host lacks a firmware or microcode update"),
        )


def _require_grace(claims: Claims, policy: Policy, now: datetime) -> None:
    days, date = policy.tcb.grace_days, claims.tcb_date
    if date is None or now >= date + timedelta(days=days):
        raise AttestationError(
            "the host's firmware or microcode has been out of date for longer than you accept",
            code="tcb.grace",
            expected=f"a TCB level of the last {days} days ({policy.place('tcb', 'grace_days')})",
            got="a TCB level of unknown date" if date is None else f"a TCB level of {date:%Y-%m-%d}",
            likely=_LIKELY_TCB[claims.tcb_status],
        )


def _versions(tcb: dict[str, int]) -> str:
    return " ".join(f"{part} {version}" for part, version in tcb.items()) or NOT_REPORTED
