"""The models of an enclave as they were uploaded: on the host's disk, encrypted from the first byte.

Memory is for what runs. A model lies in a file that has no name, as a STREAM of AES-256-GCM (see `crypto.stream`) under
a key of its own, which is in memory alone and is overwritten when the model is deleted. So the host can lose a model,
but neither read nor change it, nor swap it for another; and nothing of it is left when the enclave has ended.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import secrets
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from blindai.crypto.stream import (
    KEY_BYTES,
    SALT_BYTES,
    TAG_BYTES,
    ChunkRefused,
    StreamDecryptor,
    StreamEncryptor,
    StreamKey,
)
from blindai.crypto.wipe import wipe
from blindai.enclave.cloud.quotas import no_bytes_left
from blindai.enclave.limits import KIB, Budget, Reservation
from blindai.enclave.models.plain_model import in_memory
from blindai.errors import ConfigurationError, InvalidModel, QuotaExceeded, Unavailable

if TYPE_CHECKING:
    import io
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from blindai.enclave.config import Limits
    from blindai.enclave.models.plain_model import PlainModel
    from blindai.errors import BlindAIError

# What an upload keeps in memory, and what is encrypted as one. Every connection may hold one: 1,024 of them 128 MiB.
CHUNK_BYTES: Final = 128 * KIB

# Files beside connections that a server opens: its own, and a few for each process that runs a model.
RESERVED_FILES: Final = 1024

# Encrypting and hashing keep a core busy, and a slow disk a thread; more of them would take time from inference.
_THREADS: Final = 2

_CONTEXT: Final = b"blindai/store/1"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_FILES: Final = (errno.EMFILE, errno.ENFILE)


class Space:
    """A part of the store that one model takes, of what all models may have and of what its namespace may have.

    Args:
        total: of what all models may have.
        namespaces: of what its namespace may have, by each of those who set a limit.
    """

    def __init__(self, total: Reservation, *namespaces: Reservation) -> None:
        self._parts = (*namespaces, total)

    def grow(self, amount: int) -> None:
        """Take `amount` bytes more.

        Raises:
            QuotaExceeded: `quota.account_bytes`, `quota.namespace_bytes`, `quota.store`; nothing was taken.
        """
        grown: list[Reservation] = []
        try:
            for part in self._parts:
                part.grow(amount)
                grown.append(part)
        except QuotaExceeded:
            for part in grown:
                part.shrink_to(part.amount - amount)
            raise

    @property
    def amount(self) -> int:
        """Bytes taken."""
        return self._parts[-1].amount

    def release(self) -> None:
        """Give everything back; harmless when repeated."""
        for part in self._parts:
            part.release()


class Store:
    """All uploaded models of one enclave.

    Args:
        limits: how much there may be.
        folder: where the files are; None takes the system's folder for temporary files. It must be on a disk, not in
            memory.

    Raises:
        ConfigurationError: `configuration.spool`, no file can be made there.
    """

    def __init__(self, limits: Limits, folder: Path | None = None) -> None:
        self.space = Budget(limits.max_store_bytes, _no_space)
        self._limits = limits
        self._folder = folder
        # One lasts as long as somebody holds a part of it, be it of no bytes yet.
        self._namespaces: WeakValueDictionary[str, Budget] = WeakValueDictionary()
        self._accounts: WeakValueDictionary[str, Budget] = WeakValueDictionary()
        self._highest_file = _highest_file(limits)
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        try:
            self._create().close()
        except OSError as error:
            raise ConfigurationError(
                f"no file can be made in {folder or tempfile.gettempdir()}: {error.strerror or error}",
                code="configuration.spool",
                hint="name a folder on a disk with room for all models: blindai serve --spool FOLDER",
            ) from error

    def reserve(self, namespace: str, size: int, *, allowed: int | None = None) -> Space:
        """Take room for a model before its body is read.

        Args:
            namespace: whose it is.
            size: bytes of it.
            allowed: what the account of this name may have in all, in a cloud.

        Raises:
            QuotaExceeded: `quota.account_bytes`, `quota.namespace_bytes`, `quota.store`.
        """
        budgets = [
            self._namespaces.setdefault(namespace, Budget(self._limits.max_namespace_bytes, _no_namespace_space))
        ]
        if allowed is not None:
            account = self._accounts.setdefault(namespace, Budget(allowed, no_bytes_left))
            account.total = allowed
            budgets.insert(0, account)
        space = Space(Reservation(self.space), *(Reservation(budget) for budget in budgets))
        space.grow(size)
        return space

    def begin(self, space: Space, *, bundle: bool, observe: Callable[[bytearray], None]) -> Draft:
        """Begin a file.

        Args:
            space: what was reserved for it; released with the model.
            bundle: what the body will be.
            observe: is shown the body, part by part, on another thread.

        Raises:
            QuotaExceeded: `quota.store`, as many files are open as may be.
            Unavailable: `unavailable.store`, the disk fails.
        """
        try:
            file = self._create()
        except OSError as error:
            raise _io_error(error) from error
        if file.fileno() >= self._highest_file:  # the system gives out the lowest number that is free
            file.close()
            raise _io_error(OSError(errno.EMFILE, "too many open files"))
        return Draft(StoredModel(file, space, bundle=bundle), self._executor, observe)

    async def open(self, stored: StoredModel) -> PlainModel:
        """Decrypt a model into memory. Use the result as a context.

        Raises:
            InvalidModel: `model.store_damaged`.
            QuotaExceeded: `quota.memory`.
            Unavailable: `unavailable.store`, the disk fails.
        """
        opening = self._executor.submit(stored.open)
        try:
            return await asyncio.shield(asyncio.wrap_future(opening))
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise

    def close(self) -> None:
        """End the threads, once nothing is written or read any more."""
        self._executor.shutdown()

    def _create(self) -> io.FileIO:
        # Without a name from the start where the system can do that (O_TMPFILE), else without one at once; mode 0600.
        return tempfile.TemporaryFile(dir=self._folder, buffering=0)


class StoredModel:
    """One model in the store.

    Attributes:
        size: bytes of the uploaded body.
        sha256: its digest in hex.
        bundle: whether it is a bundle; else an ONNX file.
    """

    def __init__(self, file: io.FileIO, space: Space, *, bundle: bool) -> None:
        self.size = 0
        self.sha256 = ""
        self.bundle = bundle
        self._file = file
        self._space = space
        self._key = bytearray(secrets.token_bytes(KEY_BYTES))
        self._salt = secrets.token_bytes(SALT_BYTES)

    def encryptor(self) -> StreamEncryptor:
        """What encrypts the body, once."""
        with self._stream_key() as key:
            return StreamEncryptor(key, chunk_bytes=CHUNK_BYTES)

    def append(self, sealed: memoryview) -> None:
        """Write what was encrypted. Blocking.

        Raises:
            QuotaExceeded: `quota.store`, the disk is full.
            Unavailable: `unavailable.store`, the disk fails.
        """
        try:
            while sealed:
                sealed = sealed[self._file.write(sealed) :]
        except OSError as error:
            raise _io_error(error) from error

    def open(self) -> PlainModel:
        """As `Store.open`, blocking; once at a time."""
        with self._stream_key() as key:
            decryptor = StreamDecryptor(key, chunk_bytes=CHUNK_BYTES)
        plain = in_memory(self.size, bundle=self.bundle)
        try:
            with plain.filling() as target:
                self._decrypt(decryptor, target)
        except BaseException:
            plain.close()
            raise
        return plain

    def delete(self) -> None:
        """Free the file and overwrite its key; harmless when repeated."""
        wipe(self._key)
        self._file.close()
        self._space.release()

    def _stream_key(self) -> StreamKey:
        return StreamKey(self._key, self._salt, _CONTEXT)

    def _decrypt(self, decryptor: StreamDecryptor, target: memoryview) -> None:
        sealed = memoryview(bytearray(CHUNK_BYTES + TAG_BYTES))
        done = 0
        try:
            self._file.seek(0)
            while not decryptor.ended:
                expected = min(CHUNK_BYTES, self.size - done)
                chunk = sealed[: expected + TAG_BYTES]
                _read_exactly(self._file, chunk)
                last = done + expected == self.size
                done += decryptor.decrypt_into(chunk, target[done : done + expected], last=last)
        except (ChunkRefused, EOFError) as error:
            raise InvalidModel(
                "what the host's disk gives back is not what was stored there",
                code="model.store_damaged",
                hint="delete the model and upload it again",
            ) from error
        except OSError as error:
            raise _io_error(error) from error


class Draft:
    """A model that is being written. One chunk of it is in memory, the rest on disk.

    Attributes:
        stored: what it becomes.
    """

    def __init__(self, stored: StoredModel, executor: ThreadPoolExecutor, observe: Callable[[bytearray], None]) -> None:
        self.stored = stored
        self._encryptor = stored.encryptor()
        self._executor = executor
        self._observe = observe
        self._sha256 = hashlib.sha256()
        self._chunk = bytearray()
        self._writing: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            QuotaExceeded: `quota.store`, the disk is full.
            Unavailable: `unavailable.store`, the disk fails.
        """
        rest = memoryview(data)
        while rest:
            # Only when there is more it is known that a full chunk is not the last.
            if len(self._chunk) == CHUNK_BYTES:
                await self._flush(last=False)
            taken = rest[: CHUNK_BYTES - len(self._chunk)]
            self._chunk += taken
            rest = rest[len(taken) :]

    async def finish(self) -> StoredModel:
        """Write what is left.

        Raises:
            QuotaExceeded, Unavailable: as `write`.
        """
        await self._flush(last=True)
        self.stored.sha256 = self._sha256.hexdigest()
        return self.stored

    def discard(self) -> None:
        """Leave nothing of it, at once or when what is being written was; harmless when repeated."""
        if self._writing is not None and not self._writing.done():
            self._writing.add_done_callback(lambda _: self.stored.delete())
        else:
            self.stored.delete()

    async def _flush(self, *, last: bool) -> None:
        # On the event loop, which alone counts what is given back.
        self._writing = asyncio.wrap_future(self._executor.submit(self._seal, last=last))
        # The thread goes on when the client has gone; until then `discard` may not close the file.
        await asyncio.shield(self._writing)

    def _seal(self, *, last: bool) -> None:
        chunk = self._chunk
        self._sha256.update(chunk)
        self._observe(chunk)
        sealed = bytearray(len(chunk) + TAG_BYTES)
        self._encryptor.encrypt_into(chunk, sealed, last=last)
        self.stored.append(memoryview(sealed))
        self.stored.size += len(chunk)
        wipe(chunk)
        chunk.clear()


