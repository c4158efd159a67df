"""Endorsements that must not be believed, each refused for its own reason."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.attestation import simulation
from tests.attestation.simulation import (
    KINDS,
    NOW,
    REPORT_DATA,
    accepted,
    collateral_of,
    good,
    healthy,
    platform,
    refused,
    resigned,
    step_and_code,
    with_collateral,
    with_quote,
)

from blindai.attestation.anchors import INTEL_SGX_ROOT
from blindai.attestation.evidence import Evidence
from blindai.attestation.simulated import certificates, quote
from blindai.attestation.simulated.certificates import Issuer, Validity
from blindai.attestation.simulated.intel import Faults, SimulatedIntel
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.attestation.verifiers.intel_certificates import PCK, PCK_CA, ROOT, TCB_SIGNER, Role

VALIDITY = Validity(NOW - timedelta(days=1), NOW + timedelta(days=100))
CHAINS = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")


def endorsements(code: str) -> tuple[str, str]:
    return "endorsements", f"endorsements.{code}"


def issue(role: Role, issuer: Issuer | None, *, validity: Validity = VALIDITY, **options: Any) -> Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    return Issuer(certificates.issue(role, key, issuer=issuer, validity=validity, **options), key)


def with_chain(source: SimulatedIntel, *chain: x509.Certificate) -> Evidence:
    """Evidence of `source` whose quote carries another PCK chain. The quote's signature does not cover it."""
    evidence = source.attest(REPORT_DATA)
    old, new = source.pki.pck_chain.encode(), certificates.pem(*chain).encode()
    return with_quote(evidence, resized(evidence.quote, old, new))


def resized(original: bytes, old: bytes, new: bytes) -> bytes:
    """Replace the chain of a version 4 quote and correct the three lengths around it."""
    assert original.count(old) == 1
    changed = bytearray(original.replace(old, new))
    for at in (632, 632 + 4 + 130, 632 + 4 + 134 + 484):
        size = int.from_bytes(original[at : at + 4], "little") + len(new) - len(old)
        changed[at : at + 4] = size.to_bytes(4, "little")
    return bytes(changed)


def test_resizing_alone_changes_nothing() -> None:
    pki = healthy().pki
    accepted(with_chain(healthy(), pki.pck.certificate, pki.pck_ca.certificate, pki.root.certificate))


@pytest.mark.parametrize("kind", KINDS)
def test_a_quote_without_collateral_is_refused(kind: str) -> None:
    evidence = platform(kind, faults=Faults(without_collateral=True)).attest(REPORT_DATA)
    assert step_and_code(evidence) == endorsements("missing")


# The anchor.


def test_a_root_that_is_no_anchor_is_refused() -> None:
    error = refused(good(), anchors=(INTEL_SGX_ROOT,))
    assert (error.step, error.code) == endorsements("anchor")
    assert "Intel SGX Root CA" in error.expected
    assert "simulated" in error.likely


def test_without_anchors_everything_is_refused() -> None:
    error = refused(good(), anchors=())
    assert (error.step, error.code) == endorsements("anchor")
    assert error.expected == "no root at all"


def test_a_root_that_only_has_the_name_of_the_anchor_is_refused() -> None:
    impostor = SimulatedIntel(SimulatedRoot.generate(NOW), clock=lambda: NOW)
    assert step_and_code(impostor.attest(REPORT_DATA)) == endorsements("anchor")


def test_a_root_of_another_vendor_is_not_called_simulated() -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Evil SGX Root CA")])
    key = ec.generate_private_key(ec.SECP256R1())
    evil = _builder(name, name, key).sign(key, hashes.SHA256())
    chain = certificates.pem(healthy().pki.pck_ca.certificate, evil)
    error = refused(with_collateral(good(), pck_crl_issuer_chain=chain))
    assert (error.step, error.code) == endorsements("anchor")
    assert "forged" in error.likely


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(VALIDITY.not_before)
        .not_valid_after(VALIDITY.not_after)
    )


