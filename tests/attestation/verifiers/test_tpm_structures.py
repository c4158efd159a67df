from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from tests.attestation.tpm import good, healthy, quote_of
from tests.attestation.tpm import tpm as new_tpm

from blindai.attestation.credential import sized
from blindai.attestation.evidence import TpmQuote
from blindai.attestation.result import OpenCheck
from blindai.attestation.simulated import tpm_layout as layout
from blindai.attestation.simulated.tpm import SimulatedTpm
from blindai.attestation.verifiers.tpm_quote import (
    check_quote,
    endorsement_key_fault,
    parse_quote,
    require_attestation_key,
)
from blindai.attestation.verifiers.tpm_structures import (
    MAX_STRUCTURE_BYTES,
    Algorithm,
    Attributes,
    parse_attest,
    parse_public,
    parse_signature,
)
from blindai.errors import AttestationError

QUOTE = good().quote
SIGNATURE = quote_of(good()).signature
ECC_PUBLIC = healthy().ak_public.raw
RSA_KEY = rsa.generate_private_key(65537, 2048)
RSA_PUBLIC = layout.public(RSA_KEY.public_key(), Attributes.SIGN, scheme=Algorithm.RSASSA)


def spoiled(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def refused(parse: Any, data: bytes, code: str) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        parse(data)
    assert (caught.value.step, caught.value.code) == ("evidence", f"evidence.{code}")
    return caught.value


def public(data: bytes) -> Any:
    return parse_public(data, what="the key")


@pytest.mark.parametrize(
    ("at", "new", "code"),
    [
        (0, b"\0", "not_generated"),
        (4, b"\x80\x17", "not_a_quote"),
        (6, b"\xff\xff", "malformed"),  # the signer's name is longer than all
        (92, b"\2", "malformed"),  # safe
        (101, b"\0\0\0\0", "unsupported"),  # no bank
        (101, b"\0\0\0\2", "unsupported"),  # two banks
        (105, b"\0\4", "unsupported"),  # SHA-1
        (107, b"\2", "malformed"),  # 16 PCRs
        (111, b"\0\x1f", "trailing_data"),
        (111, b"\0\x21", "malformed"),
    ],
)
def test_an_attestation_of_another_form(at: int, new: bytes, code: str) -> None:
    refused(parse_attest, spoiled(QUOTE, at, new), code)


@pytest.mark.parametrize("parse", [parse_attest, parse_signature, public])
def test_nothing_is_too_much(parse: Any) -> None:
    refused(parse, bytes(MAX_STRUCTURE_BYTES + 1), "too_large")


@pytest.mark.parametrize(
    ("parse", "data"), [(parse_attest, QUOTE), (parse_signature, SIGNATURE), (public, ECC_PUBLIC), (public, RSA_PUBLIC)]
)
def test_every_structure_is_whole(parse: Any, data: bytes) -> None:
    parse(data)
    refused(parse, data + b"\0", "trailing_data")
    for length in range(len(data)):
        refused(parse, data[:length], "malformed")


@pytest.mark.parametrize(
    ("at", "new"),
    [(0, b"\0\x15"), (0, b"\0\x1a"), (2, b"\0\4"), (2, b"\0\x0d")],
    ids=["RSAES", "ECDAA", "SHA-1", "SHA-512"],
)
def test_a_signature_of_another_kind(at: int, new: bytes) -> None:
    refused(parse_signature, spoiled(SIGNATURE, at, new), "unsupported")


@pytest.mark.parametrize(
    ("data", "at", "new", "code"),
    [
        (ECC_PUBLIC, 0, b"\0\x08", "unsupported"),  # no asymmetric key
        (ECC_PUBLIC, 2, b"\0\4", "unsupported"),  # named with SHA-1
        (ECC_PUBLIC, 10, b"\0\x0a", "unsupported"),  # XOR
        (ECC_PUBLIC, 12, b"\0\x1a", "unsupported"),  # ECDAA
        (ECC_PUBLIC, 14, b"\0\4", "unsupported"),  # signs with SHA-1
        (ECC_PUBLIC, 16, b"\0\1", "unsupported"),  # P-192
        (ECC_PUBLIC, 18, b"\0\x20", "unsupported"),  # derives keys
        (ECC_PUBLIC, 22, bytes(32), "malformed"),  # no point on the curve
        (RSA_PUBLIC, 16, b"\4\0", "unsupported"),  # 1024 bits
        (RSA_PUBLIC, 18, b"\0\0\0\3", "unsupported"),  # exponent
        (RSA_PUBLIC, 24, b"\0", "malformed"),  # a shorter modulus
        (RSA_PUBLIC, 279, b"\0", "malformed"),  # an even one
    ],
)
def test_a_key_of_another_kind(data: bytes, at: int, new: bytes, code: str) -> None:
    refused(public, spoiled(data, at, new), code)


def test_a_cipher_in_another_mode() -> None:
    ek = healthy().ek_public.raw
    at = ek.index(b"\0\6\0\x80\0\x43")
    refused(public, spoiled(ek, at + 4, b"\0\x44"), "unsupported")
    assert "AES with 192" in endorsement_key_fault(public(spoiled(ek, at + 2, b"\0\xc0")))


def test_an_endorsement_key_that_signs() -> None:
    key = layout.public(RSA_KEY.public_key(), healthy().ek_public.attributes, scheme=Algorithm.RSASSA, aes_bits=128)
    assert endorsement_key_fault(public(key)) == "a key with the scheme RSASSA"


def test_an_exponent_may_be_given() -> None:
    given = public(spoiled(RSA_PUBLIC, 18, b"\0\1\0\1"))
    assert given.key == RSA_KEY.public_key()


def test_names_use_the_algorithm_of_the_key() -> None:
    key = public(spoiled(ECC_PUBLIC, 2, b"\0\x0c"))
    assert (key.name[:2], len(key.name)) == (b"\0\x0c", 50)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_parsed_or_refused(data: bytes) -> None:
    for parse in (parse_attest, parse_signature, public):
        with suppress(AttestationError):
            parse(data)


# Which signatures hold.


def checked(key: Any, signature: bytes) -> None:
    quote = parse_quote(QUOTE, TpmQuote(signature=signature, pcrs=quote_of(good()).pcrs))
    check_quote(quote, key, OpenCheck(""))


def not_signed(key: Any, signature: bytes) -> None:
    with pytest.raises(AttestationError) as caught:
        checked(key, signature)
    assert (caught.value.step, caught.value.code) == ("quote", "quote.signature")


@pytest.mark.parametrize("salt", [padding.PSS.DIGEST_LENGTH, padding.PSS.MAX_LENGTH])
def test_rsa_pss_with_either_salt(salt: Any) -> None:
    signature = RSA_KEY.sign(QUOTE, padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())
    checked(RSA_KEY.public_key(), layout.signature(Algorithm.RSAPSS, signature))


def test_schemes_are_not_mixed() -> None:
    pkcs1 = RSA_KEY.sign(QUOTE, padding.PKCS1v15(), hashes.SHA256())
    checked(RSA_KEY.public_key(), layout.signature(Algorithm.RSASSA, pkcs1))
    not_signed(RSA_KEY.public_key(), layout.signature(Algorithm.RSAPSS, pkcs1))
    not_signed(RSA_KEY.public_key(), layout.signature(Algorithm.RSASSA, pkcs1[1:]))
    not_signed(RSA_KEY.public_key(), SIGNATURE)
    not_signed(healthy().ak_public.key, layout.signature(Algorithm.RSASSA, pkcs1))


@pytest.mark.parametrize("parts", [(b"", b""), (bytes(32), bytes(32)), (b"\xff" * 400, b"\xff" * 400)])
def test_numbers_that_are_no_signature(parts: tuple[bytes, bytes]) -> None:
    not_signed(healthy().ak_public.key, layout.signature(Algorithm.ECDSA, *parts))


def test_a_curve_and_a_hash_of_384_bits() -> None:
    """The digest of the PCRs is made with the hash of the signature: here a TPM would have used SHA-384."""
    key = ec.generate_private_key(ec.SECP384R1())
    r, s = decode_dss_signature(key.sign(QUOTE, ec.ECDSA(hashes.SHA384())))
    signature = layout.signature(Algorithm.ECDSA, r.to_bytes(48), s.to_bytes(48))
    with pytest.raises(AttestationError) as caught:
        checked(key.public_key(), spoiled(signature, 2, b"\0\x0c"))
    assert caught.value.code == "quote.pcr_digest"
    numbers = key.public_key().public_numbers()
    point = b"".join(sized(number.to_bytes(48)) for number in (numbers.x, numbers.y))
    parsed = public(ECC_PUBLIC[:16] + b"\0\4" + ECC_PUBLIC[18:20] + point)
    assert parsed.key == key.public_key()


@pytest.mark.parametrize("part", ["scheme", "cipher"])
def test_a_key_that_signs_in_another_way_than_the_signature(part: str) -> None:
    one: SimulatedTpm = new_tpm(ak="rsa")
    raw = one.ak_public.raw
    # RSAPSS, in place of RSASSA; or a cipher, which only a key has that encrypts.
    other = spoiled(raw, 12, b"\0\x16") if part == "scheme" else raw[:10] + b"\0\6\0\x80\0\x43" + raw[12:]
    with pytest.raises(AttestationError) as caught:
        require_attestation_key(public(other), parse_signature(one.sign(QUOTE)))
    assert (caught.value.step, caught.value.code) == ("quote", "quote.attestation_key")
    require_attestation_key(one.ak_public, parse_signature(one.sign(QUOTE)))
