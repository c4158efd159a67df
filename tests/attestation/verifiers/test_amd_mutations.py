"""Changed SEV-SNP evidence: nothing is accepted that differs where a signature covers it, and the oracle agrees."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.attestation import snp, snp_oracle
from tests.attestation.snp import NOW, endorsements_of, good, with_endorsements, with_report

from blindai.attestation.anchors import AMD_ROOTS, Anchor
from blindai.attestation.evidence import TEE, AmdEndorsements, Evidence
from blindai.attestation.result import Checklist
from blindai.attestation.verifiers import verify
from blindai.errors import AttestationError
from mutations import mutations, run

KINDS = [("Milan", 2, "vcek"), ("Genoa", 3, "vlek"), ("Turin", 5, "vcek")]


def real(vectors: Path) -> Evidence:
    folder = vectors / "amd"
    chain = x509.load_pem_x509_certificates((folder / "ask_ark_milan.pem").read_bytes())
    ask, ark = (certificate.public_bytes(Encoding.DER) for certificate in chain)
    endorsements = AmdEndorsements((folder / "milan_v2_vcek.der").read_bytes(), ask, ark)
    return Evidence(TEE.AMD_SEV_SNP, (folder / "milan_v2_report.bin").read_bytes(), amd=endorsements)


def judged(evidence: Evidence, anchor: Anchor, now: datetime) -> bool:
    """Whether it is accepted; both verifiers must say the same."""
    endorsements = endorsements_of(evidence)
    chain = [endorsements.certificate, endorsements.authority, endorsements.root]
    try:
        report_data = snp_oracle.verify(evidence.quote, chain, endorsements.crl, anchor.spki_sha256, now).report_data
    except snp_oracle.Refused:
        report_data = None
    try:
        claims = verify(evidence, anchors=(anchor,), now=now, checks=Checklist())
    except AttestationError:
        assert report_data is None, "only the oracle accepts this"
        raise
    assert report_data == claims.report_data, "only the verifier accepts this"
    return True


def judge(
    evidence: Evidence, change: Callable[[Evidence, bytes], Evidence], anchor: Anchor, now: datetime
) -> Callable[[bytes], object]:
    return lambda data: judged(change(evidence, data), anchor, now)


def replacing(place: str) -> Callable[[Evidence, bytes], Evidence]:
    return lambda evidence, data: with_endorsements(evidence, **{place: data})


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_no_bit_of_a_report_can_be_changed(kind: tuple[str, int, str]) -> None:
    """All of its 1184 bytes: what is not signed is the signature, or must be zeros."""
    evidence = good(*kind)
    tally = run(
        judge(evidence, with_report, snp.anchor(), NOW),
        mutations(evidence.quote, signed=[(0, len(evidence.quote))], flips=None if kind[1] == 3 else 2000),
    )
    assert tally.tried > 2500
    assert tally.accepted == 0
    assert {"quote.signature", "evidence.malformed", "evidence.unsupported"} <= set(tally.codes)


def test_no_bit_of_a_real_report_can_be_changed(vectors: Path) -> None:
    evidence = real(vectors)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    tally = run(
        judge(evidence, with_report, AMD_ROOTS[0], now),
        mutations(evidence.quote, signed=[(0, len(evidence.quote))], flips=1000),
    )
    assert tally.accepted == 0


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("place", ["certificate", "authority", "root", "crl"])
def test_no_bit_of_a_certificate_or_list_can_be_changed(kind: tuple[str, int, str], place: str) -> None:
    evidence = good(*kind)
    data = getattr(endorsements_of(evidence), place)
    tally = run(
        judge(evidence, replacing(place), snp.anchor(), NOW), mutations(data, signed=[(0, len(data))], flips=400)
    )
    assert tally.tried > 900
    assert tally.accepted == 0


@pytest.mark.parametrize("place", ["certificate", "authority", "root"])
def test_no_bit_of_a_real_certificate_can_be_changed(vectors: Path, place: str) -> None:
    evidence = real(vectors)
    data = getattr(endorsements_of(evidence), place)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    tally = run(
        judge(evidence, replacing(place), AMD_ROOTS[0], now), mutations(data, signed=[(0, len(data))], flips=400)
    )
    assert tally.accepted == 0


FAULTS = [
    {},
    {"masked_chip": True},
    {"without_crl": True},
    {"other_chip": True},
    {"other_signing_key": True},
    {"other_authority": True},
    {"authority_product": "Genoa"},
    {"cpu": "Turin"},
    {"policy": frozenset({"debug"})},
    {"policy": frozenset({"smt"})},
    {"policy": frozenset({"ciphertext_hiding"})},
    {"vmpl": 3},
    {"vmpl": 4},
    {"masked_key": True},
    {"revoked": frozenset({"signer"})},
    {"revoked": frozenset({"authority"})},
    {"certificate_tcb": {"snp": 1}},
    {"tcbs": {"reported_tcb": {"snp": 99}}},
    {"tcbs": {"current_tcb": {"snp": 99}}},
    {"tcbs": {"committed_tcb": {"snp": 99}}},
    {"tcbs": {"launch_tcb": {"snp": 99}}},
]


@pytest.mark.parametrize("faults", FAULTS, ids=str)
@pytest.mark.parametrize("key", ["vcek", "vlek"])
@pytest.mark.parametrize("product", ["Milan", "Turin"])
def test_the_oracle_agrees_on_every_fault(product: str, key: str, faults: dict[str, object]) -> None:
    if faults.get("cpu") == product:
        faults = {"cpu": "Genoa"}
    evidence = snp.platform(product=product, signing_key=key, **faults).attest(snp.REPORT_DATA)
    with suppress(AttestationError):
        judged(evidence, snp.anchor(), NOW)