def test_a_root_with_the_anchors_key_but_no_signature_by_it_is_refused() -> None:
    """The key is public: anyone can put it into a certificate."""
    source = healthy()
    other = ec.generate_private_key(ec.SECP256R1())
    unsigned = certificates.issue(ROOT, source.pki.root.key, issuer=None, validity=VALIDITY)
    forged = certificates.issue(ROOT, source.pki.root.key, issuer=Issuer(unsigned, other), validity=VALIDITY)
    signer, pck_ca = source.pki.tcb_signer.certificate, source.pki.pck_ca.certificate
    evidence = with_collateral(
        good(),
        pck_crl_issuer_chain=certificates.pem(pck_ca, forged),
        tcb_info_issuer_chain=certificates.pem(signer, forged),
        qe_identity_issuer_chain=certificates.pem(signer, forged),
    )
    assert step_and_code(evidence) == endorsements("chain")


@pytest.mark.parametrize("field", CHAINS[1:])
def test_chains_that_end_on_different_certificates_of_the_root_are_refused(field: str) -> None:
    twin = certificates.issue(ROOT, healthy().pki.root.key, issuer=None, validity=VALIDITY)
    chain = certificates.pem(healthy().pki.tcb_signer.certificate, twin)
    assert step_and_code(with_collateral(good(), **{field: chain})) == endorsements("root")


def test_a_root_embedded_in_the_quote_that_differs_is_refused() -> None:
    pki = healthy().pki
    twin = certificates.issue(ROOT, pki.root.key, issuer=None, validity=VALIDITY)
    assert step_and_code(with_chain(healthy(), pki.pck.certificate, pki.pck_ca.certificate, twin)) == endorsements(
        "root"
    )


def test_no_bit_of_the_root_embedded_in_a_quote_can_be_flipped() -> None:
    """It is not on the path to the anchor, so no signature would notice."""
    evidence = good()
    start = evidence.quote.rindex(b"-----BEGIN CERTIFICATE-----")
    end = evidence.quote.rindex(b"-----END CERTIFICATE-----") + len("-----END CERTIFICATE-----\n")
    for offset in range(start, end, 7):
        changed = bytearray(evidence.quote)
        changed[offset] ^= 1 << offset % 8
        step, code = step_and_code(with_quote(evidence, bytes(changed)))
        assert step == "endorsements"
        assert code in {"endorsements.malformed", "endorsements.root"}


# Roles.


@pytest.mark.parametrize("kind", KINDS)
def test_tcb_info_signed_by_a_pck_certificate_is_refused(kind: str) -> None:
    """Every platform owns a PCK: it could call itself up to date."""
    evidence = platform(kind, faults=Faults(tcb_info_signed_by_pck=True)).attest(REPORT_DATA)
    error = refused(evidence)
    assert (error.step, error.code) == endorsements("role")
    assert error.expected == "SIMULATED SGX TCB Signing"
    assert "SIMULATED SGX PCK Certificate" in error.got


@pytest.mark.parametrize(
    "role", [Role(ROOT.names), Role(ROOT.names, path_length=0), Role(("Other Root",), path_length=1)]
)
def test_a_certificate_with_the_anchors_key_that_is_no_root_is_refused(role: Role) -> None:
    source = healthy()
    key = source.pki.root.key
    other = certificates.issue(role, key, issuer=None, validity=VALIDITY)
    signer, pck_ca = source.pki.tcb_signer.certificate, source.pki.pck_ca.certificate
    evidence = with_collateral(
        good(),
        pck_crl_issuer_chain=certificates.pem(pck_ca, other),
        tcb_info_issuer_chain=certificates.pem(signer, other),
        qe_identity_issuer_chain=certificates.pem(signer, other),
    )
    assert step_and_code(evidence) == endorsements("role")


@pytest.mark.parametrize("field", CHAINS[1:])
def test_collateral_signed_by_a_pck_ca_is_refused(field: str) -> None:
    chain = collateral_of(good()).pck_crl_issuer_chain
    assert step_and_code(with_collateral(good(), **{field: chain})) == endorsements("role")


def test_a_revocation_list_under_a_tcb_signer_is_refused() -> None:
    chain = collateral_of(good()).tcb_info_issuer_chain
    assert step_and_code(with_collateral(good(), pck_crl_issuer_chain=chain)) == endorsements("role")


