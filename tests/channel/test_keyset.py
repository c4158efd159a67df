from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from blindai.channel.keyset import (
    CMW_EXTENSION,
    KEYSET_LIFETIME,
    Keyset,
    PrivateKeyset,
    _der_octet_string,
    spki_sha256,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def keyset() -> PrivateKeyset:
    return PrivateKeyset(NOW)


def test_the_digest_by_hand(keyset: PrivateKeyset) -> None:
    members = {name: getattr(keyset.public, name) for name in Keyset.__struct_fields__}
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    assert keyset.digest == hashlib.sha256(b"blindai/keyset/v1\x00" + text.encode()).hexdigest()


def test_golden_digest() -> None:
    public = Keyset(
        tls_spki_sha256="11" * 32,
        hpke_public_key="22" * 32,
        receipt_key="33" * 32,
        proof_key="44" * 32,
        not_after=1_800_000_000,
    )
    text = (
        '{"hpke_public_key":"' + "22" * 32 + '","not_after":1800000000,"proof_key":"' + "44" * 32 + '",'
        '"receipt_key":"' + "33" * 32 + '","tls_spki_sha256":"' + "11" * 32 + '"}'
    )
    assert public.digest == hashlib.sha256(b"blindai/keyset/v1\0" + text.encode()).hexdigest()
    assert public.digest == "0541d7c2d49abc50668d9e51bf4fbb3e1fe3bb52057267218e3fc19b4cd1944c"


@pytest.mark.parametrize("field", ["tls_spki_sha256", "hpke_public_key", "receipt_key", "proof_key"])
def test_every_key_changes_the_digest(keyset: PrivateKeyset, field: str) -> None:
    assert msgspec.structs.replace(keyset.public, **{field: "00" * 32}).digest != keyset.digest


def test_the_lifetime_changes_the_digest(keyset: PrivateKeyset) -> None:
    changed = msgspec.structs.replace(keyset.public, not_after=keyset.public.not_after + 1)
    assert changed.digest != keyset.digest


@pytest.mark.parametrize("field", ["\n", "é", "\x00"])
def test_text_outside_the_canonical_encoding_has_no_digest(keyset: PrivateKeyset, field: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        _ = msgspec.structs.replace(keyset.public, receipt_key=field).digest


def test_a_time_beyond_the_calendar(keyset: PrivateKeyset) -> None:
    with pytest.raises((ValueError, OverflowError, OSError)):
        _ = msgspec.structs.replace(keyset.public, not_after=2**53 - 1).expires_at


def test_lifetime(keyset: PrivateKeyset) -> None:
    assert keyset.public.expires_at == NOW + KEYSET_LIFETIME
    assert PrivateKeyset(NOW, timedelta(minutes=5)).public.expires_at == NOW + timedelta(minutes=5)


def test_two_keysets_share_no_key(keyset: PrivateKeyset) -> None:
    other = PrivateKeyset(NOW).public
    for field in ("tls_spki_sha256", "hpke_public_key", "receipt_key", "proof_key"):
        assert getattr(other, field) != getattr(keyset.public, field)
    assert len({keyset.public.hpke_public_key, keyset.public.receipt_key, keyset.public.proof_key}) == 3


def test_the_proof_is_a_signature_of_the_proof_key(keyset: PrivateKeyset) -> None:
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(keyset.public.proof_key))
    key.verify(keyset.prove(b"message"), b"message")


def test_the_certificate_holds_the_key_and_no_more_than_a_hint(keyset: PrivateKeyset) -> None:
    certificate = keyset.certificate(b"\x82\x00\x00")
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert spki_sha256(key) == keyset.public.tls_spki_sha256
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert hashlib.sha256(der).hexdigest() == keyset.public.tls_spki_sha256
    certificate.verify_directly_issued_by(certificate)
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc == keyset.public.expires_at
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "BlindAI enclave"
    extension = certificate.extensions.get_extension_for_oid(CMW_EXTENSION)
    assert not extension.critical
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    assert extension.value.value == b"\x04\x03\x82\x00\x00"


def test_a_certificate_without_a_hint(keyset: PrivateKeyset) -> None:
    with pytest.raises(x509.ExtensionNotFound):
        keyset.certificate().extensions.get_extension_for_oid(CMW_EXTENSION)


@pytest.mark.parametrize(
    ("length", "head"),
    [(0, "0400"), (127, "047f"), (128, "048180"), (255, "0481ff"), (256, "04820100"), (70_000, "0483011170")],
)
def test_der_lengths(length: int, head: str) -> None:
    """X.690, section 8.1.3: the shortest form that holds the length."""
    assert _der_octet_string(bytes(length)) == bytes.fromhex(head) + bytes(length)
