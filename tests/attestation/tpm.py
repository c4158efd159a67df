"""Evidence of simulated TPMs, good and tampered with, at a fixed time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
import pytest

from blindai.attestation.anchors import Anchor
from blindai.attestation.claims import Claims
from blindai.attestation.credential import make_credential
from blindai.attestation.evidence import Activation, Evidence, TpmIdentity, TpmQuote
from blindai.attestation.result import Checklist, Outcome
from blindai.attestation.simulated.tpm import SimulatedTpm
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot
from blindai.attestation.verifiers import verify
from blindai.errors import AttestationError

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
SECRET = b"s" * 32


@cache
def root() -> SimulatedTpmRoot:
    return SimulatedTpmRoot.generate(NOW)


def tpm(**options: Any) -> SimulatedTpm:
    """A TPM of its own, booted."""
    one = SimulatedTpm(root(), clock=lambda: NOW, **options)
    one.boot()
    return one


@cache
def healthy() -> SimulatedTpm:
    """One for all tests that leave it as it is."""
    return tpm()


@cache
def good() -> Evidence:
    return healthy().attest(REPORT_DATA)


def activation(one: SimulatedTpm | None = None) -> Activation:
    """What a relying party has of a TPM that opened its credential."""
    one = one or healthy()
    made = make_credential(one.ek_public, one.ak_public.name, SECRET)
    answer = one.activate(made.blob, made.encrypted_secret)
    return Activation(ek_public=one.ek_public.raw, ak_name=one.ak_public.name, secret=SECRET, answer=answer)


def quote_of(evidence: Evidence) -> TpmQuote:
    assert evidence.tpm is not None
    return evidence.tpm


def identity_of(evidence: Evidence) -> TpmIdentity:
    assert evidence.tpm_identity is not None
    return evidence.tpm_identity


def with_quote(evidence: Evidence, **fields: Any) -> Evidence:
    return msgspec.structs.replace(evidence, tpm=msgspec.structs.replace(quote_of(evidence), **fields))


def with_identity(evidence: Evidence, **fields: Any) -> Evidence:
    return msgspec.structs.replace(evidence, tpm_identity=msgspec.structs.replace(identity_of(evidence), **fields))


def accepted(
    evidence: Evidence,
    *,
    activated: Activation | None = None,
    anchors: Sequence[Anchor] | None = None,
    now: datetime = NOW,
) -> Claims:
    """Verify, and see that the three steps passed."""
    checks = Checklist()
    claims = verify(
        evidence,
        anchors=(root().anchor,) if anchors is None else anchors,
        now=now,
        checks=checks,
        activation=activated or activation(),
    )
    assert [(check.step, check.outcome) for check in checks.checks] == [
        ("evidence", Outcome.PASS),
        ("endorsements", Outcome.PASS),
        ("quote", Outcome.PASS),
    ]
    return claims


def refused(
    evidence: Evidence,
    step: str,
    code: str,
    *,
    activated: Activation | None = None,
    anchors: Sequence[Anchor] | None = None,
    now: datetime = NOW,
) -> AttestationError:
    """Verify, and see that it was refused here, in the one and last check that failed."""
    checks = Checklist()
    with pytest.raises(AttestationError) as caught:
        verify(
            evidence,
            anchors=(root().anchor,) if anchors is None else anchors,
            now=now,
            checks=checks,
            activation=activated or activation(),
        )
    *before, last = checks.checks
    assert (caught.value.step, caught.value.code) == (step, code)
    assert (last.step, last.outcome, last.code) == (step, Outcome.FAIL, code)
    assert all(check.outcome is Outcome.PASS for check in before)
    return caught.value