def _read_exactly(file: io.FileIO, target: memoryview) -> None:
    while target:
        count = file.readinto(target)
        if not count:
            raise EOFError("the file ends too early")
        target = target[count:]


def _highest_file(limits: Limits) -> int:
    """The number that no file of a model may have, so that connections and processes find some left."""
    try:
        import resource
    except ImportError:  # Windows, whose limit is no number of files
        return sys.maxsize
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return sys.maxsize
    # Where the system allows few, models get one half of them.
    return max(most // 2, most - limits.max_connections - RESERVED_FILES)


def _close_unwanted(opening: Future[PlainModel]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _io_error(error: OSError) -> BlindAIError:
    if error.errno in _FULL:
        return QuotaExceeded("the disk for models is full", code="quota.store", hint="delete a model first")
    if error.errno in _NO_FILES:
        return QuotaExceeded(
            "the enclave has as many files open as the system allows", code="quota.store", hint="delete a model first"
        )
    return Unavailable(f"the disk for models fails: {error.strerror or error}", code="unavailable.store")


def _no_space(wanted: int, free: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"the enclave has {free} bytes left for models, and this needs {wanted}",
        code="quota.store",
        hint="delete a model first",
    )


def _no_namespace_space(wanted: int, free: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"the namespace has {free} bytes left for models, and this needs {wanted}",
        code="quota.namespace_bytes",
        hint="delete a model of this namespace first",
    )
