"""A stream opens whole, unchanged and in order, or not at all: every change of small streams is tried."""

from __future__ import annotations

import hmac
import itertools
from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from blindai.crypto.stream import (
    KEY_BYTES,
    SALT_BYTES,
    TAG_BYTES,
    ChunkRefused,
    StreamDecryptor,
    StreamEncryptor,
    StreamKey,
)

KEY = bytes(range(KEY_BYTES))
SALT = bytes(range(100, 100 + SALT_BYTES))
CONTEXT = b"a context"
CHUNK = 8


def stream_key(key: bytes = KEY, salt: bytes = SALT, context: bytes = CONTEXT) -> StreamKey:
    return StreamKey(key, salt, context)


def encrypted(plaintext: bytes, *, chunk_bytes: int = CHUNK) -> list[bytes]:
    encryptor = StreamEncryptor(stream_key(), chunk_bytes=chunk_bytes)
    parts = [plaintext[start : start + chunk_bytes] for start in range(0, len(plaintext), chunk_bytes)] or [b""]
    sealed = []
    for number, part in enumerate(parts):
        target = bytearray(chunk_bytes + TAG_BYTES)
        written = encryptor.encrypt_into(part, target, last=number == len(parts) - 1)
        sealed.append(bytes(target[:written]))
    return sealed


def decrypted(chunks: Sequence[bytes], key: StreamKey | None = None, *, chunk_bytes: int = CHUNK) -> bytes:
    """As whoever takes the last chunk that there is for the last one of the stream."""
    decryptor = StreamDecryptor(key or stream_key(), chunk_bytes=chunk_bytes)
    target, plaintext = bytearray(chunk_bytes), b""
    for number, chunk in enumerate(chunks):
        written = decryptor.decrypt_into(chunk, target, last=number == len(chunks) - 1)
        plaintext += target[:written]
    assert decryptor.ended
    return plaintext


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 3])
def test_a_stream_opens_again(size: int) -> None:
    plaintext = bytes(range(size))
    chunks = encrypted(plaintext)
    assert len(chunks) == max(1, -(-size // CHUNK))
    assert sum(map(len, chunks)) == size + len(chunks) * TAG_BYTES
    assert decrypted(chunks) == plaintext


@given(st.binary(max_size=300), st.integers(1, 40))
def test_any_stream_opens_again(plaintext: bytes, chunk_bytes: int) -> None:
    assert decrypted(encrypted(plaintext, chunk_bytes=chunk_bytes), chunk_bytes=chunk_bytes) == plaintext


def test_the_construction_is_the_one_that_is_written_down() -> None:
    """By its parts: HKDF (RFC 5869) by hand, and AES-256-GCM with the nonces of STREAM."""
    extracted = hmac.digest(SALT, KEY, "sha256")
    file_key = hmac.digest(extracted, CONTEXT + b"\x01", "sha256")
    commitment = hmac.digest(extracted, file_key + CONTEXT + b"\x02", "sha256")
    assert stream_key().commitment == commitment
    first, second = encrypted(b"01234567" + b"89")
    cipher = AESGCM(file_key)
    assert cipher.decrypt(bytes(11) + b"\x00", first, None) == b"01234567"
    assert cipher.decrypt(bytes(10) + b"\x01\x01", second, None) == b"89"


@pytest.mark.parametrize("size", [0, 5, CHUNK, 2 * CHUNK + 3])
def test_every_changed_bit_is_refused_in_its_chunk(size: int) -> None:
    chunks = encrypted(bytes(size))
    for number, chunk in enumerate(chunks):
        for bit in range(8 * len(chunk)):
            changed = bytearray(chunk)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(ChunkRefused) as caught:
                decrypted([*chunks[:number], bytes(changed), *chunks[number + 1 :]])
            assert caught.value.number == number


@pytest.mark.parametrize("size", [3 * CHUNK, 3 * CHUNK + 2])
def test_every_other_order_selection_and_repetition_is_refused(size: int) -> None:
    chunks = encrypted(bytes(range(size)))
    tried = 0
    for count in range(1, len(chunks) + 2):
        for selection in itertools.product(range(len(chunks)), repeat=count):
            if selection == tuple(range(len(chunks))):
                continue
            with pytest.raises(ChunkRefused) as caught:
                decrypted([chunks[number] for number in selection])
            # The first that is not in its place, or the one before it, which was not the last one.
            wrong = next((n for n, number in enumerate(selection) if n != number), count)
            assert caught.value.number in {wrong, wrong - 1, count - 1}
            tried += 1
    assert tried > len(chunks) ** len(chunks)


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK + 3])
def test_every_truncation_is_refused(size: int) -> None:
    whole = b"".join(encrypted(bytes(size)))
    for length in range(len(whole)):
        cut = [whole[start : start + CHUNK + TAG_BYTES] for start in range(0, length, CHUNK + TAG_BYTES)]
        cut[-1:] = [cut[-1][: length - (len(cut) - 1) * (CHUNK + TAG_BYTES)]] if cut else [b""]
        with pytest.raises(ChunkRefused):
            decrypted(cut)


