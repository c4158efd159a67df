from __future__ import annotations

import os
import stat
from pathlib import Path

import keyring
import keyring.errors
import pytest
from keyring.backend import KeyringBackend

from blindai.client import credentials
from blindai.client.credentials import FILE_NAME, MAX_FILE_BYTES, Credentials
from blindai.client.profile import profile_path
from blindai.errors import ConfigurationError

ONE, OTHER = "https://one.example", "https://other.example"

_system_keyring = credentials._system_keyring


class Vault(KeyringBackend):
    """A keyring that keeps what it is given, until it is locked."""

    priority = 5

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # `keyring` is typed in part
        self.kept: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        self._require_open()
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._require_open()
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._require_open()
        if self.kept.pop((service, username), None) is None:
            raise keyring.errors.PasswordDeleteError("there is none")

    def _require_open(self) -> None:
        if self.locked:
            raise keyring.errors.KeyringLocked("locked")


@pytest.fixture
def path(home: Path) -> Path:
    return profile_path().with_name(FILE_NAME)


@pytest.fixture
def vault(home: Path, monkeypatch: pytest.MonkeyPatch) -> Vault:
    """The system's keyring."""
    vault = Vault()
    monkeypatch.setattr(credentials, "_system_keyring", _system_keyring)
    monkeypatch.setattr(keyring.core, "_keyring_backend", vault)
    return vault


def refused(act: object) -> None:
    assert callable(act)
    with pytest.raises(ConfigurationError) as caught:
        act()
    assert caught.value.code == "configuration.credentials"


def test_secrets_come_back_to_their_own_cloud_and_account_alone(path: Path) -> None:
    one = Credentials(ONE)
    assert (one.token(), one.key("acme")) == (None, None)
    one.keep_token("bai_at_first")
    one.keep_token("bai_at_second")
    one.keep_key("acme", "bai_sk_acme")
    one.keep_key("clinic", "bai_sk_clinic")
    one.forget_key("clinic")
    one.forget_key("nobody")
    assert (one.token(), one.key("acme"), one.key("clinic")) == ("bai_at_second", "bai_sk_acme", None)
    assert (Credentials(OTHER).token(), Credentials(OTHER).key("acme")) == (None, None)
    assert one.place == str(path)


def test_signing_out_of_one_cloud_leaves_the_other(path: Path) -> None:
    for cloud in (ONE, OTHER):
        Credentials(cloud).keep_token(f"token of {cloud}")
        Credentials(cloud).keep_key("acme", f"key of {cloud}")
    Credentials(ONE).forget()
    assert (Credentials(ONE).token(), Credentials(ONE).key("acme")) == (None, None)
    assert Credentials(OTHER).token() == f"token of {OTHER}"
    assert ONE not in path.read_text()


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps access apart from the mode")
def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    Credentials(ONE).keep_token("secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    refused(Credentials(ONE).token)


@pytest.mark.parametrize("content", [b"{}", b"[", b"\xff", b'[{"cloud": 1}]', b" " * (MAX_FILE_BYTES + 1)])
def test_a_file_that_is_damaged(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    path.chmod(0o600)
    refused(Credentials(ONE).token)
    refused(lambda: Credentials(ONE).keep_token("secret"))
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_written(path: Path) -> None:
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.write_text("in the way")
    refused(lambda: Credentials(ONE).keep_token("secret"))


def test_a_keyring_keeps_secrets_out_of_the_file(path: Path, vault: Vault) -> None:
    one = Credentials(ONE)
    one.keep_token("bai_at_secret")
    one.keep_key("acme", "bai_sk_secret")
    assert (Credentials(ONE).token(), Credentials(ONE).key("acme")) == ("bai_at_secret", "bai_sk_secret")
    assert "secret_" not in path.read_text()
    assert "bai_" not in path.read_text()
    assert (one.place, len(vault.kept)) == ("the system's keyring", 2)
    one.forget()
    assert (vault.kept, one.token()) == ({}, None)


def test_what_was_kept_in_the_file_is_found_once_there_is_a_keyring(path: Path, vault: Vault) -> None:
    Credentials(ONE, keyring=False).keep_token("old")
    assert Credentials(ONE).token() == "old"
    Credentials(ONE).keep_token("new")
    assert (Credentials(ONE).token(), "old" in path.read_text()) == ("new", False)


def test_a_locked_keyring(vault: Vault) -> None:
    one = Credentials(ONE)
    one.keep_token("secret")
    vault.locked = True
    refused(one.token)
    refused(lambda: one.keep_token("other"))
    refused(one.forget)


def test_a_keyring_that_forgot_by_itself(vault: Vault) -> None:
    one = Credentials(ONE)
    one.keep_token("secret")
    vault.kept.clear()
    assert one.token() is None
    one.forget()


@pytest.mark.parametrize("priority", [0.5, 0, -1])
def test_a_keyring_that_keeps_nothing_or_keeps_it_in_clear(
    path: Path, vault: Vault, monkeypatch: pytest.MonkeyPatch, priority: float
) -> None:
    monkeypatch.setattr(Vault, "priority", priority)
    Credentials(ONE).keep_token("secret")
    assert (vault.kept, Credentials(ONE).place) == ({}, str(path))


def test_a_keyring_that_does_not_work_here(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Vault) -> float:
        raise RuntimeError("no session bus")

    monkeypatch.setattr(Vault, "priority", property(broken))
    assert Credentials(ONE).place != "the system's keyring"
