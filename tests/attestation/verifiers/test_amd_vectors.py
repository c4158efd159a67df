"""Evidence of real AMD processors, each file judged as its folder's README says, by the verifier and by the oracle."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.attestation import simulation, snp_oracle

from blindai.attestation.anchors import AMD_ROOTS
from blindai.attestation.evidence import TEE, AmdEndorsements, Evidence
from blindai.attestation.verifiers import amd_certificates
from blindai.attestation.verifiers.amd_certificates import ARK, ASK, ASVK, Role
from blindai.attestation.verifiers.amd_report import parse
from blindai.attestation.verifiers.certificates import require_issued_by, spki_sha256
from blindai.errors import AttestationError

SECOND = timedelta(seconds=1)
ROOTS = {anchor.name: anchor for anchor in AMD_ROOTS}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# Report, VCEK, the first and the last second at which its certificates hold.
GENUINE = {
    "milan": ("milan_v2_report.bin", "milan_v2_vcek.der", at("2023-01-24T17:58:26"), at("2030-01-24T17:58:26")),
    "debug": (
        "milan_v2_debug_report.bin",
        "milan_v2_debug_vcek.der",
        at("2022-09-24T00:55:28"),
        at("2029-09-24T00:55:28"),
    ),
}
CHAINS = [
    (f"{kind}_{product.lower()}{suffix}.pem", product, role)
    for product in ("Milan", "Genoa", "Turin")
    for kind, suffix, role in (("ask_ark", "", ASK), ("asvk_ark", "_vlek", ASVK))
]


def chain(vectors: Path, name: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((vectors / "amd" / name).read_bytes())


def load(vectors: Path, report: str, vcek: str, *, chain_file: str = "ask_ark_milan.pem") -> Evidence:
    ask, ark = (certificate.public_bytes(Encoding.DER) for certificate in chain(vectors, chain_file))
    folder = vectors / "amd"
    endorsements = AmdEndorsements((folder / vcek).read_bytes(), ask, ark)
    return Evidence(TEE.AMD_SEV_SNP, (folder / report).read_bytes(), amd=endorsements)


def judged_by_oracle(evidence: Evidence, now: datetime) -> snp_oracle.Accepted:
    assert evidence.amd is not None
    certificates = [evidence.amd.certificate, evidence.amd.authority, evidence.amd.root]
    return snp_oracle.verify(evidence.quote, certificates, None, ROOTS["ARK-Milan"].spki_sha256, now)


@pytest.mark.parametrize("name", GENUINE)
@pytest.mark.parametrize("end", [0, 1], ids=["first second", "last second"])
def test_a_genuine_report_is_accepted_for_as_long_as_its_vcek_is_valid(vectors: Path, name: str, end: int) -> None:
    report, vcek, *validity = GENUINE[name]
    evidence = load(vectors, report, vcek)
    claims = simulation.accepted(evidence, anchors=AMD_ROOTS, now=validity[end])
    assert (claims.tee, claims.simulated, claims.anchor) == (TEE.AMD_SEV_SNP, False, "ARK-Milan")
    assert claims.not_after == validity[1]
    assert judged_by_oracle(evidence, validity[end]).report_data == claims.report_data


@pytest.mark.parametrize("name", GENUINE)
def test_one_second_outside_it_is_refused(vectors: Path, name: str) -> None:
    report, vcek, start, end = GENUINE[name]
    evidence = load(vectors, report, vcek)
    for now, code in ((start - SECOND, "not_yet_valid"), (end + SECOND, "expired")):
        error = simulation.refused(evidence, anchors=AMD_ROOTS, now=now)
        assert (error.step, error.code) == ("endorsements", f"endorsements.certificate.{code}")
        with pytest.raises(snp_oracle.Refused):
            judged_by_oracle(evidence, now)


def test_the_report_says_what_it_says(vectors: Path) -> None:
    report, vcek, *_, now = GENUINE["milan"]
    claims = simulation.accepted(load(vectors, report, vcek), anchors=AMD_ROOTS, now=now)
    assert (claims.product, claims.signing_key, claims.vmpl, claims.crl_checked) == ("Milan", "vcek", 0, False)
    assert claims.tcb == {"boot_loader": 3, "tee": 0, "snp": 8, "microcode": 115}
    assert [claims.svns[name] for name in ("guest_svn", "current_microcode", "launch_microcode")] == [4, 206, 115]
    assert claims.measurements["launch_digest"].startswith("a1f3930413247bb3")
    assert claims.measurements["id_key_digest"].startswith("0356215882a82527")
    assert claims.measurements["host_data"] == "00" * 32
    assert (claims.measurements["family_id"], claims.measurements["image_id"]) == ("01" + "00" * 15, "02" + "00" * 15)
    assert claims.chip_id.startswith("c38427a30d4c7af9")
    assert not claims.debug
    assert {name for name, is_set in claims.flags.items() if is_set} == {"smt"}


def test_the_signature_of_the_debug_report_is_good_and_debug_is_left_to_the_policy(vectors: Path) -> None:
    report, vcek, now, _ = GENUINE["debug"]
    evidence = load(vectors, report, vcek)
    claims = simulation.accepted(evidence, anchors=AMD_ROOTS, now=now)
    assert claims.debug
    assert judged_by_oracle(evidence, now).debug


@pytest.mark.parametrize("vcek", ["milan_v2_vcek_bad_legacy.der", "milan_v2_vcek_bad_new.der"])
def test_a_vcek_that_the_ask_did_not_sign_is_refused(vectors: Path, vcek: str) -> None:
    evidence = load(vectors, GENUINE["milan"][0], vcek)
    now = at("2026-01-01T00:00:00")
    error = simulation.refused(evidence, anchors=AMD_ROOTS, now=now)
    assert (error.step, error.code) == ("endorsements", "endorsements.chain")
    assert error.expected == "SEV-VCEK signed by SEV-Milan"
    with pytest.raises(snp_oracle.Refused):
        judged_by_oracle(evidence, now)


@pytest.mark.parametrize(("name", "product", "role"), CHAINS, ids=[name for name, *_ in CHAINS])
def test_amds_chains_end_on_the_anchors_and_have_their_roles(
    vectors: Path, name: str, product: str, role: Role
) -> None:
    authority, root = chain(vectors, name)
    assert spki_sha256(root) == ROOTS[f"ARK-{product}"].spki_sha256
    for certificate, issuer, of in ((root, root, ARK), (authority, root, role)):
        amd_certificates._require_role(certificate, of, of.name.format(product))
        require_issued_by(certificate, issuer)


@pytest.mark.parametrize("name", [name for name, product, role in CHAINS if (product, role) != ("Milan", ASK)])
def test_a_genuine_vcek_under_another_chain_is_refused(vectors: Path, name: str) -> None:
    evidence = load(vectors, *GENUINE["milan"][:2], chain_file=name)
    error = simulation.refused(evidence, anchors=AMD_ROOTS, now=GENUINE["milan"][3])
    code = "endorsements.role" if name.startswith("asvk") else "endorsements.chain"
    assert (error.step, error.code) == ("endorsements", code)


def test_the_certificates_of_one_chip_do_not_vouch_for_another(vectors: Path) -> None:
    evidence = load(vectors, "milan_v2_report.bin", "milan_v2_debug_vcek.der")
    error = simulation.refused(evidence, anchors=AMD_ROOTS, now=at("2026-01-01T00:00:00"))
    assert (error.step, error.code) == ("endorsements", "endorsements.tcb")


def test_genuine_evidence_under_no_anchor_of_amd_is_refused(vectors: Path) -> None:
    report, vcek, *_, now = GENUINE["milan"]
    for anchors in ((), (simulation.anchor(),), (ROOTS["ARK-Genoa"],)):
        error = simulation.refused(load(vectors, report, vcek), anchors=anchors, now=now)
        assert (error.step, error.code) == ("endorsements", "endorsements.anchor")


def test_a_fingerprint_of_amd_under_another_vendors_name_is_no_anchor(vectors: Path) -> None:
    report, vcek, *_, now = GENUINE["milan"]
    impostor = simulation.anchor()
    anchors = (type(impostor)("x", impostor.vendor, ROOTS["ARK-Milan"].spki_sha256),)
    assert simulation.refused(load(vectors, report, vcek), anchors=anchors, now=now).code == "endorsements.anchor"


def test_azures_reports_have_the_same_layout(vectors: Path) -> None:
    """In an HCL report the hardware report stands behind a header of 32 bytes."""
    hcl = (vectors / "azure" / "snp_hcl_report.bin").read_bytes()
    report = parse(hcl[32 : 32 + 0x4A0])
    assert (report.version, report.vmpl, report.signing_key) == (2, 0, "vcek")
    with pytest.raises(AttestationError, match="malformed"):
        parse(hcl)