def test_chunks_of_another_stream_are_refused() -> None:
    chunks = encrypted(bytes(2 * CHUNK))
    for other in (
        stream_key(key=bytes(KEY_BYTES)),
        stream_key(salt=bytes(SALT_BYTES)),
        stream_key(context=b"another context"),
    ):
        assert other.commitment != stream_key().commitment
        with pytest.raises(ChunkRefused) as caught:
            decrypted(chunks, other)
        assert caught.value.number == 0


def test_a_refused_chunk_leaves_no_plaintext_and_ends_the_stream() -> None:
    first, second = encrypted(bytes(range(2 * CHUNK)))
    decryptor = StreamDecryptor(stream_key(), chunk_bytes=CHUNK)
    target = bytearray(b"x" * CHUNK)
    with pytest.raises(ChunkRefused):
        decryptor.decrypt_into(first[:-1] + bytes([first[-1] ^ 1]), target, last=False)
    assert target == bytes(CHUNK)
    for chunk in (first, second):
        with pytest.raises(ChunkRefused):
            decryptor.decrypt_into(chunk, target, last=False)


def test_nothing_follows_the_last_chunk() -> None:
    encryptor, decryptor = (kind(stream_key(), chunk_bytes=CHUNK) for kind in (StreamEncryptor, StreamDecryptor))
    assert isinstance(encryptor, StreamEncryptor)
    assert isinstance(decryptor, StreamDecryptor)
    sealed, opened = bytearray(CHUNK + TAG_BYTES), bytearray(CHUNK)
    written = encryptor.encrypt_into(b"end", sealed, last=True)
    assert decryptor.decrypt_into(sealed[:written], opened, last=True) == 3
    assert encryptor.ended
    assert decryptor.ended
    with pytest.raises(ValueError, match="chunk 1"):
        encryptor.encrypt_into(b"more", sealed, last=True)
    with pytest.raises(ChunkRefused):
        decryptor.decrypt_into(sealed[:written], opened, last=True)


@pytest.mark.parametrize(
    ("plaintext", "last"), [(b"", False), (b"1234567", False), (b"123456789", False), (b"123456789", True)]
)
def test_a_chunk_of_a_length_that_its_place_does_not_have_is_not_encrypted(plaintext: bytes, last: bool) -> None:
    encryptor = StreamEncryptor(stream_key(), chunk_bytes=CHUNK)
    with pytest.raises(ValueError, match="cannot have"):
        encryptor.encrypt_into(plaintext, bytearray(100), last=last)


def test_an_empty_last_chunk_stands_alone() -> None:
    encryptor = StreamEncryptor(stream_key(), chunk_bytes=CHUNK)
    encryptor.encrypt_into(bytes(CHUNK), bytearray(100), last=False)
    with pytest.raises(ValueError, match="cannot have"):
        encryptor.encrypt_into(b"", bytearray(100), last=True)


def test_short_targets_are_refused() -> None:
    (sealed,) = encrypted(b"12345")
    with pytest.raises(ValueError, match="buffer"):
        StreamEncryptor(stream_key(), chunk_bytes=CHUNK).encrypt_into(b"12345", bytearray(20), last=True)
    with pytest.raises(ValueError, match="do not take"):
        StreamDecryptor(stream_key(), chunk_bytes=CHUNK).decrypt_into(sealed, bytearray(4), last=True)


@pytest.mark.parametrize(("key", "salt"), [(KEY[:-1], SALT), (KEY, SALT[:-1]), (b"", SALT)])
def test_keys_and_salts_of_other_lengths_are_refused(key: bytes, salt: bytes) -> None:
    with pytest.raises(ValueError, match="bytes"):
        StreamKey(key, salt, CONTEXT)


def test_a_chunk_has_bytes() -> None:
    with pytest.raises(ValueError, match="one byte"):
        StreamEncryptor(stream_key(), chunk_bytes=0)


def test_the_key_is_wiped_at_the_end_of_the_block() -> None:
    with stream_key() as key:
        encryptor = StreamEncryptor(key, chunk_bytes=CHUNK)
        assert key._key != bytes(KEY_BYTES)
    assert key._key == bytes(KEY_BYTES)
    target = bytearray(CHUNK + TAG_BYTES)
    encryptor.encrypt_into(bytes(CHUNK), target, last=True)
    assert bytes(target) == encrypted(bytes(CHUNK))[0]
