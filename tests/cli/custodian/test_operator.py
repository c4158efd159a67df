"""Accounts of operators at the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("cheap_passwords")

Run = Callable[..., Any]

GOOD = "correct horse battery staple"


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(GOOD + "\n")
    return path


@pytest.fixture
def operator(run: Run, tmp_path: Path) -> Run:
    """Runs `blindai custodian operator` on one custodian."""

    def operator(*arguments: str | Path) -> Any:
        return run("custodian", "operator", *arguments, "--data", tmp_path / "custodian", "--json")

    return operator


@pytest.fixture
def admin(operator: Run, password: Path) -> tuple[str | Path, ...]:
    """Makes the first account, and gives the options to act as it."""
    assert operator("add", "root", "--new-password-file", password).code == 0
    return ("--as", "root", "--password-file", password)


def code_of(ended: Any) -> str:
    assert ended.code != 0
    return str(ended.json["error"]["code"])


def test_the_first_account_is_an_admin_and_needs_nobody(operator: Run, password: Path) -> None:
    assert operator("list").json == []
    assert code_of(operator("add", "ada", "--role", "viewer", "--new-password-file", password)) == "operator.first"
    assert operator("add", "root", "--new-password-file", password).json["role"] == "admin"
    assert [one["name"] for one in operator("list").json] == ["root"]


def test_others_are_made_by_an_admin(operator: Run, password: Path, admin: tuple[str | Path, ...]) -> None:
    new = ("--new-password-file", password)
    assert code_of(operator("add", "ada", "--role", "operator", *new)) == "operator.unnamed"
    assert operator("add", "ada", "--role", "operator", *new, *admin).json["role"] == "operator"
    as_ada = ("--as", "ada", "--password-file", password)
    assert code_of(operator("add", "eve", "--role", "admin", *new, *as_ada)) == "operator.role"
    assert code_of(operator("disable", "root", *as_ada)) == "operator.role"
    assert code_of(operator("password", "root", *new, *as_ada)) == "operator.role"


@pytest.mark.parametrize("role", ["root", "Admin", ""])
def test_a_role_that_there_is_not(operator: Run, password: Path, admin: tuple[str | Path, ...], role: str) -> None:
    ended = operator("add", "ada", "--role", role, "--new-password-file", password, *admin)
    assert code_of(ended) == "operator.unknown_role"


def test_a_weak_password_is_refused_with_the_reason(operator: Run, tmp_path: Path) -> None:
    weak = tmp_path / "weak"
    weak.write_text("secret")
    ended = operator("add", "root", "--new-password-file", weak)
    assert code_of(ended) == "password.length"
    assert "nothing else protects the account" in ended.json["error"]["message"]
    assert operator("list").json == []


def test_a_name_is_refused_before_a_password_is_asked_for(operator: Run) -> None:
    assert code_of(operator("add", "Ada Lovelace")) == "operator.name"


def test_without_a_terminal_and_a_file_there_is_no_password(operator: Run) -> None:
    assert code_of(operator("add", "root")) == "configuration.terminal"


def test_an_account_is_shut_and_opened(operator: Run, password: Path, admin: tuple[str | Path, ...]) -> None:
    operator("add", "ada", "--role", "operator", "--new-password-file", password, *admin)
    assert operator("disable", "ada", *admin).json["disabled"] is True
    as_ada = ("--as", "ada", "--password-file", password)
    own = operator("password", "ada", "--new-password-file", password, *as_ada)
    assert code_of(own) == "authentication.password"
    assert operator("enable", "ada", *admin).json["disabled"] is False
    assert code_of(operator("disable", "root", *admin)) == "operator.last_admin"
    assert code_of(operator("enable", "eve", *admin)) == "operator.unknown"


def test_everybody_changes_their_own_password(
    operator: Run, password: Path, admin: tuple[str | Path, ...], tmp_path: Path
) -> None:
    operator("add", "ada", "--role", "viewer", "--new-password-file", password, *admin)
    other = tmp_path / "other"
    other.write_text("another long pass phrase")
    as_ada = ("--as", "ada", "--password-file", password)
    assert operator("password", "ada", "--new-password-file", other, *as_ada).code == 0
    assert code_of(operator("password", "ada", "--new-password-file", other, *as_ada)) == "authentication.password"


def test_whoever_has_the_files_can_let_an_admin_in_again(
    operator: Run, password: Path, admin: tuple[str | Path, ...], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("another long pass phrase")
    assert operator("password", "root", "--recover", "--new-password-file", other).code == 0
    assert operator("add", "ada", "--role", "viewer", "--new-password-file", password, *admin).code != 0
    as_root = ("--as", "root", "--password-file", other)
    assert operator("add", "ada", "--role", "viewer", "--new-password-file", password, *as_root).code == 0
    assert code_of(operator("password", "eve", "--recover", "--new-password-file", other)) == "operator.unknown"


def test_for_people(run: Run, tmp_path: Path, password: Path) -> None:
    place = ("--data", tmp_path / "custodian")
    assert "operator add NAME" in run("custodian", "operator", "list", *place).out
    run("custodian", "operator", "add", "root", "--new-password-file", password, *place)
    listed = run("custodian", "operator", "list", *place).out
    assert "root" in listed
    assert "open" in listed
