"""The structures of a TPM 2.0: TPMS_ATTEST, TPMT_SIGNATURE, TPMT_PUBLIC. Parsing only; nothing here is verified.

Source: TCG TPM 2.0 Library, part 2 (Structures), by the names used there. All numbers are big-endian.

Every byte is accounted for, and an algorithm or curve that is not listed here is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import IntEnum, IntFlag
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindai.errors import AttestationError

# An attestation of 24 PCRs takes about 180 bytes, an RSA-4096 signature 518, a public area of such a key about 560.
MAX_STRUCTURE_BYTES = 1024

TPM_GENERATED = 0xFF544347  # "\xffTCG": a restricted key signs it only when the TPM itself wrote it (part 2, 6.2)
TPM_ST_ATTEST_QUOTE = 0x8018

PCR_COUNT = 24  # PC Client Platform TPM Profile 1.06, section 4.6
PCR_BYTES = 32  # in the SHA-256 bank

# The smallest key that is still thought safe for years, and what TPMs offer above it.
RSA_BITS = (2048, 3072, 4096)
RSA_EXPONENT = 65537  # a public area says 0 for it


class Algorithm(IntEnum):
    """TPM_ALG_ID (TCG Algorithm Registry), as far as evidence may use them."""

    RSA = 0x0001
    AES = 0x0006
    SHA256 = 0x000B
    SHA384 = 0x000C
    NULL = 0x0010
    RSASSA = 0x0014
    RSAPSS = 0x0016
    ECDSA = 0x0018
    ECC = 0x0023
    CFB = 0x0043


class Attributes(IntFlag):
    """TPMA_OBJECT (part 2, section 8.3)."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18
    X509_SIGN = 1 << 19


PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

CURVES: dict[int, ec.EllipticCurve] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1()}
HASHES: dict[Algorithm, Callable[[bytes], Any]] = {Algorithm.SHA256: hashlib.sha256, Algorithm.SHA384: hashlib.sha384}
HASH_ALGORITHMS: dict[Algorithm, hashes.HashAlgorithm] = {
    Algorithm.SHA256: hashes.SHA256(),
    Algorithm.SHA384: hashes.SHA384(),
}
_SIGNING_SCHEMES = (Algorithm.RSASSA, Algorithm.RSAPSS, Algorithm.ECDSA)


class Attest(msgspec.Struct, frozen=True, kw_only=True):
    """TPMS_ATTEST of a quote. Anyone can write these bytes: believe them only once `check_quote` has accepted them.

    Attributes:
        raw: the structure itself, the bytes under the signature.
        qualified_signer: the qualified name of the key that signed.
        extra_data: what the caller of TPM2_Quote asked to be signed.
        extra_data_at: where it stands in `raw`.
        clock: milliseconds for which the TPM has been powered.
        reset_count, restart_count: how often it was reset, and how often resumed since.
        safe: `clock` has not run backwards.
        firmware_version: the maker's own numbers.
        selection: the quoted PCRs of the SHA-256 bank, ascending.
        pcr_digest: the digest of their values, with the hash algorithm of the signature.
        pcr_digest_at: where it stands in `raw`.
    """

    raw: bytes
    qualified_signer: bytes
    extra_data: bytes
    extra_data_at: int
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    selection: tuple[int, ...]
    pcr_digest: bytes
    pcr_digest_at: int


class Signature(msgspec.Struct, frozen=True):
    """TPMT_SIGNATURE.

    Attributes:
        scheme: RSASSA, RSAPSS or ECDSA.
        hash: SHA-256 or SHA-384.
        parts: the signature of RSA, or r and s.
    """

    scheme: Algorithm
    hash: Algorithm
    parts: tuple[bytes, ...]


