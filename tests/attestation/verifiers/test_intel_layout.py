"""Every byte range that an explained verdict names, checked by hand: with hashlib and one ECDSA verification."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from tests.attestation.simulation import NOW, anchor, collateral_of, good
from tests.attestation.verifiers.test_intel_vectors import load

from blindai.attestation.anchors import INTEL_SGX_ROOT, Anchor
from blindai.attestation.claims import Claims
from blindai.attestation.evidence import Evidence
from blindai.attestation.result import Check, Checklist
from blindai.attestation.verifiers import verify

SUMMER = datetime(2025, 7, 1, tzinfo=UTC)
KINDS = ["sgx-v3", "tdx-v4", "tdx-v5", "sgx_v3", "tdx_v4"]
Case = tuple[Evidence, Claims, dict[str, Check]]


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, vectors: Path) -> Case:
    """Simulated and real evidence, its claims, and the checks by step."""
    real = "_" in request.param
    evidence = load(vectors, request.param) if real else good(request.param)
    anchors: tuple[Anchor, ...] = (INTEL_SGX_ROOT,) if real else (anchor(),)
    checks = Checklist()
    claims = verify(evidence, anchors=anchors, now=SUMMER if real else NOW, checks=checks)
    return evidence, claims, {check.step: check for check in checks.checks}


def verified(key: ec.EllipticCurvePublicKey, signature: bytes, digest: str) -> None:
    der = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    key.verify(der, bytes.fromhex(digest), ec.ECDSA(Prehashed(hashes.SHA256())))


def test_the_ranges_of_the_quote_suffice_to_verify_it_by_hand(case: Case) -> None:
    evidence, _, checks = case
    ranges = checks["quote"].ranges
    parts = [evidence.quote[part.start : part.end] for part in ranges]
    body, signature, key, auth_data, hashed_key, qe_report, qe_signature = parts
    assert hashlib.sha256(body).hexdigest() == ranges[0].value
    attestation_key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + key)
    verified(attestation_key, signature, ranges[0].value)
    assert hashlib.sha256(key + auth_data).hexdigest() == ranges[2].value == ranges[4].value == hashed_key.hex()
    (chain,) = (part for part in checks["endorsements"].ranges if part.of == "quote")
    pck = x509.load_pem_x509_certificates(evidence.quote[chain.start : chain.end])[0].public_key()
    assert isinstance(pck, ec.EllipticCurvePublicKey)
    assert hashlib.sha256(qe_report).hexdigest() == ranges[5].value
    verified(pck, qe_signature, ranges[5].value)


def test_the_documents_of_the_collateral_are_those_that_were_hashed(case: Case) -> None:
    evidence, _, checks = case
    collateral = collateral_of(evidence)
    told = {part.of: part for part in checks["endorsements"].ranges}
    for name, data in (
        ("tcb_info", collateral.tcb_info.encode()),
        ("qe_identity", collateral.qe_identity.encode()),
        ("root_ca_crl", bytes.fromhex(collateral.root_ca_crl)),
        ("pck_crl", bytes.fromhex(collateral.pck_crl)),
    ):
        assert (told[name].start, told[name].end) == (0, len(data))
        assert told[name].value == hashlib.sha256(data).hexdigest()


def test_every_certificate_is_named_once_by_its_fingerprint(case: Case) -> None:
    evidence, _, checks = case
    collateral = collateral_of(evidence)
    ranges = checks["endorsements"].ranges
    (chain,) = (part for part in ranges if part.of == "quote")
    texts = [
        evidence.quote[chain.start : chain.end],
        *(text.encode() for text in (collateral.tcb_info_issuer_chain, collateral.qe_identity_issuer_chain)),
    ]
    certificates = {item for text in texts for item in x509.load_pem_x509_certificates(text)}
    told = [part.value for part in ranges if "signed by" in part.use and "DER" in part.use]
    assert sorted(told) == sorted(item.fingerprint(hashes.SHA256()).hex() for item in certificates)


def test_every_claim_stands_where_it_is_said_to_stand(case: Case) -> None:
    evidence, claims, _ = case

    def at(name: str) -> bytes:
        place = claims.locations[name]
        assert place.of == "quote"
        return evidence.quote[place.start : place.end]

    assert at("report_data") == claims.report_data
    for register, value in claims.measurements.items():
        assert at(register).hex() == value, register
    for name, number in claims.svns.items():
        if name not in {"pce_svn", "qe_svn"}:  # of a certificate and of the quoting enclave
            assert int.from_bytes(at(name), "little") == number, name
    assert at("debug") == at("flags")
    bits = int.from_bytes(at("flags"), "little")
    assert bool(bits >> (1 if "mrenclave" in claims.measurements else 0) & 1) == claims.debug
