"""Opening a sealed model: from its ciphertext to a session, with nothing left of what lay between.

The file, of the form in `wire.sealed_model`, comes from anywhere. Its plaintext is in one buffer, decrypted chunk by
chunk where the engine reads it, and overwritten as soon as the engine has its own copies. No file of it is written.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from blindai.crypto.stream import TAG_BYTES, ChunkRefused, StreamDecryptor
from blindai.crypto.wipe import fresh_bytes, wipe
from blindai.enclave.allocator import use_huge_pages, wiping_freed_memory
from blindai.enclave.models.bundle import split
from blindai.enclave.residue import wipe_thread
from blindai.errors import InvalidModel, QuotaExceeded
from blindai.wire.bundle import BUNDLE_TYPE
from blindai.wire.custody import MAX_ARTEFACT_BYTES
from blindai.wire.sealed_model import (
    MAX_HEADER_BYTES,
    Head,
    chunk_refused,
    other_digest,
    other_size,
    read_head,
    truncated,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future

    from blindai.crypto.stream import Buffer
    from blindai.enclave.engine import Engine, Session
    from blindai.wire.sealed_model import Chunk

    Read = Callable[[int, int], Future[bytes]]

# Of a bundle's members the engine takes the model alone as `bytes`; the smallest that can be filled without a copy.
_SMALLEST_FILLED: Final = 2


class SealedSource(Protocol):
    """Where a sealed model is read from."""

    async def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` of the file; fewer where it ends, none behind its end.

        Args:
            offset: from 0.
            length: 1 to `wire.custody.MAX_ARTEFACT_BYTES`.
        """


class SealedFile:
    """A sealed model on a disk of the host, which need not be trusted with it.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self, offset: int, length: int) -> bytes:
        """As `SealedSource.read`.

        Raises:
            InvalidModel: `model.file_unreadable`.
        """
        return await asyncio.to_thread(self._read, offset, length)

    def _read(self, offset: int, length: int) -> bytes:
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            message = f"the sealed model {self._path} cannot be read: {error.strerror or error}"
            raise InvalidModel(message, code="model.file_unreadable") from error


class Plaintext(NamedTuple):
    """A model in clear, until the end of `opened`.

    Attributes:
        model: the ONNX file.
        external: files with external data, by their location relative to the model.
    """

    model: bytes
    external: Mapping[str, memoryview]


async def read_sealed_head(source: SealedSource, model_digest: str) -> Head:
    """Read what the file says of itself, before there is room for it or a key.

    Args:
        source: the file.
        model_digest: of the model that it must be.

    Raises:
        InvalidModel: `model.sealed_header`; `model.sealed_digest`, it is another model; what `source` raises.
    """
    head = read_head(await source.read(0, MAX_HEADER_BYTES))
    if head.header.model_digest != model_digest:
        raise other_digest("the sealed model is not the one that was granted")
    return head


def load_sealed(engine: Engine, head: Head, data_key: Buffer, read: Read) -> Session:
    """Decrypt a model and load it; on a thread of its own, which waits for what it reads.

    All of the plaintext is overwritten before this returns or raises: the buffer, what the engine frees of its copies,
    and what the thread's stack holds. What the engine keeps is in the session, and goes with `close_wiped`.

    Args:
        engine: loads it.
        head: of the file.
        data_key: its key; whoever gave it wipes it.
        read: begins to read (offset, length) of the file.

    Raises:
        InvalidModel: `model.sealed_key`, `model.sealed_chunk`, `model.sealed_truncated`, `model.sealed_size`,
            `model.sealed_digest`, `model.bundle`; the engine's refusals; what reading raises.
        QuotaExceeded: `quota.memory`.
    """
    with wiping_freed_memory():
        try:
            return _load(engine, head, data_key, read)
        finally:
            wipe_thread()


def _load(engine: Engine, head: Head, data_key: Buffer, read: Read) -> Session:
    # A function of its own, so that nothing refers to the buffers any more when freed memory is given back.
    with opened(head, data_key, read) as plaintext:
        return engine.load(plaintext.model, plaintext.external)


def close_wiped(session: Session) -> None:
    """Free a session, overwriting what it frees, and what its calls have left on this thread."""
    with wiping_freed_memory():
        session.close()
        gc.collect()
        wipe_thread()


@contextmanager
def opened(head: Head, data_key: Buffer, read: Read) -> Iterator[Plaintext]:
    """The model in clear, whole and checked; overwritten at the end of the block.

    Raises:
        InvalidModel, QuotaExceeded: as `load_sealed`.
    """
    try:
        body, view = fresh_bytes(head.header.size)
    except MemoryError as error:
        raise QuotaExceeded("the enclave has no memory left for this model", code="quota.memory") from error
    use_huge_pages(view)
    copied = b""
    try:
        _decrypt(head, data_key, read, view)
        if head.header.content_type == BUNDLE_TYPE:
            model, external = split(view)
            copied = _as_bytes(model)
            yield Plaintext(copied, external)
        else:
            yield Plaintext(body, {})
    finally:
        wipe(view)
        wipe(copied)


def _decrypt(head: Head, data_key: Buffer, read: Read, target: memoryview) -> None:
    header = head.header
    with head.key(data_key) as key:
        decryptor = StreamDecryptor(key, chunk_bytes=header.chunk_bytes)
    digest = hashlib.sha256()
    # Hashing takes several times as long as decrypting: a second core does it meanwhile, where there is one.
    with ThreadPoolExecutor(1, thread_name_prefix="digest") as hashing:
        try:
            for chunk, sealed in _chunks(head, read):
                plaintext = target[chunk.start : chunk.start + len(sealed) - TAG_BYTES]
                try:
                    decryptor.decrypt_into(sealed, plaintext, last=chunk.last)
                except ChunkRefused as error:
                    raise chunk_refused(error) from None
                hashing.submit(digest.update, plaintext)
        finally:
            hashing.submit(wipe_thread)
    if digest.hexdigest() != header.model_digest:
        raise other_digest("the sealed model holds another model than its header says")


def _chunks(head: Head, read: Read) -> Iterator[tuple[Chunk, memoryview]]:
    """The chunks of the file; while one group of them is used, the next one is being read."""
    header = head.header
    group = (MAX_ARTEFACT_BYTES - 1) // (header.chunk_bytes + TAG_BYTES)
    reading = _read_group(head, read, 0, group)
    for first in range(0, header.chunks, group):
        data = memoryview(reading.result())
        following = first + group
        # With the last group one byte more is asked for: there must be none.
        if following < header.chunks:
            reading = _read_group(head, read, following, group)
        start = header.chunk(first).offset
        for number in range(first, min(following, header.chunks)):
            chunk = header.chunk(number)
            sealed = data[chunk.offset - start :][: chunk.length]
            if len(sealed) < chunk.length:
                raise truncated(start + len(data))
            yield chunk, sealed
        if following >= header.chunks and len(data) > header.sealed_bytes - start:
            raise other_size("the sealed model goes on behind its last chunk")


def _read_group(head: Head, read: Read, first: int, group: int) -> Future[bytes]:
    header = head.header
    offset = header.chunk(first).offset
    end = header.chunk(first + group).offset if first + group < header.chunks else header.sealed_bytes + 1
    return read(offset, end - offset)


def _as_bytes(view: memoryview) -> bytes:
    if len(view) < _SMALLEST_FILLED:
        return bytes(view)
    made, target = fresh_bytes(len(view))
    target[:] = view
    return made
