"""Appraise evidence: decide, by a policy, whether to talk to the enclave that sent it.

The steps are those of `result.STEPS`, in that order:

    channel                         recorded by the caller beforehand, where there is a connection
    evidence, endorsements, quote   `verifiers`: the first failure ends the appraisal, as nothing can be believed then
    binding                         report_data is what this connection requires, and nothing relied on has run out
    platform, debug, tcb            kind of TEE, simulation, processor; attributes; firmware and microcode
    code, hardware, config          registers and configuration against the policy's reference values
    devices                         GPUs and switches: genuine, fresh, all there, as the policy lists them

The steps from `binding` on are those of `requirements` and `devices`. All of them are made even if one
fails, so that the result shows the whole picture; the first failure is what is raised. Left to the caller: that the
keyset in the statement names the key of this connection, and to ask `AttestationResult.require_valid` before every
request.

docs/reference/codes.md lists every code.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import NoReturn

from blindai.attestation.appraisal.devices import appraise_devices
from blindai.attestation.appraisal.requirements import Binding, Requirements, utc
from blindai.attestation.claims import Claims, DeviceClaims
from blindai.attestation.evidence import Activation, Evidence
from blindai.attestation.policy import Policy
from blindai.attestation.result import STEPS, AttestationResult, Check, Checklist, Mode, Status
from blindai.attestation.verifiers import verify
from blindai.errors import AttestationError

__all__ = ["Binding", "abbreviated", "appraise"]

NOT_REACHED = "not reached"

_LONG_HEX = re.compile(r"\b[0-9a-f]{16,}\b")


def appraise(
    evidence: Evidence,
    *,
    policy: Policy,
    binding: Binding,
    config_digest: str,
    now: datetime,
    not_after: datetime,
    keyset_digest: str = "",
    checks: Checklist | None = None,
    activation: Activation | None = None,
    device_nonce: bytes | None = None,
) -> AttestationResult:
    """Verify `evidence` and hold it against `policy`. Pure: no clock, no network, no file.

    Args:
        evidence: what the attester sent; nothing in it is believed before it is verified.
        policy: what is required.
        binding: the report data that this connection requires.
        config_digest: of the measured configuration, as the statement behind `binding` commits to it; lower-case hex.
        now: the time of the appraisal, with a time zone.
        not_after: end of validity of the enclave's keyset.
        keyset_digest: noted in the result, so that later connections can resume on it.
        checks: what was checked before, to which the steps are added.
        activation: of the attestation key, where the TEE is a TPM.
        device_nonce: what GPUs and switches must have signed; without it, evidence that has any is refused.

    Returns:
        An affirming result, valid for this connection until `expires_at`: the earliest end of the collateral, the
        certificates (those of devices too), the keyset and the policy's grace.

    Raises:
        AttestationError: the first check that failed, with the whole contraindicated result in `.result`.
    """
    checks = Checklist() if checks is None else checks
    if not checks.checks:
        checks.skip("channel", got="no connection: appraised on its own")

    devices: tuple[DeviceClaims, ...] = ()

    def refuse(error: AttestationError, claims: Claims | None) -> NoReturn:
        error.expected, error.got = abbreviated(error.expected), abbreviated(error.got)
        if not error.hint and error.code.endswith(("expired", "not_yet_valid")):
            error.hint = f"check the clock of this computer, which says {utc(now)}"
        error.result = AttestationResult(
            status=Status.CONTRAINDICATED,
            checks=_in_order(checks),
            mode=Mode.FRESH,
            policy_digest=policy.digest,
            claims=claims,
            devices=devices,
            code=error.code,
            step=error.step,
            keyset_digest=keyset_digest,
        )
        raise error

    try:
        claims = verify(evidence, anchors=policy.anchors(), now=now, checks=checks, activation=activation)
    except AttestationError as error:
        checks.skip_rest(NOT_REACHED)
        refuse(error, None)

    requirements = Requirements(claims, policy, binding, config_digest, now, not_after)
    refusals: list[AttestationError] = []
    for step, require in requirements.steps():
        reason = requirements.unrequired(step)
        if reason:
            checks.skip(step, got=reason)
            continue
        try:
            with checks.check(step) as check:
                require(check)
        except AttestationError as error:
            refusals.append(error)
    devices = appraise_devices(
        evidence.devices, policy=policy, nonce=device_nonce, now=now, checks=checks, refusals=refusals
    )
    if refusals:
        refuse(refusals[0], claims)
    return AttestationResult(
        status=Status.AFFIRMING,
        checks=_in_order(checks),
        mode=Mode.FRESH,
        policy_digest=policy.digest,
        claims=claims,
        devices=devices,
        expires_at=min([*requirements.ends(), *(device.not_after for device in devices)]),
        keyset_digest=keyset_digest,
    )


def abbreviated(text: str) -> str:
    """`text` with long hex cut to its ends, `9f3a..1c`: for people, never for a comparison."""
    return _LONG_HEX.sub(lambda match: f"{match[0][:4]}..{match[0][-2:]}", text)


def _in_order(checks: Checklist) -> tuple[Check, ...]:
    """A verifier may refuse in the name of a later step (debug, tcb): results list the steps in their order."""
    order = list(STEPS)
    return tuple(sorted(checks.checks, key=lambda check: order.index(check.step)))
