"""Parts of sealed models, read from files that stay open, but not too many of them."""

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
    file = tmp_path / "a"
    file.write_bytes(b"0123456789")
    parts = Artefacts(lambda lease: file)
    assert parts.read("a", 0, 4) == b"0123"
    assert parts.read("a", 8, 4) == b"89"
    assert parts.read("a", 10, 4) == b""
    assert parts.read("a", 10**12, 4) == b""


def test_what_the_system_gives_in_pieces_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"0123456789")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, length, at: pread(descriptor, min(length, 3), at))
    assert Artefacts(lambda lease: file).read("a", 1, 20) == b"123456789"


def test_only_so_many_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "MAX_OPEN_FILES", 2)
    for name in "abcd":
        (tmp_path / name).write_text(name)
    parts = Artefacts(lambda lease: tmp_path / lease)
    for name in "abcdab":
        assert parts.read(name, 0, 1) == name.encode()
    gc.collect()
    opened = {Path(file.path).name for file in psutil.Process().open_files() if Path(file.path).parent == tmp_path}
    assert opened == {"a", "b"}


def test_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        Artefacts(lambda lease: tmp_path / "none").read("lease-x", 0, 1)
    assert caught.value.code == "unavailable.artefact"
    assert "lease-x" in caught.value.hint
