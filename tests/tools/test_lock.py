from __future__ import annotations

import re
from pathlib import Path

import pytest

import lock

LOCKS = ["bootstrap", *lock.LOCKS]


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_pinned_and_hashed(name: str) -> None:
    text = (lock.REQUIREMENTS / f"{name}.txt").read_text("utf-8")
    entries = re.findall(r"^[^\s#].*(?:\n[ ]+--hash=.*)*", text, re.MULTILINE)
    assert entries
    for entry in entries:
        assert re.match(r"[a-zA-Z0-9._\[\],-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry


@pytest.mark.parametrize("name", LOCKS)
def test_no_index_and_no_path_of_a_machine_is_written_down(name: str) -> None:
    text = (lock.REQUIREMENTS / f"{name}.txt").read_text("utf-8")
    assert "index-url" not in text
    assert "find-links" not in text
    assert "file:" not in text


def test_versions_are_the_same_in_every_lock() -> None:
    def versions(name: str) -> set[str]:
        text = (lock.REQUIREMENTS / f"{name}.txt").read_text("utf-8")
        return set(re.findall(r"^(\S+==\S+)", text, re.MULTILINE))

    known = {pin.partition("==")[0] for pin in versions("dev")}
    for name in lock.LOCKS:
        shared = {pin for pin in versions(name) if pin.partition("==")[0] in known}
        assert shared <= versions("dev"), name


def test_a_changed_dependency_makes_the_locks_stale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    changed = (lock.ROOT / "pyproject.toml").read_text("utf-8").replace('"cryptography>=', '"cryptography>=1!')
    (tmp_path / "pyproject.toml").write_text(changed, "utf-8")
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    assert lock.stale() == list(lock.LOCKS)
