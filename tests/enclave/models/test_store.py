"""What was uploaded comes back as it was or not at all, and is on no disk in clear."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import mmap
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from blindai.enclave.config import Limits
from blindai.enclave.models.plain_model import MemoryBuffer, MemoryFile, in_memory
from blindai.enclave.models.store import CHUNK_BYTES, Store, StoredModel
from blindai.errors import BlindAIError, ConfigurationError

SEALED = CHUNK_BYTES + 16


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Limits(max_store_bytes=10 * CHUNK_BYTES, max_namespace_bytes=6 * CHUNK_BYTES), tmp_path)


async def write(store: Store, body: bytes, *, step: int = 50_000) -> StoredModel:
    seen = bytearray()
    draft = store.begin(store.reserve("acme", len(body)), bundle=False, observe=seen.extend)
    for start in range(0, len(body), step):
        await draft.write(body[start : start + step])
    stored = await draft.finish()
    assert seen == body
    return stored


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def run(store: Store, main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)
    store.close()


async def code_of(opening: Coroutine[Any, Any, Any]) -> str:
    with pytest.raises(BlindAIError) as caught:
        await opening
    return caught.value.code


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_a_body_comes_back(store: Store, size: int) -> None:
    async def main() -> None:
        body = os.urandom(size)
        stored = await write(store, body)
        assert store.space.used == stored.size == size
        for _ in range(2):
            with await store.open(stored) as plain:
                assert plain.view == body
        stored.delete()
        stored.delete()
        assert store.space.used == 0

    run(store, main())


def test_nothing_lies_on_disk_in_clear_or_under_a_name(store: Store, tmp_path: Path) -> None:
    async def main() -> None:
        body = b"weights " * CHUNK_BYTES
        draft = store.begin(store.reserve("acme", 0), bundle=False, observe=lambda _: None)
        await draft.write(body[: 2 * CHUNK_BYTES + 1])
        assert names_in(tmp_path) == []
        stored = await draft.finish()
        stored._file.seek(0)
        on_disk = stored._file.read()
        assert len(on_disk) == 2 * SEALED + 17
        assert b"weights" not in on_disk
        stored.delete()
        assert not any(stored._key)

    run(store, main())


@pytest.mark.parametrize(
    "change",
    [
        lambda file: (file.seek(5), file.write(b"\0\1\2")),
        lambda file: (file.seek(2 * SEALED), file.write(b"\0\1\2")),
        lambda file: file.truncate(SEALED),
        lambda file: file.truncate(2 * SEALED + 3),
        lambda file: (file.seek(SEALED), file.write(os.pread(file.fileno(), SEALED, 0))),
    ],
    ids=["a byte", "the last chunk", "cut at a chunk", "cut", "a chunk in the place of another"],
)
def test_what_the_host_changes_is_refused(store: Store, change: Callable[[Any], object]) -> None:
    async def main() -> None:
        stored = await write(store, os.urandom(2 * CHUNK_BYTES + 100))
        change(stored._file)
        assert await code_of(store.open(stored)) == "model.store_damaged"
        stored.delete()

    run(store, main())


def test_one_model_cannot_be_swapped_for_another(store: Store) -> None:
    async def main() -> None:
        first, second = await write(store, bytes(100)), await write(store, bytes(100))
        first._file, second._file = second._file, first._file
        assert await code_of(store.open(first)) == "model.store_damaged"
        first.delete()
        second.delete()

    run(store, main())


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "quota.store"), (errno.EDQUOT, "quota.store"), (errno.EIO, "unavailable.store")],
)
def test_a_disk_that_fails_is_said(store: Store, number: int, code: str) -> None:
    class Failing:
        def write(self, data: object) -> int:
            raise OSError(number, "no")

        def close(self) -> None:
            pass

    async def main() -> None:
        draft = store.begin(store.reserve("acme", 10), bundle=False, observe=lambda _: None)
        draft.stored._file.close()
        draft.stored._file = Failing()  # type: ignore[assignment]  # what is used of a file
        await draft.write(b"0123456789")
        assert await code_of(draft.finish()) == code
        draft.discard()
        assert store.space.used == 0

    run(store, main())


def test_files_are_left_for_connections(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_highest_file", 3)
    with pytest.raises(BlindAIError) as caught:
        store.begin(store.reserve("acme", 1), bundle=False, observe=lambda _: None)
    assert caught.value.code == "quota.store"
    store.close()


def test_no_file_left_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Any:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(store, "_create", none)
    with pytest.raises(BlindAIError) as caught:
        store.begin(store.reserve("acme", 1), bundle=False, observe=lambda _: None)
    assert caught.value.code == "quota.store"
    store.close()


def test_a_folder_that_is_none_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Store(Limits(), tmp_path / "none")
    assert caught.value.code == "configuration.spool"


def test_space_is_counted_for_all_and_for_each_namespace(store: Store) -> None:
    first = store.reserve("acme", 5 * CHUNK_BYTES)
    with pytest.raises(BlindAIError) as caught:
        store.reserve("acme", 2 * CHUNK_BYTES)
    assert caught.value.code == "quota.namespace_bytes"
    second = store.reserve("beta", 4 * CHUNK_BYTES)
    with pytest.raises(BlindAIError) as caught:
        second.grow(2 * CHUNK_BYTES)
    assert caught.value.code == "quota.store"
    assert second.amount == 4 * CHUNK_BYTES
    second.grow(CHUNK_BYTES)
    first.release()
    first.release()
    second.release()
    assert store.space.used == 0
    store.close()


def test_uploads_of_unknown_length_share_what_their_namespace_may_have(store: Store) -> None:
    spaces = [store.reserve("acme", 0) for _ in range(3)]
    spaces[0].grow(3 * CHUNK_BYTES)
    spaces[1].grow(3 * CHUNK_BYTES)
    with pytest.raises(BlindAIError) as caught:
        spaces[2].grow(1)
    assert caught.value.code == "quota.namespace_bytes"
    spaces[0].release()
    spaces[2].grow(3 * CHUNK_BYTES)
    store.close()


def test_an_upload_that_is_cut_while_it_is_written_frees_its_file_afterwards(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        writing, go_on = asyncio.Event(), threading.Event()

        def observe(_: object) -> None:
            loop.call_soon_threadsafe(writing.set)
            assert go_on.wait(20)

        draft = store.begin(store.reserve("acme", 1), bundle=False, observe=observe)
        await draft.write(b"x")
        finishing = asyncio.create_task(draft.finish())
        await writing.wait()
        finishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await finishing
        freed_by: list[threading.Thread] = []
        delete = draft.stored.delete

        def note_thread() -> None:
            freed_by.append(threading.current_thread())
            delete()

        monkeypatch.setattr(draft.stored, "delete", note_thread)
        draft.discard()
        assert not draft.stored._file.closed
        go_on.set()
        async with asyncio.timeout(20):
            while store.space.used:
                await asyncio.sleep(0.001)
        assert freed_by == [threading.current_thread()], "what is counted is counted on the event loop"
        assert draft.stored._file.closed

    run(store, main())


def test_what_is_handed_out_can_be_changed_by_nobody() -> None:
    assert sys.platform == "linux"
    with in_memory(10, bundle=True) as plain:
        assert isinstance(plain, MemoryFile)
        with plain.filling() as target:
            target[:] = b"0123456789"
        seals = fcntl.fcntl(plain.fileno(), fcntl.F_GET_SEALS)
        assert seals == fcntl.F_SEAL_SEAL | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        with pytest.raises(PermissionError):
            mmap.mmap(plain.fileno(), 10)
        with pytest.raises(PermissionError):
            os.ftruncate(plain.fileno(), 20)
        assert plain.view.readonly
        assert (bytes(plain.view), plain.bundle) == (b"0123456789", True)
        assert plain.read() == b"0123456789"


def test_whoever_keeps_the_file_keeps_no_memory() -> None:
    with in_memory(10, bundle=False) as plain:
        with plain.filling() as target:
            target[:] = b"0123456789"
        kept = os.dup(plain.fileno())
    try:
        assert os.fstat(kept).st_size == 0
        assert os.fstat(kept).st_blocks == 0
    finally:
        os.close(kept)


def test_a_file_that_its_process_has_cut_is_read_short() -> None:
    with in_memory(10, bundle=False) as plain:
        with plain.filling() as target:
            target[:] = b"0123456789"
        os.ftruncate(plain.fileno(), 4)
        assert plain.read() == b"0123"


def test_where_there_are_no_files_in_memory_a_buffer_is_wiped() -> None:
    with MemoryBuffer(4, bundle=False) as plain:
        with plain.filling() as target:
            target[:] = b"abcd"
        view = plain.view
        assert (bytes(view), view.readonly) == (b"abcd", True)
        with pytest.raises(OSError, match="no files in memory"):
            plain.fileno()
    assert view == bytes(4)


@pytest.mark.parametrize(
    ("error", "code"), [(OSError(errno.ENOSPC, ""), "quota.memory"), (OSError(errno.EMFILE, ""), "busy")]
)
def test_memory_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, error: OSError, code: str) -> None:
    def none(*_: object) -> int:
        raise error

    monkeypatch.setattr(os, "memfd_create", none)
    with pytest.raises(BlindAIError) as caught:
        in_memory(10, bundle=False)
    assert caught.value.code == code
