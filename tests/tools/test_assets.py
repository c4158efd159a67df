"""Fetching what the pages load."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import assets


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A stand-in for npm, which makes the packages' files; gives the commands that were run."""
    commands: list[list[str]] = []

    def run(command: list[str], *, cwd: str, **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        for name in assets.FILES:
            path = Path(cwd) / "node_modules" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"content of {name}")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(assets, "npm", lambda: ["npm"])
    monkeypatch.setattr(assets, "with_certificates", dict)
    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_the_files_are_there_with_their_licences_and_nothing_else(npm: list[list[str]], tmp_path: Path) -> None:
    folder = tmp_path / "vendor"
    assert not assets.complete(folder)
    assets.fetch(folder)
    assert assets.complete(folder)
    assert {path.name for path in folder.iterdir()} == {*assets.FILES.values(), assets.STAMP}
    assert {path.stem for path in folder.glob("*.LICENSE")} == {"htmx", "pico", "uplot"}


def test_no_script_of_a_package_is_run(npm: list[list[str]], tmp_path: Path) -> None:
    assets.fetch(tmp_path / "vendor")
    assert npm[0][:2] == ["npm", "ci"]
    assert "--ignore-scripts" in npm[0]


@pytest.mark.parametrize("damage", ["edited", "removed", "stamp", "lock"])
def test_what_is_not_as_it_was_fetched_is_fetched_again(
    npm: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    folder = tmp_path / "vendor"
    assets.fetch(folder)
    if damage == "edited":
        (folder / "htmx.js").write_text("alert(1)")
    elif damage == "removed":
        (folder / "uplot.css").unlink()
    elif damage == "stamp":
        (folder / assets.STAMP).write_text("{")
    else:
        other = tmp_path / "npm"
        other.mkdir()
        for name in ("package.json", "package-lock.json"):
            (other / name).write_text("{}")
        monkeypatch.setattr(assets, "NPM", other)
    assert not assets.complete(folder)
    assets.fetch(folder)
    assert assets.complete(folder)


def test_a_package_that_lacks_a_file_is_refused(
    npm: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", empty)
    with pytest.raises(SystemExit, match=r"htmx\.org/dist/htmx\.min\.js"):
        assets.fetch(tmp_path / "vendor")
    assert not (tmp_path / "vendor").exists()


def test_npm_that_fails_says_so(npm: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "EINTEGRITY")

    monkeypatch.setattr(subprocess, "run", failed)
    with pytest.raises(SystemExit, match="EINTEGRITY"):
        assets.fetch(tmp_path / "vendor")


def test_every_package_of_the_lock_has_a_digest_and_is_one_of_ours() -> None:
    lock = json.loads((assets.NPM / "package-lock.json").read_text("utf-8"))
    packages = {name.removeprefix("node_modules/"): entry for name, entry in lock["packages"].items() if name}
    assert set(packages) == {"htmx.org", "@picocss/pico", "uplot"}
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    wanted = json.loads((assets.NPM / "package.json").read_text("utf-8"))["dependencies"]
    assert {name: entry["version"] for name, entry in packages.items()} == wanted
