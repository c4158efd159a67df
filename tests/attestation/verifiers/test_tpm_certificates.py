from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.attestation.tpm import NOW, root

from blindai.attestation.anchors import Anchor, Vendor
from blindai.attestation.verifiers.certificates import spki_sha256
from blindai.attestation.verifiers.tpm_certificates import (
    EK_CERTIFICATE_USAGE,
    MAX_CERTIFICATE_BYTES,
    MAX_CHAIN,
    CheckedChain,
    check_chain,
)
from blindai.errors import AttestationError

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
Extension = tuple[x509.ExtensionType, bool]

CURVE = ec.generate_private_key(ec.SECP256R1())
EK = ec.generate_private_key(ec.SECP256R1())
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 - the point of a test


def usage(**bits: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**dict.fromkeys(names, False) | bits)


CA = ((x509.BasicConstraints(ca=True, path_length=None), True), (usage(key_cert_sign=True), True))
LEAF = (
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (usage(key_agreement=True), True),
    (x509.ExtendedKeyUsage([EK_CERTIFICATE_USAGE]), False),
)


def issue(
    name: str,
    key: Key,
    issuer: tuple[str, Key] | None,
    extensions: tuple[Extension, ...],
    algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None = None,
) -> bytes:
    by, signer = issuer or (name, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(by))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, algorithm or hashes.SHA256()).public_bytes(Encoding.DER)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])


def chain(*, leaf: tuple[Extension, ...] = LEAF, ca: tuple[Extension, ...] = CA) -> tuple[bytes, ...]:
    """An EK, an intermediate CA and a root."""
    return (
        issue("ek", EK, ("intermediate", CURVE), leaf),
        issue("intermediate", CURVE, ("root", CURVE), ca),
        issue("root", CURVE, None, CA),
    )


def check(certificates: tuple[bytes, ...]) -> CheckedChain:
    """With the last certificate's key as the anchor, whichever it is."""
    try:
        key = spki_sha256(x509.load_der_x509_certificate(certificates[-1]))
    except (IndexError, ValueError):
        key = ""
    return check_chain(certificates, (Anchor("the maker", Vendor.TPM, key),), NOW)


def refused(certificates: tuple[bytes, ...], code: str) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        check(certificates)
    assert (caught.value.step, caught.value.code) == ("endorsements", f"endorsements.{code}")
    return caught.value


def test_a_chain_with_an_intermediate() -> None:
    checked = check(chain())
    assert (checked.anchor.name, checked.not_after) == ("the maker", NOW + timedelta(days=1))


def test_makers_leave_subjects_empty() -> None:
    certificates = issue("", EK, ("root", CURVE), LEAF), issue("root", CURVE, None, CA)
    check(certificates)
    with pytest.raises(AttestationError) as caught:
        check_chain(
            certificates,
            (Anchor("m", Vendor.TPM, spki_sha256(x509.load_der_x509_certificate(certificates[-1]))),),
            NOW + timedelta(days=2),
        )
    assert caught.value.code == "endorsements.certificate.expired"
    assert "the EK certificate" in caught.value.message


@pytest.mark.parametrize(
    "make", [lambda: rsa.generate_private_key(65537, 2048), lambda: ec.generate_private_key(ec.SECP384R1())]
)
def test_makers_use_several_kinds_of_keys(make: Callable[[], Key]) -> None:
    key = make()
    check((issue("ek", EK, ("root", key), LEAF, hashes.SHA384()), issue("root", key, None, CA, hashes.SHA512())))


@pytest.mark.parametrize("count", [0, 1])
def test_certificates_are_missing(count: int) -> None:
    refused(chain()[:count], "missing")


def test_more_certificates_than_any_maker_has() -> None:
    refused((*chain()[:1], *chain()[1:2] * MAX_CHAIN, chain()[2]), "malformed")
    refused((bytes(MAX_CERTIFICATE_BYTES + 1), chain()[2]), "malformed")


def test_bytes_that_are_no_certificate() -> None:
    refused((b"\x30\x00", *chain()[1:]), "malformed")
    refused((chain()[0] + b"\0", *chain()[1:]), "malformed")


def test_the_order_of_a_chain() -> None:
    ek, intermediate, last = chain()
    for shuffled in ((intermediate, ek, last), (ek, last), (ek, last, intermediate), (ek, intermediate)):
        refused(shuffled, "chain")


def test_a_root_that_did_not_sign_itself() -> None:
    """Its key is the anchor's, but its name, validity and rights are anybody's words."""
    own = ec.generate_private_key(ec.SECP256R1())
    forged = issue("root", CURVE, ("root", own), CA)
    refused((chain()[0], chain()[1], forged), "chain")


@pytest.mark.parametrize(
    "leaf",
    [
        LEAF[1:],
        (LEAF[0], LEAF[2]),
        LEAF[:2],
        (*LEAF[:2], (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)),
        ((x509.BasicConstraints(ca=True, path_length=None), True), *LEAF[1:]),
        (LEAF[0], (usage(key_agreement=True, key_cert_sign=True), True), LEAF[2]),
        (LEAF[0], (usage(key_agreement=True, crl_sign=True), True), LEAF[2]),
        (LEAF[0], (usage(digital_signature=True), True), LEAF[2]),
        (*LEAF, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)),
    ],
    ids=[
        *("no constraints", "no usage", "no purpose", "another purpose", "a CA", "signs certificates"),
        *("signs lists", "only signs", "an unknown critical extension"),
    ],
)
def test_a_certificate_that_is_not_about_an_endorsement_key(leaf: tuple[Extension, ...]) -> None:
    refused(chain(leaf=leaf), "role")


@pytest.mark.parametrize(
    "ca",
    [
        CA[1:],
        CA[:1],
        ((x509.BasicConstraints(ca=False, path_length=None), True), CA[1]),
        (CA[0], (usage(crl_sign=True), True)),
        (*CA, (x509.NameConstraints([x509.DNSName("maker.example")], None), True)),
    ],
    ids=["no constraints", "no usage", "no CA", "only lists", "name constraints"],
)
def test_an_intermediate_that_may_not_issue(ca: tuple[Extension, ...]) -> None:
    refused(chain(ca=ca), "role")


def test_a_path_longer_than_its_root_allows() -> None:
    short = ((x509.BasicConstraints(ca=True, path_length=0), True), CA[1])
    ek, intermediate, _ = chain()
    error = refused((ek, intermediate, issue("root", CURVE, None, short)), "role")
    assert "path length" in error.got
    check((issue("ek", EK, ("root", CURVE), LEAF), issue("root", CURVE, None, short)))


def test_keys_and_hashes_that_are_broken() -> None:
    refused((issue("ek", EK, ("root", WEAK), LEAF), issue("root", WEAK, None, CA)), "role")
    old = ec.generate_private_key(ec.SECP192R1())
    refused((issue("ek", EK, ("root", old), LEAF), issue("root", old, None, CA)), "role")


def test_a_signature_with_sha1(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyca/cryptography does not make these any more, so a good one is said to be one."""
    from blindai.attestation.verifiers import tpm_certificates

    monkeypatch.setattr(tpm_certificates, "_HASHES", (hashes.SHA512,))
    refused(chain(), "role")


def test_the_simulated_maker() -> None:
    ek = EK.public_key()
    certificates = (root().certify(ek, NOW).public_bytes(Encoding.DER), root().certificate.public_bytes(Encoding.DER))
    assert check_chain(certificates, (root().anchor,), NOW).anchor.simulated
