"""SIGSTRUCTs, signed by a key of the test."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from artefacts import sigstruct
from blindai.attestation.measure.sgx import read_sigstruct
from blindai.errors import ConfigurationError


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=3, key_size=3072)


def test_what_the_enclave_will_report(key: rsa.RSAPrivateKey) -> None:
    read = read_sigstruct(sigstruct(key, mrenclave=b"\x22" * 32, product=500, svn=258))
    modulus = key.public_key().public_numbers().n
    assert (read.mrenclave, read.isv_prod_id, read.isv_svn) == ("22" * 32, 500, 258)
    assert read.mrsigner == hashlib.sha256(modulus.to_bytes(384, "little")).hexdigest()


@pytest.mark.parametrize("at", [16, 20, 40, 127, 130, 600, 900, 928, 960, 991, 1024, 1027])
def test_a_flipped_bit_breaks_the_signature(key: rsa.RSAPrivateKey, at: int) -> None:
    changed = bytearray(sigstruct(key))
    changed[at] ^= 4
    with pytest.raises(ConfigurationError) as refused:
        read_sigstruct(bytes(changed))
    assert refused.value.code == "measure.signature"


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, b"\7", "headers"),
        (24, b"\0", "headers"),
        (512, b"\1", "exponent"),
        (511, b"\0", "3072 bits"),
    ],
)
def test_what_is_no_sigstruct(key: rsa.RSAPrivateKey, at: int, value: bytes, reason: str) -> None:
    changed = bytearray(sigstruct(key))
    changed[at : at + 1] = value
    with pytest.raises(ConfigurationError, match=reason) as refused:
        read_sigstruct(bytes(changed))
    assert refused.value.code == "measure.sigstruct"


@pytest.mark.parametrize("length", [0, 1, 1807, 1809])
def test_a_wrong_length(key: rsa.RSAPrivateKey, length: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{length} bytes") as refused:
        read_sigstruct(sigstruct(key).ljust(length, b"\0")[:length])
    assert refused.value.code == "measure.sigstruct"


def test_a_debug_enclave(key: rsa.RSAPrivateKey) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_sigstruct(sigstruct(key, attributes=6))
    assert refused.value.code == "measure.debug"