def test_a_tcb_signer_in_place_of_the_pck_is_refused() -> None:
    pki = healthy().pki
    chain = (pki.tcb_signer.certificate, pki.pck_ca.certificate, pki.root.certificate)
    assert step_and_code(with_chain(healthy(), *chain)) == endorsements("role")


def test_a_pck_that_is_also_a_ca_is_refused() -> None:
    source = healthy()
    both = issue(Role(PCK.names, path_length=0, platform=True), source.pki.pck_ca, platform=source.pki.identity)
    chain = (both.certificate, source.pki.pck_ca.certificate, source.pki.root.certificate)
    error = refused(with_chain(source, *chain))
    assert (error.step, error.code) == endorsements("role")
    assert "basic constraints" in error.got


def test_a_pck_without_its_sgx_extension_is_refused() -> None:
    source = healthy()
    bare = issue(PCK, source.pki.pck_ca)
    chain = (bare.certificate, source.pki.pck_ca.certificate, source.pki.root.certificate)
    error = refused(with_chain(source, *chain))
    assert (error.step, error.code, error.got) == (*endorsements("role"), "no SGX extension")


def test_a_tcb_signer_with_an_sgx_extension_is_refused() -> None:
    source = healthy()
    signer = issue(TCB_SIGNER, source.pki.root, platform=source.pki.identity)
    chain = certificates.pem(signer.certificate, source.pki.root.certificate)
    error = refused(with_collateral(resigned(source, signer=signer), tcb_info_issuer_chain=chain))
    assert (error.step, error.code, error.got) == (*endorsements("role"), "an SGX extension")


# Chains and signatures.


def test_a_pck_ca_that_the_root_did_not_sign_is_refused() -> None:
    source = healthy()
    stranger = issue(ROOT, None)
    ca = issue(PCK_CA, stranger)
    chain = certificates.pem(ca.certificate, source.pki.root.certificate)
    assert step_and_code(with_collateral(good(), pck_crl_issuer_chain=chain)) == endorsements("chain")


def test_a_tcb_signer_that_the_root_did_not_sign_is_refused() -> None:
    source = healthy()
    signer = issue(TCB_SIGNER, issue(ROOT, None))
    chain = certificates.pem(signer.certificate, source.pki.root.certificate)
    evidence = with_collateral(
        resigned(source, signer=signer), tcb_info_issuer_chain=chain, qe_identity_issuer_chain=chain
    )
    assert step_and_code(evidence) == endorsements("chain")


def test_a_pck_that_its_ca_did_not_sign_is_refused() -> None:
    source = healthy()
    pck = issue(PCK, issue(PCK_CA, source.pki.root), platform=source.pki.identity)
    chain = (pck.certificate, source.pki.pck_ca.certificate, source.pki.root.certificate)
    assert step_and_code(with_chain(source, *chain)) == endorsements("chain")


def test_the_revocation_list_of_another_pck_ca_is_refused() -> None:
    source = healthy()
    other = issue(PCK_CA, source.pki.root)
    pck = issue(PCK, other, platform=source.pki.identity)
    chain = (pck.certificate, other.certificate, source.pki.root.certificate)
    assert step_and_code(with_chain(source, *chain)) == endorsements("crl.issuer")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", ["tcb_info", "qe_identity"])
def test_collateral_altered_after_signing_is_refused(kind: str, field: str) -> None:
    text = getattr(collateral_of(good(kind)), field)
    altered = text.replace('"tcbEvaluationDataNumber":17', '"tcbEvaluationDataNumber":18')
    assert altered != text
    assert step_and_code(with_collateral(good(kind), **{field: altered})) == endorsements(f"{field}.signature")


@pytest.mark.parametrize("field", ["tcb_info", "qe_identity"])
@pytest.mark.parametrize(
    "signature", ["00" * 64, "ff" * 64, "00" * 63, "00" * 65], ids=["zeros", "ones", "short", "long"]
)
def test_a_signature_that_is_none_is_refused(field: str, signature: str) -> None:
    evidence = with_collateral(good(), **{f"{field}_signature": signature})
    assert step_and_code(evidence) == endorsements(f"{field}.signature")


