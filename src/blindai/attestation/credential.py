"""Credentials that only one TPM can open: how a relying party learns that an attestation key is in the TPM of an EK.

TPM2_MakeCredential needs no TPM, only the public area of an endorsement key (EK): the secret is encrypted so that the
EK's TPM gives it back by TPM2_ActivateCredential, and then only if the named object is loaded in it. `protection_keys`
serves both directions, the other one for TPMs in software.

Source: TCG TPM 2.0 Library, part 1, section 24 (credential protection), section 11.4.10 (KDFa, KDFe), annexes B.10.4
and C.6.4 (secret sharing with RSA and ECC).
"""

from __future__ import annotations

import hmac
import os

import msgspec
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from blindai.attestation.verifiers.tpm_structures import HASH_ALGORITHMS, HASHES, Algorithm, Public

SECRET_BYTES = 32  # what fits every TPM: no more than the digest of the EK's name

# Labels end with their NUL, which belongs to what is hashed.
_IDENTITY, _STORAGE, _INTEGRITY = b"IDENTITY\0", b"STORAGE\0", b"INTEGRITY\0"


class Credential(msgspec.Struct, frozen=True):
    """What is sent to the TPM, as the contents of the structures that TPM2_ActivateCredential takes.

    Attributes:
        blob: TPMS_ID_OBJECT: an HMAC and the encrypted secret.
        encrypted_secret: of TPM2B_ENCRYPTED_SECRET: the seed of the keys behind `blob`, for the EK alone.
    """

    blob: bytes
    encrypted_secret: bytes


class ProtectionKeys(msgspec.Struct, frozen=True):
    """The keys that a seed gives for one object.

    Attributes:
        cipher: of AES-CFB with a zero initialisation vector; no other message is ever encrypted with it.
        integrity: of the HMAC over ciphertext and name.
    """

    cipher: bytes
    integrity: bytes


def make_credential(ek: Public, ak_name: bytes, secret: bytes) -> Credential:
    """Encrypt `secret` for the TPM of `ek`, to be opened only while an object of the name `ak_name` is loaded there.

    Args:
        ek: an endorsement key of which `tpm_quote.endorsement_key_fault` finds no fault.
        ak_name: the name of the attestation key, as `Public.name` computes it.
        secret: at most as long as the digest of the EK's name.

    Raises:
        ValueError: `secret` is too long.
    """
    size = HASHES[ek.name_hash](b"").digest_size
    if len(secret) > size:
        raise ValueError(f"a credential of this EK holds {size} bytes, not {len(secret)}")
    seed, encrypted_secret = _new_seed(ek, size)
    keys = protection_keys(ek, seed, ak_name)
    encryptor = Cipher(AES(keys.cipher), CFB(bytes(16))).encryptor()
    identity = encryptor.update(sized(secret)) + encryptor.finalize()
    return Credential(sized(integrity(ek, keys, identity, ak_name)) + identity, encrypted_secret)


def protection_keys(ek: Public, seed: bytes, ak_name: bytes) -> ProtectionKeys:
    """Derive both keys from the seed."""
    digest_bits = HASHES[ek.name_hash](b"").digest_size * 8
    return ProtectionKeys(
        cipher=_kdfa(ek.name_hash, seed, _STORAGE, ak_name, ek.symmetric_bits),
        integrity=_kdfa(ek.name_hash, seed, _INTEGRITY, b"", digest_bits),
    )


def integrity(ek: Public, keys: ProtectionKeys, identity: bytes, ak_name: bytes) -> bytes:
    """The HMAC that ties the encrypted secret to the name of an object."""
    return hmac.digest(keys.integrity, identity + ak_name, ek.name_hash.name)


def rsa_padding(name_hash: Algorithm) -> padding.OAEP:
    """How a seed is encrypted to an RSA key (part 1, annex B.4)."""
    algorithm = HASH_ALGORITHMS[name_hash]
    return padding.OAEP(padding.MGF1(algorithm), algorithm, _IDENTITY)


def agreed_seed(
    ek: Public, shared: bytes, ephemeral: ec.EllipticCurvePublicKey, static: ec.EllipticCurvePublicKey
) -> bytes:
    """The seed that follows from a Diffie-Hellman value (KDFe with the x coordinates of both keys)."""
    size = HASHES[ek.name_hash](b"").digest_size
    parties = b"".join(_coordinates(key)[0] for key in (ephemeral, static))
    # One round gives as many bits as the digest has, which is what is needed.
    seed: bytes = HASHES[ek.name_hash]((1).to_bytes(4) + shared + _IDENTITY + parties).digest()
    return seed[:size]


def sized(data: bytes) -> bytes:
    """A TPM2B: the size, then the bytes."""
    return len(data).to_bytes(2) + data


def _new_seed(ek: Public, size: int) -> tuple[bytes, bytes]:
    """A fresh seed, in the clear and as only the EK can recover it."""
    if isinstance(ek.key, rsa.RSAPublicKey):
        seed = os.urandom(size)
        return seed, ek.key.encrypt(seed, rsa_padding(ek.name_hash))
    private = ec.generate_private_key(ek.key.curve)
    ephemeral = private.public_key()
    shared = private.exchange(ec.ECDH(), ek.key)
    return agreed_seed(ek, shared, ephemeral, ek.key), b"".join(map(sized, _coordinates(ephemeral)))


def _coordinates(key: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    numbers, size = key.public_numbers(), (key.key_size + 7) // 8
    return numbers.x.to_bytes(size), numbers.y.to_bytes(size)


def _kdfa(algorithm: Algorithm, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa (SP 800-108 in counter mode). One round is enough for all keys here."""
    message = (1).to_bytes(4) + label + context + bits.to_bytes(4)
    return hmac.digest(key, message, algorithm.name)[: bits // 8]
