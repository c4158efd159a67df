"""Files that one user may read, made once and whole."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from blindai.crypto import secret_file


def test_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "key"
    assert secret_file.create(path, b"first")
    assert not secret_file.create(path, b"second")
    assert secret_file.read(path, 10) == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(path.parent) == ["key"]  # noqa: PTH208 - hidden files count too


def test_many_at_once_make_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: made.append(secret_file.create(path, bytes([n]) * 1000))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.count(True) == 1
    assert len(set(secret_file.read(path, 1000))) == 1


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        secret_file.create(tmp_path / "key", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    secret_file.create(path, b"x")
    path.chmod(0o604)
    with pytest.raises(PermissionError, match="chmod 600"):
        secret_file.read(path, 10)


def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    secret_file.create(path, b"x" * 11)
    with pytest.raises(ValueError, match="more than 10"):
        secret_file.read(path, 10)
