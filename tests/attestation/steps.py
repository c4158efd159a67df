"""All steps of `Requirements` on claims that a test makes up, and the one refusal that it means to provoke."""

from __future__ import annotations

from typing import Any

import msgspec

from blindai.attestation.appraisal.requirements import Requirements
from blindai.attestation.claims import Claims
from blindai.attestation.evidence import TEE, committed
from blindai.attestation.result import Check, Checklist, Outcome
from blindai.errors import AttestationError

REPORT_DATA = bytes(range(64))


class FixedBinding:
    def committed(self, tee: TEE) -> bytes:
        return committed(tee, REPORT_DATA)

    def refusal(self, got: bytes) -> AttestationError:
        return AttestationError("not for this connection", code="binding.report_data", step="binding", got=got.hex())


def changed(claims: Claims, **fields: Any) -> Claims:
    return msgspec.structs.replace(claims, **fields)


def walk(required: Requirements) -> tuple[list[AttestationError], dict[str, Check]]:
    """Every refusal and every check, with each step made whatever the others say."""
    checks, refusals = Checklist(), []
    for step, require in required.steps():
        if reason := required.unrequired(step):
            checks.skip(step, got=reason)
            continue
        try:
            with checks.check(step) as check:
                require(check)
        except AttestationError as error:
            refusals.append(error)
    return refusals, {check.step: check for check in checks.checks}


def refusal(required: Requirements, step: str, code: str) -> AttestationError:
    """The one refusal, which is of this step and code; all other steps accept."""
    refusals, checks = walk(required)
    assert [(error.step, error.code) for error in refusals] == [(step, code)]
    assert [check.step for check in checks.values() if check.outcome is Outcome.FAIL] == [step]
    assert checks[step].code == code
    return refusals[0]
