"""Encrypting a long file in chunks, each of which can be used as soon as it is read: STREAM with AES-256-GCM.

The construction is that of Hoang, Reyhanitabar, Rogaway and Vizar ("Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance", CRYPTO 2015, section 7), laid out as in age: the nonce of a chunk is its number and
whether it is the last one. So a chunk opens in its own place alone, and a stream cannot be cut, extended, reordered or
repeated without being refused at the first chunk that is not as it was.

Every stream has a key of its own, derived by HKDF-SHA256 (RFC 5869) from the data key, a random salt and a context,
which all chunks are thereby bound to. A commitment is derived beside it: AES-GCM alone would let somebody make one
stream that opens under two keys (Albertini et al., "How to Abuse and Fix Authenticated Encryption Without Key
Commitment", USENIX Security 2022), and it tells a wrong key from a damaged stream.
"""

from __future__ import annotations

from typing import Final, Self, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blindai.crypto.wipe import wipe

Buffer: TypeAlias = "bytes | bytearray | memoryview"
Target: TypeAlias = "bytearray | memoryview"

KEY_BYTES: Final = 32
SALT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32

TAG_BYTES: Final = 16
"""What each chunk grows by."""

_COUNTER_BYTES: Final = 11  # with the flag the 96 bits that GCM is specified for (SP 800-38D, section 8.2.1)
_LAST: Final = b"\x01"
_NOT_LAST: Final = b"\x00"


class ChunkRefused(ValueError):
    """A chunk was changed, is in a place that is not its own, or is of another stream.

    Attributes:
        number: of the chunk, from 0.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"chunk {number} is not what was encrypted there")
        self.number = number


class StreamKey:
    """The key of one stream. Use it as a context: it is wiped at the end.

    Args:
        data_key: the secret, 32 bytes.
        salt: of this stream, 32 random bytes.
        context: what both sides must agree on for the stream to open.

    Attributes:
        commitment: 32 bytes that no other data key, salt and context give. They may be public.

    Raises:
        ValueError: the data key or the salt has another length.
    """

    __slots__ = ("_key", "commitment")

    def __init__(self, data_key: Buffer, salt: bytes, context: bytes) -> None:
        if len(data_key) != KEY_BYTES or len(salt) != SALT_BYTES:
            raise ValueError(f"a data key has {KEY_BYTES} bytes and a salt {SALT_BYTES}")
        derived = bytearray(KEY_BYTES + COMMITMENT_BYTES)
        HKDF(SHA256(), len(derived), salt=salt, info=context).derive_into(data_key, derived)
        self._key = derived[:KEY_BYTES]
        self.commitment = bytes(derived[KEY_BYTES:])
        wipe(derived)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.wipe()

    def wipe(self) -> None:
        """Overwrite the key. What encrypts or decrypts with it already goes on."""
        wipe(self._key)

    def cipher(self) -> AESGCM:
        """AES-256-GCM with this key; OpenSSL overwrites its own copy when the object goes."""
        return AESGCM(self._key)


class _Chunks:
    """The order of the chunks of one stream, the same on both sides.

    Args:
        key: of the stream; not needed afterwards.
        chunk_bytes: plaintext bytes of every chunk but the last, which has 1 to as many; the only chunk of an empty
            stream has none.
    """

    __slots__ = ("_chunk_bytes", "_cipher", "_ended", "number")

    def __init__(self, key: StreamKey, *, chunk_bytes: int) -> None:
        if chunk_bytes < 1:
            raise ValueError("a chunk has one byte at least")
        self._cipher = key.cipher()
        self._chunk_bytes = chunk_bytes
        self._ended = False
        self.number = 0

    @property
    def ended(self) -> bool:
        """Whether the last chunk has been through."""
        return self._ended

    def _nonce(self) -> bytes:
        return self.number.to_bytes(_COUNTER_BYTES, "big") + (_LAST if self._ended else _NOT_LAST)

    def _fits(self, plaintext_bytes: int, *, last: bool) -> bool:
        if last:
            return (1 if self.number else 0) <= plaintext_bytes <= self._chunk_bytes
        return plaintext_bytes == self._chunk_bytes


class StreamEncryptor(_Chunks):
    """Encrypts the chunks of one stream, in their order.

    Attributes:
        number: of the next chunk.
    """

    __slots__ = ()

    def encrypt_into(self, chunk: Buffer, target: Target, *, last: bool) -> int:
        """Encrypt the next chunk.

        Args:
            chunk: its plaintext.
            target: takes `TAG_BYTES` more than `chunk` has. It may not overlap with it.
            last: whether it is the last one.

        Returns:
            Bytes written to `target`.

        Raises:
            ValueError: the chunk has another length than one in its place has, `target` is shorter, or the stream has
                ended.
        """
        size = len(chunk)
        if self._ended or not self._fits(size, last=last):
            raise ValueError(f"chunk {self.number} cannot have {size} bytes")
        self._ended = last
        self._cipher.encrypt_into(self._nonce(), chunk, None, memoryview(target)[: size + TAG_BYTES])
        self.number += 1
        return size + TAG_BYTES


class StreamDecryptor(_Chunks):
    """Decrypts the chunks of one stream, in their order. A stream is whole once its last chunk was decrypted.

    Attributes:
        number: of the next chunk.
    """

    __slots__ = ()

    def decrypt_into(self, sealed: Buffer, target: Target, *, last: bool) -> int:
        """Decrypt the next chunk. Nothing can be decrypted any more after a refusal.

        Args:
            sealed: the chunk as it was written by `StreamEncryptor.encrypt_into`.
            target: takes `TAG_BYTES` less than `sealed` has. It may not overlap with it.
            last: whether this must be the last chunk.

        Returns:
            Bytes written to `target`.

        Raises:
            ChunkRefused: it is not this stream's chunk of this number, or it is the last one unexpectedly, or is not.
            ValueError: `target` is shorter.
        """
        size = len(sealed) - TAG_BYTES
        if self._ended or not self._fits(size, last=last):
            self._ended = True
            raise ChunkRefused(self.number)
        plaintext = memoryview(target)[:size]
        if len(plaintext) != size:
            raise ValueError(f"{len(target)} bytes do not take {size}")
        self._ended = last
        try:
            self._cipher.decrypt_into(self._nonce(), sealed, None, plaintext)
        except InvalidTag:
            self._ended = True
            wipe(plaintext)
            raise ChunkRefused(self.number) from None
        self.number += 1
        return size
