"""The custodian's keys: made once, locked at rest, opened by what locked them and by nothing else."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from argon2.exceptions import HashingError
from cryptography.exceptions import InvalidSignature

import nursery
from blindai.custody import tables, unlocking
from blindai.custody.keys import CustodianKeys
from blindai.custody.unlocking import KeyFile, Passphrase, PassphraseLock
from blindai.errors import ConfigurationError
from blindai.web.database import Database

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def kept(database: Database) -> Database:
    """A database with the custodian's tables."""
    with database.write() as connection:
        tables.secrets.create(connection)
    return database


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "unlock.key")


def _row(database: Database) -> sa.Row[tuple[str, str, bytes]]:
    with database.read() as connection:
        return connection.execute(sa.select(tables.secrets)).one()


def _refused(database: Database, unlock: KeyFile | Passphrase, code: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        CustodianKeys.open(database, unlock)
    assert caught.value.code == code
    return caught.value


def test_they_are_made_once(kept: Database, key_file: KeyFile) -> None:
    first = CustodianKeys.open(kept, key_file)
    again = CustodianKeys.open(kept, KeyFile(key_file.path))
    assert first.public_key == again.public_key
    first.public.verify(again.sign(b"message"), b"message")
    assert again.unwrap(first.wrap(b"model key", "lease-a"), "lease-a") == b"model key"


def test_the_key_file_is_for_its_owner_alone(kept: Database, key_file: KeyFile) -> None:
    CustodianKeys.open(kept, key_file)
    assert key_file.made
    assert key_file.path.stat().st_mode & 0o777 == 0o600
    assert len(key_file.path.read_bytes()) == 32
    assert not list(key_file.path.parent.glob(".*"))


def test_a_key_file_that_others_may_read_is_refused(kept: Database, key_file: KeyFile) -> None:
    CustodianKeys.open(kept, key_file)
    key_file.path.chmod(0o640)
    assert "chmod 600" in _refused(kept, KeyFile(key_file.path), "custodian.unlock").message


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33], ids=["empty", "short", "long"])
def test_a_file_that_is_no_key_file_is_refused(kept: Database, key_file: KeyFile, content: bytes) -> None:
    key_file.path.write_bytes(content)
    key_file.path.chmod(0o600)
    _refused(kept, key_file, "custodian.unlock")
    assert key_file.path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_named(kept: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    _refused(kept, KeyFile(tmp_path / "file" / "unlock.key"), "custodian.unlock")


def test_a_key_file_that_cannot_be_written_is_named(
    kept: Database, key_file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space" in _refused(kept, key_file, "custodian.unlock").message
    monkeypatch.undo()
    assert CustodianKeys.open(kept, key_file).public_key


def test_the_wrong_key_file_opens_nothing_and_changes_nothing(kept: Database, key_file: KeyFile) -> None:
    CustodianKeys.open(kept, key_file)
    before = _row(kept)
    key_file.path.write_bytes(os.urandom(32))
    _refused(kept, KeyFile(key_file.path), "custodian.locked")
    assert _row(kept) == before


def test_a_lost_key_file_is_not_made_again(kept: Database, key_file: KeyFile) -> None:
    CustodianKeys.open(kept, key_file)
    key_file.path.unlink()
    _refused(kept, KeyFile(key_file.path), "custodian.locked")
    assert not key_file.path.exists()


def test_a_passphrase_opens_what_it_locked(kept: Database) -> None:
    first = CustodianKeys.open(kept, Passphrase(PASSPHRASE))
    assert CustodianKeys.open(kept, Passphrase(PASSPHRASE)).public_key == first.public_key
    before = _row(kept)
    _refused(kept, Passphrase(PASSPHRASE + "!"), "custodian.locked")
    assert _row(kept) == before


def test_a_passphrase_is_no_key_file(kept: Database, key_file: KeyFile) -> None:
    CustodianKeys.open(kept, Passphrase(PASSPHRASE))
    assert "passphrase" in _refused(kept, key_file, "custodian.locked").message
    assert not key_file.path.exists()


def test_a_key_file_is_no_passphrase(kept: Database, key_file: KeyFile) -> None:
    CustodianKeys.open(kept, key_file)
    assert "key file" in _refused(kept, Passphrase(PASSPHRASE), "custodian.locked").message


@pytest.mark.parametrize("text", ["", "short", "x" * 1025])
def test_a_poor_passphrase_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Passphrase(text)
    assert caught.value.code == "custodian.unlock"


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_passphrase_is_read_from_a_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes((PASSPHRASE + ending).encode())
    lock = PassphraseLock(salt="00" * 16)
    assert Passphrase.read(path).key(lock) == Passphrase(PASSPHRASE).key(lock)


@pytest.mark.parametrize("content", [b"two\nlines of some length", b"\xff" * 20, b"x" * 5000])
def test_a_file_that_holds_no_passphrase_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        Passphrase.read(path)
    assert caught.value.code == "custodian.unlock"


def test_a_passphrase_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Passphrase.read(tmp_path / "none")
    assert caught.value.code == "custodian.unlock"


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [
        ("lock", "{}", "custodian.keys"),
        ("lock", '{"kind":"passphrase","salt":"00","memory_kib":1}', "custodian.keys"),
        ("public_key", "00" * 32, "custodian.locked"),
        ("sealed", b"", "custodian.locked"),
        ("sealed", b"\0" * 92, "custodian.locked"),
    ],
)
def test_a_changed_row_opens_nothing(
    kept: Database, key_file: KeyFile, column: str, value: str | bytes, code: str
) -> None:
    CustodianKeys.open(kept, key_file)
    with kept.write() as connection:
        connection.execute(sa.update(tables.secrets).values({column: value}))
    _refused(kept, KeyFile(key_file.path), code)


def test_neither_key_stands_in_the_database_in_clear(kept: Database, key_file: KeyFile) -> None:
    keys = CustodianKeys.open(kept, key_file)
    seed = keys._signing.private_bytes_raw()
    assert seed not in bytes(_row(kept).sealed)
    assert seed.hex() not in repr(keys)
    assert repr(keys) == f"CustodianKeys({keys.public_key})"


def test_what_was_wrapped_opens_in_its_context_alone() -> None:
    keys = CustodianKeys.generate()
    wrapped = keys.wrap(b"key", "lease-a")
    assert wrapped != keys.wrap(b"key", "lease-a")
    for other, data, context in (
        (keys, wrapped, "lease-b"),
        (CustodianKeys.generate(), wrapped, "lease-a"),
        (keys, wrapped[:-1], "lease-a"),
        (keys, b"", "lease-a"),
        (keys, wrapped[:-1] + bytes([wrapped[-1] ^ 1]), "lease-a"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            other.unwrap(data, context)
        assert caught.value.code == "custodian.keys"


def test_another_custodians_signature_does_not_verify() -> None:
    with pytest.raises(InvalidSignature):
        CustodianKeys.generate().public.verify(CustodianKeys.generate().sign(b"message"), b"message")


def _open_in_a_process(url: str, key_file: Path, gate: threading.Barrier, found: multiprocessing.Queue[str]) -> None:
    database = Database.open(url)
    gate.wait(30)
    try:
        found.put(CustodianKeys.open(database, KeyFile(key_file)).public_key)
    except ConfigurationError as error:
        found.put(error.code)
    finally:
        database.dispose()


def _raced(url: str, files: list[Path]) -> list[str]:
    context = nursery.of_functions()
    gate = context.Barrier(len(files))
    found = context.Queue()
    processes = [context.Process(target=_open_in_a_process, args=(url, file, gate, found)) for file in files]
    for process in processes:
        process.start()
    answers = [found.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    return answers


def test_processes_that_start_at_once_end_with_one_key(kept: Database, database_url: str, tmp_path: Path) -> None:
    assert len(set(_raced(database_url, [tmp_path / "unlock.key"] * 4))) == 1


def test_processes_without_a_common_key_file_are_told(kept: Database, database_url: str, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.key" for number in range(3)]
    answers = _raced(database_url, files)
    assert answers.count("custodian.locked") == 2
    # What the losers had made is gone: it opens nothing.
    assert [file.exists() for file in files].count(True) == 1


def test_a_machine_without_the_memory_says_so(kept: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise HashingError("Memory allocation error")

    monkeypatch.setattr(unlocking, "hash_secret_raw", fail)
    assert "Memory" in _refused(kept, Passphrase(PASSPHRASE), "custodian.unlock").message
