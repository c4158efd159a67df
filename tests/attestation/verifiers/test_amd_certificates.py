from __future__ import annotations

import threading
import warnings
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.attestation import snp
from tests.attestation.snp import NOW, REPORT_DATA, good, platform, step_and_code, with_endorsements

from blindai.attestation.evidence import Evidence
from blindai.attestation.simulated import amd_certificates, amd_report, der
from blindai.attestation.verifiers.amd_certificates import (
    ARK,
    CSP_ID,
    HWID,
    MAX_CERTIFICATE_BYTES,
    MAX_CRL_BYTES,
    PRODUCT_NAME,
    RESERVED_TCB_PARTS,
    STRUCT_VERSION,
    TCB_PARTS,
    check_chain,
    parse_certificate,
    parse_crl,
)
from blindai.attestation.verifiers.amd_product import PRODUCTS
from blindai.errors import AttestationError

PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
START, END = NOW - timedelta(days=1), NOW + timedelta(days=20)
ROLE = ("endorsements", "endorsements.role")
MALFORMED = ("endorsements", "endorsements.malformed")
PRODUCT = ("endorsements", "endorsements.product")
CHAIN = ("endorsements", "endorsements.chain")
USAGE = dict.fromkeys(
    ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
     "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False,
)  # fmt: skip


def usage(**bits: bool) -> x509.KeyUsage:
    return x509.KeyUsage(**(USAGE | bits))


