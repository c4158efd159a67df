"""Simulated evidence, good and tampered with, at a fixed time."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
import pytest

from blindai.attestation.anchors import Anchor
from blindai.attestation.claims import Claims
from blindai.attestation.evidence import TEE, Evidence, IntelCollateral
from blindai.attestation.result import Checklist, Outcome
from blindai.attestation.simulated import quote as quote_layout
from blindai.attestation.simulated.certificates import Issuer
from blindai.attestation.simulated.intel import Faults, SimulatedIntel
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.attestation.verifiers import verify
from blindai.errors import AttestationError

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
REPORT_DATA = bytes(range(64))

KINDS = {
    "sgx-v3": (TEE.INTEL_SGX, 3),
    "tdx-v4": (TEE.INTEL_TDX, 4),
    "tdx-v5": (TEE.INTEL_TDX, 5),
}
Edit = Callable[[dict[str, Any]], object]


@cache
def root() -> SimulatedRoot:
    return SimulatedRoot.generate(NOW)


def anchor() -> Anchor:
    return root().anchor


def platform(
    kind: str = "tdx-v4", *, measurements: dict[str, str] | None = None, faults: Faults | None = None
) -> SimulatedIntel:
    """A platform of its own, to be changed at will."""
    tee, version = KINDS[kind]
    return SimulatedIntel(
        root(), tee=tee, quote_version=version, measurements=measurements, faults=faults, clock=lambda: NOW
    )


def healthy(kind: str = "tdx-v4") -> SimulatedIntel:
    """One platform for all tests that leave it as it is."""
    return _healthy(kind)


def good(kind: str = "tdx-v4") -> Evidence:
    return _good(kind)


@cache  # keyed by the arguments as they are given, hence apart from the defaults above
def _healthy(kind: str) -> SimulatedIntel:
    return platform(kind)


@cache
def _good(kind: str) -> Evidence:
    return healthy(kind).attest(REPORT_DATA)


def collateral_of(evidence: Evidence) -> IntelCollateral:
    assert evidence.intel_collateral is not None
    return evidence.intel_collateral


def with_collateral(evidence: Evidence, **fields: str) -> Evidence:
    """`evidence` with fields of its collateral replaced, signatures as they were."""
    replaced = msgspec.structs.replace(collateral_of(evidence), **fields)
    return msgspec.structs.replace(evidence, intel_collateral=replaced)


def with_quote(evidence: Evidence, quote: bytes) -> Evidence:
    return msgspec.structs.replace(evidence, quote=quote)


def resigned(
    source: SimulatedIntel,
    *,
    tcb_info: Edit = lambda _: None,
    qe_identity: Edit = lambda _: None,
    signer: Issuer | None = None,
    quote: bytes | None = None,
) -> Evidence:
    """Evidence whose TCB info and QE identity were edited and then signed anew, as Intel could have done."""
    evidence = source.attest(REPORT_DATA)
    collateral = collateral_of(evidence)
    key = (signer or source.pki.tcb_signer).key
    texts = [_edited(collateral.tcb_info, tcb_info), _edited(collateral.qe_identity, qe_identity)]
    signatures = [quote_layout.sign(key, text.encode()).hex() for text in texts]
    evidence = with_quote(evidence, evidence.quote if quote is None else quote)
    return with_collateral(
        evidence,
        tcb_info=texts[0],
        tcb_info_signature=signatures[0],
        qe_identity=texts[1],
        qe_identity_signature=signatures[1],
    )


def _edited(text: str, edit: Edit) -> str:
    value = json.loads(text)
    edit(value)
    return json.dumps(value, separators=(",", ":"))


def accepted(evidence: Evidence, *, anchors: tuple[Anchor, ...] | None = None, now: datetime = NOW) -> Claims:
    """Verify, and see that the three steps passed."""
    checks = Checklist()
    claims = verify(evidence, anchors=(anchor(),) if anchors is None else anchors, now=now, checks=checks)
    assert [(check.step, check.outcome) for check in checks.checks] == [
        ("evidence", Outcome.PASS),
        ("endorsements", Outcome.PASS),
        ("quote", Outcome.PASS),
    ]
    return claims


def refused(evidence: Evidence, *, anchors: tuple[Anchor, ...] | None = None, now: datetime = NOW) -> AttestationError:
    """Verify, see that it was refused, and that the refusal is the one and last check recorded as failed."""
    checks = Checklist()
    with pytest.raises(AttestationError) as caught:
        verify(evidence, anchors=(anchor(),) if anchors is None else anchors, now=now, checks=checks)
    error = caught.value
    *before, last = checks.checks
    assert (last.step, last.outcome, last.code) == (error.step, Outcome.FAIL, error.code)
    assert all(check.outcome is Outcome.PASS for check in before)
    assert str(error)
    return error


def step_and_code(evidence: Evidence, **options: Any) -> tuple[str, str]:
    error = refused(evidence, **options)
    return error.step, error.code
