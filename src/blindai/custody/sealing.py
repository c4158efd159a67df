"""Sealing a model: from the body of an upload to the file that the borrower gets.

The body is read twice by whoever calls. Once for its digest and size, which the header must have before the first chunk
can be encrypted, because every chunk authenticates the header and grants name the model by that digest. And once here,
where both are checked again, so that a file that changed in between does not become a model that no enclave accepts.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

import msgspec

from blindai.crypto.secret_file import sync_folder
from blindai.crypto.stream import KEY_BYTES, SALT_BYTES, TAG_BYTES, StreamEncryptor
from blindai.crypto.wipe import wipe
from blindai.errors import ConfigurationError
from blindai.wire.sealed_model import CHUNK_BYTES, Head, SealedHeader, other_digest, other_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from blindai.crypto.stream import Buffer

# The draft is read by nobody else before it is whole; the finished file is ciphertext, but whose business is it?
_MODE: Final = 0o600


class SealedModel(NamedTuple):
    """A sealed model on disk.

    Attributes:
        path: the file.
        header: what it says of itself.
    """

    path: Path
    header: SealedHeader


def new_data_key() -> bytearray:
    """A random key to seal one model with. Whoever asks for it wipes it."""
    drawn = secrets.token_bytes(KEY_BYTES)
    key = bytearray(drawn)
    wipe(drawn)
    return key


def seal(
    body: Iterable[bytes | memoryview],
    *,
    size: int,
    model_digest: str,
    content_type: str,
    target: Path,
    key: Buffer,
    chunk_bytes: int = CHUNK_BYTES,
) -> SealedModel:
    """Encrypt a model and put it at `target`, whole or not at all. What is there already is replaced.

    Args:
        body: what an upload of the model would send, in pieces of any size.
        size: bytes of the body.
        model_digest: its SHA-256, in lower-case hex.
        content_type: `application/onnx` or `application/x-tar`.
        target: where the sealed model goes. A draft lies beside it meanwhile.
        key: 32 bytes. Nothing here keeps it.
        chunk_bytes: plaintext bytes of a chunk.

    Raises:
        InvalidModel: `model.sealed_size` or `model.sealed_digest`, the body is not the one described; the codes of
            `body` itself.
        ConfigurationError: `configuration.output`, the file cannot be written.
        msgspec.ValidationError: size, digest, content type or chunk size is none that a header may have.
        ValueError: the key has another length.
    """
    described = {
        "chunk_bytes": chunk_bytes,
        "content_type": content_type,
        "model_digest": model_digest,
        "salt": secrets.token_hex(SALT_BYTES),
        "size": size,
    }
    header = msgspec.convert(described, SealedHeader)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), _MODE)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                _write(file, header, body, key)
                os.fsync(file.fileno())
            draft.replace(target)
            sync_folder(target.parent)
        finally:
            # An error of the removal must not hide why it was needed.
            with suppress(OSError):
                draft.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"the sealed model {target} cannot be written: {error.strerror or error}",
            code="configuration.output",
            hint=f"it needs {header.sealed_bytes:,} bytes; nothing of it was kept",
        ) from error
    return SealedModel(target, header)


def _write(file: BinaryIO, header: SealedHeader, body: Iterable[bytes | memoryview], key: Buffer) -> None:
    # The plaintext of a chunk that comes in several pieces, and the chunk that is written.
    pieces, sealed = bytearray(header.chunk_bytes), bytearray(header.chunk_bytes + TAG_BYTES)
    with header.key(key) as stream_key:
        encryptor = StreamEncryptor(stream_key, chunk_bytes=header.chunk_bytes)
        _write_all(file, Head(header, stream_key.commitment).encoded)
    digest = hashlib.sha256()
    try:
        # Hashing takes as long as all else together: a second core does it meanwhile, where there is one.
        with ThreadPoolExecutor(1, thread_name_prefix="digest") as hashing, memoryview(sealed) as view:
            for chunk in _chunks(body, header, pieces):
                hashed = hashing.submit(digest.update, chunk)
                last = encryptor.number == header.chunks - 1
                _write_all(file, view[: encryptor.encrypt_into(chunk, view, last=last)])
                hashed.result()  # before the buffer takes the next chunk
    finally:
        wipe(pieces)
    if digest.hexdigest() != header.model_digest:
        raise other_digest("the model changed while it was sealed: its digest is another one")


def _chunks(body: Iterable[bytes | memoryview], header: SealedHeader, pieces: bytearray) -> Iterator[memoryview]:
    """The body in the chunks of the stream. Views of the pieces themselves where they hold whole chunks."""
    gathered = memoryview(pieces)
    filled, left = 0, header.size
    for piece in body:
        rest = memoryview(piece).cast("B")
        if len(rest) > left:
            raise other_size(f"the model has more than the {header.size} bytes that were said")
        left -= len(rest)
        while rest:
            if not filled and len(rest) >= header.chunk_bytes:
                yield rest[: header.chunk_bytes]
                rest = rest[header.chunk_bytes :]
                continue
            taken = rest[: header.chunk_bytes - filled]
            gathered[filled : filled + len(taken)] = taken
            filled += len(taken)
            rest = rest[len(taken) :]
            if filled == header.chunk_bytes:
                yield gathered
                filled = 0
    if left:
        raise other_size(f"the model has {header.size - left} of the {header.size} bytes that were said")
    if filled:
        yield gathered[:filled]


def _write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]  # a raw file may take less, as where a disk fills up
