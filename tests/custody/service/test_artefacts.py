"""Sealed models, read from files that stay open, but not too many of them."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import psutil
import pytest

from blindai.custody.service import artefacts
from blindai.custody.service.artefacts import Artefacts
from blindai.errors import Unavailable


def test_a_part_is_what_the_file_has_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    file = Artefacts(lambda lease: path).open("a")
    assert file.read(0, 4) == b"0123"
    assert file.read(8, 4) == b"89"
    assert [file.available(at, 4) for at in (0, 8, 10, 10**12)] == [4, 2, 0, 0]


def test_a_file_that_becomes_shorter_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    file = Artefacts(lambda lease: path).open("a")
    os.truncate(path, 5)
    with pytest.raises(Unavailable) as caught:
        file.read(5, 5)
    assert caught.value.code == "unavailable.artefact"


def test_a_disk_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    file = Artefacts(lambda lease: path).open("a")

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(Unavailable, match="Input/output"):
        file.read(0, 5)


def test_only_so_many_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "MAX_OPEN_FILES", 2)
    for name in "abcd":
        (tmp_path / name).write_text(name)
    models = Artefacts(lambda lease: tmp_path / lease)
    for name in "abcdab":
        assert models.open(name).read(0, 1) == name.encode()
    gc.collect()
    opened = {Path(file.path).name for file in psutil.Process().open_files() if Path(file.path).parent == tmp_path}
    assert opened == {"a", "b"}


def test_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        Artefacts(lambda lease: tmp_path / "none").open("a")
    assert caught.value.code == "unavailable.artefact"
