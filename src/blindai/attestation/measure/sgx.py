"""Reference values of Intel SGX from a SIGSTRUCT file, such as the .sig that `gramine-sgx-sign` writes.

Source: Intel Software Developer's Manual, volume 3D, section 35.14 (SIGSTRUCT).
"""

from __future__ import annotations

import hashlib

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA256

from blindai.errors import ConfigurationError

SIGSTRUCT_BYTES = 1808

_HEADER = bytes.fromhex("06000000E10000000000010000000000")
_HEADER2 = bytes.fromhex("01010000600000006000000001000000")
_MODULUS = slice(128, 512)
_EXPONENT = slice(512, 516)
_SIGNATURE = slice(516, 900)
_SIGNED = (slice(0, 128), slice(900, 1028))
_ATTRIBUTES = slice(928, 944)
_DEBUG = 1 << 1


class Sigstruct(msgspec.Struct, frozen=True, kw_only=True):
    """What a signed enclave will report.

    Attributes:
        mrenclave: lower-case hex.
        mrsigner: lower-case hex SHA-256 of the signer's modulus.
        isv_prod_id: the signer's product number.
        isv_svn: the security version of the enclave.
    """

    mrenclave: str
    mrsigner: str
    isv_prod_id: int
    isv_svn: int


def read_sigstruct(data: bytes) -> Sigstruct:
    """Parse a SIGSTRUCT and verify its signature (RSA-3072, exponent 3, PKCS #1 v1.5 with SHA-256).

    Raises:
        ConfigurationError: `measure.sigstruct`: this is no SIGSTRUCT; `measure.signature`: it is not signed by the
            key that it carries; `measure.debug`: it asks for debug mode, which no policy can allow.
    """
    if len(data) != SIGSTRUCT_BYTES:
        raise _malformed(f"it has {len(data)} bytes instead of {SIGSTRUCT_BYTES}")
    if data[:16] != _HEADER or data[24:40] != _HEADER2:
        raise _malformed("its headers are not those of a SIGSTRUCT")
    if int.from_bytes(data[_EXPONENT], "little") != 3:
        raise _malformed("the exponent of its key is not 3")
    modulus = int.from_bytes(data[_MODULUS], "little")
    if modulus.bit_length() != 3072:
        raise _malformed("its key does not have 3072 bits")
    signed = b"".join(data[part] for part in _SIGNED)
    try:
        key = RSAPublicNumbers(3, modulus).public_key()
        key.verify(data[_SIGNATURE][::-1], signed, PKCS1v15(), SHA256())
    except (InvalidSignature, ValueError) as error:
        raise ConfigurationError(
            "the SIGSTRUCT is not signed by the key that it carries", code="measure.signature"
        ) from error
    if int.from_bytes(data[_ATTRIBUTES], "little") & _DEBUG:
        raise ConfigurationError(
            "the enclave is signed for debug mode, in which its host can read it",
            code="measure.debug",
            hint="build it with sgx.debug = false",
        )
    return Sigstruct(
        mrenclave=data[960:992].hex(),
        mrsigner=hashlib.sha256(data[_MODULUS]).hexdigest(),
        isv_prod_id=int.from_bytes(data[1024:1026], "little"),
        isv_svn=int.from_bytes(data[1026:1028], "little"),
    )


def _malformed(reason: str) -> ConfigurationError:
    return ConfigurationError(f"this is no SIGSTRUCT: {reason}", code="measure.sigstruct")
