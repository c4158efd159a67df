from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tests.attestation.simulation import NOW, collateral_of, good, healthy

from blindai.attestation.simulated.certificates import Issuer, Validity, issue
from blindai.attestation.verifiers.certificates import (
    Window,
    common_name,
    crl_window,
    require_current,
    require_issued_by,
)
from blindai.attestation.verifiers.intel_certificates import (
    PCK,
    PCK_CA,
    ROOT,
    TCB_SIGNER,
    parse_crl,
    require_role,
    vendor,
)
from blindai.errors import AttestationError

VALIDITY = Validity(NOW - timedelta(days=1), NOW + timedelta(days=1))


def code_of(call: Any, *args: Any, **options: Any) -> tuple[str, str]:
    with pytest.raises(AttestationError) as caught:
        call(*args, **options)
    return caught.value.code, caught.value.got


def built(
    key: Any, name: str = "SIMULATED SGX TCB Signing", *, algorithm: Any = None, usage: Any = None
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(VALIDITY.not_before)
        .not_valid_after(VALIDITY.not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(key, algorithm or hashes.SHA256())


def usage(**set_bits: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: set_bits.get(name, False) for name in names})


SIGNING = usage(digital_signature=True)


@pytest.mark.parametrize("role", [ROOT, PCK_CA, TCB_SIGNER])
def test_a_certificate_issued_for_a_role_has_it(role: Any) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    require_role(issue(role, key, issuer=None, validity=VALIDITY), role, vendor="SIMULATED")


def test_a_certificate_of_another_vendor_is_refused() -> None:
    certificate = healthy().pki.tcb_signer.certificate
    assert code_of(require_role, certificate, TCB_SIGNER, vendor="Intel")[0] == "endorsements.role"


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP384R1()), None),
        (rsa.generate_private_key(public_exponent=65537, key_size=2048), None),
        (ec.generate_private_key(ec.SECP256R1()), hashes.SHA384()),
    ],
    ids=["P-384", "RSA", "SHA-384"],
)
def test_other_algorithms_than_intels_are_refused(key: Any, algorithm: Any) -> None:
    certificate = built(key, algorithm=algorithm, usage=SIGNING)
    code, got = code_of(require_role, certificate, TCB_SIGNER, vendor="SIMULATED")
    assert (code, got) == ("endorsements.role", "another algorithm than ECDSA on P-256 with SHA-256")


@pytest.mark.parametrize("wrong", [None, usage(), usage(digital_signature=True, key_cert_sign=True)])
def test_another_key_usage_is_refused(wrong: x509.KeyUsage | None) -> None:
    certificate = built(ec.generate_private_key(ec.SECP256R1()), usage=wrong)
    code, got = code_of(require_role, certificate, TCB_SIGNER, vendor="SIMULATED")
    assert code == "endorsements.role"
    assert "eyUsage" in got or got == "another key usage"


def test_a_ca_with_a_longer_path_than_its_role_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue(ROOT, key, issuer=None, validity=VALIDITY)
    as_ca = type(ROOT)(ROOT.names, path_length=0)
    assert code_of(require_role, certificate, as_ca, vendor="SIMULATED")[0] == "endorsements.role"


def test_a_subject_without_or_with_two_common_names_has_no_name() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    for names in ((), ("one", "two")):
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in names])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(VALIDITY.not_before)
            .not_valid_after(VALIDITY.not_after)
            .sign(key, hashes.SHA256())
        )
        assert common_name(certificate) == ""


def test_the_vendor_is_what_stands_before_the_role() -> None:
    assert vendor(healthy().pki.root.certificate) == "SIMULATED"


def test_an_issuer_of_the_same_name_with_another_key_is_refused() -> None:
    pki = healthy().pki
    twin = issue(ROOT, ec.generate_private_key(ec.SECP256R1()), issuer=None, validity=VALIDITY)
    require_issued_by(pki.pck_ca.certificate, pki.root.certificate)
    assert code_of(require_issued_by, pki.pck_ca.certificate, twin)[0] == "endorsements.chain"


def test_an_issuer_of_another_name_is_refused() -> None:
    pki = healthy().pki
    assert code_of(require_issued_by, pki.pck.certificate, pki.root.certificate)[0] == "endorsements.chain"


def test_a_list_without_an_end_is_refused() -> None:
    class Endless:
        next_update_utc = None

    assert code_of(crl_window, Endless(), what="list")[0] == "endorsements.malformed"


def test_a_list_of_an_issuer_with_another_kind_of_key_is_refused() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    root = healthy().pki.root.certificate
    subject = x509.CertificateBuilder().subject_name(root.subject).issuer_name(root.subject)
    certificate = (
        subject.public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(VALIDITY.not_before)
        .not_valid_after(VALIDITY.not_after)
        .sign(key, hashes.SHA256())
    )
    der = collateral_of(good()).root_ca_crl
    assert code_of(parse_crl, der, certificate, what="list")[0] == "endorsements.crl.signature"
    assert parse_crl(der, root, what="list").issuer == root.subject


def test_of_several_windows_the_first_that_is_closed_is_named() -> None:
    day = timedelta(days=1)
    windows = (
        Window("the one", "crl", NOW - day, NOW + day),
        Window("the other", "certificate", NOW + day, NOW + 2 * day),
    )
    require_current(windows[:1], NOW)
    assert code_of(require_current, windows, NOW)[0] == "endorsements.certificate.not_yet_valid"


def test_a_pck_is_only_a_pck() -> None:
    pki = healthy().pki
    require_role(pki.pck.certificate, PCK, vendor="SIMULATED")
    for role in (ROOT, PCK_CA, TCB_SIGNER):
        assert code_of(require_role, pki.pck.certificate, role, vendor="SIMULATED")[0] == "endorsements.role"
    assert isinstance(pki.pck, Issuer)