@pytest.mark.parametrize("field", ["tcb_info", "qe_identity"])
def test_text_that_is_no_unicode_is_refused(field: str) -> None:
    evidence = with_collateral(good(), **{field: "\ud800"})
    assert step_and_code(evidence) == endorsements(f"{field}.signature")


# Revocation.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("who", ["pck", "pck_ca", "tcb_signer"])
def test_a_revoked_certificate_is_refused(kind: str, who: Any) -> None:
    evidence = platform(kind, faults=Faults(revoked=frozenset({who}))).attest(REPORT_DATA)
    error = refused(evidence)
    assert (error.step, error.code) == endorsements("revoked")
    name = {"pck": "PCK Certificate", "pck_ca": "PCK Platform CA", "tcb_signer": "TCB Signing"}[who]
    assert name in str(error)


@pytest.mark.parametrize("field", ["root_ca_crl", "pck_crl"])
def test_a_revocation_list_altered_after_signing_is_refused(field: str) -> None:
    crl = bytearray.fromhex(getattr(collateral_of(good()), field))
    crl[-1] ^= 1
    assert step_and_code(with_collateral(good(), **{field: crl.hex()})) == endorsements("crl.signature")


def test_the_root_list_does_not_stand_in_for_the_pck_list() -> None:
    root_list = collateral_of(good()).root_ca_crl
    assert step_and_code(with_collateral(good(), pck_crl=root_list)) == endorsements("crl.signature")


def test_a_revocation_list_signed_by_another_key_is_refused() -> None:
    pki = healthy().pki
    impostor = Issuer(pki.pck_ca.certificate, ec.generate_private_key(ec.SECP256R1()))
    crl = certificates.revoke(impostor, [], validity=VALIDITY).public_bytes(Encoding.DER).hex()
    assert step_and_code(with_collateral(good(), pck_crl=crl)) == endorsements("crl.signature")


# Form.


@pytest.mark.parametrize("field", CHAINS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-30],
        lambda text: "Bag Attributes\n" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\n",
        lambda text: text.replace("CERTIFICATE", "GARBAGE"),
        lambda text: text * 2,
        lambda text: text + "\N{SNOWMAN}",
        lambda text: text.split("-----END CERTIFICATE-----\n")[0] + "-----END CERTIFICATE-----\n",
        lambda text: text.replace("A", "B", 5),
    ],
    ids=["empty", "cut", "prefix", "CRLF", "newline", "label", "twice", "snowman", "leaf only", "bytes"],
)
def test_a_chain_that_is_not_canonical_pem_is_refused(field: str, damage: Any) -> None:
    chain = damage(getattr(collateral_of(good()), field))
    assert step_and_code(with_collateral(good(), **{field: chain})) == endorsements("malformed")


@pytest.mark.parametrize("field", CHAINS)
def test_a_chain_may_lack_its_last_newline(field: str) -> None:
    accepted(with_collateral(good(), **{field: getattr(collateral_of(good()), field).rstrip("\n")}))


@pytest.mark.parametrize("field", ["root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"])
@pytest.mark.parametrize(
    "damage",
    [lambda text: "", lambda text: text.upper(), lambda text: text + " ", lambda text: "zz", lambda text: text[:-1]],
    ids=["empty", "upper case", "space", "no hex", "odd"],
)
def test_hex_in_another_spelling_is_refused(field: str, damage: Any) -> None:
    value = damage(getattr(collateral_of(good()), field))
    assert step_and_code(with_collateral(good(), **{field: value})) == endorsements("malformed")


@pytest.mark.parametrize("field", ["root_ca_crl", "pck_crl"])
def test_a_revocation_list_that_is_none_is_refused(field: str) -> None:
    assert step_and_code(with_collateral(good(), **{field: "3003020101"})) == endorsements("malformed")


def remove_issue_date(value: dict[str, Any]) -> None:
    del value["issueDate"]


def naive_date(value: dict[str, Any]) -> None:
    value["nextUpdate"] = "2026-02-01T00:00:00"