def name(common_name: str) -> x509.Name:
    organisation = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, amd_certificates.ORGANISATION)
    return x509.Name([organisation, x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def built(subject: str, key: Any, issuer: str, signer: Any, *extensions: Any, **options: Any) -> bytes:
    """Any certificate at all. An extension is a value, made critical where it stands in a tuple."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(77)
        .not_valid_before(START)
        .not_valid_after(END)
    )
    for extension in extensions:
        value, critical = (extension[0], True) if isinstance(extension, tuple) else (extension, False)
        builder = builder.add_extension(value, critical=critical)
    options = {"rsa_padding": PSS} | options if isinstance(signer, rsa.RSAPrivateKey) else options
    algorithm = options.pop("algorithm", hashes.SHA384())
    return builder.sign(signer, algorithm, **options).public_bytes(Encoding.DER)


CA = ((x509.BasicConstraints(ca=True, path_length=0),), (usage(key_cert_sign=True),))


def leaf(changes: dict[x509.ObjectIdentifier, bytes | None], *more: Any, product: str = "Milan", **options: Any) -> Any:
    """Evidence with a VCEK whose extensions were changed (None takes one away), signed by the ASK."""
    line, key = PRODUCTS[product], options.pop("key", None) or ec.generate_private_key(ec.SECP384R1())
    source = snp.healthy(product)
    tcb = {"fmc": 1, "boot_loader": 4, "tee": 0, "snp": 23, "microcode": 213}
    values: dict[x509.ObjectIdentifier, bytes | None] = {
        STRUCT_VERSION: der.integer(line.struct_version),
        PRODUCT_NAME: der.tlv(0x16, f"{product}-B0".encode()),
        **{TCB_PARTS[part]: der.integer(tcb[part]) for part in line.tcb},
        HWID: source._chip_id,
    }
    extensions = [
        x509.UnrecognizedExtension(oid, value) for oid, value in (values | changes).items() if value is not None
    ]
    subject, issuer = options.pop("subject", "SIMULATED SEV-VCEK"), options.pop("issuer", f"SIMULATED SEV-{product}")
    certificate = built(
        subject, key, issuer, options.pop("signer", snp.root().authority_key), *extensions, *more, **options
    )
    evidence = source.attest(REPORT_DATA)
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
        evidence = snp.with_report(evidence, amd_report.sign(key, evidence.quote[:0x2A0]))
    return with_endorsements(evidence, certificate=certificate)


# --- Roles and chain


def test_what_the_helper_builds_is_accepted_unchanged() -> None:
    for product in snp.PRODUCTS:
        snp.accepted(leaf({}, product=product))


@pytest.mark.parametrize("key", ["vcek", "vlek"])
def test_a_signer_from_the_other_authority_is_refused(key: str) -> None:
    source = platform(signing_key=key, other_authority=True)
    assert step_and_code(source.attest(REPORT_DATA)) == ROLE


@pytest.mark.parametrize(("product", "other"), [(a, b) for a in snp.PRODUCTS for b in snp.PRODUCTS if a != b])
@pytest.mark.parametrize("key", ["vcek", "vlek"])
def test_an_authority_of_another_product_line_is_refused(product: str, other: str, key: str) -> None:
    source = platform(product=product, authority_product=other, signing_key=key)
    assert step_and_code(source.attest(REPORT_DATA)) == PRODUCT


@pytest.mark.parametrize(
    "places",
    [
        {"certificate": "authority", "authority": "certificate"},
        {"authority": "root", "root": "authority"},
        {"certificate": "root", "root": "certificate"},
        {"certificate": "authority", "authority": "root", "root": "certificate"},
        {"root": "authority"},
        {"authority": "root"},
        {"authority": "certificate"},
        {"certificate": "authority"},
        {"certificate": "root"},
    ],
    ids=str,
)
def test_certificates_in_the_wrong_order_are_refused(places: dict[str, str]) -> None:
    endorsements = snp.endorsements_of(good())
    moved = {place: getattr(endorsements, origin) for place, origin in places.items()}
    code = "anchor" if "root" in places else "role"
    assert step_and_code(with_endorsements(good(), **moved)) == ("endorsements", f"endorsements.{code}")


def test_the_certificates_of_another_platform_in_between_are_refused() -> None:
    """Same names, other keys."""
    stranger = rsa.generate_private_key(65537, 4096)
    authority = built("SIMULATED SEV-Milan", stranger, "SIMULATED ARK-Milan", stranger, *CA)
    assert step_and_code(with_endorsements(good(), authority=authority)) == CHAIN
    authority = built("SIMULATED SEV-Milan", stranger, "SIMULATED ARK-Milan", snp.root().key, *CA)
    assert step_and_code(with_endorsements(good(), authority=authority)) == CHAIN


def test_a_root_with_the_right_key_that_did_not_sign_itself_is_refused() -> None:
    extensions = ((x509.BasicConstraints(ca=True, path_length=None),), (usage(key_cert_sign=True, crl_sign=True),))
    root = built("SIMULATED ARK-Milan", snp.root().key, "SIMULATED ARK-Milan", snp.root().authority_key, *extensions)
    assert step_and_code(with_endorsements(good(), root=root)) == CHAIN


@pytest.mark.parametrize("common_name", ["SIMULATED ARK-Naples", "ARK", "SIMULATED  ARK-Milan", "SIMULATED ARK-Milan "])
def test_a_root_of_an_unknown_product_line_is_refused(common_name: str) -> None:
    key = snp.root().key
    assert step_and_code(with_endorsements(good(), root=built(common_name, key, common_name, key))) == ROLE


@pytest.mark.parametrize("common_name", ["SEV-VCEK", "SIMULATED SEV-Milan", "SIMULATED SEV-VCEK2", ""])
def test_a_signer_of_another_name_is_refused(common_name: str) -> None:
    if common_name:
        assert step_and_code(leaf({}, subject=common_name)) == ROLE
    else:
        empty = built("SIMULATED SEV-VCEK", snp.root().key, "SIMULATED SEV-Milan", snp.root().authority_key)
        assert step_and_code(with_endorsements(good(), certificate=empty)) == ROLE


AUTHORITY_FAULTS: dict[str, tuple[Any, ...]] = {
    "no constraints": (CA[1],),
    "no usage": (CA[0],),
    "no CA": ((x509.BasicConstraints(ca=False, path_length=None),), CA[1]),
    "a longer path": ((x509.BasicConstraints(ca=True, path_length=1),), CA[1]),
    "any path": ((x509.BasicConstraints(ca=True, path_length=None),), CA[1]),
    "signs no certificates": (CA[0], (usage(digital_signature=True),)),
    "signs lists": (CA[0], (usage(key_cert_sign=True, crl_sign=True),)),
    "an unknown critical extension": (*CA, (x509.UnrecognizedExtension(STRUCT_VERSION, b"\x05\x00"),)),
}


@pytest.mark.parametrize("fault", AUTHORITY_FAULTS)
def test_an_authority_that_may_not_be_one_is_refused(fault: str) -> None:
    root = snp.root()
    extensions = AUTHORITY_FAULTS[fault]
    authority = built("SIMULATED SEV-Milan", root.authority_key, "SIMULATED ARK-Milan", root.key, *extensions)
    assert step_and_code(with_endorsements(good(), authority=authority)) == ROLE


def test_an_authority_as_it_should_be_is_accepted_with_further_harmless_extensions() -> None:
    root = snp.root()
    point = x509.DistributionPoint([x509.UniformResourceIdentifier("https://example.org/crl")], None, None, None)
    authority = built(
        "SIMULATED SEV-Milan",
        root.authority_key,
        "SIMULATED ARK-Milan",
        root.key,
        *CA,
        x509.CRLDistributionPoints([point]),
    )
    snp.accepted(with_endorsements(good(), authority=authority))


@pytest.mark.parametrize("bits", [2048, 3072])
def test_an_authority_with_a_short_key_is_refused(bits: int) -> None:
    key = rsa.generate_private_key(65537, bits)
    authority = built("SIMULATED SEV-Milan", key, "SIMULATED ARK-Milan", snp.root().key, *CA)
    assert step_and_code(with_endorsements(good(), authority=authority)) == ROLE


def test_an_authority_with_a_key_of_another_kind_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    authority = built("SIMULATED SEV-Milan", key, "SIMULATED ARK-Milan", snp.root().key, *CA)
    assert step_and_code(with_endorsements(good(), authority=authority)) == ROLE


@pytest.mark.parametrize(
    "options",
    [
        {"rsa_padding": padding.PKCS1v15()},
        {"algorithm": hashes.SHA256(), "rsa_padding": padding.PSS(padding.MGF1(hashes.SHA256()), 32)},
        {"algorithm": hashes.SHA512(), "rsa_padding": padding.PSS(padding.MGF1(hashes.SHA512()), 64)},
    ],
    ids=["PKCS 1", "SHA-256", "SHA-512"],
)
def test_another_signature_algorithm_is_refused(options: dict[str, Any]) -> None:
    assert step_and_code(leaf({}, **options)) == ROLE


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_signer_on_another_curve_is_refused(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    assert step_and_code(leaf({}, key=key)) == ROLE


@pytest.mark.parametrize(
    "extension",
    [
        (x509.BasicConstraints(ca=True, path_length=0),),
        (usage(digital_signature=True, key_cert_sign=True),),
        (usage(key_agreement=True),),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),),
    ],
    ids=["a CA", "signs certificates", "signs nothing", "an unknown critical extension"],
)
def test_a_signer_that_may_do_other_things_is_refused(extension: Any) -> None:
    assert step_and_code(leaf({}, extension)) == ROLE


@pytest.mark.parametrize(
    "extension",
    [
        (x509.BasicConstraints(ca=False, path_length=None),),
        (usage(digital_signature=True),),
        x509.SubjectKeyIdentifier(b"1"),
    ],
    ids=["no CA", "signs", "an identifier"],
)
def test_a_signer_with_harmless_extensions_is_accepted(extension: Any) -> None:
    snp.accepted(leaf({}, extension))


# --- What a VCEK says


def test_the_identity_of_the_chip_may_be_wrapped_or_not() -> None:
    for product in snp.PRODUCTS:
        hwid = snp.healthy(product)._chip_id
        snp.accepted(leaf({HWID: der.octets(hwid)}, product=product))


@pytest.mark.parametrize(
    "hwid",
    [
        *(b"", bytes(64), b"\x01" * 63, b"\x01" * 65, b"\x01" * 8),
        *(der.octets(b"\x01" * 63), der.octets(bytes(64)), b"\x04\x41" + b"\x01" * 64),
    ],
)
def test_a_chip_identity_that_is_none_is_refused(hwid: bytes) -> None:
    assert step_and_code(leaf({HWID: hwid})) == MALFORMED


def test_a_turin_identity_has_eight_bytes() -> None:
    for hwid in (b"\x01" * 64, bytes(8), b"\x01" * 7):
        assert step_and_code(leaf({HWID: hwid}, product="Turin")) == MALFORMED


@pytest.mark.parametrize(
    "changes", [{HWID: None}, {CSP_ID: der.tlv(0x16, b"cloud")}, {HWID: None, CSP_ID: der.tlv(0x16, b"cloud")}]
)
def test_a_vcek_that_names_no_chip_or_a_cloud_is_refused(changes: dict[x509.ObjectIdentifier, bytes | None]) -> None:
    assert step_and_code(leaf(changes)) == ROLE


@pytest.mark.parametrize("changes", [{}, {HWID: None}, {CSP_ID: der.tlv(0x16, b"cloud")}])
def test_a_vlek_that_names_a_chip_or_no_cloud_is_refused(changes: dict[x509.ObjectIdentifier, bytes | None]) -> None:
    evidence = leaf(changes, subject="SIMULATED SEV-VLEK", issuer="SIMULATED SEV-VLEK-Milan")
    asvk = snp.endorsements_of(good("Milan", 3, "vlek")).authority
    assert step_and_code(with_endorsements(evidence, authority=asvk)) == ROLE


@pytest.mark.parametrize("code_name", [b"Genoa-B0", b"Turin-B0", b"Milano-B0", b"", b"-B0", b"Mil\xe4n", b"milan-B0"])
def test_a_processor_of_another_name_is_refused(code_name: bytes) -> None:
    assert step_and_code(leaf({PRODUCT_NAME: der.tlv(0x16, code_name)})) == PRODUCT


@pytest.mark.parametrize(
    ("product", "code_name"), [("Genoa", b"Siena-A0"), ("Genoa", b"Bergamo-A1"), ("Turin", b"Turin")]
)
def test_variants_of_a_product_line_are_accepted(product: str, code_name: bytes) -> None:
    snp.accepted(leaf({PRODUCT_NAME: der.tlv(0x16, code_name)}, product=product))


@pytest.mark.parametrize(
    "value",
    [None, b"", b"Milan-B0", der.tlv(0x0C, b"Milan-B0"), der.tlv(0x16, b"Milan-B0") + b"\0", b"\x16\x81\x05Milan"],
)
def test_a_product_name_of_another_type_is_refused(value: bytes | None) -> None:
    assert step_and_code(leaf({PRODUCT_NAME: value})) == MALFORMED


@pytest.mark.parametrize("product", snp.PRODUCTS)
def test_a_tcb_in_the_structure_of_another_product_line_is_refused(product: str) -> None:
    other = 1 - PRODUCTS[product].struct_version
    assert step_and_code(leaf({STRUCT_VERSION: der.integer(other)}, product=product)) == PRODUCT


BAD_NUMBERS = {
    "missing": None,
    "empty": b"",
    "no content": b"\x02\x00",
    "too large": der.integer(256),
    "negative": b"\x02\x01\x80",
    "not the shortest": b"\x02\x02\x00\x04",
    "another type": b"\x0a\x01\x04",
    "more behind it": der.integer(4) + b"\0",
    "cut off": b"\x02\x02\x00",
}


@pytest.mark.parametrize("fault", BAD_NUMBERS)
@pytest.mark.parametrize("oid", [TCB_PARTS["boot_loader"], TCB_PARTS["microcode"], STRUCT_VERSION], ids=str)
def test_a_version_that_is_no_number_is_refused(oid: x509.ObjectIdentifier, fault: str) -> None:
    assert step_and_code(leaf({oid: BAD_NUMBERS[fault]})) == MALFORMED


def test_a_turin_certificate_must_have_the_version_of_its_fmc() -> None:
    assert step_and_code(leaf({TCB_PARTS["fmc"]: None}, product="Turin")) == MALFORMED


@pytest.mark.parametrize("oid", RESERVED_TCB_PARTS, ids=str)
def test_a_reserved_part_of_the_tcb_that_is_not_zero_is_refused(oid: x509.ObjectIdentifier) -> None:
    snp.accepted(leaf({oid: der.integer(0)}))
    assert step_and_code(leaf({oid: der.integer(1)})) == MALFORMED


# --- Bytes


@pytest.mark.parametrize("place", ["certificate", "authority", "root"])
@pytest.mark.parametrize(
    "content", [b"", b"\0", b"0\x82", bytes(1000), b"-----BEGIN CERTIFICATE-----", bytes(MAX_CERTIFICATE_BYTES + 1)],
    ids=["empty", "a zero", "a start", "zeros", "PEM", "too large"],
)  # fmt: skip
def test_what_is_no_certificate_is_refused(place: str, content: bytes) -> None:
    assert step_and_code(with_endorsements(good(), **{place: content})) == MALFORMED


@pytest.mark.parametrize("place", ["certificate", "authority", "root", "crl"])
def test_bytes_behind_a_certificate_or_list_are_refused(place: str) -> None:
    longer = getattr(snp.endorsements_of(good()), place) + b"\0"
    assert step_and_code(with_endorsements(good(), **{place: longer})) == MALFORMED


def test_extensions_that_cannot_be_parsed_are_refused() -> None:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.19"), b"\xff")
    assert step_and_code(leaf({}, extension)) == MALFORMED


def test_serial_number_0_is_read_without_a_warning_and_other_warnings_stay_errors() -> None:
    vcek = snp.endorsements_of(good()).certificate
    with pytest.warns(CryptographyDeprecationWarning, match="serial number"):
        x509.load_der_x509_certificate(vcek)
    before = list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parse_certificate(vcek, what="VCEK")
    assert list(warnings.filters) == before


def test_many_threads_read_certificates_and_leave_the_filters_as_they_were() -> None:
    vcek = snp.endorsements_of(good()).certificate
    before, failures = list(warnings.filters), []

    def read() -> None:
        try:
            for _ in range(50):
                parse_certificate(vcek, what="VCEK")
        except Warning as warning:
            failures.append(warning)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert list(warnings.filters) == before


def test_a_chain_is_checked_once() -> None:
    endorsements = snp.endorsements_of(good())
    anchors = (snp.anchor(),)
    assert check_chain(endorsements, anchors) is check_chain(endorsements, anchors)


# --- Revocation


@pytest.mark.parametrize("key", ["vcek", "vlek"])
@pytest.mark.parametrize("holder", ["signer", "authority"])
def test_what_is_revoked_is_refused(key: str, holder: str) -> None:
    error = snp.refused(platform(signing_key=key, revoked=frozenset({holder})).attest(REPORT_DATA))
    assert (error.step, error.code) == ("endorsements", "endorsements.revoked")
    kind = {"vcek": "", "vlek": "VLEK-"}[key]
    named = f"SIMULATED SEV-{key.upper()}" if holder == "signer" else f"SIMULATED SEV-{kind}Milan"
    assert str(error).startswith(f"{named} is revoked")


def test_a_revoked_root_is_refused() -> None:
    endorsements = snp.endorsements_of(good())
    root = x509.load_der_x509_certificate(endorsements.root)
    assert step_and_code(with_crl(revoked=[root.serial_number])) == ("endorsements", "endorsements.revoked")


def with_crl(
    *extensions: Any, revoked: Any = (), signer: Any = None, issuer: str = "SIMULATED ARK-Milan", **options: Any
) -> Evidence:
    builder = x509.CertificateRevocationListBuilder().issuer_name(name(issuer)).last_update(START).next_update(END)
    for serial_number in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial_number).revocation_date(START).build()
        builder = builder.add_revoked_certificate(entry)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=not isinstance(extension, x509.CRLNumber))
    options = {"rsa_padding": PSS} | options
    crl = builder.sign(signer or snp.root().key, options.pop("algorithm", hashes.SHA384()), **options)
    return with_endorsements(good(), crl=crl.public_bytes(Encoding.DER))


def test_a_list_without_extensions_or_with_others_revoked_is_accepted() -> None:
    assert snp.accepted(with_crl()).crl_checked
    snp.accepted(with_crl(x509.CRLNumber(3), revoked=[5, 6, 7]))


def test_a_list_of_another_signer_is_refused() -> None:
    signature = ("endorsements", "endorsements.crl.signature")
    assert step_and_code(with_crl(signer=snp.root().authority_key)) == signature
    assert step_and_code(with_crl(rsa_padding=padding.PKCS1v15())) == signature
    sha256 = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    assert step_and_code(with_crl(algorithm=hashes.SHA256(), rsa_padding=sha256)) == signature


@pytest.mark.parametrize("issuer", ["SIMULATED ARK-Genoa", "SIMULATED SEV-Milan", "ARK-Milan"])
def test_the_list_of_another_product_line_is_refused(issuer: str) -> None:
    assert step_and_code(with_crl(issuer=issuer)) == ("endorsements", "endorsements.crl.issuer")


def issuing_point(**options: Any) -> x509.IssuingDistributionPoint:
    usual: dict[str, Any] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**(usual | options))


URL = [x509.UniformResourceIdentifier("https://example.org/crl")]


@pytest.mark.parametrize(
    "extension",
    [
        x509.DeltaCRLIndicator(1),
        issuing_point(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})),
        issuing_point(only_contains_user_certs=True),
        issuing_point(only_contains_attribute_certs=True),
        x509.UnrecognizedExtension(STRUCT_VERSION, b"\x05\x00"),
    ],
    ids=["delta", "some reasons", "end entities", "attributes", "unknown"],
)
def test_a_list_that_is_not_complete_is_refused(extension: x509.ExtensionType) -> None:
    assert step_and_code(with_crl(extension)) == ("endorsements", "endorsements.crl.scope")


def test_a_complete_list_may_say_where_it_comes_from() -> None:
    snp.accepted(with_crl(issuing_point(full_name=URL)))


@pytest.mark.parametrize(
    "content", [b"", b"\0", bytes(1000), bytes(MAX_CRL_BYTES + 1)], ids=["empty", "a zero", "zeros", "too large"]
)
def test_what_is_no_list_is_refused(content: bytes) -> None:
    assert step_and_code(with_endorsements(good(), crl=content)) == MALFORMED


def test_a_list_without_an_end_is_refused() -> None:
    crl = x509.load_der_x509_crl(snp.endorsements_of(with_crl()).crl or b"")
    _, end = (der.tlv(0x17, f"{time:%y%m%d%H%M%SZ}".encode()) for time in (START, END))
    tbs = crl.tbs_certlist_bytes
    body = tbs[4:].replace(end, b"")
    like = crl.public_bytes(Encoding.DER)
    size = snp.root().key.key_size // 8
    shorter = der.sequence(body)
    algorithm = like[4 + len(tbs) : -(size + 5)]
    signature = snp.root().key.sign(shorter, PSS, hashes.SHA384())
    endless = der.sequence(shorter, algorithm, der.tlv(0x03, b"\0" + signature))
    assert step_and_code(with_endorsements(good(), crl=endless)) == MALFORMED


def test_a_list_under_a_root_that_is_no_rsa_key_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    common_name = f"SIMULATED {ARK.name.format('Milan')}"
    root = x509.load_der_x509_certificate(built(common_name, key, common_name, key))
    with pytest.raises(AttestationError) as caught:
        parse_crl(snp.endorsements_of(with_crl()).crl or b"", root)
    assert caught.value.code == "endorsements.crl.signature"


@pytest.mark.parametrize("place", ["certificate", "crl"])
def test_the_same_signature_written_with_unused_bits_is_refused(place: str) -> None:
    """No signature covers the count of unused bits, and where they are zeros it is the same signature."""
    for _ in range(64):
        evidence = leaf({}) if place == "certificate" else with_crl()
        written = bytearray(getattr(snp.endorsements_of(evidence), place))
        if not written[-1] & 1:
            break
    snp.accepted(evidence)
    count_at = len(written) - 512 - 1
    assert written[count_at] == 0
    written[count_at] = 1
    assert step_and_code(with_endorsements(evidence, **{place: bytes(written)})) == MALFORMED
