"""Where a custodian is and what opens its keys: options, prompts, and no secret where others could read it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from blindai.cli.app import app
from blindai.cli.custodian import place

PASSPHRASE = "correct horse battery staple"


def look(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["custodian", "lease", "list", *map(str, arguments)])


def assert_refused(result: Result, code: str, exit_code: int = 2) -> None:
    assert (result.exit_code, code in result.output) == (exit_code, True), result.output


def test_the_first_use_says_what_to_keep(tmp_path: Path) -> None:
    first = look("--data", tmp_path / "new")
    assert first.exit_code == 0
    assert "unlock.key" in first.stderr
    assert "apart" in first.stderr
    assert "unlock.key" not in look("--data", tmp_path / "new").stderr
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "custodian.sqlite3").stat().st_mode & 0o777 == 0o600


def test_a_key_file_may_lie_elsewhere(tmp_path: Path) -> None:
    key = tmp_path / "stick" / "my.key"
    assert look("--data", tmp_path / "data", "--key-file", key).exit_code == 0
    assert key.exists()
    assert not (tmp_path / "data" / "unlock.key").exists()
    assert_refused(look("--data", tmp_path / "data"), "custodian.locked")
    assert not (tmp_path / "data" / "unlock.key").exists()


def test_another_key_file_opens_nothing(tmp_path: Path) -> None:
    look("--data", tmp_path / "one")
    look("--data", tmp_path / "two")
    other = tmp_path / "two" / "unlock.key"
    assert_refused(look("--data", tmp_path / "one", "--key-file", other), "custodian.locked")
    assert look("--data", tmp_path / "one").exit_code == 0


def test_a_passphrase_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text(PASSPHRASE + "\n")
    assert look("--data", tmp_path / "data", "--passphrase-file", file).exit_code == 0
    assert not (tmp_path / "data" / "unlock.key").exists()
    assert look("--data", tmp_path / "data", "--passphrase-file", file).exit_code == 0
    file.write_text(PASSPHRASE + "?\n")
    assert_refused(look("--data", tmp_path / "data", "--passphrase-file", file), "custodian.locked")
    # Without a terminal nobody can be asked.
    assert_refused(look("--data", tmp_path / "data"), "configuration.terminal")


def test_one_way_to_unlock_at_a_time(tmp_path: Path) -> None:
    result = look("--data", tmp_path / "data", "--passphrase", "--key-file", tmp_path / "key")
    assert_refused(result, "custodian.unlock")
    assert not (tmp_path / "data").exists()


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *arguments: str | Path) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "blindai", "custodian", "lease", "list", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = b""

    def expect(self, text: bytes) -> None:
        before = len(self.seen)
        while text not in self.seen[before:]:
            self.seen += os.read(self._master, 4096)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode() + b"\n")

    def end(self) -> int:
        while True:
            try:
                part = os.read(self._master, 4096)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            self.seen += part
        return self.process.wait(60)

    def close(self) -> None:
        os.close(self._master)
        self.process.kill()
        self.process.wait(60)


@pytest.fixture
def terminals() -> Iterator[Any]:
    opened: list[Terminal] = []

    def make(*arguments: str | Path) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def test_a_passphrase_is_typed_unseen(tmp_path: Path, terminals: Any) -> None:
    first = terminals("--data", tmp_path, "--passphrase")
    first.expect(b"Passphrase of the custodian's keys: ")
    first.type(PASSPHRASE)
    first.expect(b"Once more: ")
    first.type(PASSPHRASE)
    assert first.end() == 0
    assert PASSPHRASE.encode() not in first.seen

    second = terminals("--data", tmp_path)  # it knows that a passphrase is needed
    second.expect(b"Passphrase of the custodian's keys: ")
    second.type(PASSPHRASE)
    assert second.end() == 0
    assert b"Once more" not in second.seen


def test_a_passphrase_that_was_mistyped_locks_nothing(tmp_path: Path, terminals: Any) -> None:
    first = terminals("--data", tmp_path, "--passphrase")
    first.expect(b"Passphrase of the custodian's keys: ")
    first.type(PASSPHRASE)
    first.expect(b"Once more: ")
    first.type(PASSPHRASE + "x")
    assert first.end() == 2
    assert b"configuration.typed_twice" in first.seen
    assert look("--data", tmp_path).exit_code == 0  # with a key file, now


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://user:secret@localhost/x", "configuration.database_password"),
        ("mysql://localhost/x", "configuration.database"),
        ("postgresql://", "configuration.database"),
        ("://", "configuration.database"),
    ],
)
def test_a_database_address_is_judged(tmp_path: Path, url: str, code: str) -> None:
    result = look("--data", tmp_path, "--database", url)
    assert_refused(result, code)
    assert "secret" not in result.output


def test_a_database_file_of_ones_own(tmp_path: Path) -> None:
    assert look("--data", tmp_path, "--database", tmp_path / "other.sqlite3").exit_code == 0
    assert (tmp_path / "other.sqlite3").exists()
    assert not (tmp_path / "custodian.sqlite3").exists()


def test_an_address_with_a_password_stands_in_a_file(tmp_path: Path, postgresql: Any) -> None:
    address = tmp_path / "address"
    address.write_text(postgresql.create() + "\n")
    assert look("--data", tmp_path, "--database-file", address).exit_code == 0
    assert not (tmp_path / "custodian.sqlite3").exists()


@pytest.mark.parametrize("content", [b"", b"two\nlines", b"\xff", b"x" * 5000])
def test_a_file_that_holds_no_address_is_refused(tmp_path: Path, content: bytes) -> None:
    address = tmp_path / "address"
    address.write_bytes(content)
    assert_refused(look("--data", tmp_path, "--database-file", address), "configuration.database")


def test_one_database_at_a_time(tmp_path: Path) -> None:
    result = look("--data", tmp_path, "--database", "x", "--database-file", tmp_path / "y")
    assert_refused(result, "configuration.database")
    assert_refused(look("--data", tmp_path, "--database-file", tmp_path / "none"), "configuration.database")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert_refused(look("--data", tmp_path / "file" / "data"), "configuration.data")


def test_without_its_libraries_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "alembic", None)
    assert_refused(look("--data", tmp_path), "configuration.custodian_missing")
    monkeypatch.undo()
    place.require_custodian_extra()


def test_a_refusal_is_json_where_json_was_asked(tmp_path: Path) -> None:
    result = look("--data", tmp_path, "--database", "mysql://x/y", "--json")
    assert json.loads(result.stdout)["error"]["code"] == "configuration.database"