@pytest.mark.parametrize("edit", [remove_issue_date, naive_date])
@pytest.mark.parametrize("field", ["tcb_info", "qe_identity"])
def test_signed_json_without_what_it_must_say_is_refused(field: Any, edit: Any) -> None:
    evidence = resigned(healthy(), tcb_info=edit) if field == "tcb_info" else resigned(healthy(), qe_identity=edit)
    assert step_and_code(evidence) == endorsements("malformed")


def test_a_pck_chain_that_is_not_ascii_is_refused() -> None:
    chain = healthy().pki.pck_chain.encode()
    evidence = good()
    changed = evidence.quote.replace(chain, b"\xff" + chain[1:])
    assert step_and_code(with_quote(evidence, changed)) == endorsements("malformed")


def test_an_sgx_extension_that_cannot_be_parsed_is_refused() -> None:
    source = healthy()
    key = ec.generate_private_key(ec.SECP256R1())
    good_pck = source.pki.pck.certificate
    builder = _builder(good_pck.subject, good_pck.issuer, key)
    for extension in good_pck.extensions:
        value = extension.value
        if isinstance(value, x509.UnrecognizedExtension):
            value = x509.UnrecognizedExtension(value.oid, b"\x30\x00")
        builder = builder.add_extension(value, critical=extension.critical)
    broken = builder.sign(source.pki.pck_ca.key, hashes.SHA256())
    evidence = with_chain(source, broken, source.pki.pck_ca.certificate, source.pki.root.certificate)
    assert step_and_code(evidence) == endorsements("malformed")


# Time.


@pytest.mark.parametrize("kind", KINDS)
def test_expired_collateral_is_refused(kind: str) -> None:
    evidence = platform(kind, faults=Faults(collateral_shift=timedelta(days=-60))).attest(REPORT_DATA)
    error = refused(evidence)
    assert (error.step, error.code) == endorsements("tcb_info.expired")
    assert "does not renew" in error.likely


@pytest.mark.parametrize("kind", KINDS)
def test_collateral_of_tomorrow_is_refused(kind: str) -> None:
    evidence = platform(kind, faults=Faults(collateral_shift=timedelta(days=2))).attest(REPORT_DATA)
    error = refused(evidence)
    assert (error.step, error.code) == endorsements("tcb_info.not_yet_valid")
    assert "behind" in error.likely


@pytest.mark.parametrize(
    ("now", "code"),
    [(NOW - timedelta(days=400), "tcb_info.not_yet_valid"), (NOW + timedelta(days=400), "tcb_info.expired")],
    ids=["behind", "ahead"],
)
def test_a_clock_that_is_wrong_is_told_from_a_forgery(now: datetime, code: str) -> None:
    error = refused(good(), now=now)
    assert (error.step, error.code) == endorsements(code)
    assert "clock" in error.likely


def dates(start: timedelta, end: timedelta) -> Any:
    layout = "%Y-%m-%dT%H:%M:%SZ"

    def edit(value: dict[str, Any]) -> None:
        value["issueDate"] = (NOW + start).strftime(layout)
        value["nextUpdate"] = (NOW + end).strftime(layout)

    return edit


DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


@pytest.mark.parametrize(
    ("edge", "holds"), [(timedelta(), True), (-SECOND, False)], ids=["last second", "second after"]
)
def test_qe_identity_holds_up_to_its_last_second(edge: timedelta, holds: bool) -> None:
    evidence = resigned(healthy(), qe_identity=dates(-DAY, edge))
    if holds:
        assert accepted(evidence).not_after == NOW
    else:
        assert step_and_code(evidence) == endorsements("qe_identity.expired")


@pytest.mark.parametrize(
    ("edge", "holds"), [(timedelta(), True), (SECOND, False)], ids=["first second", "second before"]
)
def test_qe_identity_holds_from_its_first_second(edge: timedelta, holds: bool) -> None:
    evidence = resigned(healthy(), qe_identity=dates(edge, DAY))
    if holds:
        accepted(evidence)
    else:
        assert step_and_code(evidence) == endorsements("qe_identity.not_yet_valid")