class Public(msgspec.Struct, frozen=True, kw_only=True):
    """TPMT_PUBLIC of an asymmetric key.

    Attributes:
        raw: the structure itself.
        name_hash: the hash algorithm of its name.
        attributes: what the TPM lets be done with the key.
        symmetric_bits: key size of AES-CFB for a key that protects others; 0 for one that does not.
        scheme, scheme_hash: how it signs; None where the key does not fix it.
        key: the public key proper.
    """

    raw: bytes
    name_hash: Algorithm
    attributes: Attributes
    symmetric_bits: int
    scheme: Algorithm | None
    scheme_hash: Algorithm | None
    key: PublicKey

    @property
    def name(self) -> bytes:
        """The name of the object (part 1, "Names"): an algorithm and the digest of the public area."""
        digest: bytes = HASHES[self.name_hash](self.raw).digest()
        return self.name_hash.to_bytes(2) + digest

    @property
    def spki(self) -> bytes:
        """The key as SubjectPublicKeyInfo in DER (RFC 5280, section 4.1.2.7)."""
        return self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def parse_attest(data: bytes) -> Attest:
    """Parse the TPMS_ATTEST of a quote over PCRs of the SHA-256 bank.

    Raises:
        AttestationError: step `evidence`; `evidence.not_generated` (the magic of structures that a TPM makes is
            missing), `evidence.not_a_quote` (another attestation), `evidence.unsupported` (another bank),
            `evidence.malformed`, `evidence.too_large`.
    """
    fields = _Fields(data, "the quote")
    magic = fields.number(4)
    if magic != TPM_GENERATED:
        raise _refusal(
            "evidence.not_generated",
            "the quote was not made by a TPM: anyone may have a TPM's key sign such bytes",
            expected=f"magic {TPM_GENERATED:#x}",
            got=f"{magic:#x}",
        )
    kind = fields.number(2)
    if kind != TPM_ST_ATTEST_QUOTE:
        raise _refusal(
            "evidence.not_a_quote",
            "the TPM attests something else than PCRs",
            expected=f"type {TPM_ST_ATTEST_QUOTE:#06x}",
            got=f"{kind:#06x}",
        )
    qualified_signer, _ = fields.sized()
    extra_data, extra_data_at = fields.sized()
    clock, reset_count, restart_count, safe, firmware_version = (fields.number(size) for size in (8, 4, 4, 1, 8))
    if safe > 1:
        raise fields.malformed("a yes or no", f"{safe}")
    selection = _selection(fields)
    pcr_digest, pcr_digest_at = fields.sized()
    fields.end()
    return Attest(
        raw=data,
        qualified_signer=qualified_signer,
        extra_data=extra_data,
        extra_data_at=extra_data_at,
        clock=clock,
        reset_count=reset_count,
        restart_count=restart_count,
        safe=bool(safe),
        firmware_version=firmware_version,
        selection=selection,
        pcr_digest=pcr_digest,
        pcr_digest_at=pcr_digest_at,
    )


def _selection(fields: _Fields) -> tuple[int, ...]:
    """TPML_PCR_SELECTION with one bank: two banks would leave open whose values stand beside the quote."""
    banks = fields.number(4)
    if banks != 1:
        raise _unsupported("a quote of one bank of PCRs", f"{banks} banks")
    bank, size = fields.number(2), fields.number(1)
    if bank != Algorithm.SHA256:
        raise _unsupported("PCRs of the SHA-256 bank", f"bank {bank:#06x}")
    if size * 8 != PCR_COUNT:
        raise fields.malformed(f"a selection of {PCR_COUNT} PCRs", f"of {size * 8}")
    bits = int.from_bytes(fields.take(size), "little")
    return tuple(index for index in range(PCR_COUNT) if bits >> index & 1)


def parse_signature(data: bytes) -> Signature:
    """Parse a TPMT_SIGNATURE.

    Raises:
        AttestationError: step `evidence`; `evidence.unsupported`, `evidence.malformed`, `evidence.too_large`.
    """
    fields = _Fields(data, "the quote's signature")
    scheme = fields.algorithm("a signature", _SIGNING_SCHEMES)
    hash_ = fields.algorithm("a signature's hash", tuple(HASHES))
    parts = tuple(fields.sized()[0] for _ in range(2 if scheme is Algorithm.ECDSA else 1))
    fields.end()
    return Signature(scheme, hash_, parts)


