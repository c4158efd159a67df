from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blindai.attestation.attesters.files import MAX_FILE_BYTES, Files, HostFiles


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return HostFiles(tmp_path)


def test_paths_are_below_the_root(files: Files, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"x")
    assert files.read("/a/b") == b"x"
    assert files.exists("/a/b")
    assert not files.exists("/b")
    assert files.listdir("/a") == ["b"]


def test_by_default_the_root_is_that_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    assert HostFiles().read(str(tmp_path / "a")) == b"x"


def test_a_file_is_read_to_its_end_whatever_size_it_claims(files: Files, tmp_path: Path) -> None:
    content = os.urandom(200_000)
    read, write = os.pipe()
    (tmp_path / "pipe").symlink_to(f"/dev/fd/{read}")
    with ThreadPoolExecutor(1) as thread, os.fdopen(write, "wb") as pipe:

        def fill() -> None:
            pipe.write(content)
            pipe.close()

        filled = thread.submit(fill)
        assert files.read("/pipe") == content
        filled.result()
    os.close(read)


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)) as caught:
        HostFiles().read("/dev/zero")
    assert caught.value.errno == errno.EFBIG
    (tmp_path / "largest").write_bytes(bytes(MAX_FILE_BYTES))
    assert len(HostFiles(tmp_path).read("/largest")) == MAX_FILE_BYTES


def test_a_file_is_written_only_if_it_is_there(files: Files, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.write("/new", b"x")
    (tmp_path / "old").write_bytes(b"")
    files.write("/old", b"xy")
    assert (tmp_path / "old").read_bytes() == b"xy"


def test_a_short_write_is_an_error(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(os, "write", lambda descriptor, data: len(data) - 1)
    with pytest.raises(OSError, match="short write, 63 of 64 bytes") as caught:
        files.write("/file", bytes(64))
    assert caught.value.errno == errno.EIO


def test_descriptors_are_closed_after_errors(files: Files, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(IsADirectoryError):
            files.read("/folder")
        with pytest.raises(IsADirectoryError):
            files.write("/folder", b"")
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_folders(files: Files) -> None:
    files.mkdir("/folder")
    assert files.exists("/folder")
    with pytest.raises(FileExistsError):
        files.mkdir("/folder")
    files.rmdir("/folder")
    assert not files.exists("/folder")
    with pytest.raises(FileNotFoundError):
        files.rmdir("/folder")