@pytest.mark.parametrize("field", ["root_ca_crl", "pck_crl"])
@pytest.mark.parametrize(
    ("start", "end", "code"),
    [
        (-DAY, SECOND, ""),
        (-DAY, timedelta(), "crl.expired"),
        (SECOND, DAY, "crl.not_yet_valid"),
        (timedelta(), DAY, ""),
    ],
    ids=["before nextUpdate", "at nextUpdate", "before thisUpdate", "at thisUpdate"],
)
def test_a_revocation_list_holds_from_its_first_second_until_the_next_one(
    field: str, start: timedelta, end: timedelta, code: str
) -> None:
    pki = healthy().pki
    issuer = pki.root if field == "root_ca_crl" else pki.pck_ca
    crl = certificates.revoke(issuer, [], validity=Validity(NOW + start, NOW + end))
    evidence = with_collateral(good(), **{field: crl.public_bytes(Encoding.DER).hex()})
    if code:
        assert step_and_code(evidence) == endorsements(code)
    else:
        accepted(evidence)


@pytest.mark.parametrize(
    ("start", "end", "code"),
    [
        (-DAY, timedelta(), ""),
        (-DAY, -SECOND, "certificate.expired"),
        (SECOND, DAY, "certificate.not_yet_valid"),
        (timedelta(), DAY, ""),
    ],
    ids=["last second", "second after", "second before", "first second"],
)
def test_a_certificate_holds_from_its_first_to_its_last_second(start: timedelta, end: timedelta, code: str) -> None:
    source = healthy()
    signer = issue(TCB_SIGNER, source.pki.root, validity=Validity(NOW + start, NOW + end))
    chain = certificates.pem(signer.certificate, source.pki.root.certificate)
    evidence = with_collateral(
        resigned(source, signer=signer), tcb_info_issuer_chain=chain, qe_identity_issuer_chain=chain
    )
    if code:
        assert step_and_code(evidence) == endorsements(code)
    else:
        accepted(evidence)


def test_an_expired_pck_is_refused() -> None:
    source = healthy()
    expired = Validity(NOW - 2 * DAY, NOW - DAY)
    pck = issue(PCK, source.pki.pck_ca, validity=expired, platform=source.pki.identity)
    chain = (pck.certificate, source.pki.pck_ca.certificate, source.pki.root.certificate)
    error = refused(with_chain(source, *chain))
    assert (error.step, error.code) == endorsements("certificate.expired")
    assert "PCK Certificate" in str(error)


# Which quotes it is for.


def test_collateral_for_the_other_tee_is_refused() -> None:
    source = platform("tdx-v4")
    sgx = SimulatedIntel(simulation.root(), tee=KINDS["sgx-v3"][0], clock=lambda: NOW)
    sgx.pki = source.pki  # the same processor runs both
    sgx._collateral, _ = sgx._issue_collateral()
    evidence = msgspec.structs.replace(source.attest(REPORT_DATA), intel_collateral=sgx.collateral())
    assert step_and_code(evidence) == endorsements("tcb_info.kind")


def test_qe_identity_for_the_other_tee_is_refused() -> None:
    evidence = resigned(healthy(), qe_identity=lambda identity: identity.update(id="QE"))
    assert step_and_code(evidence) == endorsements("qe_identity.kind")


def test_tcb_info_of_an_unknown_version_is_refused() -> None:
    evidence = resigned(healthy(), tcb_info=lambda info: info.update(version=2))
    assert step_and_code(evidence) == endorsements("tcb_info.kind")


def test_qe_identity_of_an_unknown_version_is_refused() -> None:
    evidence = resigned(healthy(), qe_identity=lambda identity: identity.update(version=3))
    assert step_and_code(evidence) == endorsements("qe_identity.kind")


@pytest.mark.parametrize(("field", "value"), [("fmspc", "00606A000000"), ("pceId", "0001")])
def test_tcb_info_of_another_family_of_processors_is_refused(field: str, value: str) -> None:
    evidence = resigned(healthy(), tcb_info=lambda info: info.update({field: value}))
    assert step_and_code(evidence) == endorsements("platform")


def test_a_signature_over_other_text_with_the_right_key_is_refused() -> None:
    source = healthy()
    signature = quote.sign(source.pki.tcb_signer.key, b"{}").hex()
    assert step_and_code(with_collateral(good(), tcb_info_signature=signature)) == endorsements("tcb_info.signature")