def parse_public(data: bytes, *, what: str) -> Public:
    """Parse the TPMT_PUBLIC of an RSA or ECC key.

    Args:
        data: the structure, without the size of a TPM2B_PUBLIC.
        what: how messages call it.

    Raises:
        AttestationError: step `evidence`; `evidence.unsupported` (algorithm, curve or size), `evidence.malformed`,
            `evidence.too_large`.
    """
    fields = _Fields(data, what)
    kind = fields.algorithm("a key", (Algorithm.RSA, Algorithm.ECC))
    name_hash = fields.algorithm("a name's hash", tuple(HASHES))
    attributes = Attributes(fields.number(4))
    fields.sized()  # authPolicy: who may use the key is the concern of the TPM's owner
    symmetric_bits = 0
    if fields.algorithm("a cipher", (Algorithm.AES, Algorithm.NULL)) is Algorithm.AES:
        symmetric_bits = fields.number(2)
        fields.algorithm("a mode", (Algorithm.CFB,))
    scheme = fields.algorithm("a scheme", (*_SIGNING_SCHEMES, Algorithm.NULL))
    scheme_hash = None
    if scheme is not Algorithm.NULL:
        scheme_hash = fields.algorithm("a scheme's hash", tuple(HASHES))
    key = _rsa_key(fields) if kind is Algorithm.RSA else _ecc_key(fields)
    fields.end()
    return Public(
        raw=data,
        name_hash=name_hash,
        attributes=attributes,
        symmetric_bits=symmetric_bits,
        scheme=None if scheme is Algorithm.NULL else scheme,
        scheme_hash=scheme_hash,
        key=key,
    )


def _rsa_key(fields: _Fields) -> rsa.RSAPublicKey:
    bits, exponent = fields.number(2), fields.number(4)
    if bits not in RSA_BITS or exponent not in (0, RSA_EXPONENT):
        raise _unsupported(f"RSA of 2048 bits or more, exponent {RSA_EXPONENT}", f"{bits} bits, exponent {exponent}")
    modulus, _ = fields.sized()
    number = int.from_bytes(modulus)
    if len(modulus) * 8 != bits or number.bit_length() != bits or not number & 1:
        raise fields.malformed(f"a modulus of {bits} bits", f"{number.bit_length()} bits")
    return rsa.RSAPublicNumbers(RSA_EXPONENT, number).public_key()


def _ecc_key(fields: _Fields) -> ec.EllipticCurvePublicKey:
    curve_id = fields.number(2)
    curve = CURVES.get(curve_id)
    if curve is None:
        raise _unsupported("a key on P-256 or P-384", f"curve {curve_id:#06x}")
    fields.algorithm("a key derivation", (Algorithm.NULL,))
    x, y = (int.from_bytes(fields.sized()[0]) for _ in range(2))
    try:
        return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    except ValueError as error:
        raise fields.malformed(f"a point on {curve.name}", str(error)) from error


class _Fields:
    """Takes fields off a buffer; running out of bytes is a refusal."""

    def __init__(self, data: bytes, what: str) -> None:
        if len(data) > MAX_STRUCTURE_BYTES:
            raise _refusal(
                "evidence.too_large",
                f"{what} is larger than any genuine one",
                expected=f"at most {MAX_STRUCTURE_BYTES} bytes",
                got=f"{len(data)} bytes",
            )
        self._data = data
        self._what = what
        self._at = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise self.malformed(f"{end} bytes or more", f"{len(self._data)} bytes")
        chunk = self._data[self._at : end]
        self._at = end
        return chunk

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def sized(self) -> tuple[bytes, int]:
        """What a TPM2B holds, and where it stands."""
        size = self.number(2)
        return self.take(size), self._at - size

    def algorithm(self, what: str, allowed: tuple[Algorithm, ...]) -> Algorithm:
        number = self.number(2)
        for algorithm in allowed:
            if algorithm == number:
                return algorithm
        raise _unsupported(f"{what} of {' or '.join(item.name for item in allowed)}", f"algorithm {number:#06x}")

    def end(self) -> None:
        if self._at != len(self._data):
            raise _refusal(
                "evidence.trailing_data",
                f"{self._what} is followed by data that nothing vouches for",
                expected=f"{self._at} bytes",
                got=f"{len(self._data)} bytes",
            )

    def malformed(self, expected: str, got: str) -> AttestationError:
        return _refusal("evidence.malformed", f"{self._what} is malformed", expected=expected, got=got)


def _unsupported(expected: str, got: str) -> AttestationError:
    return _refusal("evidence.unsupported", "the TPM uses what this verifier does not know", expected=expected, got=got)


def _refusal(code: str, message: str, *, expected: str, got: str) -> AttestationError:
    return AttestationError(message, code=code, step="evidence", expected=expected, got=got)
